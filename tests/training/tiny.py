"""The smallest objective and data that keep the loop's contract; a config file, too."""

import dataclasses
import time
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from brushjax.data.schema import Record
from brushjax.training.objectives.contract import Losses, Mean, Objective, placed
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


@dataclasses.dataclass(frozen=True)
class Point(Record):
    """A record of these data."""

    x: np.ndarray


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Random points x with their label y = 3x - 1 plus noise."""

    pool: int = 12
    infinite_at: int = -1
    """Sample with an infinite label."""
    pause: float = 0.0
    """Seconds that making a sample takes."""
    broken: int = -1
    """Sample that can't be made."""

    FREE: ClassVar = ("pause",)

    def source(self, encode):
        assert encode(Point(0, x=np.zeros(3))).keys() == {"id", "x"}
        return self

    def __len__(self):
        return self.pool or 1 << 20

    def __getitem__(self, n):
        time.sleep(self.pause)
        if n == self.broken:
            raise ValueError(f"sample {n} is broken")
        x, noise = np.random.default_rng((0, int(n))).normal(size=(2, 3)).astype(np.float32)
        y = np.full(3, np.inf, np.float32) if n == self.infinite_at else 3 * x - 1 + 0.1 * noise
        return {"x": x, "y": y, "id": np.int64(n)}

    def batches(self, batch_size, encode, *, shard):
        import grain

        samples = grain.MapDataset.source(self.source(encode)).seed(0).shuffle().repeat()
        few = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # by default 16 and 500
        return samples[shard[0] :: shard[1]].batch(batch_size).to_iter_dataset(few)


@dataclasses.dataclass(frozen=True)
class Line(Objective):
    """Fits slope and offset, with a frozen factor on the inputs and noise on the slope."""

    MEASURED: ClassVar[int] = 64

    factor: float = 2.0

    trains = ("slope", "offset")

    def shapes(self):
        sizes = {"slope": (4, 8), "offset": (), "factor": ()}
        return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}

    def load(self, key, wanted):
        slope = jax.random.normal(key, (4, 8))
        start = {"slope": slope, "offset": np.float32(0), "factor": np.float32(self.factor)}
        return placed(start, wanted)

    def prepare(self, frozen, batch):
        return {**batch, "x": batch["x"] * frozen["factor"]}

    def loss(self, params, batch, keys):
        slope = params["slope"].sum()
        noise = jax.vmap(jax.random.normal)(keys)  # [B]
        error = (slope + 0.01 * noise[:, None]) * batch["x"] + params["offset"] - batch["y"]
        halves = jnp.stack([noise < 0, noise >= 0], axis=1).astype(error.dtype)  # [B, 2]
        each = jnp.square(error).mean(axis=1)
        logged = {"slope": Mean(slope, jnp.float32(1)), "half": Mean(each @ halves, halves.sum(0))}
        return Losses({"squares": Mean.over(each)}, logged)

    def export(self, trainable, folder, batch):
        arrays = {name: np.asarray(value) for name, value in trainable.items()}
        save_file({**arrays, "x": batch["x"]}, str(folder / "line.safetensors"))


CONSTANT = OptimizerConfig(learning_rate=0.05)


def get_config():
    return TrainConfig(
        name="line",
        objective=Line(),
        data=Numbers(),
        optimizer=OptimizerConfig(learning_rate=0.05, warmup_steps=3, decay="cosine"),
        steps=24,
        batch_size=8,
        ema_decay=0.9,
        log_every=2,
        checkpoint_every=5,
    )
