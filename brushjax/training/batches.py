"""Brings batches to the devices, from the data or from a pool that was encoded beforehand."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from brushjax.config import ConfigError
from brushjax.data.schema import Encode
from brushjax.distributed import is_main
from brushjax.progress import progress_bar
from brushjax.sharding import BATCH
from brushjax.training.objectives.contract import Objective
from brushjax.training.recipe import Source, TrainConfig
from brushjax.typing import Params

if TYPE_CHECKING:
    import grain

Arrays = dict[str, np.ndarray]


class Pool:
    """Prepared samples in the host's memory, by number.

    Args:
      arrays: by name, [samples, ...] each.
    """

    def __init__(self, arrays: Arrays):
        self.arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: array[index] for name, array in self.arrays.items()}

    def batches(self, batch_size: int, seed: int, shard: tuple[int, int]) -> grain.IterDataset:
        """An endless dataset of this host's batches, in a new order every epoch."""
        import grain

        index, count = shard
        samples = grain.MapDataset.source(self).seed(seed).shuffle().repeat()[index::count]
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        return samples.batch(batch_size).to_iter_dataset(options)


def fill_pool(
    objective: Objective, frozen: Params, source: Source, mesh: Mesh, each: int = 16
) -> Pool:
    """Runs `objective.prepare` on every sample of a source and keeps what it returns, with the id.

    The devices share the work; every host keeps the whole pool. The last chunk is filled up with
    the first samples, so that one compiled program serves all.

    Args:
      each: samples at once, on each process's devices together (at least one on each device).
    """
    whole = NamedSharding(mesh, PartitionSpec())
    prepare = jax.jit(
        lambda frozen, batch: {**objective.prepare(frozen, batch), "id": batch["id"]},
        out_shardings=whole,
    )
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    chunk = devices * max(1, each * jax.process_count() // devices)
    share, (index, _) = share_of(chunk, mesh)
    chunks, ahead = [], collections.deque()
    starts = range(0, len(source), chunk)
    what = f"encoding all {len(source)} samples once, before the first step"
    for start in progress_bar(starts, what, unit="batch", shown=is_main()):
        own = range(start + index * share, start + (index + 1) * share)
        batch = to_devices(stack(source, [n % len(source) for n in own]), mesh)
        ahead.append(prepare(frozen, batch))
        while len(ahead) > (start + chunk < len(source)):  # the devices work while samples are made
            chunks.append(jax.device_get(ahead.popleft()))
    names = chunks[0].keys()
    return Pool({name: np.concatenate([c[name] for c in chunks])[: len(source)] for name in names})


def open_feed(
    config: TrainConfig,
    mesh: Mesh,
    frozen: Params,
    encode: Encode,
    position: dict[str, Any] | None,
    step: int,
) -> tuple[Any, Callable[[], Mapping[str, int]]]:
    """Returns the iterator over this host's batches, where the checkpoint left it, and what counts
    the data's faults by cause. A run that has finished reads no data."""
    if step >= config.steps:
        return None, dict
    share, shard = share_of(config.batch_size, mesh)
    if config.encode_once:
        source = config.data.source(encode)
        pool = fill_pool(config.objective, frozen, source, mesh)
        batches = pool.batches(share, config.seed, shard)
    else:
        batches = config.data.batches(share, encode, shard=shard)
        source = getattr(batches, "samples", None)
    feed = iter(batches)
    if position is not None:
        feed.set_state(position)
    return feed, lambda: getattr(source, "faults", {})


def share_of(batch_size: int, mesh: Mesh) -> tuple[int, tuple[int, int]]:
    """Returns how many samples of a batch this process reads, and its (index, count) among those
    that read different ones: processes along the tensor axis read the same.

    Raises: ConfigError if the processes can't share the batch evenly, or two of them would need
      parts of each other's samples.
    """
    rows: dict[int, set[int]] = {}  # of the batch that each process's devices hold
    for row, devices in enumerate(mesh.devices.reshape(-1, mesh.shape["tensor"])):
        for device in devices:
            rows.setdefault(device.process_index, set()).add(row)
    shares = sorted({tuple(sorted(held)) for held in rows.values()})
    held = [row for share in shares for row in share]
    if len(held) > len(set(held)) or len({len(share) for share in shares}) > 1:
        raise ConfigError(
            f"expected mesh.tensor {mesh.shape['tensor']} to lie within one host or to take whole "
            f"hosts, so that each part of a batch has its own; got hosts with the parts {shares}"
        )
    if batch_size % len(shares):
        raise ConfigError(
            f"expected a batch_size that {len(shares)} hosts divide; got {batch_size}"
        )
    mine = tuple(sorted(rows[jax.process_index()]))
    return batch_size // len(shares), (shares.index(mine), len(shares))


def stack(source: Source, numbers: Any) -> Arrays:
    """Returns samples as one batch."""
    samples = [source[n] for n in numbers]
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the batch of all processes, given this process's part of it."""
    layout = NamedSharding(mesh, BATCH)
    return {
        name: jax.make_array_from_process_local_data(layout, array) for name, array in batch.items()
    }
