"""BrushData through tensorflow-datasets, written and read without TensorFlow.

`BrushDataset` is a builder that any tensorflow-datasets tool can use. What it writes is in the
array_record format, whose data source feeds the same pipeline as the tars do.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from brushjax.config import ConfigError
from brushjax.data.faults import Fault, FaultLog
from brushjax.data.sources.captions import decoded
from brushjax.data.sources.collection import Collection, open_collection
from brushjax.data.sources.files import File, find
from brushjax.data.sources.origins import Origin, origins_of, whole
from brushjax.data.sources.records import select

TEXTS = ("caption", "height", "width", "segmentation")
OPTIONAL = ("height", "width", "segmentation")


class BrushDataset(tfds.core.GeneratorBasedBuilder):
    """Captioned pictures with annotated objects, from tars or any other collection.

    Args:
      source: path of the collection, as `brushjax.data.sets.brushdata.BrushData.path`.
      data_dir: where tensorflow-datasets keeps what it writes.

    Then `download_and_prepare(file_format="array_record")` writes it. Samples without picture or
    caption are left out, and said so in the log.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, source: str = "", **settings: Any):
        self._source = source
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        texts = {name: tfds.features.Text() for name in TEXTS}
        features = {"image": tfds.features.Image(shape=(None, None, 3)), **texts}
        return self.dataset_info_from_configs(
            description="Pictures with captions and objects as run lengths, in BrushData's terms.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # what is read lies there already
        return {"train": self._generate_examples(open_collection(self._source))}

    def _generate_examples(self, collection: Collection) -> Iterator[tuple[int, dict[str, Any]]]:
        log = FaultLog()
        for n in range(len(collection)):
            try:
                members = collection.read(n, ("image", "caption"), OPTIONAL)
                texts = {name: decoded(members.get(name, b""))[0] for name in TEXTS}
            except Fault as fault:
                log(fault.cause, collection.name(n), str(fault))
                continue
            except ValueError as error:
                log("bad caption", collection.name(n), str(error))
                continue
            # As a file: arrays would have to be encoded again, and that takes TensorFlow.
            yield n, {"image": io.BytesIO(members["image"]), **texts}


class TfdsCollection:
    """The samples of a data source of tensorflow-datasets.

    Args:
      source: of `as_data_source`, with pictures left encoded; gives dicts with "image" and
        "caption", and perhaps "height", "width" and "segmentation".
      place: what tells a person where it is.
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

    def origins(self) -> list[Origin]:
        """Returns the folder's files by cheap marks."""
        return origins_of(self._files)

    def content(self, n: int) -> str:
        """Returns a digest of file n."""
        return whole(self._files[n])

    @functools.cached_property
    def _files(self) -> list[File]:
        return find(f"{self._place.rstrip('/')}/*")

    def faults(self, needed: Sequence[str]) -> dict[int, str]:
        del needed  # only reading an example tells
        return {}

    def lost(self, n: int) -> int:
        del n
        return 1

    def members(self) -> dict[str, tuple[int, str]]:
        return {}

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
