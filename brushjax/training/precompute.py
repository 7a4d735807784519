"""`python -m brushjax precompute`: runs the frozen autoencoder once over a collection.

Every host writes its own shards, and each device encodes its part of every batch. A shard appears
whole or not at all, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tyro.conf import OmitArgPrefixes, Positional, arg

from brushjax import config as configs
from brushjax import distributed
from brushjax.config import ConfigError
from brushjax.data.faults import TooManyFaults
from brushjax.data.feed import stacked
from brushjax.data.latents.cache import DESCRIPTION, Cache, fields, packed
from brushjax.data.latents.samples import ORIGINS, free, refuse_changed
from brushjax.data.sets.brushdata import BrushData, BrushSamples
from brushjax.data.sources import records
from brushjax.data.sources.collection import Collection, open_collection
from brushjax.data.sources.origins import with_content
from brushjax.files import write_json
from brushjax.lock import locked
from brushjax.progress import progress_bar
from brushjax.training.lifecycle.stopping import GOES_ON, Interrupted, Interruption
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.objectives.contract import placed_in
from brushjax.training.recipe import TrainConfig
from brushjax.weights import WeightsError

HELP = """\
examples:
  python -m brushjax precompute configs/brushnet_sd15_segmentation.py --out cache --holes 4 \\
      --data.path 'gs://bucket/brushdata/*.tar'
Started again with the same folder, it makes the shards that are missing. Then train with
--data.latents cache, and --data.new_holes True for new holes in every epoch.
"""


@dataclasses.dataclass(frozen=True)
class PrecomputeConfig:
    """How much is stored.

    Attributes:
        crops: crops of each sample.
        holes: holes of each crop; 0 stores the pictures alone, for --data.new_holes.
        per_shard: samples a shard stands for; have at least as many shards as hosts times workers.
        batch_size: crops that each device encodes at once.
        threads: threads of each host that read and decode.
    """

    crops: int = 1
    holes: int = 1
    per_shard: int = 2048
    batch_size: int = 8
    threads: int = 8

    def __post_init__(self) -> None:
        for name, least in (("crops", 1), ("holes", 0), ("per_shard", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"expected {name} >= {least}; got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class PrecomputeOptions:
    """Encodes the pictures of a training config's data beforehand.

    Behind these options, --any.nested.field VALUE overrides a field of the config.

    Attributes:
        config: of the training run: a file with a function get_config().
        out: folder that gets the shards.
    """

    config: Positional[Annotated[Path, arg(metavar="CONFIG.py")]]
    out: Path
    settings: OmitArgPrefixes[PrecomputeConfig] = PrecomputeConfig()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax precompute CONFIG.py --out DIR [--any.nested.field VALUE]`."""
    try:
        options, overrides = configs.own_options(
            PrecomputeOptions, arguments, "brushjax precompute", HELP
        )
        config = configs.load(options.config, "objective")
        config = configs.override(config, overrides, f"brushjax precompute {options.config}")
        distributed.initialize()
        # A shard is there whole or not at all: nothing is ever lost by ending at once.
        with Interruption(), locked(options.out):
            faults = precompute(config, options.out, options.settings)
    except Interrupted:
        distributed.end_all(GOES_ON, 0)
    except (ConfigError, WeightsError, OSError, TooManyFaults) as error:
        distributed.end_all(f"error: {error}")
    left_out = ", ".join(f"{cause}: {n}" for cause, n in sorted(faults.items())) or "none"
    print(f"shards in {options.out}; left out or converted: {left_out}")


def precompute(config: TrainConfig, out: Path, settings: PrecomputeConfig) -> dict[str, int]:
    """Writes this host's missing shards; returns {cause: count} of all faults in its own shards.

    Raises: ConfigError if the config's data are no collection, or `out` was made with others.
    """
    objective = config.objective
    data = config.data.pixels if isinstance(config.data, BrushData) else config.data
    config = dataclasses.replace(config, data=data)
    if not isinstance(data, BrushData) or not isinstance(objective, BrushNetObjective):
        raise ConfigError(
            "expected data of the kind BrushData and a BrushNetObjective to encode beforehand, got "
            f"{type(data).__name__} and {type(objective).__name__}"
        )
    if data.pool:
        raise ConfigError("expected data.pool 0: a pool is encoded in memory, see encode_once")
    if data.profile != "default" and settings.holes != 1:
        raise ConfigError(
            "expected holes 1 with the reference's profiles, which make a hole before they crop; "
            f"got {settings.holes}. Use more crops instead"
        )
    samples = data.source(objective.encode)
    encoder = Encoder(config, settings)
    cache = _describe(config, settings, samples, encoder)
    _claim(cache, out, open_collection(data.path, data.index_cache))
    own = range(jax.process_index(), cache.shards, jax.process_count())
    faults = Counter[str]()
    with ThreadPoolExecutor(settings.threads) as pool:
        for shard in progress_bar(own, "shards", unit="shard", shown=distributed.is_main()):
            note = out / f"faults-{shard:05d}.json"
            if not cache.paths(out, shard)[0].is_file():
                _write_shard(cache, out, shard, samples, encoder, pool, note)
            faults.update(json.loads(note.read_text()))
    return dict(faults)


class Encoder:
    """The frozen autoencoder on this host's devices."""

    def __init__(self, config: TrainConfig, settings: PrecomputeConfig):
        assert isinstance(config.objective, BrushNetObjective)
        self._objective = config.objective
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        whole, self._cut = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), _BATCH))
        shapes = {"vae": self._objective.shapes()["vae"]}
        shapes = self._objective.working(shapes, jnp.dtype(config.compute_dtype))
        wanted = placed_in(whole, shapes)
        self._frozen = self._objective.load(jax.random.key(0), wanted)
        self.digest = self._objective.encoder()
        self._prepare = jax.jit(self._objective.prepare, out_shardings=self._cut)
        self.batch_size = settings.batch_size * mesh.size

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the objective's `prepare` on a batch, filled up so that one program serves all."""
        size = len(batch["mask"])
        full = {name: _filled(array, self.batch_size) for name, array in batch.items()}
        prepared = self._prepare(self._frozen, jax.device_put(full, self._cut))
        return {name: _plain(array[:size]) for name, array in jax.device_get(prepared).items()}

    def shapes(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Returns the shapes of what a batch becomes; computes nothing."""
        return dict(jax.eval_shape(self._objective.prepare, self._frozen, batch))


_BATCH = PartitionSpec("data")


def _plain(array: np.ndarray) -> np.ndarray:
    """Turns bfloat16, which numpy knows by name only, into float32."""
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


def _describe(
    config: TrainConfig, settings: PrecomputeConfig, samples: BrushSamples, encoder: Encoder
) -> Cache:
    """What the cache will hold, from the shapes of one sample."""
    first = {name: array for name, array in samples.batch([0]).items() if name in _PIXELS}
    shapes = encoder.shapes(first)
    image, hole = fields(shapes["mean"].shape[1:], shapes["token_ids"].shape[-1])
    return Cache(
        image=image,
        hole=hole,
        crops=settings.crops,
        holes=settings.holes,
        samples=int(samples.numbers[-1]) + 1,
        per_shard=settings.per_shard,
        data=configs.dump(config.data),
        objective=configs.dump(config.objective) + f"dtype = {config.compute_dtype!r}\n",
        encoder=encoder.digest,
    )


_PIXELS = ("image", "masked_image", "mask", "token_ids", "time_ids")


def _claim(cache: Cache, out: Path, collection: Collection) -> None:
    """Writes cache.json and origins.json, or checks that the folder is of the same cache.

    Raises: ConfigError if it is of another one.
    """
    if (out / DESCRIPTION).is_file():
        old = Cache.load(out)
        allowed = tuple(f"data.{name}" for name in free(BrushData))
        changed = configs.differences(_text(old), _text(cache), allowed)
        if changed:
            raise ConfigError(
                f"{out} holds another cache; it differs in\n  " + "\n  ".join(changed) + "\nGive "
                "another --out, or the config that this one was made with."
            )
        refuse_changed(out, collection)
        return
    write_json(out / ORIGINS, [dataclasses.asdict(origin) for origin in with_content(collection)])
    cache.save(out)


def _text(cache: Cache) -> str:
    """The cache's settings, one `path = value` line each."""
    lines = []
    for field in dataclasses.fields(cache):
        value = getattr(cache, field.name)
        if field.name in ("data", "objective"):
            lines += [f"{field.name}.{line}" for line in value.splitlines()]
        else:
            lines.append(f"{field.name} = {value!r}")
    return "".join(line + "\n" for line in lines)


def _write_shard(
    cache: Cache,
    out: Path,
    shard: int,
    samples: BrushSamples,
    encoder: Encoder,
    pool: ThreadPoolExecutor,
    note: Path,
) -> None:
    """Encodes the samples of one shard. The image file comes last: it says that all is there."""
    low, high = shard * cache.per_shard, (shard + 1) * cache.per_shard
    first, last = np.searchsorted(samples.numbers, (low, high))
    numbers = samples.numbers[first:last].tolist()
    faults = Counter[str]()
    image_path, hole_path = cache.paths(out, shard)
    with records.writing(image_path) as add_image, records.writing(hole_path) as add_hole:
        for crops in _chunks(samples, numbers, cache, encoder, pool, faults):
            images, holes = _encode(cache, samples, encoder, crops)
            for row in images:
                add_image(row.tobytes())
            for row in holes:
                add_hole(row.tobytes())
        write_json(note, faults)


Crop = list[dict[str, Any]]
"""One crop with each of its holes; the pictures are the same."""


def _chunks(
    samples: BrushSamples,
    numbers: Sequence[int],
    cache: Cache,
    encoder: Encoder,
    pool: ThreadPoolExecutor,
    faults: Counter[str],
) -> Iterator[list[Crop]]:
    """Yields the crops of a shard's samples, as many at once as the devices take; the next ones
    are read while these are encoded."""

    def read(number: int) -> tuple[list[Crop], list[str]]:
        met: list[str] = []
        holes = range(max(1, cache.holes))
        crops = [samples.tried(number, crop, met, holes) for crop in range(cache.crops)]
        # All of a sample or nothing: readers count on its crops.
        return (crops if all(crops) else []), sorted(set(met))

    waiting: list[Crop] = []
    ahead = encoder.batch_size
    pending = [pool.submit(read, number) for number in numbers[:ahead]]
    for place in range(len(numbers)):
        crops, met = pending[place].result()
        pending[place] = None  # type: ignore[call-overload] - its pictures are not needed twice
        if place + ahead < len(numbers):
            pending.append(pool.submit(read, numbers[place + ahead]))
        faults.update(met)
        waiting += crops
        while len(waiting) >= encoder.batch_size:
            yield waiting[: encoder.batch_size]
            waiting = waiting[encoder.batch_size :]
    if waiting:
        yield waiting


def _encode(
    cache: Cache, samples: BrushSamples, encoder: Encoder, crops: list[Crop]
) -> tuple[np.ndarray, list[Any]]:
    """Returns the records of some crops and, by crop, of their holes."""
    token_ids = samples.encoded([crop[0] for crop in crops])["token_ids"]
    stored: dict[str, np.ndarray] = {}
    holes = []
    for hole in range(max(1, cache.holes)):
        words = [{k: v for k, v in crop[hole].items() if k in _PIXELS} for crop in crops]
        # From the second hole on the image's own latents are known.
        batch = {**stacked(words), "token_ids": token_ids, **stored}
        prepared = encoder(batch)
        stored = {name: prepared[name] for name in ("mean", "deviation")}
        holes.append(packed(cache.hole, prepared))
    crop = {name: np.array([crop[0][name] for crop in crops]) for name in ("time_ids", "id")}
    images = packed(cache.image, {**stored, **crop, "token_ids": token_ids})
    return images, [rows[n] for n in range(len(crops)) for rows in holes[: cache.holes]]
