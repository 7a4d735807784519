"""The language model's input and output: text, picture, regions and [IMG] tokens in one sequence.

The host writes a sequence's plan, with as many places for regions as there may be regions; the
device puts the tokens in and hides the places that stay empty. Empty places don't count in the
positions either, so a hundred places with ten regions read as ten.
"""

import dataclasses
from collections.abc import Sequence as Several
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from brushjax.models.fireedit.part import PartConfig

TEXT, IMAGE, REGION, PADDING = range(4)
IGNORED = -100  # a label that is not learnt
ORDERS = ("image_regions_text", "text_image_regions")


@dataclasses.dataclass(frozen=True)
class VLMConfig(PartConfig):
    """Settings of the sequence; the defaults are FireEdit's with LLaVA-7B.

    Attributes:
      base_vocab: tokens of the published language model. The new ones follow: <img>, <im_start>,
        <im_end>, <img_0>, <img_1>, ...
      img_tokens: r of the paper, [IMG] tokens.
      image_tokens, region_slots: places for the picture and for regions.
      max_length: of the whole sequence.
      max_answer: tokens of the answer that are learnt, [IMG] tokens and end included.
      token_order: "image_regions_text", or "text_image_regions" as the paper's eq. 4 is written.
    """

    base_vocab: int = 32000
    bos: int = 1
    eos: int = 2
    pad: int = 0
    img_tokens: int = 32
    image_tokens: int = 256
    region_slots: int = 100
    max_length: int = 640
    max_answer: int = 64
    token_order: str = "image_regions_text"

    CLASS_NAME: ClassVar[str] = "FireEditVLM"

    def __post_init__(self) -> None:
        if self.token_order not in ORDERS:
            raise ValueError(f"expected token_order in {ORDERS}, got {self.token_order!r}")

    @property
    def img(self) -> int:
        """The token <img>; <im_start> and <im_end> follow."""
        return self.base_vocab

    @property
    def img_0(self) -> int:
        """The first [IMG] token."""
        return self.base_vocab + 3

    @property
    def new_tokens(self) -> int:
        """How many rows the vocabulary grows by."""
        return 3 + self.img_tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sequence:
    """Plans of sequences; each [S], or [B, S] once stacked.

    Attributes:
      ids: tokens; 0 where something else than text stands.
      kind: TEXT, IMAGE, REGION or PADDING.
      index: which of the picture's or the regions' tokens stands there.
      labels: the token itself where it is to be learnt, IGNORED elsewhere.
    """

    ids: Any
    kind: Any
    index: Any
    labels: Any


def plan(
    config: VLMConfig,
    system: Several[int],
    instruction: Several[int],
    answer: Several[int],
    *,
    edit: bool = True,
) -> Sequence:
    """Lays out one sequence on the host.

    Args:
      system: tokens before the picture, without the start token.
      instruction: tokens of the request; may be empty.
      answer: tokens before the [IMG] tokens, or the whole answer to a question.
      edit: whether [IMG] tokens follow the answer.

    Raises:
      ValueError: for more tokens than there are places, or for an answer that is longer than what
        is learnt.
    """
    start, end = config.img + 1, config.img + 2
    text = lambda ids: [(int(token), TEXT, 0) for token in ids]  # noqa: E731
    picture = [
        *text([start]),
        *((0, IMAGE, i) for i in range(config.image_tokens)),
        *((0, REGION, i) for i in range(config.region_slots)),
        *text([end]),
    ]
    imgs = range(config.img_0, config.img_0 + config.img_tokens) if edit else ()
    learnt = text([*answer, *imgs, config.eos])
    request = text(instruction)
    middle = [*picture, *request] if config.token_order == ORDERS[0] else [*request, *picture]
    places = [*text([config.bos, *system]), *middle, *learnt]
    if len(learnt) > config.max_answer:
        raise ValueError(
            f"expected an answer of at most {config.max_answer} tokens with what follows it, got "
            f"{len(learnt)}; shorten it or raise max_answer"
        )
    if len(places) > config.max_length:
        raise ValueError(
            f"expected at most {config.max_length - len(places) + len(request)} tokens of "
            f"instruction, got {len(request)}; shorten it or raise max_length"
        )
    padding = [(config.pad, PADDING, 0)] * (config.max_length - len(places))
    ids, kind, index = np.asarray([*places, *padding], np.int32).T
    labels = np.full(config.max_length, IGNORED, np.int32)
    labels[len(places) - len(learnt) : len(places)] = [token for token, _, _ in learnt]
    return Sequence(ids, kind, index, labels)


def stacked(sequences: Several[Sequence]) -> Sequence:
    """Puts plans of one length into a batch."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *sequences)


def visible(sequence: Sequence, region_mask: Bool[Array, "B R"]) -> Bool[Array, "B S"]:
    """Returns where a token stands: neither padding nor an empty place for a region."""
    kind, index = jnp.asarray(sequence.kind), jnp.asarray(sequence.index)
    filled = _picked(region_mask, index)
    return (kind != PADDING) & ((kind != REGION) | filled)


def embedded(
    sequence: Sequence,
    text: Float[Array, "B S E"],
    image_tokens: Float[Array, "B M E"],
    region_tokens: Float[Array, "B R E"],
    mask: Bool[Array, "B S"],
) -> Float[Array, "B S E"]:
    """Returns what the language model reads: FireEdit's H of eq. 4.

    Args:
      text: embeddings of `sequence.ids`.
      mask: from `visible`; elsewhere the embedding is 0.
    """
    kind, index = jnp.asarray(sequence.kind)[..., None], jnp.asarray(sequence.index)[..., None]
    x = jnp.where(kind == IMAGE, _picked(image_tokens, index).astype(text.dtype), text)
    x = jnp.where(kind == REGION, _picked(region_tokens, index).astype(text.dtype), x)
    return jnp.where(mask[..., None], x, 0)


def _picked(tokens: Array, index: Array) -> Array:
    """Takes tokens by their number along axis 1; numbers of other kinds of token take the last."""
    index = jnp.minimum(index, tokens.shape[1] - 1)
    return jnp.take_along_axis(tokens, index, axis=1)


def read_out(
    config: VLMConfig, sequence: Sequence, states: Float[Array, "B S E"]
) -> tuple[Float[Array, "B r E"], Bool[Array, "B r"]]:
    """Returns the states at the places where [IMG] tokens are the input: the paper's e.

    Args:
      states: of the language model, after its final norm.

    Returns:
      The states, in order, and whether there is one: a question's answer has none.
    """
    ids, kind = jnp.asarray(sequence.ids), jnp.asarray(sequence.kind)
    return _first(states, (kind == TEXT) & (ids >= config.img_0), config.img_tokens)


def answers(
    config: VLMConfig, sequence: Sequence, states: Float[Array, "B S E"]
) -> tuple[Float[Array, "B A E"], Int[Array, "B A"], Bool[Array, "B A"]]:
    """Returns the states that predict a learnt token, those tokens, and whether there is one.

    Logits of these alone are a tenth of all, and there are 32,000 to a place.
    """
    following = jnp.roll(jnp.asarray(sequence.labels), -1, axis=1).at[:, -1].set(IGNORED)
    where = following != IGNORED
    chosen, there = _first(states, where, config.max_answer)
    labels, _ = _first(following[..., None], where, config.max_answer)
    return chosen, labels[..., 0], there


def _first(
    values: Num[Array, "B S E"], where: Bool[Array, "B S"], count: int
) -> tuple[Array, Array]:
    """Gathers the first `count` values at which `where` is True, and whether there were so many."""
    order = jnp.argsort(~where, axis=1, stable=True)[:, :count]
    return (
        jnp.take_along_axis(values, order[..., None], axis=1),
        jnp.take_along_axis(where, order, axis=1),
    )


def answer_loss(
    logits: Float[Array, "B A V"], labels: Int[Array, "B A"], there: Bool[Array, "B A"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the summed cross-entropy of the answers in float32, and over how many tokens.

    Source: FireEdit, eq. 5, over the whole answer (docs/deviations.md#fireedit-answer-loss).
    """
    precise = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    likely = jax.nn.log_softmax(precise, axis=-1)
    wanted = jnp.take_along_axis(likely, jnp.where(there, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(there, wanted, 0)), jnp.sum(there, dtype=likely.dtype)
