"""Prompts of any length to what the UNet attends to, by one text encoder or the two of SDXL."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from brushjax.data.text import Tokenizer
from brushjax.models.encoders.clip import CLIPText, CLIPTextOutput
from brushjax.pipelines.prompts import Piece, at_learnt_words, parse
from brushjax.typing import Params

Tokenize = Callable[[Sequence[str]], Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """What the networks know of a batch of prompts.

    Attributes:
        context: [B, L, D] states that the UNet attends to; L is 77 for each row of the prompts.
        pooled: [B, E] for SDXL's added condition, else None.
    """

    context: Float[np.ndarray, "B L D"]
    pooled: Float[np.ndarray, "B E"] | None = None


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A text encoder with its tokenizer.

    Attributes:
        graph, params: the network; the token table goes on with the vectors of learnt words.
        tokenize: a Tokenizer of ours or a function to ids [B, L].
        learnt: ids of each learnt word's vectors; none where the word is another encoder's.
    """

    graph: Any
    params: Params
    tokenize: Tokenize
    learnt: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: CLIPText,
        tokenize: Tokenize,
        learnt: Mapping[str, Float[np.ndarray, "n D"]] | None = None,
    ) -> Encoder:
        """Takes a model apart, so that it can be an argument of a compiled program.

        Args:
            learnt: vectors of words that the encoder did not know, as many rows as a word takes.

        Raises:
            ValueError: learnt words for a tokenizer that is a function.
        """
        graph, state = nnx.split(model)
        if not learnt:
            return cls(graph, nnx.to_pure_dict(state), tokenize)
        if not isinstance(tokenize, Tokenizer):
            raise ValueError("expected a tokenizer folder for learnt words, got a function")
        copy: Any = nnx.merge(graph, state)
        # Old configs find the end as the highest id, and the learnt words' are higher.
        copy.config = dataclasses.replace(copy.config, eos_token_id=tokenize.end_id)
        graph, state = nnx.split(copy)
        params = nnx.to_pure_dict(state)
        table = params["text_model"]["embeddings"]["token_embedding"]
        known, ids = len(table["embedding"]), {}
        rows = [np.asarray(vectors) for vectors in learnt.values()]
        for word, vectors in zip(learnt, rows):
            ids[word] = tuple(range(known, known + len(vectors)))
            known += len(vectors)
        more = jnp.asarray(np.concatenate(rows), table["embedding"].dtype)
        table["embedding"] = jnp.concatenate([table["embedding"], more])
        return cls(graph, params, tokenize, ids)

    def rows(self, prompts: Sequence[str], least: int, weights: bool = False) -> Rows:
        """Token ids of the prompts with their weights, at least `least` rows of each.

        Raises:
            ValueError: weights for a tokenizer that is a function.
        """
        if not isinstance(self.tokenize, Tokenizer):
            if weights:
                raise ValueError("expected a tokenizer folder for weights=True, got a function")
            ids = np.asarray(self.tokenize(prompts), np.int32)[:, None]
            return Rows(ids, np.ones(ids.shape, np.float32))
        texts = [self._weighted(prompt, weights) for prompt in prompts]
        ids = self.tokenize.rows([[one for one, _ in text] for text in texts], least)
        strengths = np.ones(ids.shape, np.float32)
        room = ids.shape[-1] - 2
        for place, text in zip(strengths, texts):
            for i, (_, weight) in enumerate(text):
                place[i // room, 1 + i % room] = weight
        return Rows(ids, strengths)

    def _weighted(self, prompt: str, weights: bool) -> list[tuple[int, float]]:
        """A prompt's ids, each with its weight."""
        assert isinstance(self.tokenize, Tokenizer)
        found = []
        for piece in parse(prompt) if weights else [Piece(prompt)]:
            for part in at_learnt_words(piece.text, self.learnt):
                known = self.learnt.get(part)
                ids = self.tokenize.ids(part) if known is None else known
                found += [(one, piece.weight) for one in ids]
        return found


@dataclasses.dataclass(frozen=True)
class Rows:
    """Prompts cut into rows.

    Attributes:
        ids: the tokens.
        weights: 1 where nothing else was asked for.
    """

    ids: Int[np.ndarray, "B R L"]
    weights: Float[np.ndarray, "B R L"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """Whose states of a text encoder are read.

    Attributes:
        back: 1 is the last layer, 2 the last but one.
        normed: by the encoder's final norm.
    """

    back: int = 1
    normed: bool = True

    def of(self, encoder: CLIPText, output: CLIPTextOutput) -> Float[Array, "B L D"]:
        """The states.

        Raises:
            ValueError: an encoder with fewer layers.
        """
        layers = len(output.hidden_states) - 1  # the first are the embeddings
        if not 1 <= self.back <= layers:
            raise ValueError(
                f"expected clip_skip in 1..{layers}, the layers of this text encoder, got "
                f"{self.back}"
            )
        if self.normed and self.back == 1:
            return output.last_hidden_state
        states = output.hidden_states[-self.back]
        return encoder.text_model.final_layer_norm(states) if self.normed else states


def layer_of(encoders: int, clip_skip: int = 1) -> Layer:
    """Returns the layer whose states a UNet attends to: of one encoder the normed last, of SDXL's
    two the last but one as it is."""
    return Layer(max(clip_skip, 2), normed=False) if encoders == 2 else Layer(clip_skip)


def attended(
    encoders: Sequence[CLIPText], ids: Sequence[Int[Array, "B L"]]
) -> tuple[Float[Array, "B L D"], Float[Array, "B E"] | None]:
    """Returns the context and SDXL's pooled text of captions that fit one row, inside a program.

    Args:
        encoders: one, or SDXL's two.
        ids: of each encoder's tokenizer.
    """
    layer = layer_of(len(encoders))
    outputs = [encoder(own) for encoder, own in zip(encoders, ids, strict=True)]
    states = [layer.of(encoder, output) for encoder, output in zip(encoders, outputs)]
    pooled = outputs[-1].text_embeds if len(encoders) == 2 else None
    return jnp.concatenate(states, axis=-1), pooled


def tokenizer_of(given: Any, model: CLIPText) -> Any:
    """Returns what turns prompts into ids for a text encoder.

    Args:
        given: a folder, transformers' CLIPTokenizer, a Tokenizer of ours, or a function from
            strings to ids [B, L]; the last two are returned as they are.
    """
    length = model.config.max_position_embeddings
    if isinstance(given, (str, Path)):
        return Tokenizer.load(given, length)
    if hasattr(given, "model_max_length"):  # transformers' own
        return Tokenizer(given, length)
    return given


class TextEncoders:
    """Stable Diffusion 1's and 2's text encoder, or the two of XL."""

    def __init__(self, *encoders: Encoder):
        self.encoders = encoders

    @property
    def learnt(self) -> frozenset[str]:
        """The learnt words."""
        return frozenset(word for encoder in self.encoders for word in encoder.learnt)

    def rows(self, prompts: Sequence[str], weights: bool = False) -> int:
        """How many rows of tokens the longest of the prompts takes."""
        return max(one.rows(prompts, 1, weights).ids.shape[1] for one in self.encoders)

    def __call__(
        self, prompts: Sequence[str], rows: int = 1, weights: bool = False, clip_skip: int = 1
    ) -> TextFeatures:
        """Encodes prompts, each in at least `rows` rows of tokens.

        A prompt that doesn't fit a row is cut into rows that are encoded apart; their states stand
        one after the other, and the pooled state is the first row's.

        Args:
            weights: read weights such as (word:1.2), which move a token's state away from, or
                towards, the state that the empty prompt has there.
            clip_skip: which layer is read, counted from the end: 1 is the last, 2 the last but
                one. Two encoders read the last but one at 1 already.

        Raises:
            ValueError: a clip_skip beyond the layers of an encoder.

        Source: transformers as diffusers' pipelines call it: the normed last state of one encoder,
        or of two the last but one, side by side. Rows: AUTOMATIC1111's and ComfyUI's programs,
        whose way of counting clip_skip this is; diffusers' clip_skip is one less.
        Differs: prompt-weights in docs/deviations.md.
        """
        two = len(self.encoders) == 2
        layer = layer_of(len(self.encoders), clip_skip)
        contexts, pooled = [], None
        for encoder in self.encoders:
            cut = encoder.rows(prompts, rows, weights)
            ids = cut.ids
            flat = ids.reshape(-1, ids.shape[-1])  # [B R, L]
            states, embeds = encode_text(encoder.graph, encoder.params, flat, layer)
            states = np.asarray(states).reshape(len(ids), -1, states.shape[-1])
            if (cut.weights != 1).any():
                states = _strengthened(encoder, states, cut, layer)
            contexts.append(states)
            if embeds is not None:
                pooled = np.asarray(embeds)[:: ids.shape[1]]
        return TextFeatures(np.concatenate(contexts, axis=-1), pooled if two else None)


def _strengthened(
    encoder: Encoder, states: Float[np.ndarray, "B RL D"], cut: Rows, layer: Layer
) -> Float[np.ndarray, "B RL D"]:
    """Moves each token's state along its difference from the empty prompt's at that place.

    Source: ComfyUI's encode_token_weights.
    """
    empty = encoder.rows([""], 1).ids[:, 0]
    rest, _ = encode_text(encoder.graph, encoder.params, empty, layer)
    rest = np.tile(np.asarray(rest), (1, cut.ids.shape[1], 1))  # [1, R L, D]
    weights = cut.weights.reshape(len(states), -1, 1)  # [B, R L, 1]
    moved = rest + weights.astype(states.dtype) * (states - rest)
    return np.where(weights == 1, states, moved)


@functools.partial(jax.jit, static_argnames=("graph", "layer"))
def encode_text(
    graph: nnx.GraphDef, params: Params, token_ids: Int[Array, "B L"], layer: Layer
) -> tuple[Float[Array, "B L D"], Float[Array, "B E"] | None]:
    """Returns the features that the UNet attends to, and the projected pooled state if any."""
    encoder = nnx.merge(graph, params)

    def encode(row: Int[Array, " L"]) -> tuple[Array, Array | None]:
        output = encoder(row[None])
        states = layer.of(encoder, output)
        return jax.tree.map(lambda x: x[0], (states, output.text_embeds))

    # Row by row: a prompt's features then don't depend on the others', not by a bit.
    return jax.lax.map(encode, jnp.asarray(token_ids))
