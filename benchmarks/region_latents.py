"""Region objectives whose edit is made in latents of the shipped base, for the study's table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brushjax.diffusion.schedule import Schedule
from brushjax.models import AutoencoderKL, CLIPText, CLIPTextConfig, UNet, UNetConfig, VAEConfig
from brushjax.pipelines.published import read_config
from brushjax.training.objectives.brushnet import SHIPPED_BASE
from brushjax.training.objectives.contract import blueprint, build, read, to_unit_range
from brushjax.training.objectives.region_masks import Composition, Sampler
from brushjax.training.objectives.region_objective import RegionObjective
from brushjax.typing import Params

STEPS = 4  # of the online sampler: DDIM, without guidance
PARTS = {
    "vae": (AutoencoderKL, VAEConfig),
    "unet": (UNet, UNetConfig),
    "text_encoder": (CLIPText, CLIPTextConfig),
}
KINDS = {"vae": "vae", "unet": "unet", "text_encoder": "clip_text"}


@dataclasses.dataclass(frozen=True)
class LatentRegions(RegionObjective):
    """Eq. 11 with the donor's latents, or those of a sampler in the step, decoded to be judged.

    The sampler (eq. 16 to 23) is told the target caption; the gradient goes through its last step.
    """

    def __post_init__(self) -> None:
        pass  # its path is in latent space

    @property
    def _online(self) -> bool:
        return self.path.donor == "online"

    def _parts(self) -> dict[str, Any]:
        names = PARTS if self._online else ("vae",)
        return {
            name: (PARTS[name][0], read_config(PARTS[name][1], str(SHIPPED_BASE), name))
            for name in names
        }

    def shapes(self) -> Params:
        own = {name: blueprint(*part)[1] for name, part in self._parts().items()}
        return {**super().shapes(), **own}

    def load(self, key: jax.Array, wanted: Params) -> Params:
        own = {
            name: read(KINDS[name], str(SHIPPED_BASE / name), wanted[name])
            for name in PARTS
            if name in wanted
        }
        return {**super().load(key, wanted), **own}

    def prepare(self, frozen: Params, batch: Any) -> Any:
        vae = self._built("vae", frozen)
        made = dict(super().prepare(frozen, batch))
        made["source_latents"] = vae.to_latents(to_unit_range(batch["image"], jnp.float32))
        if self._online:
            after = jnp.asarray(batch["caption_ids"])[:, 1]
            made["context"] = self._built("text_encoder", frozen)(after).last_hidden_state
        else:
            made["donor_latents"] = vae.to_latents(to_unit_range(batch["donor"], jnp.float32))
        return made

    def editor(
        self, params: Params, batch: Any, keys: jax.Array
    ) -> Callable[[jax.Array], jax.Array]:
        compose = Composition(self.encoders.placement, self._built("vae", params).to_images)
        source = batch["source_latents"]
        if self._online:
            donor: Any = self._sampler(params, batch, keys)
        else:
            donor = batch["donor_latents"]
        return lambda mask: compose(mask, source, donor, self.path)

    def _sampler(self, params: Params, batch: Any, keys: jax.Array) -> Sampler:
        schedule = Schedule.from_config(SHIPPED_BASE / "scheduler")
        assert schedule.prediction_type == "v_prediction"
        times = np.linspace(schedule.num_timesteps - 1, 0, STEPS + 1).round().astype(int)[:-1]
        alphas = jnp.asarray(np.append(schedule.alphas[times], 1.0), jnp.float32)
        sigmas = jnp.asarray(np.append(schedule.sigmas[times], 0.0), jnp.float32)
        steps = jnp.asarray(times, jnp.float32)
        unet, source = self._built("unet", params), batch["source_latents"]
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)  # the key is the mask's
        noise = jax.vmap(lambda key: jax.random.normal(key, source.shape[1:]))(keys)

        def step(number: Any, latents: jax.Array, mask: jax.Array) -> jax.Array:
            del mask
            time = jnp.broadcast_to(steps[number], len(latents))
            velocity = unet(latents, time, batch["context"])
            clean = alphas[number] * latents - sigmas[number] * velocity
            rest = alphas[number] * velocity + sigmas[number] * latents
            return alphas[number + 1] * clean + sigmas[number + 1] * rest

        def kept(number: Any) -> jax.Array:
            return alphas[number + 1] * source + sigmas[number + 1] * noise

        return Sampler(noise, STEPS, step, kept)

    def _built(self, name: str, params: Params) -> Any:
        return build(*self._parts()[name], params[name])
