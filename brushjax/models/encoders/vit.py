"""Vision transformers: one module for CLIP's image tower, DINO, DINOv2 and BLIP's image encoder.

They differ in settings alone: a norm before the layers, a bias of the patches, layer scale,
register tokens, the activation, a projection. Names are those of transformers' CLIP; the weight
maps know the others.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from brushjax.metrics.resample import resample_matrix
from brushjax.models.encoders.clip import ACTIVATIONS, GENERATION, MLP, SelfAttention, half_of_clip
from brushjax.models.published import PublishedConfig
from brushjax.nn import Rngs, layer_norm, linear


@dataclasses.dataclass(frozen=True)
class ViTConfig(PublishedConfig):
    """Settings of a vision transformer; the defaults are CLIP ViT-B/32's.

    Attributes:
      image_size: side of the pictures that the positions were trained for, pixels.
      projection_dim: width of the projected class token; 0 is no projection.
      pre_norm: a norm between embeddings and layers (CLIP).
      patch_bias: the patch embedding has a bias (all but CLIP).
      layer_scale: each branch is multiplied by a learned vector (DINOv2).
      num_register_tokens: learned tokens between the class token and the patches (DINOv2).
        Networks that have some resize their positions with antialiasing, others without.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512
    pre_norm: bool = True
    patch_bias: bool = False
    layer_scale: bool = False
    num_register_tokens: int = 0

    CLASS_NAME: ClassVar[str] = "CLIPVisionModelWithProjection"
    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "num_channels": (3,),
        "model_type": ("clip_vision_model", "vit", "dinov2", "dinov2_with_registers"),
        "qkv_bias": (True,),
    }
    HARMLESS: ClassVar[frozenset[str]] = GENERATION | frozenset(
        {
            "apply_layernorm",  # of a feature pyramid's outputs, not of the model's
            "architectures",
            "attention_dropout",  # these are for PyTorch's training mode
            "attention_probs_dropout_prob",
            "drop_path_rate",
            "dropout",
            "dtype",
            "encoder_stride",  # for masked image modelling's decoder
            "hidden_dropout_prob",
            "initializer_factor",
            "initializer_range",
            "layerscale_value",  # at initialisation
            "mlp_ratio",  # read into intermediate_size
            "out_features",
            "out_indices",
            "pooler_act",  # of a head that the published DINO weights lack
            "pooler_output_size",
            "reshape_hidden_states",
            "stage_names",
            "torch_dtype",
            "transformers_version",
            "use_mask_token",  # of a token that is only used in training
        }
    )

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"expected hidden_act {' or '.join(ACTIVATIONS)}, got {self.hidden_act!r}"
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"expected an image_size divisible by patch_size, got {self.image_size} and "
                f"{self.patch_size}"
            )

    @property
    def grid(self) -> int:
        """Patches along a side at the trained size."""
        return self.image_size // self.patch_size

    @classmethod
    def from_dict(cls, published: Mapping[str, Any]) -> "ViTConfig":
        """Reads a config of transformers: CLIP (whole or its image half), ViT, Dinov2, or ours.

        Raises:
          ValueError: naming every setting that is not implemented.
        """
        settings = dict(half_of_clip(published, "vision_config", "CLIPVisionModel"))
        if settings.get("architectures") == ["CLIPVisionModel"]:
            settings["projection_dim"] = (
                0  # its config names a width, but the class projects nothing
            )
        kind = settings.get("model_type")
        if kind in ("dinov2", "dinov2_with_registers"):  # their configs say neither
            ratio = settings.get("mlp_ratio", 4)
            inner = int(settings["hidden_size"] * ratio)
            settings = {"layer_scale": True, "intermediate_size": inner} | settings
        return super().from_dict(settings)

    @classmethod
    def clip_b32(cls) -> "ViTConfig":
        """The image tower of OpenAI's CLIP ViT-B/32."""
        return cls()

    @classmethod
    def clip_l14(cls) -> "ViTConfig":
        """The image tower of OpenAI's CLIP ViT-L/14."""
        return cls(1024, 4096, 24, 16, patch_size=14, projection_dim=768)

    @classmethod
    def clip_h14(cls) -> "ViTConfig":
        """The image tower of OpenCLIP's ViT-H/14, which HPS v2.1 was tuned from."""
        return cls(1280, 5120, 32, 16, patch_size=14, hidden_act="gelu", projection_dim=1024)


@dataclasses.dataclass(frozen=True)
class PlainViTConfig(ViTConfig):
    """Settings of a transformer as timm builds it; the defaults are DINO ViT-B/8's."""

    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    patch_size: int = 8
    projection_dim: int = 0
    pre_norm: bool = False
    patch_bias: bool = True

    CLASS_NAME: ClassVar[str] = "DINO"

    @classmethod
    def dino_s16(cls) -> "PlainViTConfig":
        """DINO's ViT-S/16."""
        return cls(384, 1536, 12, 6, patch_size=16)

    @classmethod
    def dino_b8(cls) -> "PlainViTConfig":
        """DINO's ViT-B/8."""
        return cls()

    @classmethod
    def dinov2_s14(cls) -> "PlainViTConfig":
        """DINOv2's ViT-S/14, trained at 518 pixels."""
        return cls(384, 1536, 12, 6, image_size=518, patch_size=14, layer_scale=True)

    @classmethod
    def dinov2_b14(cls) -> "PlainViTConfig":
        """DINOv2's ViT-B/14, trained at 518 pixels."""
        return cls(image_size=518, patch_size=14, layer_scale=True)

    @classmethod
    def dinov2_l14(cls) -> "PlainViTConfig":
        """DINOv2's ViT-L/14, trained at 518 pixels."""
        return cls(1024, 4096, 24, 16, image_size=518, patch_size=14, layer_scale=True)

    @classmethod
    def blip_large(cls) -> "PlainViTConfig":
        """BLIP's ViT-L/16 at 224 pixels, the image encoder of ImageReward."""
        return cls(1024, 4096, 24, 16, patch_size=16)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ViTOutput:
    """What a vision transformer gives; N counts class token, registers and patches.

    Attributes:
      tokens: of the last layer, after the final norm. [B, N, D]
      hidden_states: of the embeddings and of every layer, unnormed.
      pooled: the class token, after the final norm. [B, D]
      embeds: the projected class token, None without a projection. [B, E]
    """

    tokens: Float[Array, "B N D"]
    hidden_states: tuple[Float[Array, "B N D"], ...]
    pooled: Float[Array, "B D"]
    embeds: Float[Array, "B E"] | None


class Embeddings(nnx.Module):
    """Class token, registers and patches, with their positions."""

    def __init__(self, config: ViTConfig, *, rngs: Rngs):
        self.config = config
        width, side = config.hidden_size, config.patch_size
        normal = nnx.initializers.normal(0.02)
        self.class_embedding = nnx.Param(normal(rngs.params(), (width,)))
        self.patch_embedding = nnx.Conv(
            3,
            width,
            (side, side),
            strides=side,
            padding="VALID",
            use_bias=config.patch_bias,
            rngs=rngs,  # pyright: ignore[reportArgumentType] - Keys stands in for Rngs
        )
        self.position_embedding = nnx.Embed(
            1 + config.grid**2,
            width,
            embedding_init=normal,  # pyright: ignore[reportArgumentType]
            rngs=rngs,  # pyright: ignore[reportArgumentType]
        )
        if config.num_register_tokens:
            registers = normal(rngs.params(), (config.num_register_tokens, width))
            self.register_tokens = nnx.Param(registers)

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B N D"]:
        patches = self.patch_embedding(images)  # [B, h, w, D]
        batch, height, width, channels = patches.shape
        first = jnp.broadcast_to(self.class_embedding[...], (batch, 1, channels))
        x = jnp.concatenate([first, patches.reshape(batch, -1, channels)], axis=1)
        x = x + self._positions(height, width)
        if self.config.num_register_tokens:
            registers = self.register_tokens[...]
            registers = jnp.broadcast_to(registers, (batch, *registers.shape))
            x = jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
        return x  # [B, 1 + R + h w, D]

    def _positions(self, height: int, width: int) -> Float[Array, "N D"]:
        """Returns the positions for a grid, resized where it is not the trained one.

        Source: transformers' `interpolate_pos_encoding` of Dinov2, without and with registers.
        Differs: docs/deviations.md, position-resizing.
        """
        table, grid = self.position_embedding.embedding[...], self.config.grid
        if (height, width) == (grid, grid):
            return table
        antialias = self.config.num_register_tokens > 0
        rows, columns = (
            jnp.asarray(resample_matrix(grid, size, "bicubic", antialias), table.dtype)
            for size in (height, width)
        )
        square = table[1:].reshape(grid, grid, -1)
        resized = jnp.einsum("hi,wj,ijd->hwd", rows, columns, square, precision="highest")
        return jnp.concatenate([table[:1], resized.reshape(height * width, -1)])


class LayerScale(nnx.Module):
    """A learned factor per channel."""

    def __init__(self, width: int):
        self.lambda1 = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return x * self.lambda1[...]


class EncoderLayer(nnx.Module):
    """Self-attention and MLP, each after a norm, each a residual."""

    def __init__(self, config: ViTConfig, *, rngs: Rngs):
        self.layer_norm1 = layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)
        self.self_attn = SelfAttention(config, causal=False, rngs=rngs)
        self.layer_norm2 = layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)
        self.mlp = MLP(config, rngs=rngs)
        self.layer_scale1 = LayerScale(config.hidden_size) if config.layer_scale else None
        self.layer_scale2 = LayerScale(config.hidden_size) if config.layer_scale else None

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        x = x + _scaled(self.self_attn(self.layer_norm1(x)), self.layer_scale1)
        return x + _scaled(self.mlp(self.layer_norm2(x)), self.layer_scale2)


def _scaled(x: Array, scale: LayerScale | None) -> Array:
    return x if scale is None else scale(x)


class Encoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: ViTConfig, *, rngs: Rngs):
        self.layers = nnx.List(
            [EncoderLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )


class VisionTransformer(nnx.Module):
    """Embeddings, layers and norms, under the published name `vision_model`."""

    def __init__(self, config: ViTConfig, *, rngs: Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.pre_layrnorm = (  # the published spelling
            layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)
            if config.pre_norm
            else None
        )
        self.encoder = Encoder(config, rngs=rngs)
        self.post_layernorm = layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)


class ViT(nnx.Module):
    """A vision transformer with a class token.

    Source: Dosovitskiy et al. (arXiv 2010.11929); transformers `CLIPVisionModelWithProjection`,
    `ViTModel`, `Dinov2Model`, `BlipVisionModel`.
    """

    def __init__(self, config: ViTConfig, *, rngs: Rngs):
        self.config = config
        self.vision_model = VisionTransformer(config, rngs=rngs)
        self.visual_projection = (
            linear(config.hidden_size, config.projection_dim, bias=False, rngs=rngs)
            if config.projection_dim
            else None
        )

    def __call__(self, images: Float[Array, "B H W 3"]) -> ViTOutput:
        """Encodes pictures that were normalised as the published network wants them.

        Any sides that are multiples of the patch size; positions are resized.

        Raises:
          ValueError: for other sides.
        """
        model = self.vision_model
        states = self._hidden_states(images)
        tokens = model.post_layernorm(states[-1])  # [B, N, D]
        pooled = tokens[:, 0]  # [B, D]
        embeds = None if self.visual_projection is None else self.visual_projection(pooled)
        return ViTOutput(tokens, states, pooled, embeds)

    def keys(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B N D"]:
        """Returns the keys of the last layer's self-attention, heads side by side.

        Source: what structure distance compares (arXiv 2201.00424, section 3).
        """
        last = self.vision_model.encoder.layers[-1]
        return last.self_attn.k_proj(last.layer_norm1(self._hidden_states(images)[-2]))

    def _hidden_states(self, images: Array) -> tuple[Array, ...]:
        side = self.config.patch_size
        if images.shape[1] % side or images.shape[2] % side:
            raise ValueError(
                f"expected sides divisible by the patch size {side}, got {images.shape[1:3]}; "
                f"resize the pictures as the network's preprocessing says"
            )
        model = self.vision_model
        x = model.embeddings(images)  # [B, N, D]
        if model.pre_layrnorm is not None:
            x = model.pre_layrnorm(x)
        states = (x,)
        for layer in model.encoder.layers:
            x = layer(x)
            states += (x,)
        return states


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageEmbeds:
    """A picture in the space that CLIP's two towers share; none of it is normalised.

    Attributes:
      image_embeds: the projected class token. [B, E]
      patch_embeds: the patches by the same norm and projection, row by row. [B, N, E]
    """

    image_embeds: Float[Array, "B E"]
    patch_embeds: Float[Array, "B N E"]


class CLIPVision(ViT):
    """CLIP's image tower with its projection."""

    def embed(self, images: Float[Array, "B H W 3"], patch_layer: int = -1) -> ImageEmbeds:
        """Returns I and F_img of pictures that were normalised as the published network wants them.

        Args:
          patch_layer: whose states the patches are, an index of `ViTOutput.hidden_states`: -1 the
            last layer's; -2, the last layer's but one, still tell places apart better.

        Raises:
          ValueError: for a tower without a projection.

        Source: "Beyond Editing Pairs", section 3.1. Differs: docs/deviations.md, region-patches.
        """
        if self.visual_projection is None:
            raise ValueError("expected a CLIP with a projection: its projection_dim is 0")
        model = self.vision_model
        states = self._hidden_states(images)
        first = self.visual_projection(model.post_layernorm(states[-1][:, 0]))  # [B, E]
        patches = states[patch_layer][:, 1 + self.config.num_register_tokens :]  # [B, N, D]
        return ImageEmbeds(first, self.visual_projection(model.post_layernorm(patches)))


class DINO(ViT):
    """A DINO or DINOv2 backbone: no projection."""
