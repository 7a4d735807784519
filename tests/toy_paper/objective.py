"""The toy paper's loss: the noise in the hole, a mean over its pixels, of which each sample has
another number."""

import dataclasses

import jax
import jax.numpy as jnp

from brushjax import weights
from brushjax.training.objectives.contract import (
    Losses,
    Mean,
    Objective,
    blueprint,
    build,
    dtype_of,
    fresh,
    to_unit_range,
)
from brushjax.training.objectives.denoising import NoiseConfig, draw_timesteps, gaussian
from brushjax.training.state import named_keys
from tests.toy_paper import weight_map
from tests.toy_paper.model import ToyConfig, ToyPainter

KIND = weight_map.TOY.kind


@dataclasses.dataclass(frozen=True)
class ToyObjective(Objective):
    """The whole network, from random weights."""

    network: ToyConfig = dataclasses.field(default_factory=ToyConfig)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)

    trains = (r"toy\..*",)

    def shapes(self):
        return {KIND: blueprint(ToyPainter, self.network)[1]}

    def load(self, key, wanted):
        if KIND not in wanted:
            return {}
        return {KIND: fresh(ToyPainter, self.network, key, wanted[KIND])}

    def loss(self, params, batch, keys):
        named, schedule = named_keys(keys, "noise", "timestep"), self.noise.schedule()
        model, dtype = build(ToyPainter, self.network, params[KIND]), dtype_of(params)
        image = to_unit_range(batch["image"], jnp.float32)  # [B, H, W, 3]
        hole = (batch["mask"] > 0).astype(jnp.float32)  # [B, H, W, 1]
        noise = gaussian(named["noise"], image)
        timestep = draw_timesteps(named["timestep"], schedule)
        noisy = schedule.add_noise(image, noise, timestep)
        seen = (x.astype(dtype) for x in (noisy, timestep, image * (1 - hole), 1 - hole))
        error = jnp.square(model(*seen).astype(jnp.float32) - noise).mean(-1)  # [B, H, W]
        return Losses({"noise": Mean.over(error, hole[..., 0])})

    def export(self, trainable, folder, batch):
        model = build(ToyPainter, self.network, jax.tree.map(jnp.asarray, trainable[KIND]))
        weights.save(model, folder / KIND)
