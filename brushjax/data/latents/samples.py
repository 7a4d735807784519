"""Samples whose pictures went through the frozen encoder beforehand."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brushjax import config as configs
from brushjax.config import ConfigError
from brushjax.data.faults import ATTEMPTS, FAULTS, TooManyFaults, to_row
from brushjax.data.feed import UNLIMITED, stacked
from brushjax.data.latents.cache import Cache, Records, unpacked
from brushjax.data.order import Order
from brushjax.data.schema import Encode
from brushjax.data.sources.collection import Collection, open_collection
from brushjax.data.sources.origins import Origin, changes

ORIGINS = "origins.json"
SHOWN = 5  # changed files that an error names
log = logging.getLogger(__name__)


def free(data: Any) -> tuple[str, ...]:
    """Fields of a BrushData that may differ from those that latents were made with: how the data
    are read, and where they lie today."""
    return ("path", *data.FREE)


def check(folder: Path, data: Any, free: Sequence[str]) -> None:
    """Raises ConfigError if a cache was made from data that differ in more than the free fields."""
    changed = configs.differences(Cache.load(folder).data, configs.dump(data), free)
    if changed:
        raise ConfigError(
            f"{folder} was made from other data; it differs in\n  " + "\n  ".join(changed)
        )


def compare(folder: Path, data: Any) -> None:
    """Raises ConfigError if the files that a cache was made from have changed since.

    Latents may have been moved without them: nothing at data.path is compared with nothing, and the
    log says so.
    """
    try:
        collection = open_collection(data.path, data.index_cache)
    except FileNotFoundError:
        log.warning("there is no data at %r to compare the latents in %s with", data.path, folder)
        return
    refuse_changed(folder, collection)


def refuse_changed(folder: Path, collection: Collection) -> None:
    """Raises ConfigError if a collection's files are not those that a cache was made from."""
    rows = json.loads((folder / ORIGINS).read_text())
    changed = changes([Origin(**row) for row in rows], collection)
    if changed:
        shown = changed[:SHOWN] + ([f"... ({len(changed)} files)"] if len(changed) > SHOWN else [])
        raise ConfigError(
            f"{folder} was made from other files; since then\n  "
            + "\n  ".join(shown)
            + "\nMake it "
            "anew in another folder, or bring back the files."
        )


class LatentSamples:
    """Stored crops and holes by turns: nothing is read from pictures or encoded."""

    faults: dict[str, int] = {}  # noqa: RUF012 - none: what was faulty never got into the cache

    def __init__(self, folder: Path, seed: int):
        self._records = Records(folder, holes=True)
        self._order = Order(self._records.samples, seed)

    def __len__(self) -> int:
        return UNLIMITED

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {name: array[0] for name, array in self.batch([int(position)]).items()}

    def batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns the samples at these positions of the order."""
        turns = [(self._order[p], p // self._records.samples) for p in numbers]
        return unpacked(self._records.images(turns), self._records.holes(turns))

    def received(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Nothing travels beside these batches."""
        return batch


class ImageSamples:
    """Stored crops, with new holes in their pixels in every epoch.

    Args:
      folder: that precompute wrote.
      data: the BrushData it was made from; only its holes may be others.
      encode: an `Inpainting` -> the arrays of a sample.
    Raises: ConfigError if the folder was made from other data.
    """

    def __init__(self, folder: Path, data: Any, encode: Encode):
        self._records = Records(folder, holes=False)
        check(folder, data, (*free(data), "holes"))
        compare(folder, data)
        self._pixels = data.source(encode)
        self._order, self._seed = Order(self._records.samples, data.seed), data.seed

    def __len__(self) -> int:
        return UNLIMITED

    def __getitem__(self, position: int) -> dict[str, Any]:
        batch = self.batch([int(position)])
        return {name: array[0] for name, array in batch.items() if name != FAULTS}

    @property
    def faults(self) -> dict[str, int]:
        """As those of BrushSamples."""
        return self._pixels.faults

    def batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns the samples at these positions of the order.

        Raises: TooManyFaults if one after the other can no longer be read.
        """
        images, pixels, rows = [], [], []
        for position in numbers:
            met: list[str] = []
            stored, sample = self._whole(position, met)
            images.append(stored)
            pixels.append({"image": sample["image"], "mask": sample["mask"]})
            rows.append(to_row(met))
        return {**unpacked(np.concatenate(images)), **stacked(pixels), FAULTS: np.stack(rows)}

    def _whole(self, position: int, met: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
        """The stored record and the pixels at a position, or else of a substitute."""
        rng = np.random.default_rng((self._seed, position))
        n, epoch = self._order[position], position // self._records.samples
        for _ in range(ATTEMPTS):
            stored = self._records.images([(n, epoch)])
            crop, _hole = self._records.variant(n, epoch)
            number = int(stored["id"][0])
            made = self._pixels.tried(number, crop, met, [epoch])
            if made:
                return stored, made[0]
            n = int(rng.integers(self._records.samples))
        raise TooManyFaults(f"{ATTEMPTS} samples in turn can't be used: {met}")

    def received(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Counts what BrushSamples counts."""
        return self._pixels.received(batch)


@functools.lru_cache(maxsize=4)
def latent_samples(folder: str, seed: int) -> LatentSamples:
    """Returns the samples of a folder, the same object for the same arguments."""
    return LatentSamples(Path(folder), seed)


@functools.lru_cache(maxsize=4)
def image_samples(folder: str, data: Any, encode: Encode) -> ImageSamples:
    """Returns the samples of a folder with new holes, the same object for the same arguments."""
    return ImageSamples(Path(folder), data, encode)
