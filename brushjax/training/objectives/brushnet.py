"""Training a BrushNet branch on a frozen base model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Float, Int

from brushjax import identity, weights
from brushjax.data.schema import Captioned
from brushjax.diffusion.schedule import Schedule
from brushjax.models.brushnet import CELL, BrushNet, BrushNetConfig, keep_mask_condition
from brushjax.models.encoders.clip import CLIPText
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL
from brushjax.nn import Shapes
from brushjax.pipelines.bases import SHIPPED_BASE
from brushjax.pipelines.published import (
    Base,
    read_base,
    read_config,
    read_tokenizer,
    second_ids,
    sizes,
)
from brushjax.pipelines.text import attended
from brushjax.training.objectives.contract import (
    Batch,
    Losses,
    Objective,
    blueprint,
    build,
    dtype_of,
    parameters,
    placed,
    placed_in,
    read,
    to_unit_range,
    with_autoencoder,
)
from brushjax.training.objectives.denoising import (
    draw,
    draw_timesteps,
    drop_captions,
    edge_weights,
    encode,
    gaussian,
    weighted_error,
)
from brushjax.training.state import named_keys
from brushjax.typing import AddedCondition, Params

TEXT_FOLDERS = ("text_encoder", "text_encoder_2")
TEXT_KINDS = ("clip_text", "clip_text_2")


@dataclasses.dataclass(frozen=True)
class BrushNetObjective(Objective):
    """A branch that keeps what the mask keeps, learnt through the frozen UNet.

    What is trained: {"brushnet"} and, with `train_base`, {"unet"}.

    Source: BrushEdit (arXiv 2412.10316) section IV; TencentARC/BrushNet `train_brushnet.py` and
      `train_brushnet_sdxl.py`.
    """

    base: str = ""
    """Pipeline folder of the frozen model in diffusers layout, or its hub id; empty is the one in
    the package."""
    branch: str = ""
    """Folder of a branch to go on from; empty starts from the base's UNet, adding nothing."""
    train_base: bool = False
    """Train the base's UNet too: better figures, but the branch then fits no other base (BrushEdit,
    Table VI)."""
    caption_dropout: float = 0.0
    """Share of captions that are replaced by the empty one; the reference drops none."""
    min_snr_gamma: float = 0.0
    """Of the min-SNR loss weighting; 0, as the reference, weighs all timesteps equally."""
    edge_gain: float = 0.0
    """How much more the latent cells at the mask's edge count in the loss, where seams arise; 0, as
    the reference, weighs all cells equally."""

    @property
    def trains(self) -> tuple[str, ...]:
        return (r"brushnet\..*", r"unet\..*") if self.train_base else (r"brushnet\..*",)

    def shapes(self) -> Params:
        base = self._base
        shapes = {
            "brushnet": blueprint(BrushNet, self._branch)[1],
            "unet": blueprint(UNet, base.unet)[1],
            "vae": blueprint(AutoencoderKL, base.vae)[1],
        }
        for name, config in zip(TEXT_FOLDERS, base.text):
            shapes[name] = blueprint(CLIPText, config)[1]
        return shapes

    def load(self, key: jax.Array, wanted: Params) -> Params:
        del key  # the base decides every weight
        kinds = {"unet": "unet", "vae": "vae", **dict(zip(TEXT_FOLDERS, TEXT_KINDS))}
        params = {
            name: read(kind, self.folder, wanted[name])
            for name, kind in kinds.items()
            if name in wanted
        }
        if "brushnet" in wanted:
            params["brushnet"] = self._first_branch(wanted["brushnet"])
        return params

    def _first_branch(self, wanted: Params) -> Params:
        """The branch that a run starts from."""
        if self.branch:
            return read("brushnet", self.branch, wanted)
        # The whole UNet passes through the host's memory once: the branch is grown in float32.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            unet: Any = weights.load("unet", self.folder)
            return placed(parameters(BrushNet.from_unet(unet)), wanted)

    def working(self, frozen: Params, dtype: Any) -> Params:
        return with_autoencoder(super().working(frozen, dtype), self._base.vae)

    def encode(self, record: Any) -> Mapping[str, np.ndarray]:
        return Captioned(read_tokenizer(self.folder))(record)

    def encoder(self) -> str:
        ids = read_tokenizer(self.folder)(PROBE)
        host = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        shapes = {"vae": self.shapes()["vae"]}
        vae = identity.arrays(self.load(jax.random.key(0), placed_in(host, shapes))["vae"])
        return identity.digest(repr(self._base.vae), vae, identity.arrays(np.asarray(ids)))

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        """Encodes the image, and the image whose hole is black, as the branch will see it.

        What a data set has stored is taken as it is: with "condition" both latents, with "mean" the
        image's alone.
        """
        if "condition" in batch:
            return batch
        vae = build(AutoencoderKL, self._base.vae, frozen["vae"])
        image, mask = to_unit_range(batch["image"], dtype_of(frozen["vae"])), batch["mask"]
        if "masked_image" in batch:  # the reference's preparation masks before it resizes
            masked = to_unit_range(batch["masked_image"], image.dtype)
        else:
            masked = jnp.where(mask > 0, jnp.asarray(-1, image.dtype), image)  # [B, H, W, 3]
        if "mean" in batch:
            mean, deviation = batch["mean"], batch["deviation"]
            masked_mean, masked_deviation = encode(vae, masked)
        else:
            means, deviations = encode(vae, jnp.concatenate([image, masked]))
            mean, masked_mean = jnp.split(means, 2)  # [B, h, w, 4]
            deviation, masked_deviation = jnp.split(deviations, 2)
        return {
            "mean": mean,
            "deviation": deviation,
            "condition": keep_mask_condition(masked_mean, mask),  # [B, h, w, 5]
            "masked_deviation": masked_deviation,
            "token_ids": batch["token_ids"],
            **{name: batch[name] for name in ("time_ids",) if name in batch},
        }

    def loss(self, params: Params, batch: Batch, keys: jax.Array) -> Losses:
        named = named_keys(keys, "latents", "masked_latents", "noise", "timestep", "captions")
        unet = build(UNet, self._base.unet, params["unet"])
        branch = build(BrushNet, self._branch, params["brushnet"])
        schedule, dtype = self._schedule(), dtype_of(params["brushnet"])

        ids = batch["token_ids"]
        ids = drop_captions(ids, self._base.empty_ids, self.caption_dropout, named["captions"])
        context, added = self._condition(params, ids, batch)

        # The noising is in float32; what the networks see is cast.
        stored = {name: batch[name].astype(jnp.float32) for name in LATENTS}
        latents = draw(stored["mean"], stored["deviation"], named["latents"])  # [B, h, w, 4]
        masked, keep = stored["condition"][..., :-1], stored["condition"][..., -1:]
        masked = draw(masked, stored["masked_deviation"], named["masked_latents"])
        condition = jnp.concatenate([masked, keep], axis=-1).astype(dtype)  # [B, h, w, 5]

        noise = gaussian(named["noise"], latents)
        timestep = draw_timesteps(named["timestep"], schedule)
        noisy = schedule.add_noise(latents, noise, timestep).astype(dtype)
        residuals = branch(noisy, timestep, condition, added=added, context=context)
        prediction = unet(noisy, timestep, context, residuals=residuals, added=added)
        target = schedule.target(latents, noise, timestep)
        cells = edge_weights(keep, self.edge_gain) if self.edge_gain else None
        return weighted_error(prediction, target, timestep, schedule, self.min_snr_gamma, cells)

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        del batch
        weights.save(build(BrushNet, self._branch, trainable["brushnet"]), folder / "brushnet")
        if self.train_base:
            weights.save(build(UNet, self._base.unet, trainable["unet"]), folder / "unet")

    @property
    def folder(self) -> str:
        """The base's folder or hub id."""
        return self.base or str(SHIPPED_BASE)

    @property
    def _base(self) -> Base:
        return read_base(self.folder)

    @property
    def _branch(self) -> BrushNetConfig:
        if self.branch:
            return read_config(BrushNetConfig, self.branch, "brushnet")
        return branch_config(self._base.unet)

    def _condition(
        self, params: Params, ids: Int[Array, "B L"], batch: Batch
    ) -> tuple[Float[Array, "B L D"], AddedCondition | None]:
        """Returns the context and, for SDXL, the pooled text and sizes."""
        configs = self._base.text
        text = [build(CLIPText, config, params[n]) for n, config in zip(TEXT_FOLDERS, configs)]
        both = [ids] if len(text) == 1 else [ids, second_ids(ids, self._base.end_id)]
        context, pooled = attended(text, both)  # [B, L, D], [B, E]
        if pooled is None:
            return context, None
        if "time_ids" in batch:
            time_ids = batch["time_ids"].astype(jnp.float32)  # [B, 6]
        else:  # the pictures were not cut
            height, width = (CELL * side for side in batch["mean"].shape[1:3])
            time_ids = jnp.tile(jnp.asarray(sizes(height, width)), (len(ids), 1))
        return context, AddedCondition(pooled, time_ids)

    def _schedule(self) -> Schedule:
        return Schedule.from_config(self._base.noise)


PROBE = ("", "A man's 2 red-brown cats, sitting on the old bridge!")  # tells tokenizers apart
LATENTS = ("mean", "deviation", "condition", "masked_deviation")


@functools.cache
def branch_config(unet: UNetConfig) -> BrushNetConfig:
    """Returns the config of the branch that `BrushNet.from_unet` makes for a UNet."""
    return nnx.eval_shape(lambda: BrushNet.from_unet(UNet(unet, rngs=Shapes()))).config
