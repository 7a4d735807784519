"""Where samples are stored: tars, ArrayRecord shards, tensorflow-datasets, or a folder of pictures.

Each gives the same five members of a sample by its number.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from brushjax.data.sources.captions import LINES, LISTS, count_pictures, read_beside, read_list
from brushjax.data.sources.files import find, is_remote
from brushjax.data.sources.folder import PictureFolder
from brushjax.data.sources.origins import Origin
from brushjax.data.sources.records import RecordCollection
from brushjax.data.sources.tars import TarCollection, default_cache

RECORDS = (".array_record", ".arrayrecord")


@runtime_checkable
class Collection(Protocol):
    """Stored samples by number; a number names the same sample in every process."""

    @property
    def kind(self) -> str:
        """Says what it is, in words."""
        ...

    def __len__(self) -> int: ...

    def name(self, n: int) -> str:
        """Returns a description of a sample, for messages."""
        ...

    def origins(self) -> list[Origin]:
        """Returns the files that the samples are made from, by cheap marks."""
        ...

    def content(self, n: int) -> str:
        """Returns a digest of what training reads of file n of these."""
        ...

    def faults(self, needed: Sequence[str]) -> dict[int, str]:
        """Returns {sample: cause} of those known not to have the needed members."""
        ...

    def lost(self, n: int) -> int:
        """Returns how many samples the faulty number n stands for, about."""
        ...

    def members(self) -> dict[str, tuple[int, str]]:
        """Returns {kind: (count, first name)} of all stored members; empty where it isn't known."""
        ...

    def read(self, n: int, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, bytes]:
        """Returns the needed members of a sample, and those of the optional ones that are there.

        Raises: Fault if a needed one is missing, or one can't be read.
        """
        ...


def open_collection(path: str, cache: str = "") -> Collection:
    """Opens what lies at a path.

    Args:
      path: a folder, a file or a pattern with * and ?; local, or gs://, s3://, hf:// and so on.
        Tars in WebDataset's layout; ArrayRecord shards (see records.py); pictures with captions
        (see captions.py); or a folder that tensorflow-datasets wrote.
      cache: folder for the tars' indices; empty is ~/.cache/brushjax/tars.
    Raises:
      FileNotFoundError: if nothing of these is there; says what was looked for.
      ConfigError: if captions can't be understood, or name what lies elsewhere.
    """
    path = path if is_remote(path) else os.path.expanduser(path)
    folder = path.rstrip("/")
    place = None if is_remote(path) else Path(folder)
    if place and place.is_dir():
        if listed := [place / name for name in LISTS if (place / name).is_file()]:
            return PictureFolder(place, read_list(listed[0]))
        if (place / "dataset_info.json").is_file():
            from brushjax.data.sources.tfds_reader import TfdsCollection

            return TfdsCollection.open(folder)
    if place and place.is_file() and place.suffix.lower() in LINES:
        return PictureFolder(place.parent, read_list(place))
    if path.endswith(RECORDS):
        return RecordCollection(find(path))
    if path.endswith(".tar"):
        return TarCollection(find(path), Path(cache) if cache else default_cache())
    for ending in (".tar", *RECORDS):
        try:
            files = find(f"{folder}/*{ending}")
        except FileNotFoundError:
            continue
        if ending == ".tar":
            return TarCollection(files, Path(cache) if cache else default_cache())
        return RecordCollection(files)
    if place and place.is_dir() and (found := read_beside(place)):
        return PictureFolder(place, found)
    raise FileNotFoundError(_nothing(path, place))


def _nothing(path: str, place: Path | None) -> str:
    """Says that no collection lies at a path: what was found, and what was wanted."""
    if not path:
        return "expected a folder of training pictures, got none; give --data.path DIR"
    found = "found none of them"
    if place and not place.exists():
        found = "found no such place"
    elif place and place.is_dir() and (count := count_pictures(place)):
        found = f"found {count} pictures, but no captions"
    return (
        f"expected at {path} pictures with captions ({', '.join(LISTS)}, or a .txt beside each "
        f"picture), *.tar, *.array_record or a tensorflow-datasets folder (with "
        f"dataset_info.json); {found}"
    )
