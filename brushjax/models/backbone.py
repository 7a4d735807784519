"""The body that UNet and branch share: time embedding, down, mid and up blocks."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from brushjax.models.published import PublishedConfig, per_block
from brushjax.nn import (
    Downsample,
    ResnetBlock,
    Rngs,
    Streams,
    TimestepEmbedding,
    Transformer2D,
    Upsample,
    broadcast_batch,
    part,
    plus,
    rematerialised,
    sinusoid,
)
from brushjax.typing import AddedCondition

Features = Float[Array, "_B _h _w _C"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByBlock:
    """What every block takes of an input: for each down block, the mid block, each up block."""

    down: tuple
    mid: Any
    up: tuple


@dataclasses.dataclass(frozen=True)
class BackboneConfig(PublishedConfig):
    """What UNet and branch have in common; the defaults are Stable Diffusion 1.5's.

    Attributes:
      attention_head_dim: in spite of its published name, the NUMBER of heads, once or per block.
      num_attention_heads: overrides `attention_head_dim` where a config gives it.
      visual_cross_attention_dim: width of the tokens of a second stream of cross-attention; null,
        and not written, is none. Not in published configs.
    """

    in_channels: int = 4
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    mid_block_type: str = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention_dim: int = 768
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: int | tuple[int, ...] | None = None
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int | float = 0
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    visual_cross_attention_dim: int | None = None

    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "act_fn": ("silu",),
        "only_cross_attention": (False,),
        "downsample_padding": (1,),
        "mid_block_scale_factor": (1, 1.0),
        "resnet_time_scale_shift": ("default",),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
    }
    # The softmax is in float32 here in any case, so upcast_attention changes nothing.
    HARMLESS: ClassVar[frozenset[str]] = frozenset(
        {"sample_size", "upcast_attention", "addition_embed_type_num_heads"}
    )

    def __post_init__(self) -> None:
        blocks = len(self.block_out_channels)
        if len(self.down_block_types) != blocks or len(self.up_block_types) != blocks:
            raise ValueError(
                f"expected {blocks} down and up block types, as block_out_channels has, got "
                f"{self.down_block_types} and {self.up_block_types}"
            )
        if self.addition_embed_type not in (None, "text_time"):
            raise ValueError(
                "expected addition_embed_type None or 'text_time', "
                f"got {self.addition_embed_type!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        published = super().to_dict()
        if self.visual_cross_attention_dim is None:
            del published["visual_cross_attention_dim"]  # PyTorch's class would warn of it
        return published

    @property
    def time_width(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads per down block."""
        heads = self.num_attention_heads or self.attention_head_dim
        return per_block(heads, len(self.block_out_channels))

    @property
    def transformer_layers(self) -> tuple[int, ...]:
        """Transformer layers per down block."""
        return per_block(self.transformer_layers_per_block, len(self.block_out_channels))


class Layers(nnx.Module):
    """Residual blocks, each followed by a transformer where the block type has cross-attention."""

    def __init__(
        self,
        pairs: list[tuple[int, int]],
        config: BackboneConfig,
        level: int,
        cross: bool,
        rngs: Rngs,
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock(
                    *pair,
                    time_width=config.time_width,
                    groups=config.norm_num_groups,
                    epsilon=config.norm_eps,
                    rngs=rngs,
                )
                for pair in pairs
            ]
        )
        count = len(pairs) if cross else 0
        self.attentions = nnx.List(
            [transformer(pairs[-1][1], config, level, rngs=rngs) for _ in range(count)]
        )

    def layer(self, i: int, inputs: tuple[Features, ...], time: Any, context: Any) -> Features:
        """Runs residual block `i`, on the inputs' channels side by side, and its transformer."""
        x = self.resnet(i, inputs, time)
        return self.attentions[i](x, part(needed(context), i)) if self.attentions else x

    def resnet(self, i: int, inputs: tuple[Features, ...], time: Any) -> Features:
        """Runs residual block `i` on the inputs' channels side by side."""
        block, time = self.resnets[i], part(time, i)
        if len(inputs) == 1:
            return rematerialised(block.__call__)(*inputs, time)
        # Joined inside: what is computed again needs the inputs, which are kept in any case.
        joined = lambda time, *inputs: block(jnp.concatenate(broadcast_batch(*inputs), -1), time)  # noqa: E731
        return rematerialised(joined)(time, *inputs)


class DownBlock(Layers):
    """Layers, then a halving of the size except in the last block."""

    def __init__(self, config: BackboneConfig, level: int, *, rngs: Rngs):
        widths = config.block_out_channels
        cross = block_has_attention(config.down_block_types[level], "Down")
        first = (widths[max(level - 1, 0)], widths[level])
        pairs = [first] + [(widths[level], widths[level])] * (config.layers_per_block - 1)
        super().__init__(pairs, config, level, cross, rngs)
        last = level == len(widths) - 1
        self.downsamplers = nnx.List([] if last else [Downsample(widths[level], rngs=rngs)])

    def __call__(
        self, x: Features, time: Any, context: Any, residuals: tuple[Array, ...] = ()
    ) -> tuple[Features, ...]:
        """Returns the output of every layer and of the downsampler, residuals included."""
        outputs = []
        for i in range(len(self.resnets)):
            x = add(self.layer(i, (x,), time, context), residuals, i)
            outputs.append(x)
        for downsample in self.downsamplers:
            outputs.append(add(downsample(x), residuals, len(outputs)))
        return tuple(outputs)


class UpBlock(Layers):
    """Layers that also read the skips, then a doubling of the size except in the last block."""

    def __init__(self, config: BackboneConfig, level: int, *, rngs: Rngs):
        widths = config.block_out_channels
        # `level` counts as in the down path: the up path walks from the deepest level back to 0.
        cross = block_has_attention(config.up_block_types[len(widths) - 1 - level], "Up")
        count = config.layers_per_block + 1
        below = widths[min(level + 1, len(widths) - 1)]
        inputs = [below] + [widths[level]] * (count - 1)
        skips = [widths[level]] * (count - 1) + [widths[max(level - 1, 0)]]
        pairs = [(x + skip, widths[level]) for x, skip in zip(inputs, skips, strict=True)]
        super().__init__(pairs, config, level, cross, rngs)
        self.upsamplers = nnx.List([] if level == 0 else [Upsample(widths[level], rngs=rngs)])

    def __call__(
        self,
        x: Features,
        skips: tuple[Features, ...],
        time: Any,
        context: Any,
        size: tuple[int, int] | None,
        residuals: tuple[Array, ...] = (),
    ) -> tuple[Features, ...]:
        """Returns the output of every layer and of the upsampler, residuals included.

        Args:
          skips: in the order in which they are read, one per layer.
          size: what the upsampler enlarges to, so that odd sizes meet their skips.
        """
        outputs = []
        for i, skip in enumerate(skips):
            x = add(self.layer(i, (x, skip), time, context), residuals, i)
            outputs.append(x)
        for upsample in self.upsamplers:
            outputs.append(add(upsample(x, size), residuals, len(outputs)))
        return tuple(outputs)


class MidBlock(Layers):
    """Two residual blocks at the deepest level, with one transformer between them or none."""

    def __init__(self, config: BackboneConfig, *, rngs: Rngs):
        kinds = {"UNetMidBlock2DCrossAttn": True, "MidBlock2D": False}
        if config.mid_block_type not in kinds:
            raise ValueError(
                f"expected mid_block_type {' or '.join(kinds)}, got {config.mid_block_type!r}"
            )
        width, level = config.block_out_channels[-1], len(config.block_out_channels) - 1
        super().__init__([(width, width)] * 2, config, level, False, rngs)
        if kinds[config.mid_block_type]:
            self.attentions = nnx.List([transformer(width, config, level, rngs=rngs)])

    def __call__(self, x: Features, time: Any, context: Any) -> Features:
        x = self.resnet(0, (x,), time)
        for i, attention in enumerate(self.attentions):
            x = attention(x, part(needed(context), i))
        return self.resnet(1, (x,), time)


class Backbone(nnx.Module):
    """Time embedding and the three groups of blocks: the common body of UNet and branch."""

    def __init__(self, config: BackboneConfig, *, rngs: Rngs, up: bool = True):
        levels = range(len(config.block_out_channels))
        width = config.time_width
        self.config = config
        self.time_embedding = TimestepEmbedding(config.block_out_channels[0], width, rngs=rngs)
        if config.addition_embed_type == "text_time":
            added_width = config.projection_class_embeddings_input_dim
            if added_width is None or config.addition_time_embed_dim is None:
                raise ValueError(
                    "expected projection_class_embeddings_input_dim and addition_time_embed_dim "
                    f"with addition_embed_type 'text_time', got {added_width} and "
                    f"{config.addition_time_embed_dim}"
                )
            self.add_embedding = TimestepEmbedding(added_width, width, rngs=rngs)
        self.down_blocks = nnx.List([DownBlock(config, level, rngs=rngs) for level in levels])
        self.mid_block = MidBlock(config, rngs=rngs)
        self.up_blocks = nnx.List(
            [UpBlock(config, level, rngs=rngs) for level in reversed(levels)] if up else []
        )

    def embed_time(
        self,
        timestep: Num[Array, " B"],
        added: AddedCondition | None,
        dtype: jnp.dtype,
    ) -> Float[Array, "_B D"]:
        """Returns the embedding of the timestep and, for SDXL, of pooled text and sizes.

        One timestep serves any batch of `added`.

        Raises:
          ValueError: if `added` is missing where the config asks for it, or given where it doesn't.
        """
        config = self.config
        angles = {"cosine_first": config.flip_sin_to_cos, "shift": config.freq_shift}
        waves = sinusoid(timestep, config.block_out_channels[0], **angles, dtype=dtype)  # [B, C]
        time = self.time_embedding(waves)  # [B, D]
        if (added is None) != (config.addition_embed_type is None):
            raise ValueError(
                f"expected {'no added condition' if added else 'an AddedCondition'} for "
                f"addition_embed_type {config.addition_embed_type!r}, got {type(added).__name__}"
            )
        if added is None or config.addition_time_embed_dim is None:
            return time
        sizes = sinusoid(
            jnp.asarray(added.time_ids).reshape(-1),
            config.addition_time_embed_dim,
            **angles,
            dtype=dtype,
        )  # [B * 6, E]
        sizes = sizes.reshape(len(added.time_ids), -1)  # [B, 6 * E]
        pooled = jnp.concatenate([added.text_embeds.astype(dtype), sizes], axis=-1)
        return plus(time, self.add_embedding(pooled))

    def by_block(self, given: Any) -> ByBlock:
        """Returns an input by block: as it was computed ahead, or the same for all of them."""
        if isinstance(given, ByBlock):
            return given
        if isinstance(given, Streams):
            text, visual = self.by_block(given.text), self.by_block(given.visual)

            def both(text: Any, visual: Any) -> Streams:
                return Streams(text, visual, given.scale)

            down, up = map(both, text.down, visual.down), map(both, text.up, visual.up)
            return ByBlock(tuple(down), both(text.mid, visual.mid), tuple(up))
        return ByBlock((given,) * len(self.down_blocks), given, (given,) * len(self.up_blocks))

    def time_shifts(self, time: Float[Array, "B D"]) -> ByBlock:
        """Returns what every residual block makes of a time embedding; stands in for it."""
        return self._each(lambda group: tuple(block.time_shift(time) for block in group.resnets))

    def text_keys(self, context: Float[Array, "B L D"]) -> ByBlock:
        """Returns what every cross-attention projects of the text; stands in for it."""
        return self._each(
            lambda group: tuple(
                tuple(block.attn2.project(context) for block in transformer.transformer_blocks)
                for transformer in group.attentions
            )
        )

    def visual_keys(self, visual: Float[Array, "B Q D"]) -> ByBlock:
        """Returns what every cross-attention projects of visual tokens; stands in for them."""
        return self._each(
            lambda group: tuple(
                tuple(
                    block.attn2.project_visual(visual) for block in transformer.transformer_blocks
                )
                for transformer in group.attentions
            )
        )

    def _each(self, prepare: Callable[[Layers], tuple]) -> ByBlock:
        down, up = (tuple(map(prepare, blocks)) for blocks in (self.down_blocks, self.up_blocks))
        return ByBlock(down, prepare(self.mid_block), up)


def needed(context: Any) -> Any:
    """Returns the text features.

    Raises:
      ValueError: if there are none.
    """
    if context is None:
        raise ValueError("expected context [B, L, D]: this model attends to the text; got None")
    return context


def add(x: Array, residuals: tuple[Array, ...], i: int) -> Array:
    """Adds residual `i`, if there are any."""
    return plus(x, residuals[i]) if residuals else x


def pop(skips: tuple[Array, ...], count: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Takes the last `count` skips, newest first; returns them and what is left."""
    return skips[: -count - 1 : -1], skips[:-count]


def size_of(skips: tuple[Array, ...]) -> tuple[int, int] | None:
    """Returns height and width of the newest skip."""
    if not skips:
        return None
    height, width = skips[-1].shape[1:3]
    return height, width


def block_has_attention(kind: str, side: str) -> bool:
    """Returns whether a block type has cross-attention.

    Raises:
      ValueError: for a type that is not implemented.
    """
    kinds = {f"CrossAttn{side}Block2D": True, f"{side}Block2D": False}
    if kind not in kinds:
        raise ValueError(f"expected a block type {' or '.join(kinds)}, got {kind!r}")
    return kinds[kind]


def transformer(width: int, config: BackboneConfig, level: int, *, rngs: Rngs) -> Transformer2D:
    """Builds the transformer of a level."""
    return Transformer2D(
        width,
        heads=config.heads[level],
        context_width=config.cross_attention_dim,
        layers=config.transformer_layers[level],
        groups=config.norm_num_groups,
        linear_projection=config.use_linear_projection,
        visual_width=config.visual_cross_attention_dim,
        rngs=rngs,
    )
