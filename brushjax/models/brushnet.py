"""The BrushNet branch: what is known of a masked image, as feature maps for a frozen UNet."""

import dataclasses
import itertools
import json
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from brushjax.models.backbone import Backbone, BackboneConfig, ByBlock, pop, size_of
from brushjax.models.unet import UNet
from brushjax.nn import Keys, Rngs, broadcast_batch, conv, zero_conv
from brushjax.typing import AddedCondition, Residuals

CELL = 8  # pixels per latent cell along a side, for Stable Diffusion's VAEs


@dataclasses.dataclass(frozen=True)
class BrushNetConfig(BackboneConfig):
    """Settings of a published `BrushNetModel`; the last two are this project's, for ablations.

    The rows of BrushEdit's Table VII: attention in the branch is `down_block_types` and its
    siblings with CrossAttn blocks; no mask channel is `conditioning_channels=4`; the rest are the
    two fields below.

    Attributes:
      conditioning_channels: beside the noisy latent: masked-image latent (4), keep mask (1).
      conditioning_embedding_out_channels: widths of the convolutional encoder, unused otherwise.
      injection: "full" adds to all layers; "half" to the down and mid layers; "controlnet" to the
        skip connections and the mid layer.
      conditioning_encoder: "vae" takes the masked image as a latent; "conv" takes pixels and learns
        its own encoder.
    """

    down_block_types: tuple[str, ...] = ("DownBlock2D",) * 4
    mid_block_type: str = "MidBlock2D"
    up_block_types: tuple[str, ...] = ("UpBlock2D",) * 4
    conditioning_channels: int = 5
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    injection: Literal["full", "half", "controlnet"] = "full"
    conditioning_encoder: Literal["vae", "conv"] = "vae"

    CLASS_NAME: ClassVar[str] = "BrushNetModel"
    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = BackboneConfig.FIXED | {
        "brushnet_conditioning_channel_order": ("rgb",),
        "global_pool_conditions": (False,),
    }

    @classmethod
    def sd15(cls) -> "BrushNetConfig":
        """The released SD1.5 branch."""
        return cls()

    @classmethod
    def sdxl(cls) -> "BrushNetConfig":
        """The released SDXL branch."""
        return cls(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            cross_attention_dim=2048,
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )

    def to_dict(self) -> dict[str, Any]:
        published = super().to_dict()
        # The reference rejects unknown settings, so the ablations appear only where they are used.
        for field in ("injection", "conditioning_encoder"):
            if published[field] == getattr(BrushNetConfig, field):
                del published[field]
        return published


class ConditioningEncoder(nnx.Module):
    """Masked image to a latent-sized map by a few convolutions, in place of the VAE (ablation)."""

    def __init__(self, widths: tuple[int, ...], channels_out: int, *, rngs: Rngs):
        self.conv_in = conv(3, widths[0], rngs=rngs)
        self.blocks = nnx.List([])
        for narrow, wide in itertools.pairwise(widths):
            self.blocks.append(conv(narrow, narrow, rngs=rngs))
            self.blocks.append(conv(narrow, wide, stride=2, rngs=rngs))
        self.conv_out = conv(widths[-1], channels_out, rngs=rngs)

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        x = jax.nn.silu(self.conv_in(images))
        for block in self.blocks:
            x = jax.nn.silu(block(x))
        return self.conv_out(x)


class BrushNet(Backbone):
    """The UNet's convolutions again, without attention, on noisy latent, masked image and mask.

    Source: BrushEdit (arXiv 2412.10316) section IV-B, figure 3; upstream `BrushNetModel`.
    """

    config: BrushNetConfig

    def __init__(self, config: BrushNetConfig, *, rngs: Rngs):
        super().__init__(config, rngs=rngs, up=config.injection == "full")
        widths, layers = config.block_out_channels, config.layers_per_block
        channels = config.in_channels + config.conditioning_channels
        self.conv_in_condition = conv(channels, widths[0], rngs=rngs)
        if config.conditioning_encoder == "conv":
            self.conditioning_encoder = ConditioningEncoder(
                config.conditioning_embedding_out_channels, config.in_channels, rngs=rngs
            )

        down, up = [widths[0]], []
        for level, width in enumerate(widths):
            down += [width] * (layers + (level < len(widths) - 1))
            up = [width] * (layers + 1 + (level > 0)) + up
        self.brushnet_down_blocks = nnx.List(_taps(down, rngs=rngs))
        self.brushnet_mid_block = zero_conv(widths[-1], rngs=rngs)
        self.brushnet_up_blocks = nnx.List(_taps(up if self.up_blocks else [], rngs=rngs))

    @classmethod
    def from_unet(cls, unet: UNet, *, rngs: Rngs | None = None, **settings: Any) -> "BrushNet":
        """Builds a branch from a UNet's weights; it adds exactly nothing until it is trained.

        The input convolution holds the UNet's twice, for the noisy and for the masked latent, and
        zeros for the mask. Every other weight that the UNet has under the same name is copied; what
        remains is random.

        Args:
          rngs: for the weights that the UNet lacks.
          settings: fields of `BrushNetConfig` that differ from the UNet's, for ablations.
        Source: upstream `BrushNetModel.from_unet`. Differs: `conv_in_condition.bias` is a copy, not
          the UNet's own parameter, and SDXL's `add_embedding` is copied too
          (docs/deviations.md#from-unet).
        """
        shared = {f.name: getattr(unet.config, f.name) for f in dataclasses.fields(BackboneConfig)}
        blocks = len(unet.config.block_out_channels)
        plain = {
            "in_channels": unet.config.out_channels,
            "down_block_types": ("DownBlock2D",) * blocks,
            "mid_block_type": "MidBlock2D",
            "up_block_types": ("UpBlock2D",) * blocks,
            "extra": json.dumps({}),
        }
        config = BrushNetConfig(**(shared | plain | settings))
        key = (rngs or Keys(0)).params()
        # Compiled, so that the random weights that the UNet's replace are never made.
        return jax.jit(lambda unet: cls._grown(config, unet, key))(unet)

    @classmethod
    def _grown(cls, config: BrushNetConfig, unet: UNet, key: Array) -> "BrushNet":
        branch = cls(config, rngs=Keys(key))
        source = dict(nnx.to_flat_state(nnx.state(unet)))
        target = nnx.state(branch)
        for path, leaf in nnx.to_flat_state(target):
            if path in source and source[path].shape == leaf.shape:
                leaf.set_value(source[path][...])
        nnx.update(branch, target)

        latent = unet.conv_in.kernel[:, :, : config.in_channels]  # extra input channels come behind
        rest = config.conditioning_channels - config.in_channels
        rest = (*latent.shape[:2], rest, latent.shape[3])
        kernel = jnp.concatenate([latent, latent, jnp.zeros(rest, latent.dtype)], axis=2)
        branch.conv_in_condition.kernel.set_value(kernel)
        bias = source["conv_in", "bias"][...]
        branch.conv_in_condition.bias.set_value(bias)  # pyright: ignore[reportOptionalMemberAccess]
        return branch

    def __call__(
        self,
        sample: Float[Array, "B h w C"],
        timestep: Num[Array, " B"],
        condition: Float[Array, "B _h _w _C"],
        scale: int | float | Float[Array, ""] = 1.0,
        added: AddedCondition | None = None,
        guess_mode: bool = False,
        context: Float[Array, "B L D"] | None = None,
    ) -> Residuals:
        """Returns what to add to the UNet's features.

        Args:
          sample: noisy latent.
          timestep: in [0, T), one per sample.
          condition: masked-image latent and keep mask, see `keep_mask_condition`. With the
            convolutional encoder: masked image and keep mask in pixels.
          scale: preservation scale w; 0 leaves the UNet alone.
          added: SDXL's pooled text and sizes.
          guess_mode: weights the maps from 0.1 (first) to 1 (last) instead of equally.
          context: text features, read only where the config gives the branch attention.
        """
        time = self.embed_time(timestep, added, sample.dtype)  # [B, D]
        return self.features(sample, time, condition, scale, guess_mode, context)

    def features(
        self,
        sample: Float[Array, "_B h w C"],
        time: Float[Array, "_B _D"] | ByBlock,
        condition: Float[Array, "_B _h _w _C"],
        scale: int | float | Float[Array, ""] = 1.0,
        guess_mode: bool = False,
        context: Float[Array, "_B L D"] | ByBlock | None = None,
    ) -> Residuals:
        """As a call, on a time embedding of `embed_time`, or `time_shifts` of it.

        Any input may have a smaller batch that divides the largest.
        """
        if self.config.conditioning_encoder == "conv":
            condition = self._encode(condition)
        time, context = self.by_block(time), self.by_block(context)
        x = jnp.concatenate(broadcast_batch(sample, condition), axis=-1)
        x = self.conv_in_condition(x)  # [B, h, w, C]
        down = (x,)
        for i, block in enumerate(self.down_blocks):
            outputs = block(x, time.down[i], context.down[i])
            x, down = outputs[-1], down + outputs

        mid = x = self.mid_block(x, time.mid, context.mid)

        up, skips = (), down
        for i, block in enumerate(self.up_blocks):
            read, skips = pop(skips, len(block.resnets))
            own = time.up[i], context.up[i]
            outputs = block(x, read, *own, size_of(skips))
            x, up = outputs[-1], up + outputs

        return self._tap(down, mid, up, scale, guess_mode)

    def _encode(self, condition: Array) -> Array:
        latent = self.conditioning_encoder(condition[..., :3])  # [B, h, w, 4]
        return jnp.concatenate([latent, condition[:, ::CELL, ::CELL, 3:]], axis=-1)

    def _tap(
        self, down: tuple, mid: Array, up: tuple, scale: int | float | Array, guess_mode: bool
    ) -> Residuals:
        """Passes the features through the zero convolutions and scales them."""
        features = (*down, mid, *up)
        convs = (*self.brushnet_down_blocks, self.brushnet_mid_block, *self.brushnet_up_blocks)
        weights = jnp.logspace(-1, 0, len(features)) if guess_mode else jnp.ones(len(features))
        weights = (weights * scale).astype(mid.dtype)
        taps = tuple(zero(x) * w for zero, x, w in zip(convs, features, weights, strict=True))
        down, mid, up = taps[: len(down)], taps[len(down)], taps[len(down) + 1 :]
        if self.config.injection == "controlnet":
            return Residuals(mid=mid, skip=down)
        return Residuals(down=down, mid=mid, up=up)


def _taps(widths: list[int], *, rngs: Rngs) -> list[nnx.Conv]:
    return [zero_conv(width, rngs=rngs) for width in widths]


def keep_mask_condition(
    masked_latents: Float[Array, "B h w C"], mask: Num[Array, "B H W 1"]
) -> Float[Array, "B h w E"]:
    """Returns the branch's condition: the masked image's latent and, last, the mask with 1 = keep.

    The mask's value in a latent cell is that of its top-left pixel, as PyTorch's nearest
    interpolation takes it. This is the only place where the polarity is turned.

    Args:
      masked_latents: scaled latent of the image whose hole is black.
      mask: 1 = edit, 0 = keep, in pixels.

    Raises:
      ValueError: if the sizes don't belong together.
    """
    height, width = masked_latents.shape[1:3]
    cells = mask[:, ::CELL, ::CELL]  # [B, h, w, 1]
    if mask.shape[1:3] != (CELL * height, CELL * width):
        raise ValueError(
            f"expected a mask of {CELL} pixels per latent cell, {(CELL * height, CELL * width)}, "
            f"got {mask.shape[1:3]}"
        )
    keep = (1 - cells).astype(masked_latents.dtype)
    return jnp.concatenate([masked_latents, keep], axis=-1)
