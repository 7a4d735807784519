"""The denoising UNet of Stable Diffusion 1, 2 and XL."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from brushjax.models.backbone import Backbone, BackboneConfig, ByBlock, add, pop, size_of
from brushjax.nn import GroupNorm, Rngs, Shapes, Streams, conv, plus
from brushjax.typing import AddedCondition, Residuals

SECOND_STREAM = {"to_k_ip": "to_k", "to_v_ip": "to_v"}  # what each starts from


@dataclasses.dataclass(frozen=True)
class UNetConfig(BackboneConfig):
    """Settings of a published `UNet2DConditionModel`."""

    out_channels: int = 4

    CLASS_NAME: ClassVar[str] = "UNet2DConditionModel"
    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = BackboneConfig.FIXED | {
        "center_input_sample": (False,),
        "dropout": (0.0, 0),
        "dual_cross_attention": (False,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "time_embedding_type": ("positional",),
        "time_embedding_dim": (None,),
        "time_embedding_act_fn": (None,),
        "timestep_post_act": (None,),
        "time_cond_proj_dim": (None,),
        "attention_type": ("default",),
        "cross_attention_norm": (None,),
        "class_embeddings_concat": (False,),
        "mid_block_only_cross_attention": (None,),
        "resnet_out_scale_factor": (1.0, 1),
        "resnet_skip_time_act": (False,),
        "reverse_transformer_layers_per_block": (None,),
    }

    @classmethod
    def sd15(cls, in_channels: int = 4) -> "UNetConfig":
        """Stable Diffusion 1.x; 8 input channels for instruct-pix2pix, 9 for inpainting."""
        return cls(in_channels=in_channels)

    @classmethod
    def sd2(cls, in_channels: int = 4) -> "UNetConfig":
        """Stable Diffusion 2.x."""
        return cls(
            in_channels=in_channels,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )

    @classmethod
    def sdxl(cls) -> "UNetConfig":
        """Stable Diffusion XL."""
        return cls(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
            cross_attention_dim=2048,
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )


class UNet(Backbone):
    """Predicts the noise (or the velocity) in a latent.

    Source: diffusers `UNet2DConditionModel`; the places of the residuals: BrushNet's fork of it.
    """

    config: UNetConfig

    def __init__(self, config: UNetConfig, *, rngs: Rngs):
        super().__init__(config, rngs=rngs)
        first = config.block_out_channels[0]
        self.conv_in = conv(config.in_channels, first, rngs=rngs)
        self.conv_norm_out = GroupNorm(first, config.norm_num_groups, config.norm_eps)
        self.conv_out = conv(first, config.out_channels, rngs=rngs)

    @classmethod
    def with_second_stream(cls, unet: "UNet") -> "UNet":
        """Returns a UNet whose second stream starts as a copy of the first.

        All else is the given UNet's own, not copied. The visual tokens are as wide as the text's.

        Source: IP-Adapter's training script, which starts its keys and values so.
        """
        config = dataclasses.replace(
            unet.config, visual_cross_attention_dim=unet.config.cross_attention_dim
        )
        model = nnx.eval_shape(lambda: cls(config, rngs=Shapes()))
        state, parameters = nnx.state(model), nnx.to_flat_state(nnx.state(unet))
        own: dict[Any, Any] = dict(parameters)
        empty: Any = nnx.to_flat_state(state)
        for path, leaf in empty:
            first = tuple(SECOND_STREAM.get(part, part) for part in path)
            value = own[first].get_value()
            leaf.set_value(value if first == path else jnp.copy(value))
        nnx.update(model, state)
        return model

    def __call__(
        self,
        sample: Float[Array, "B h w C"],
        timestep: Num[Array, " B"],
        context: Float[Array, "B L D"],
        residuals: Residuals | None = None,
        added: AddedCondition | None = None,
        visual: Float[Array, "B Q M"] | None = None,
        visual_scale: float | int | Float[Array, ""] | Float[Array, " B"] = 1.0,
    ) -> Float[Array, "B h w E"]:
        """Returns the prediction, in the units of `sample`.

        Args:
          sample: noisy latent; with the extra input channels behind it where the model has them.
          timestep: in [0, T), one per sample.
          context: text features.
          residuals: what a branch adds.
          added: SDXL's pooled text and sizes.
          visual: tokens of the second stream of cross-attention, where the config has one.
          visual_scale: lambda of FireEdit's eq. 6, for all samples or one each.
        """
        time = self.embed_time(timestep, added, sample.dtype)  # [B, D]
        streams = context if visual is None else Streams(context, visual, visual_scale)
        return self.denoise(sample, time, streams, residuals)[0]

    def denoise(
        self,
        sample: Float[Array, "_B h w C"],
        time: Float[Array, "_B _D"] | ByBlock,
        context: Float[Array, "_B L D"] | ByBlock | Streams,
        residuals: Residuals | None = None,
        fresh: int = 0,
    ) -> tuple[Float[Array, "_B h w E"], Float[Array, "_B _h _w _C"]]:
        """Returns the prediction, and the features that the last `fresh` layers start from.

        Any input may have a smaller batch that divides the largest: what samples share is computed
        once, up to where they differ. Under guidance that is everything before the first text
        attention.

        Args:
          time: from `embed_time`, or `time_shifts` of it.
          context: text features, or `text_keys` of them; or these beside visual tokens, or
            `visual_keys` of those.
          fresh: how many layers `redo` will compute anew.
        """
        residuals = Residuals() if residuals is None else residuals
        time, context = self.by_block(time), self.by_block(context)
        x = self.conv_in(sample)  # [B, h, w, C]
        skips = (x,)  # the branch's first map enters the running features but not this skip
        x = add(x, residuals.down, 0)
        down = residuals.down[1:]
        for i, block in enumerate(self.down_blocks):
            outputs = block(x, time.down[i], context.down[i], down)
            x, skips, down = outputs[-1], skips + outputs, down[len(outputs) :]

        x = self.mid_block(x, time.mid, context.mid)
        x = x if residuals.mid is None else plus(x, residuals.mid)
        skips = tuple(add(skip, residuals.skip, i) for i, skip in enumerate(skips))

        up, deep = residuals.up, x
        for i, block in enumerate(self.up_blocks):
            read, skips = pop(skips, len(block.resnets))
            own = time.up[i], context.up[i]
            outputs = block(x, read, *own, size_of(skips), up)
            deep = (x, *outputs)[-1 - fresh]
            x, up = outputs[-1], up[len(outputs) :]

        return self._project(x), deep

    def redo(
        self,
        sample: Float[Array, "_B h w C"],
        time: Float[Array, "_B _D"] | ByBlock,
        context: Float[Array, "_B L D"] | ByBlock | Streams,
        residuals: Residuals,
        deep: Float[Array, "_B _h _w _C"],
        fresh: int,
    ) -> Float[Array, "_B h w E"]:
        """Returns the prediction with all but the outermost layers' work taken from before.

        Args:
          residuals: those of the first `fresh` places and the last `fresh` layers only.
          deep: from `denoise` with the same `fresh`.
          fresh: layers of the last up block to compute, 1 up to all of them.

        Source: DeepCache (arXiv 2312.00858), figure 3, at the outermost level.
        """
        time, context = self.by_block(time), self.by_block(context)
        x = self.conv_in(sample)  # [B, h, w, C]
        skips = (x,)
        x = add(x, residuals.down, 0)
        first, last = self.down_blocks[0], self.up_blocks[-1]
        own = time.down[0], context.down[0]
        for i in range(fresh - 1):
            x = add(first.layer(i, (x,), *own), residuals.down, i + 1)
            skips += (x,)
        skips = tuple(add(skip, residuals.skip, i) for i, skip in enumerate(skips))

        x = deep
        own = time.up[-1], context.up[-1]
        for i, skip in enumerate(reversed(skips)):
            layer = len(last.resnets) - fresh + i
            x = add(last.layer(layer, (x, skip), *own), residuals.up, i)
        return self._project(x)

    def _project(self, x: Array) -> Array:
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))  # [B, h, w, E]
