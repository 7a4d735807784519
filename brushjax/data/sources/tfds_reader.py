"""The samples of a tensorflow-datasets folder in the array_record format, without TensorFlow."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from brushjax.config import ConfigError
from brushjax.data.sources.files import File, find
from brushjax.data.sources.records import Unindexed, select

OPTIONAL = ("height", "width", "segmentation")


class TfdsCollection(Unindexed):
    """The samples of a data source of tensorflow-datasets.

    Args:
      source: of `as_data_source`, with pictures left encoded; gives dicts with "image" and
        "caption", and perhaps "height", "width" and "segmentation".
      place: the folder.
    """

    kind = "examples of a tensorflow-datasets folder"

    def __init__(self, source: Any, place: str):
        self._source, self._place = source, place

    @classmethod
    def open(cls, folder: str | os.PathLike, split: str = "train") -> TfdsCollection:
        """Opens a folder that a builder wrote (with dataset_info.json in it).

        Raises: ConfigError if it is not in the array_record format.
        """
        builder = tfds.builder_from_directory(os.fspath(folder))
        form = builder.info.file_format
        if form is None or form.value != "array_record":
            raise ConfigError(
                f"expected the array_record format in {folder}, got {form}; write it with "
                'download_and_prepare(file_format="array_record")'
            )
        encoded = {"image": tfds.decode.SkipDecoding()}
        make: Any = builder.as_data_source  # pyright sees its wrapper only
        return cls(make(split=split, decoders=encoded), str(folder))

    def __len__(self) -> int:
        return len(self._source)

    def name(self, n: int) -> str:
        return f"example {n} of {PurePath(self._place).name}"

    @functools.cached_property
    def files(self) -> list[File]:
        return find(f"{self._place.rstrip('/')}/*")

    def read(self, n: int, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, bytes]:
        example = self._source[n]
        members = {name: _as_bytes(value) for name, value in example.items()}
        absent = [name for name in OPTIONAL if not members.get(name)]
        return select({k: v for k, v in members.items() if k not in absent}, needed, optional)


def _as_bytes(value: Any) -> bytes:
    """Turns a feature's value into a member as the tars have it."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (int, np.integer)):
        return str(int(value)).encode()
    return bytes(value)
