"""Samples whose pictures went through the frozen encoder beforehand, in ArrayRecord shards.

`python -m brushjax precompute` writes them. A record of an "image" shard holds the latents of one
crop; the records of the "hole" shard beside it, a fixed number for each crop, hold those of the
crop without its hole. So a step reads neither more nor twice.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from brushjax import config as configs
from brushjax.config import ConfigError
from brushjax.data.faults import FAULTS, TooManyFaults, to_row
from brushjax.data.feed import Feed, stacked
from brushjax.data.order import Order
from brushjax.data.schema import Encode
from brushjax.data.sets.brushdata import (
    ATTEMPTS,
    UNLIMITED,
    BrushData,
    BrushSamples,
)
from brushjax.data.sources.collection import Collection, open_collection
from brushjax.data.sources.origins import Origin, changes
from brushjax.files import write_json

FORMAT = 2
DESCRIPTION, ORIGINS = "cache.json", "origins.json"
log = logging.getLogger(__name__)
FREE = ("path", *BrushData.FREE)
"""Fields of a BrushData that may differ from those the cache was made with: how the data is read,
and where it lies today."""

SHOWN = 5  # changed files that an error names
Field = tuple[str, str, tuple[int, ...]]
"""Name, numpy dtype and shape of what every record has."""


@dataclasses.dataclass(frozen=True)
class Cache:
    """What a cache folder holds, as its cache.json says.

    Attributes:
        image: fields of a crop's record; hole: of the record of a crop without its hole.
        crops: of each sample; holes: of each crop.
        samples: numbers of samples are below this; per_shard: how many numbers a shard stands for.
        data, objective: dumps of the configs that it was made with.
        encoder: `Objective.encoder` of what encoded it.
    """

    image: tuple[Field, ...]
    hole: tuple[Field, ...]
    crops: int
    holes: int
    samples: int
    per_shard: int
    data: str
    objective: str
    encoder: str

    @property
    def shards(self) -> int:
        """How many pairs of files there are."""
        return -(-self.samples // self.per_shard)

    def paths(self, folder: Path, shard: int) -> tuple[Path, Path]:
        """Returns the image and the hole file of a shard."""
        number = f"{shard:05d}-of-{self.shards:05d}.array_record"
        return folder / f"image-{number}", folder / f"hole-{number}"

    def missing(self, folder: Path) -> list[int]:
        """Lists the shards that are not there yet; the image file is written last."""
        return [n for n in range(self.shards) if not self.paths(folder, n)[0].is_file()]

    def save(self, folder: Path) -> None:
        """Writes cache.json, whole or not at all."""
        write_json(folder / DESCRIPTION, {"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> Cache:
        """Reads cache.json.

        Raises: FileNotFoundError if there is none; ConfigError for another format.
        """
        path = folder / DESCRIPTION
        if not path.is_file():
            raise FileNotFoundError(
                f"expected {path}; make the cache with python -m brushjax precompute CONFIG --out "
                f"{folder}"
            )
        found = json.loads(path.read_text())
        if found.pop("format", None) != FORMAT:
            raise ConfigError(f"expected format {FORMAT} in {path}; make the cache anew")
        for name in ("image", "hole"):
            found[name] = tuple((n, dtype, tuple(shape)) for n, dtype, shape in found[name])
        return cls(**found)


def record_type(fields: Sequence[Field]) -> np.dtype:
    """Returns the layout of a record: the fields' bytes, one after the other."""
    return np.dtype([(name, dtype, shape) for name, dtype, shape in fields])


@dataclasses.dataclass(frozen=True)
class CachedLatents:
    """Stored latents of images and masked images: a step then runs no autoencoder at all.

    Epoch after epoch each sample comes with its next crop and hole, until all stored ones were
    used. Batches are what the objective's `prepare` returns, in float16.

    Attributes:
        path: folder that precompute wrote.
        seed: of the order.
        workers: processes that read, a host; 0 leaves it to threads.
        threads: that read batches, in each process.
        ahead: batches that are read early, in each process.
    """

    path: str = ""
    seed: int = 0
    workers: int = 0
    threads: int = 2
    ahead: int = 4
    pool: ClassVar[int] = 0  # no end of them, and nothing left to encode

    def source(self, encode: Encode) -> LatentSamples:
        """Returns the samples by number; all is stored, so `encode` is not called."""
        del encode
        return _opened(self)

    def batches(self, batch_size: int, encode: Encode, *, shard: tuple[int, int]) -> Feed:
        """Returns an endless series of batches, as BrushData's.

        Each has "mean", "deviation" and "masked_deviation" [B,h,w,4], "condition" [B,h,w,5],
        "token_ids" [B,length], "time_ids" [B,6] and "id" [B].
        """
        samples = self.source(encode)
        return Feed(samples, batch_size, shard, self.workers, self.threads, self.ahead)


@dataclasses.dataclass(frozen=True)
class CachedImages:
    """Stored latents of images; what is without its hole is encoded in the step, with new holes in
    every epoch.

    Attributes:
        path: folder that precompute wrote; its holes, if it has any, are not read.
        data: the collection it was made from, for the pixels; only its holes may be others.
    """

    path: str = ""
    data: BrushData = dataclasses.field(default_factory=BrushData)
    pool: ClassVar[int] = 0

    def __post_init__(self):
        if self.data.pool or self.data.profile != "default":
            raise ConfigError(
                "expected data.pool 0 and the default profile: the reference masks before it "
                f"crops; got {self.data.pool}, {self.data.profile}"
            )

    def source(self, encode: Encode) -> ImageSamples:
        """Returns the samples by number; the token ids are stored.

        Raises: ConfigError if the cache was made from other data.
        """
        return _opened_images(self, encode)

    def batches(self, batch_size: int, encode: Encode, *, shard: tuple[int, int]) -> Feed:
        """Returns an endless series of batches: "mean" and "deviation" float16 [B,h,w,4] beside
        what BrushData's batches have."""
        data, samples = self.data, self.source(encode)
        return Feed(samples, batch_size, shard, data.workers, data.threads, data.ahead)


def stored(data: BrushData) -> CachedLatents | CachedImages:
    """Returns the stored form of data that name their latents.

    Raises: ConfigError if these were made from other data.
    """
    if data.new_holes:
        return CachedImages(data.latents, data.pixels)
    check(Path(data.latents), data.pixels, FREE)
    compare(Path(data.latents), data)
    return CachedLatents(data.latents, data.seed, data.workers, data.threads, data.ahead)


def check(folder: Path, data: BrushData, free: Sequence[str]) -> None:
    """Raises ConfigError if a cache was made from data that differ in more than the free fields."""
    changed = configs.differences(Cache.load(folder).data, configs.dump(data), free)
    if changed:
        raise ConfigError(
            f"{folder} was made from other data; it differs in\n  " + "\n  ".join(changed)
        )


def compare(folder: Path, data: BrushData) -> None:
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


def encoder_of(data: Any) -> str:
    """Returns the digest of what encoded the latents that a Data reads; empty if it reads none."""
    folder = data.latents if isinstance(data, BrushData) else ""
    if isinstance(data, CachedLatents | CachedImages):
        folder = data.path
    return Cache.load(Path(folder)).encoder if folder else ""


@functools.lru_cache(maxsize=4)
def _opened(config: CachedLatents) -> LatentSamples:
    return LatentSamples(Path(config.path), config.seed)


@functools.lru_cache(maxsize=4)
def _opened_images(config: CachedImages, encode: Encode) -> ImageSamples:
    return ImageSamples(Path(config.path), config.data, encode)


class Records:
    """The records of a cache, by crop and hole.

    Args:
      folder: that precompute wrote.
      holes: whether to open those, too.
    Raises: FileNotFoundError if shards are missing; names how many.
    """

    def __init__(self, folder: Path, holes: bool):
        self.cache = cache = Cache.load(folder)
        missing = cache.missing(folder)
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {cache.shards} shards in {folder} are missing, such as number "
                f"{missing[0]}; start precompute again, it makes those alone"
            )
        if holes and not cache.holes:
            raise ConfigError(f"{folder} was made without holes; use CachedImages, or make it anew")
        paths = [cache.paths(folder, n) for n in range(cache.shards)]
        self._image = _Table([image for image, _ in paths], cache.image)
        self._hole = _Table([hole for _, hole in paths], cache.hole) if holes else None
        self.samples = len(self._image) // cache.crops

    def variant(self, sample: int, epoch: int) -> tuple[int, int]:
        """Returns (crop, hole) of a sample's turn in an epoch: each comes once before any twice."""
        turn = (epoch + sample) % (self.cache.crops * max(1, self.cache.holes))
        return turn % self.cache.crops, turn // self.cache.crops

    def images(self, turns: Sequence[tuple[int, int]]) -> np.ndarray:
        """Returns the crops' records of (sample, epoch) pairs."""
        crops = self.cache.crops
        return self._image.read([n * crops + self.variant(n, epoch)[0] for n, epoch in turns])

    def holes(self, turns: Sequence[tuple[int, int]]) -> np.ndarray:
        """Returns the holes' records of (sample, epoch) pairs."""
        assert self._hole is not None
        places = []
        for n, epoch in turns:
            crop, hole = self.variant(n, epoch)
            places.append((n * self.cache.crops + crop) * self.cache.holes + hole)
        return self._hole.read(places)


class _Table:
    """Records of one layout over several files."""

    def __init__(self, paths: Sequence[Path], fields: Sequence[Field]):
        import grain  # a second of start-up that only a training run pays

        self._type = record_type(fields)
        source: Any = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """Returns records as one structured array."""
        rows = np.empty(len(numbers), self._type)
        for row, n in enumerate(numbers):
            record = self._source[n]
            if len(record) != self._type.itemsize:
                raise ConfigError(
                    f"expected records of {self._type.itemsize} bytes, got {len(record)} in record "
                    f"{n}; cache.json does not belong to these shards"
                )
            rows[row : row + 1] = np.frombuffer(record, self._type)
        return rows


def _columns(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a structured array's fields as arrays of their own."""
    return {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names or ()}


class LatentSamples:
    """The samples of CachedLatents."""

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
        images, holes = self._records.images(turns), self._records.holes(turns)
        masked = holes["masked_mean"]
        batch, height, width, channels = masked.shape
        condition = np.empty((batch, height, width, channels + 1), masked.dtype)
        condition[..., :-1] = masked
        kept = np.unpackbits(holes["keep"], axis=-1, count=height * width)
        condition[..., -1] = kept.reshape(batch, height, width)
        deviation = np.ascontiguousarray(holes["masked_deviation"])
        return {**_columns(images), "condition": condition, "masked_deviation": deviation}

    def received(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Nothing travels beside these batches."""
        return batch


class ImageSamples:
    """The samples of CachedImages."""

    def __init__(self, folder: Path, data: BrushData, encode: Encode):
        self._records = Records(folder, holes=False)
        check(folder, data, (*FREE, "holes"))
        compare(folder, data)
        self._pixels: BrushSamples = data.source(encode)
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
        return {**_columns(np.concatenate(images)), **stacked(pixels), FAULTS: np.stack(rows)}

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
