"""Training a BrushNet branch on a frozen base model."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from brushjax import weights
from brushjax.diffusion.schedule import Schedule, read_scheduler_config
from brushjax.models.brushnet import BrushNet, BrushNetConfig, keep_mask_condition
from brushjax.models.clip import CLIPText, CLIPTextConfig
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.nn import Keys
from brushjax.training.denoising import (
    draw,
    drop_captions,
    encode,
    read_config,
    read_tokenizer,
    weighted_error,
)
from brushjax.training.objectives import (
    Batch,
    Loss,
    Objective,
    Tokenize,
    blueprint,
    build,
    dtype_of,
    parameters,
    to_unit_range,
)
from brushjax.training.state import named_keys
from brushjax.typing import Params

SHIPPED_BASE = Path(__file__).resolve().parents[1] / "assets" / "base"


@dataclasses.dataclass(frozen=True)
class BrushNetObjective(Objective):
    """A branch that keeps what the mask keeps, learnt through the frozen UNet.

    Source: BrushEdit (arXiv 2412.10316) section IV; TencentARC/BrushNet `train_brushnet.py`.
    """

    base: str = ""
    """Pipeline folder of the frozen model in diffusers layout; empty is the one in the package."""
    branch: str = ""
    """Folder of a branch to go on from; empty starts from the base's UNet, adding nothing."""
    caption_dropout: float = 0.0
    """Share of captions that are replaced by the empty one; the reference drops none."""
    min_snr_gamma: float = 0.0
    """Of the min-SNR loss weighting; 0, as the reference, weighs all timesteps alike."""

    def init(self, key: jax.Array) -> tuple[Params, Params]:
        del key  # the base decides every weight
        unet = parameters(weights.load("unet", self.folder))
        if self.branch:
            branch = parameters(weights.load("brushnet", self.branch))
        else:
            branch = parameters(BrushNet.from_unet(build(UNet, self._configs()[0], unet)))
        frozen = {
            "unet": unet,
            "vae": parameters(weights.load("vae", self.folder)),
            "text_encoder": parameters(weights.load("clip_text", self.folder)),
        }
        return branch, frozen

    def shapes(self) -> tuple[Params, Params]:
        unet, vae, text, branch = self._configs()
        frozen = {
            "unet": blueprint(UNet, unet)[1],
            "vae": blueprint(AutoencoderKL, vae)[1],
            "text_encoder": blueprint(CLIPText, text)[1],
        }
        return blueprint(BrushNet, branch)[1], frozen

    def tokenizer(self) -> Tokenize:
        return read_tokenizer(self.folder)

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        """Encodes the image, and the image whose hole is black, as the branch will see it."""
        vae = build(AutoencoderKL, self._configs()[1], frozen["vae"])
        image, mask = batch["image"], batch["mask"]
        both = jnp.concatenate([image, jnp.where(mask > 0, 0, image)])  # [2B, H, W, 3]
        mean, deviation = encode(vae, to_unit_range(both, dtype_of(frozen)))
        mean, masked_mean = jnp.split(mean, 2)  # [B, h, w, 4]
        deviation, masked_deviation = jnp.split(deviation, 2)
        return {
            "mean": mean,
            "deviation": deviation,
            "condition": keep_mask_condition(masked_mean, mask),  # [B, h, w, 5]
            "masked_deviation": masked_deviation,
            "token_ids": batch["token_ids"],
        }

    def loss(self, trainable: Params, frozen: Params, batch: Batch, key: jax.Array) -> Loss:
        unet_config, _, text_config, branch_config = self._configs()
        keys = named_keys(key, "latents", "masked_latents", "noise", "timestep", "captions")
        unet = build(UNet, unet_config, frozen["unet"])
        branch = build(BrushNet, branch_config, trainable)
        text = build(CLIPText, text_config, frozen["text_encoder"])
        schedule = self._schedule()

        empty = read_tokenizer(self.folder)([""])[0]
        ids = drop_captions(batch["token_ids"], empty, self.caption_dropout, keys["captions"])
        context = text(ids).last_hidden_state  # [B, L, D]

        latents = draw(batch["mean"], batch["deviation"], keys["latents"])  # [B, h, w, 4]
        masked, keep = batch["condition"][..., :-1], batch["condition"][..., -1:]
        masked = draw(masked, batch["masked_deviation"], keys["masked_latents"])
        condition = jnp.concatenate([masked, keep], axis=-1)  # [B, h, w, 5]

        noise = jax.random.normal(keys["noise"], latents.shape, latents.dtype)
        timestep = jax.random.randint(
            keys["timestep"], latents.shape[:1], 0, schedule.num_timesteps
        )
        noisy = schedule.add_noise(latents, noise, timestep)
        residuals = branch(noisy, timestep, condition, context=context)
        prediction = unet(noisy, timestep, context, residuals=residuals)
        target = schedule.target(latents, noise, timestep)
        loss, error = weighted_error(prediction, target, timestep, schedule, self.min_snr_gamma)
        return loss, {"error": error}

    def export(self, trainable: Params, frozen: Params, folder: Path, batch: Batch) -> None:
        del frozen, batch
        weights.save(build(BrushNet, self._configs()[3], trainable), folder / "brushnet")

    @property
    def folder(self) -> str:
        """The base's folder."""
        return self.base or str(SHIPPED_BASE)

    def _configs(self) -> tuple[UNetConfig, VAEConfig, CLIPTextConfig, BrushNetConfig]:
        unet = read_config(UNetConfig, self.folder, "unet")
        vae = read_config(VAEConfig, self.folder, "vae")
        text = read_config(CLIPTextConfig, self.folder, "text_encoder")
        if self.branch:
            return unet, vae, text, read_config(BrushNetConfig, self.branch, "brushnet")
        return unet, vae, text, branch_config(unet)

    def _schedule(self) -> Schedule:
        return Schedule.from_config(read_scheduler_config(self.folder))


@functools.cache
def branch_config(unet: UNetConfig) -> BrushNetConfig:
    """Returns the config of the branch that `BrushNet.from_unet` makes for a UNet."""
    return nnx.eval_shape(lambda: BrushNet.from_unet(UNet(unet, rngs=Keys(0)))).config
