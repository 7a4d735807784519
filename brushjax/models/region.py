"""The learnable edit region: from a picture's patches and an instruction to a mask."""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from brushjax.models.published import PublishedConfig
from brushjax.nn import Rngs, attention, layer_norm, linear


@dataclasses.dataclass(frozen=True)
class RegionConfig(PublishedConfig):
    """Settings of a region predictor; the defaults are the paper's, for CLIP ViT-L/14.

    Attributes:
      width: of the image tokens and of all that is made of them.
      instruction_width: of the instruction's tokens; None is `width`, as the paper has it.
      mlp_width: inside the MLP of eq. 3; None is `width`.
      semantics_width: inside f_sem; None is `width`.
      residual: False is eq. 1 to 3 to the letter; True adds each attention to what it reads, which
        is normed first.
      smoothing: how often each patch's logit becomes the mean of its neighbourhood, see `smoothed`.
    """

    width: int = 768
    instruction_width: int | None = None
    mlp_width: int | None = None
    semantics_width: int | None = None
    residual: bool = False
    smoothing: int = 0
    layer_norm_eps: float = 1e-5

    CLASS_NAME: ClassVar[str] = "RegionPredictor"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Regions:
    """What a predictor says of a picture's patches, row by row.

    Attributes:
      logits: of the patch being edited. [B, N]
      probability: their sigmoid, P_region of eq. 3. [B, N]
      edited: F_Editedimg of eq. 1, which f_sem reads too. [B, N, D]
      refined: F_imgRegion of eq. 2. [B, N, D]
    """

    logits: Float[Array, "B N"]
    probability: Float[Array, "B N"]
    edited: Float[Array, "B N D"]
    refined: Float[Array, "B N D"]


class Attention(nnx.Module):
    """One head without biases and without a projection of what it gathers (eq. 1 and 2)."""

    def __init__(self, width: int, context_width: int, *, rngs: Rngs):
        self.to_q = linear(width, width, bias=False, rngs=rngs)
        self.to_k = linear(context_width, width, bias=False, rngs=rngs)
        self.to_v = linear(context_width, width, bias=False, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        context: Float[Array, "B L E"],
        key_mask: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B N D"]:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        heads = (y[:, :, None] for y in (q, k, v))  # [B, N or L, 1, D]
        return attention(*heads, key_mask=key_mask)[:, :, 0]


class MLP(nnx.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int, inner: int, width_out: int, *, rngs: Rngs):
        self.fc1 = linear(width, inner, rngs=rngs)
        self.fc2 = linear(inner, width_out, rngs=rngs)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Semantics(MLP):
    """f_sem: the mean over the patches, then an MLP into CLIP's space.

    Differs: docs/deviations.md, region-heads.
    """

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        return super().__call__(x.mean(axis=1))


def smoothed(patches: Float[Array, "B N"]) -> Float[Array, "B N"]:
    """Returns means over 3 x 3 neighbours of a square grid, weighted 1 2 1 both ways; the border is
    repeated. Patches lie row by row.

    Raises: ValueError where the grid is not square.
    """
    grid = math.isqrt(patches.shape[1])
    if grid**2 != patches.shape[1]:
        raise ValueError(f"expected the patches of a square grid, got {patches.shape[1]}")
    padded = jnp.pad(patches.reshape(-1, grid, grid), ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    both = (down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]) / 4
    return both.reshape(patches.shape)


class RegionPredictor(nnx.Module):
    """Predicts which patches of a picture an instruction is about.

    Source: "Beyond Editing Pairs", section 3.2, eq. 1 to 3; f_sem of section 3.3.
    Differs: docs/deviations.md, region-heads, region-residual and region-smoothing.
    """

    def __init__(self, config: RegionConfig, *, rngs: Rngs):
        self.config = config
        width = config.width
        instruction = config.instruction_width or width
        self.cross_attention = Attention(width, instruction, rngs=rngs)
        self.self_attention = Attention(width, width, rngs=rngs)
        self.mlp = MLP(width, config.mlp_width or width, 1, rngs=rngs)
        self.semantics = Semantics(width, config.semantics_width or width, width, rngs=rngs)
        if config.residual:
            epsilon = config.layer_norm_eps
            self.norm_image = layer_norm(width, epsilon, rngs=rngs)
            self.norm_instruction = layer_norm(instruction, epsilon, rngs=rngs)
            self.norm_self = layer_norm(width, epsilon, rngs=rngs)
            self.norm_mlp = layer_norm(width, epsilon, rngs=rngs)

    def __call__(
        self,
        image_tokens: Float[Array, "B N D"],
        instruction: Float[Array, "B L E"],
        instruction_mask: Bool[Array, "B L"] | None = None,
    ) -> Regions:
        """Predicts the region of each sample.

        Args:
          image_tokens: CLIP's projected patches, F_img.
          instruction: the text encoder's states, F_ins.
          instruction_mask: true for tokens, false for padding; None takes all for tokens.
        """
        forward = self._residual if self.config.residual else self._literal
        edited, refined, logits = forward(image_tokens, instruction, instruction_mask)
        for _ in range(self.config.smoothing):
            logits = smoothed(logits)
        return Regions(logits, jax.nn.sigmoid(logits), edited, refined)

    def _literal(self, image: Array, instruction: Array, mask: Array | None) -> tuple[Array, ...]:
        edited = self.cross_attention(image, instruction, mask)  # [B, N, D], eq. 1
        refined = self.self_attention(edited, edited)  # [B, N, D], eq. 2
        return edited, refined, self.mlp(refined)[..., 0]  # [B, N], eq. 3

    def _residual(self, image: Array, instruction: Array, mask: Array | None) -> tuple[Array, ...]:
        words = self.norm_instruction(instruction)
        edited = image + self.cross_attention(self.norm_image(image), words, mask)
        normed = self.norm_self(edited)
        refined = edited + self.self_attention(normed, normed)
        return edited, refined, self.mlp(self.norm_mlp(refined))[..., 0]


# --- from probabilities to a mask

RULES = ("tau", "quantile", "otsu")
SLACK = 1e-4  # values: 0.3 of ten values are three, whatever the rounding of 0.3
ALIKE = 1e-6  # of probabilities: what differs by less has no two groups
BINS = 4096  # of Otsu's histogram: a cut is exact to this part of the values' range


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Which values of a map count as the region: always those of the highest probability.

    Attributes:
      rule: how many they are: "tau" those above `tau`; "quantile" all but the share `quantile`;
        "otsu" those on the upper side of the cut that separates two groups best (none where all
        values are alike).
      min_area, max_area: bounds on their share of the map, whatever the rule says.

    Source: "Beyond Editing Pairs", text after eq. 3. Differs: docs/deviations.md, region-threshold.
    """

    rule: Literal["tau", "quantile", "otsu"] = "tau"
    tau: float = 0.5
    quantile: float = 0.8
    min_area: float = 0.0
    max_area: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"expected a rule of {', '.join(RULES)}, got {self.rule!r}")
        if not 0 <= self.min_area <= self.max_area <= 1:
            raise ValueError(
                f"expected 0 <= min_area <= max_area <= 1, got {self.min_area} and {self.max_area}"
            )
        for name, share in (("quantile", self.quantile), ("tau", self.tau)):
            if not 0 <= share <= 1:
                raise ValueError(f"expected a {name} between 0 and 1, got {share}")

    def __call__(self, probability: Float[Array | np.ndarray, "*S"]) -> Bool[np.ndarray, "*S"]:
        """Returns the region of one map of probabilities, see `Placement.pixels`.

        Raises: ValueError where one is NaN or infinite, or the map has none.
        """
        values = np.asarray(probability).reshape(-1)
        known = np.count_nonzero(np.isfinite(values))
        if not values.size or known < values.size:
            raise ValueError(
                f"expected a map of finite probabilities, got {known} of {values.size}; look into "
                "the predictor's weights, or compute in float32"
            )
        if self.rule == "tau":
            chosen = int(np.count_nonzero(values > self.tau))
        elif self.rule == "quantile":
            chosen = round((1 - self.quantile) * values.size)
        else:
            chosen = _otsu(values)
        least = math.ceil(self.min_area * values.size - SLACK)
        most = math.floor(self.max_area * values.size + SLACK)
        return _highest(values, min(max(chosen, least), most)).reshape(np.shape(probability))


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Returns which are the `count` highest; of equals the earlier are."""
    if count == 0:
        return np.zeros(values.shape, bool)
    lowest = np.partition(values, -count)[-count]
    region = values > lowest
    equals = np.flatnonzero(values == lowest)
    region[equals[: count - np.count_nonzero(region)]] = True
    return region


def _otsu(values: np.ndarray) -> int:
    """Returns how many values lie above the cut of the largest variance between its two sides.

    Source: Otsu 1979, eq. 14; values in one bin count with their own mean.
    """
    low, high = values.min(), values.max()
    if high - low <= ALIKE:
        return 0
    bins = ((values - low) * ((BINS - 1) / (high - low))).astype(np.int32)
    counts, sums = np.bincount(bins), np.bincount(bins, values)
    upper = np.cumsum(counts[:0:-1])  # values above each cut between two bins, the highest first
    lower = values.size - upper
    above = np.cumsum(sums[:0:-1])
    gap = above / upper - (sums.sum() - above) / lower
    return int(upper[np.argmax(upper * lower * np.square(gap))])
