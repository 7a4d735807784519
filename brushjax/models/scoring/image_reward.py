"""ImageReward and the aesthetic head: networks that score pictures the way people did.

ImageReward is BLIP's image encoder, a BERT that reads the prompt and looks at the picture through
cross-attention, and a head. Names are the published checkpoint's.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from brushjax.models.encoders.vit import PlainViTConfig, ViT
from brushjax.models.published import PublishedConfig
from brushjax.nn import Rngs, attention, layer_norm, linear

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # of rewards over the training pictures
TEXT_LENGTH = 35  # tokens; longer prompts are cut


@dataclasses.dataclass(frozen=True)
class ImageRewardConfig(PublishedConfig):
    """Settings of ImageReward-v1.0: those of BLIP's text encoder, and its image encoder's.

    Attributes:
      mlp: widths of the head's layers behind the text's width; no activation stands between them.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    vocab_size: int = 30524
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    vision_hidden_size: int = 1024
    vision_intermediate_size: int = 4096
    vision_num_hidden_layers: int = 24
    vision_num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 16
    mlp: tuple[int, ...] = (1024, 128, 64, 16, 1)

    CLASS_NAME: ClassVar[str] = "ImageReward"

    @property
    def vision(self) -> PlainViTConfig:
        """The image encoder's settings."""
        return PlainViTConfig(
            self.vision_hidden_size,
            self.vision_intermediate_size,
            self.vision_num_hidden_layers,
            self.vision_num_attention_heads,
            self.image_size,
            self.patch_size,
        )


class Projections(nnx.Module):
    """Queries of the text, keys and values of what it looks at."""

    def __init__(self, width: int, context_width: int, heads: int, *, rngs: Rngs):
        self.heads = heads
        self.query = linear(width, width, rngs=rngs)
        self.key = linear(context_width, width, rngs=rngs)
        self.value = linear(context_width, width, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        context: Float[Array, "B N M"],
        there: Bool[Array, "B N"] | None,
    ) -> Float[Array, "B L D"]:
        q, k, v = (
            projection(source).reshape(*source.shape[:2], self.heads, -1)
            for projection, source in ((self.query, x), (self.key, context), (self.value, context))
        )
        return attention(q, k, v, key_mask=there).reshape(x.shape)


class Output(nnx.Module):
    """A linear layer, the residual, and the norm behind both."""

    def __init__(self, width_in: int, config: ImageRewardConfig, *, rngs: Rngs):
        self.dense = linear(width_in, config.hidden_size, rngs=rngs)
        self.LayerNorm = layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)

    def __call__(self, x: Array, residual: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return self.LayerNorm(self.dense(x) + residual)


class BertAttention(nnx.Module):
    """Attention of the text to itself, or to the picture."""

    def __init__(self, config: ImageRewardConfig, context_width: int, *, rngs: Rngs):
        width, heads = config.hidden_size, config.num_attention_heads
        self.self = Projections(width, context_width, heads, rngs=rngs)
        self.output = Output(width, config, rngs=rngs)

    def __call__(self, x: Array, context: Array, there: Array | None = None) -> Array:
        return self.output(self.self(x, context, there), x)


class Intermediate(nnx.Module):
    """The widening half of the feed-forward layer."""

    def __init__(self, config: ImageRewardConfig, *, rngs: Rngs):
        self.dense = linear(config.hidden_size, config.intermediate_size, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return jax.nn.gelu(self.dense(x), approximate=False)


class BertLayer(nnx.Module):
    """Self-attention, a look at the picture, feed-forward; a norm behind each."""

    def __init__(self, config: ImageRewardConfig, *, rngs: Rngs):
        self.attention = BertAttention(config, config.hidden_size, rngs=rngs)
        self.crossattention = BertAttention(config, config.vision_hidden_size, rngs=rngs)
        self.intermediate = Intermediate(config, rngs=rngs)
        self.output = Output(config.intermediate_size, config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        there: Bool[Array, "B L"],
        picture: Float[Array, "B N M"],
    ) -> Float[Array, "B L D"]:
        x = self.attention(x, x, there)
        x = self.crossattention(x, picture)
        return self.output(self.intermediate(x), x)


class BertEmbeddings(nnx.Module):
    """Word plus position, normed."""

    def __init__(self, config: ImageRewardConfig, *, rngs: Rngs):
        width, rng = config.hidden_size, rngs
        self.word_embeddings = _table(config.vocab_size, width, rng)
        self.position_embeddings = _table(config.max_position_embeddings, width, rng)
        self.LayerNorm = layer_norm(width, config.layer_norm_eps, rngs=rngs)

    def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        words = self.word_embeddings.embedding[...][ids]
        return self.LayerNorm(words + self.position_embeddings.embedding[...][: ids.shape[1]])


def _table(count: int, width: int, rngs: Rngs) -> nnx.Embed:
    initial: Any = nnx.initializers.normal(0.02)
    return nnx.Embed(count, width, embedding_init=initial, rngs=rngs)  # pyright: ignore[reportArgumentType]


class BertEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: ImageRewardConfig, *, rngs: Rngs):
        self.layer = nnx.List(
            [BertLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )


class Bert(nnx.Module):
    """A BERT whose layers look at a picture.

    Source: Devlin et al. (arXiv 1810.04805); BLIP (arXiv 2201.12086), section 3.1, "image-grounded
    text encoder"; transformers `BlipTextModel`.
    """

    def __init__(self, config: ImageRewardConfig, *, rngs: Rngs):
        self.embeddings = BertEmbeddings(config, rngs=rngs)
        self.encoder = BertEncoder(config, rngs=rngs)

    def __call__(
        self,
        ids: Int[Array, "B L"],
        there: Bool[Array, "B L"],
        picture: Float[Array, "B N M"],
    ) -> Float[Array, "B L D"]:
        """Returns the last hidden state.

        Args:
          there: False for padding, which no token looks at.
          picture: the image encoder's tokens.
        """
        x = self.embeddings(ids)
        for layer in self.encoder.layer:
            x = layer(x, there, picture)
        return x


class Blip(nnx.Module):
    """The two encoders, under the published name `blip`."""

    def __init__(self, config: ImageRewardConfig, *, rngs: Rngs):
        self.visual_encoder = ViT(config.vision, rngs=rngs)
        self.text_encoder = Bert(config, rngs=rngs)


class Head(nnx.Module):
    """Linear layers without activations between; dropout takes the missing numbers."""

    NUMBERS = (0, 2, 4, 6, 7)

    def __init__(self, config: ImageRewardConfig, *, rngs: Rngs):
        widths = (config.hidden_size, *config.mlp)
        pairs = zip(self.NUMBERS, widths[:-1], widths[1:], strict=True)
        self.layers = nnx.Dict({str(n): linear(a, b, rngs=rngs) for n, a, b in pairs})

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B 1"]:
        for number in self.NUMBERS:
            x = self.layers[str(number)](x)
        return x


class ImageReward(nnx.Module):
    """How well people would like a picture made for a prompt, about 0 on average.

    Source: Xu et al., "ImageReward" (arXiv 2304.05977), section 2.3; image-reward 1.5.
    """

    def __init__(self, config: ImageRewardConfig, *, rngs: Rngs):
        self.config = config
        self.blip = Blip(config, rngs=rngs)
        self.mlp = Head(config, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        ids: Int[Array, "B L"],
        there: Bool[Array, "B L"],
    ) -> Float[Array, " B"]:
        """Returns the rewards.

        Args:
          images: normalised as CLIP's.
          ids: of BERT's uncased vocabulary, `TEXT_LENGTH` in a row.
          there: False for padding.
        """
        picture = self.blip.visual_encoder(images).tokens  # [B, N, M]
        state = self.blip.text_encoder(ids, there, picture)  # [B, L, D]
        return (self.mlp(state[:, 0])[:, 0] - MEAN) / DEVIATION


@dataclasses.dataclass(frozen=True)
class AestheticConfig(PublishedConfig):
    """Width of the image embedding that the head reads: 768 for CLIP ViT-L/14."""

    width: int = 768

    CLASS_NAME: ClassVar[str] = "AestheticHead"


class AestheticHead(nnx.Module):
    """A linear layer from CLIP's image embedding to people's ratings, about 1 to 10.

    Source: LAION's aesthetic-predictor, `sa_0_4_vit_l_14_linear.pth`.
    """

    def __init__(self, config: AestheticConfig, *, rngs: Rngs):
        self.config = config
        self.linear = linear(config.width, 1, rngs=rngs)

    def __call__(self, embeds: Float[Array, "B E"]) -> Float[Array, " B"]:
        """Returns the ratings of embeddings of any length; they are brought to length 1."""
        lengths = jnp.linalg.norm(embeds, axis=-1, keepdims=True)
        return self.linear(embeds / lengths)[:, 0]
