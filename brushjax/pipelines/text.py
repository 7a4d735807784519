"""Prompts of any length to what the UNet attends to, by one text encoder or the two of SDXL."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from brushjax.data.text import Tokenizer
from brushjax.models.encoders.clip import CLIPText
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
    """A text encoder with its tokenizer: a Tokenizer of ours or a function to ids [B, L]."""

    graph: Any
    params: Params
    tokenize: Tokenize

    @classmethod
    def of(cls, model: CLIPText, tokenize: Tokenize) -> Encoder:
        """Takes a model apart, so that it can be an argument of a compiled program."""
        graph, state = nnx.split(model)
        return cls(graph, nnx.to_pure_dict(state), tokenize)

    def rows(self, prompts: Sequence[str], least: int) -> Int[np.ndarray, "B R L"]:
        """Token ids of the prompts, at least `least` rows of each."""
        if isinstance(self.tokenize, Tokenizer):
            return self.tokenize.chunks(prompts, least)
        return np.asarray(self.tokenize(prompts), np.int32)[:, None]


class TextEncoders:
    """Stable Diffusion 1's and 2's text encoder, or the two of XL."""

    def __init__(self, *encoders: Encoder):
        self.encoders = encoders

    def rows(self, prompts: Sequence[str]) -> int:
        """How many rows of tokens the longest of the prompts takes."""
        return max(encoder.rows(prompts, 1).shape[1] for encoder in self.encoders)

    def __call__(self, prompts: Sequence[str], rows: int = 1) -> TextFeatures:
        """Encodes prompts, each in at least `rows` rows of tokens.

        A prompt that doesn't fit a row is cut into rows that are encoded apart; their states stand
        one after the other, and the pooled state is the first row's.

        Source: transformers as diffusers' pipelines call it: the normed last state of one encoder,
        or of two the last but one, side by side. Rows: AUTOMATIC1111's and ComfyUI's programs.
        """
        two = len(self.encoders) == 2
        contexts, pooled = [], None
        for encoder in self.encoders:
            ids = encoder.rows(prompts, rows)
            flat = ids.reshape(-1, ids.shape[-1])  # [B R, L]
            states, embeds = encode_text(encoder.graph, encoder.params, flat, penultimate=two)
            contexts.append(np.asarray(states).reshape(len(ids), -1, states.shape[-1]))
            if embeds is not None:
                pooled = np.asarray(embeds)[:: ids.shape[1]]
        return TextFeatures(np.concatenate(contexts, axis=-1), pooled if two else None)


@functools.partial(jax.jit, static_argnames=("graph", "penultimate"))
def encode_text(
    graph: nnx.GraphDef, params: Params, token_ids: Int[Array, "B L"], penultimate: bool = False
) -> tuple[Float[Array, "B L D"], Float[Array, "B E"] | None]:
    """Returns the features that the UNet attends to, and the projected pooled state if any.

    Args:
        penultimate: the last but one layer's output, not normed, instead of the normed last.
    """
    encoder = nnx.merge(graph, params)

    def encode(row: Int[Array, " L"]) -> tuple[Array, Array | None]:
        output = encoder(row[None])
        states = output.hidden_states[-2] if penultimate else output.last_hidden_state
        return jax.tree.map(lambda x: x[0], (states, output.text_embeds))

    # Row by row: a prompt's features then don't depend on the others', not by a bit.
    return jax.lax.map(encode, jnp.asarray(token_ids))
