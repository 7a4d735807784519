"""The denoising UNet of Stable Diffusion 1, 2 and XL."""

import dataclasses
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float, Num

from brushjax.models.backbone import Backbone, BackboneConfig, add, pop, size_of
from brushjax.nn import Rngs, conv, group_norm
from brushjax.typing import AddedCondition, Residuals


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
        self.conv_norm_out = group_norm(first, config.norm_num_groups, config.norm_eps, rngs=rngs)
        self.conv_out = conv(first, config.out_channels, rngs=rngs)

    def __call__(
        self,
        sample: Float[Array, "B h w C"],
        timestep: Num[Array, " B"],
        context: Float[Array, "B L D"],
        residuals: Residuals | None = None,
        added: AddedCondition | None = None,
    ) -> Float[Array, "B h w E"]:
        """Returns the prediction, in the units of `sample`.

        Args:
          sample: noisy latent; with the extra input channels behind it where the model has them.
          timestep: in [0, T), one per sample.
          context: text features.
          residuals: what a branch adds.
          added: SDXL's pooled text and sizes.
        """
        residuals = Residuals() if residuals is None else residuals
        time = self.embed_time(timestep, added, sample.dtype)  # [B, D]

        x = self.conv_in(sample)  # [B, h, w, C]
        skips = (x,)  # the branch's first map enters the running features but not this skip
        x = add(x, residuals.down, 0)
        down = residuals.down[1:]
        for block in self.down_blocks:
            outputs = block(x, time, context, down)
            x, skips, down = outputs[-1], skips + outputs, down[len(outputs) :]

        x = self.mid_block(x, time, context)
        x = x if residuals.mid is None else x + residuals.mid
        skips = tuple(add(skip, residuals.skip, i) for i, skip in enumerate(skips))

        up = residuals.up
        for block in self.up_blocks:
            read, skips = pop(skips, len(block.resnets))
            outputs = block(x, read, time, context, size_of(skips), up)
            x, up = outputs[-1], up[len(outputs) :]

        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))  # [B, h, w, E]
