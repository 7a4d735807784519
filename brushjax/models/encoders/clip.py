"""The text encoders of Stable Diffusion: CLIP ViT-L/14 and OpenCLIP's ViT-H and ViT-bigG."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from brushjax.models.published import PublishedConfig
from brushjax.nn import Rngs, attention, layer_norm, linear

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}
GENERATION = frozenset(
    """
    add_cross_attention bad_words_ids begin_suppress_tokens chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id id2label is_decoder is_encoder_decoder label2id
    length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_scores prefix problem_type
    pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torchscript typical_p
    use_bfloat16
    """.split()  # noqa: SIM905 - fifty names, one to a line, would be a page
)
"""What old config.json files carry of text generation's defaults; no encoder here reads them."""
LEGACY_EOS = 2  # written by old configs whatever the tokenizer's end token was


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(PublishedConfig):
    """Settings of a published CLIP text encoder; the defaults are ViT-L/14's.

    Attributes:
      architectures: ("CLIPTextModelWithProjection",) adds the projection of the pooled state.
    """

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 768
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 1
    architectures: tuple[str, ...] = ("CLIPTextModel",)

    CLASS_NAME: ClassVar[str] = "CLIPTextModel"
    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = {"model_type": ("clip_text_model",)}
    HARMLESS: ClassVar[frozenset[str]] = frozenset(
        {
            "attention_dropout",  # for PyTorch's training mode
            "dropout",
            "dtype",
            "initializer_factor",
            "initializer_range",
            "torch_dtype",
            "transformers_version",
        }
    )

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"expected hidden_act {' or '.join(ACTIVATIONS)}, got {self.hidden_act!r}"
            )

    @property
    def with_projection(self) -> bool:
        """Whether the pooled state is projected."""
        return "CLIPTextModelWithProjection" in self.architectures

    @classmethod
    def sd15(cls) -> "CLIPTextConfig":
        """CLIP ViT-L/14, the text encoder of Stable Diffusion 1.x and the first of SDXL."""
        return cls()

    @classmethod
    def sd2(cls) -> "CLIPTextConfig":
        """OpenCLIP ViT-H/14 without its last layer, as Stable Diffusion 2.x uses it."""
        return cls(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
            projection_dim=512,
        )

    @classmethod
    def sdxl_2(cls) -> "CLIPTextConfig":
        """OpenCLIP ViT-bigG/14, the second text encoder of SDXL."""
        return cls(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            hidden_act="gelu",
            projection_dim=1280,
            architectures=("CLIPTextModelWithProjection",),
        )

    @classmethod
    def from_dict(cls, published: Mapping[str, Any]) -> "CLIPTextConfig":
        """Reads a text encoder's config, or the text half of a whole CLIP model's.

        Raises:
          ValueError: naming every setting that is not implemented.
        """
        return super().from_dict(half_of_clip(published, "text_config", cls.CLASS_NAME))

    def to_dict(self) -> dict[str, Any]:
        published = super().to_dict()
        del published["_class_name"]  # transformers names the class under "architectures"
        return published


def half_of_clip(published: Mapping[str, Any], half: str, kind: str) -> Mapping[str, Any]:
    """Returns one half's settings of a whole CLIP model's config; another config as it is.

    A whole model projects both halves, and its config also carries the defaults of transformers'
    text generation, which no encoder reads.
    """
    if half not in published:
        return published
    inner = {name: value for name, value in published[half].items() if name not in GENERATION}
    inner["projection_dim"] = published.get("projection_dim", inner.get("projection_dim", 512))
    return inner | {"architectures": [f"{kind}WithProjection"]}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CLIPTextOutput:
    """What a text encoder gives.

    Attributes:
      last_hidden_state: after the final norm; Stable Diffusion 1's and 2's context. [B, L, D]
      hidden_states: embeddings and every layer's output, unnormed; SDXL's context is [-2].
      pooled: the final state at the end token. [B, D]
      text_embeds: the projected pooled state, None without projection. [B, E]
    """

    last_hidden_state: Float[Array, "B L D"]
    hidden_states: tuple[Float[Array, "B L D"], ...]
    pooled: Float[Array, "B D"]
    text_embeds: Float[Array, "B E"] | None


class SelfAttention(nnx.Module):
    """Multi-head self-attention with biases; `causal` hides later tokens (text)."""

    def __init__(self, config: Any, *, causal: bool = True, rngs: Rngs):
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.causal = causal
        self.q_proj = linear(width, width, rngs=rngs)
        self.k_proj = linear(width, width, rngs=rngs)
        self.v_proj = linear(width, width, rngs=rngs)
        self.out_proj = linear(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        q, k, v = (
            project(x).reshape(*x.shape[:2], self.heads, -1)  # [B, L, K, D/K]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attention(q, k, v, causal=self.causal).reshape(x.shape))


class MLP(nnx.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: Any, *, rngs: Rngs):
        self.activation = config.hidden_act
        self.fc1 = linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.fc2 = linear(config.intermediate_size, config.hidden_size, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class EncoderLayer(nnx.Module):
    """Self-attention and MLP, each after a norm, each a residual."""

    def __init__(self, config: CLIPTextConfig, *, rngs: Rngs):
        self.layer_norm1 = layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)
        self.self_attn = SelfAttention(config, rngs=rngs)
        self.layer_norm2 = layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Embeddings(nnx.Module):
    """Token plus position."""

    def __init__(self, config: CLIPTextConfig, *, rngs: Rngs):
        width = config.hidden_size
        self.token_embedding = _embed(config.vocab_size, width, rngs=rngs)
        self.position_embedding = _embed(config.max_position_embeddings, width, rngs=rngs)

    def __call__(self, input_ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        return (
            # Not by a call: nnx.Embed answers in the dtype that it was made with, float32, and all
            # that reads the text would then compute in float32.
            jnp.take(self.token_embedding.embedding[...], input_ids, axis=0)
            + self.position_embedding.embedding[None, : input_ids.shape[1]]
        )


class Encoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: CLIPTextConfig, *, rngs: Rngs):
        self.layers = nnx.List(
            [EncoderLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )


class TextTransformer(nnx.Module):
    """Embeddings, layers and final norm, under the published name `text_model`."""

    def __init__(self, config: CLIPTextConfig, *, rngs: Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        self.final_layer_norm = layer_norm(config.hidden_size, config.layer_norm_eps, rngs=rngs)


class CLIPText(nnx.Module):
    """CLIP's text encoder.

    Source: transformers `CLIPTextModel` and `CLIPTextModelWithProjection`.
    """

    def __init__(self, config: CLIPTextConfig, *, rngs: Rngs):
        self.config = config
        self.text_model = TextTransformer(config, rngs=rngs)
        self.text_projection = (
            linear(config.hidden_size, config.projection_dim, bias=False, rngs=rngs)
            if config.with_projection
            else None
        )

    def __call__(self, input_ids: Int[Array, "B L"]) -> CLIPTextOutput:
        """Encodes token ids.

        Raises:
          ValueError: for more tokens than there are positions.
        """
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"expected at most {self.config.max_position_embeddings} tokens, got "
                f"{input_ids.shape[1]}; truncate or split the prompt"
            )
        model = self.text_model
        x = model.embeddings(input_ids)  # [B, L, D]
        states = (x,)
        for layer in model.encoder.layers:
            x = layer(x)
            states += (x,)
        last = model.final_layer_norm(x)
        pooled = last[jnp.arange(len(last)), self._end(input_ids)]  # [B, D]
        embeds = None if self.text_projection is None else self.text_projection(pooled)
        return CLIPTextOutput(last, states, pooled, embeds)

    def _end(self, input_ids: Array) -> Array:
        """Returns the position of each sequence's first end token. [B]"""
        if self.config.eos_token_id == LEGACY_EOS:
            return jnp.argmax(input_ids, axis=1)  # the end token has the highest id of CLIP's table
        return jnp.argmax(input_ids == self.config.eos_token_id, axis=1)


def _embed(count: int, width: int, *, rngs: Rngs) -> nnx.Embed:
    initial = nnx.initializers.normal(0.02)
    return nnx.Embed(count, width, embedding_init=initial, rngs=rngs)  # pyright: ignore[reportArgumentType]
