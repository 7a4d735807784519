"""What a folder of stored latents holds: its description, and the layout of its records.

`python -m brushjax precompute` writes it, in ArrayRecord shards. A record of an "image" shard holds
the latents of one crop; the records of the "hole" shard beside it, a fixed number for each crop,
hold those of the crop without its hole. So a step reads neither more nor twice.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.config import ConfigError
from brushjax.files import write_json

FORMAT = 2
DESCRIPTION = "cache.json"
Field = tuple[str, str, tuple[int, ...]]
"""Name, numpy dtype and shape of what every record has."""
Layout = tuple[Field, ...]


def fields(latent: tuple[int, int, int], tokens: int) -> tuple[Layout, Layout]:
    """Returns the layouts of a crop's record and of a hole's.

    Args:
      latent: height, width and channels.
      tokens: of a caption.
    """
    height, width, _ = latent
    image = (
        ("mean", "<f2", latent),
        ("deviation", "<f2", latent),
        ("token_ids", "<i4", (tokens,)),
        ("time_ids", "<f4", (6,)),
        ("id", "<i8", ()),
    )
    hole = (
        ("masked_mean", "<f2", latent),
        ("masked_deviation", "<f2", latent),
        ("keep", "|u1", (-(-height * width // 8),)),
    )
    return image, hole


def record_type(fields: Sequence[Field]) -> np.dtype:
    """Returns the layout of a record: the fields' bytes, one after the other."""
    return np.dtype([(name, dtype, shape) for name, dtype, shape in fields])


def packed(fields: Sequence[Field], columns: Mapping[str, Any]) -> np.ndarray:
    """Returns the records of a batch of crops, or of holes, as one structured array.

    Args:
      columns: what `Objective.prepare` returns for them; of crops with "time_ids" and "id".
    """
    if "condition" in columns:
        condition = np.asarray(columns["condition"])
        keep = condition[..., -1].reshape(len(condition), -1) > 0.5
        columns = {
            **columns,
            "masked_mean": condition[..., :-1],
            "keep": np.packbits(keep, axis=-1),
        }
    rows = np.zeros(len(next(iter(columns.values()))), record_type(fields))
    for name, _, _ in fields:
        rows[name] = columns[name]
    return rows


def unpacked(images: np.ndarray, holes: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Returns the batch that records were made from; without holes, what is known of the crops."""
    batch = {name: np.ascontiguousarray(images[name]) for name in images.dtype.names or ()}
    if holes is None:
        return batch
    masked = holes["masked_mean"]
    size, height, width, channels = masked.shape
    condition = np.empty((size, height, width, channels + 1), masked.dtype)
    condition[..., :-1] = masked
    kept = np.unpackbits(holes["keep"], axis=-1, count=height * width)
    condition[..., -1] = kept.reshape(size, height, width)
    deviation = np.ascontiguousarray(holes["masked_deviation"])
    return {**batch, "condition": condition, "masked_deviation": deviation}


def blank(latent: tuple[int, int, int], tokens: int, holes: bool) -> dict[str, Any]:
    """Returns a sample of zeros, as it is read; see `fields`."""
    image, hole = (np.zeros(1, record_type(layout)) for layout in fields(latent, tokens))
    return {name: array[0] for name, array in unpacked(image, hole if holes else None).items()}


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

    image: Layout
    hole: Layout
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
