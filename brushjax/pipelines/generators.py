"""One interface to whatever can fill a region, and the pixel blend that all of them share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

Pictures = UInt8[np.ndarray, "B H W 3"]
Masks = Bool[np.ndarray, "B H W"]


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a generator can do.

    Attributes:
      native_inpaint: it reads the mask itself; others are told by what they are given to keep.
      differentiable_mask: a gradient reaches the mask through it.
      granularity: side of the cells that it edits whole, pixels.
    """

    native_inpaint: bool = True
    differentiable_mask: bool = False
    granularity: int = 1


@runtime_checkable
class Generator(Protocol):
    """Fills regions. What it makes of the pixels outside does not matter: `generate` restores them.

    Source: "Beyond Editing Pairs", section 4 and appendix A.
    """

    capabilities: Capabilities

    def __call__(
        self, images: Pictures, mask: Masks, prompts: Sequence[str], keys: Array, settings: Any
    ) -> Pictures:
        """Returns edited pictures of the same size. Keys: one per sample."""
        ...


def generate(
    generator: Generator,
    images: Pictures,
    mask: Masks,
    prompts: Sequence[str],
    keys: Array,
    settings: Any = None,
) -> Pictures:
    """Edits the region of each picture; every pixel outside it is the source's, to the bit.

    Args:
      mask: true within the region. The generator gets it widened to whole cells of its own.
      prompts: what the edited picture shows, one per sample.
      keys: one per sample.
      settings: of the generator, handed through.

    Raises:
      ValueError: for pictures, masks and prompts that do not belong together, or a generator that
        gives other sizes back.
    """
    if mask.shape != images.shape[:3] or len(prompts) != len(images):
        raise ValueError(
            f"expected a mask {images.shape[:3]} and {len(images)} prompts for these pictures, got "
            f"{mask.shape} and {len(prompts)}"
        )
    cells = widened(mask, generator.capabilities.granularity)
    made = generator(images, cells, prompts, keys, settings)
    if made.shape != images.shape:
        raise ValueError(f"expected pictures {images.shape} of the generator, got {made.shape}")
    return np.where(mask[..., None], made, images)


def widened(mask: Masks, cell: int) -> Masks:
    """Returns the mask with every cell that it touches filled."""
    height, width = mask.shape[1:]
    padding = ((0, 0), (0, -height % cell), (0, -width % cell))
    padded = np.pad(mask, padding)
    rows, columns = padded.shape[1] // cell, padded.shape[2] // cell
    touched = padded.reshape(-1, rows, cell, columns, cell).any(axis=(2, 4))
    return touched.repeat(cell, axis=1).repeat(cell, axis=2)[:, :height, :width]


@dataclasses.dataclass(frozen=True)
class Callback:
    """A generator that is any function with the same arguments, such as a remote model."""

    function: Callable[..., Pictures]
    capabilities: Capabilities = Capabilities()

    def __call__(
        self, images: Pictures, mask: Masks, prompts: Sequence[str], keys: Array, settings: Any
    ) -> Pictures:
        return np.asarray(self.function(images, mask, prompts, keys, settings))


@dataclasses.dataclass(frozen=True)
class TokenGenerator:
    """A generator of picture tokens: those of the region are masked and decoded in a few steps.

    Attributes:
      encode: pictures -> tokens [B, N], row by row.
      predict: tokens, of which `vocabulary` stands for a masked one, and prompts -> logits
        [B, N, `vocabulary`].
      decode: tokens -> pictures.
      vocabulary: number of tokens.
      cell: side of a token, pixels.
      steps: of decoding; each keeps the surest of what it drew, more and more by a cosine.

    Source: MaskGIT, arXiv 2202.04200, section 3.2.
    """

    encode: Callable[[Pictures], Int[Array, "B N"]]
    predict: Callable[[Int[Array, "B N"], Sequence[str]], Float[Array, "B N V"]]
    decode: Callable[[Int[Array, "B N"]], Pictures]
    vocabulary: int
    cell: int
    steps: int = 8

    @property
    def capabilities(self) -> Capabilities:
        """It edits whole tokens."""
        return Capabilities(granularity=self.cell)

    def __call__(
        self, images: Pictures, mask: Masks, prompts: Sequence[str], keys: Array, settings: Any
    ) -> Pictures:
        region = jnp.asarray(mask[:, :: self.cell, :: self.cell].reshape(len(mask), -1))  # [B, N]
        tokens = jnp.where(region, self.vocabulary, self.encode(images))
        count = region.sum(axis=1, keepdims=True)
        for step in range(self.steps):
            hidden = tokens == self.vocabulary
            logits = self.predict(tokens, prompts)
            keys, drawn, sure = _drawn(keys, logits)
            left = jnp.floor(count * np.cos(np.pi / 2 * (step + 1) / self.steps) + 1e-6)
            order = jnp.argsort(jnp.argsort(jnp.where(hidden, sure, jnp.inf), axis=1), axis=1)
            tokens = jnp.where(hidden & (order >= left), drawn, tokens)
        return np.asarray(self.decode(tokens))


def _drawn(keys: Array, logits: Array) -> tuple[Array, Array, Array]:
    """Returns fresh keys, a token for each place, and the log-probability that it had."""
    following, now = jax.vmap(lambda key: jax.random.split(key, 2), out_axes=1)(keys)
    drawn = jax.vmap(jax.random.categorical)(now, logits)  # [B, N]
    scores = jax.nn.log_softmax(logits, axis=-1)
    return following, drawn, jnp.take_along_axis(scores, drawn[..., None], axis=-1)[..., 0]
