"""How CLIP's supervision reaches the mask: small pure functions, chosen by one config block.

A threshold has no gradient and a sampler of many steps is too long to go back through, and the
paper says of neither what is done. Each choice here is one answer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from brushjax.models.placement import Placement

Space = Literal["pixel", "latent"]
Donor = Literal["cached", "online"]
Gradient = Literal["soft", "straight-through", "concrete", "rloo"]
Losses = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class MaskPath:
    """From the logits of patches to the picture that CLIP judges.

    Attributes:
      space: where the edit and the source are mixed: "pixel", or "latent" through the decoder.
      donor: "cached": an edit of the whole picture, made beforehand, of which the mask takes a
        part; "online": a sampler that runs inside the step, in latent space.
      gradient: "soft" mixes by the probabilities themselves; "straight-through" by the mask
        p > `tau`, with the gradient of the probabilities; "concrete" by a relaxed random mask;
        "rloo" by `samples` random masks, whose losses are compared with each other's mean: the
        only one that needs no gradient of what comes after the mask.
      temperature: divides the logits of "soft" and "straight-through" and widens "concrete".
      tau: threshold of "straight-through", a probability.
      samples: masks a sample of "rloo".
      backprop_steps: of an online sampler, the last ones, through which the gradient goes back.

    Differs: docs/deviations.md, region-gradient.
    """

    space: Space = "pixel"
    donor: Donor = "cached"
    gradient: Gradient = "soft"
    temperature: float = 1.0
    tau: float = 0.5
    samples: int = 4
    backprop_steps: int = 1

    def __post_init__(self) -> None:
        for name, kind in (("space", Space), ("donor", Donor), ("gradient", Gradient)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"expected {name} of {get_args(kind)}, got {getattr(self, name)!r}"
                )
        if self.donor == "online" and self.space == "pixel":
            raise ValueError("expected space 'latent' with donor 'online': the sampler works there")
        if self.gradient == "rloo" and self.samples < 2:
            raise ValueError(f"expected at least 2 samples for rloo, got {self.samples}")
        if self.temperature <= 0:
            raise ValueError(f"expected a temperature above 0, got {self.temperature}")

    @property
    def smooth(self) -> bool:
        """Whether the mask is soft, and then spreads over pixels bilinearly."""
        return self.gradient in ("soft", "concrete")


# --- from logits to masks


def soft(logits: Float[Array, "B N"], path: MaskPath) -> Float[Array, "B N"]:
    """Returns the probabilities."""
    return jax.nn.sigmoid(logits / path.temperature)


def straight_through(logits: Float[Array, "B N"], path: MaskPath) -> Float[Array, "B N"]:
    """Returns the thresholded probabilities, exactly 0 or 1, with the gradient of the soft ones.

    The gradient is no derivative of the loss. Source: arXiv 1308.3432, section 4.
    """
    probability = soft(logits, path)
    hard = (jax.nn.sigmoid(logits) > path.tau).astype(logits.dtype)
    return jax.lax.stop_gradient(hard) + (probability - jax.lax.stop_gradient(probability))


def concrete(logits: Float[Array, "B N"], keys: Array, path: MaskPath) -> Float[Array, "B N"]:
    """Returns a relaxed Bernoulli draw of each patch. Source: arXiv 1611.00712, section 3.

    Args:
      keys: one per sample.
    """
    noise = jax.vmap(lambda key: jax.random.logistic(key, logits.shape[1:], logits.dtype))(keys)
    return jax.nn.sigmoid((logits + noise) / path.temperature)


def bernoulli(logits: Float[Array, "B N"], keys: Array, samples: int) -> Float[Array, "S B N"]:
    """Returns random masks of 0 and 1, `samples` for each of the batch. Keys: one per sample."""

    def draw(key: Array, probability: Array) -> Array:
        return jax.random.bernoulli(key, probability, (samples, *probability.shape))

    masks = jax.vmap(draw, out_axes=1)(keys, jax.nn.sigmoid(logits))
    return jax.lax.stop_gradient(masks.astype(logits.dtype))


def leave_one_out(
    logits: Float[Array, "B N"], masks: Float[Array, "S B N"], losses: Float[Array, "S B"]
) -> Float[Array, " B"]:
    """Returns zeros whose gradient is REINFORCE's: each mask's loss, less the mean of the other
    masks', times the gradient of the mask's log-probability.

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free", eq. 8.
    """
    count = len(masks)
    others = (losses.sum(axis=0) - losses) / (count - 1)
    advantage = jax.lax.stop_gradient(losses - others)  # [S, B]
    chosen = jnp.where(masks > 0.5, logits, -logits)
    log_probability = jax.nn.log_sigmoid(chosen).sum(axis=-1)  # [S, B]
    surrogate = (advantage * log_probability).mean(axis=0)
    return surrogate - jax.lax.stop_gradient(surrogate)


def through_mask(
    losses_of: Callable[[Float[Array, "B N"]], Losses],
    logits: Float[Array, "B N"],
    keys: Array,
    path: MaskPath,
) -> Losses:
    """Returns the losses that masks drawn from `logits` have, with the gradient that `path` names.

    Args:
      losses_of: a mask's losses, [B] each; "total" is the one to minimise.
      keys: one per sample; drawn from for "concrete" and "rloo" alone.
    """
    if path.gradient == "soft":
        return losses_of(soft(logits, path))
    if path.gradient == "straight-through":
        return losses_of(straight_through(logits, path))
    if path.gradient == "concrete":
        return losses_of(concrete(logits, keys, path))
    masks = bernoulli(logits, keys, path.samples)
    losses = jax.lax.map(losses_of, masks)  # one mask after the other: one mask's memory
    means = {name: values.mean(axis=0) for name, values in losses.items()}
    return means | {"total": means["total"] + leave_one_out(logits, masks, losses["total"])}


# --- from masks to pictures


def mixed(
    mask: Float[Array, "B H W 1"], donor: Float[Array, "B H W C"], source: Float[Array, "B H W C"]
) -> Float[Array, "B H W C"]:
    """Returns the donor where the mask is 1 and the source, to the bit, where it is 0 (eq. 23)."""
    return mask * donor + (1 - mask) * source


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A frozen sampler of latents, as an online donor.

    Attributes:
      start: latents of pure noise. [B, h, w, C]
      steps: from `start` to the clean latents.
      step: (number of the step, latents, mask) -> the model's next latents; an inpainting model
        reads the mask too.
      kept: number of the step -> the source's latents with the noise that is left after it; after
        the last step the clean ones.
    """

    start: Any
    steps: int
    step: Callable[[Any, Array, Array], Array]
    kept: Callable[[Any], Array]


def sampled(sampler: Sampler, mask: Float[Array, "B h w 1"], last: int) -> Float[Array, "B h w C"]:
    """Runs a sampler under a mask (eq. 23), with a gradient through its `last` steps alone.

    The steps before see the mask as a constant. With one step whose model does not read the mask
    the gradient is that of one mixture: the model's latents less the source's.

    Source: DRaFT-K of arXiv 2309.17400, section 4.2; "Beyond Editing Pairs", eq. 16 to 23.
    """
    if not 1 <= last <= sampler.steps:
        raise ValueError(f"expected 1 to {sampler.steps} steps to go back through, got {last}")

    def advance(number: Any, latents: Array, mask: Array) -> Array:
        return mixed(mask, sampler.step(number, latents, mask), sampler.kept(number))

    first = sampler.steps - last
    constant = jax.lax.stop_gradient(mask)
    latents = jax.lax.fori_loop(
        0, first, lambda number, latents: advance(number, latents, constant), sampler.start
    )
    latents = jax.lax.stop_gradient(latents)
    for number in range(first, sampler.steps):
        latents = jax.checkpoint(advance, static_argnums=0)(number, latents, mask)
    return latents


@dataclasses.dataclass(frozen=True)
class Composition:
    """Where masks of patches become pictures.

    Attributes:
      placement: of pictures in the encoder's input.
      decode: latents -> pictures in [-1, 1]; None where pixels are mixed.
    """

    placement: Placement
    decode: Callable[[Array], Array] | None = None

    def __call__(
        self, patches: Float[Array, "B N"], source: Array, donor: Array | Sampler, path: MaskPath
    ) -> Float[Array, "B H W 3"]:
        """Returns the edited pictures, X_res.

        Args:
          patches: a mask's value for each patch.
          source: pictures, or latents in latent space. [B, H or h, W or w, C]
          donor: the edit in the same space, or the sampler that makes it.
        """
        height, width = source.shape[1:3]
        mask = self.placement.spread(patches, height, width, smooth=path.smooth)
        if isinstance(donor, Sampler) != (path.donor == "online"):
            raise ValueError(
                f"expected {'a Sampler' if path.donor == 'online' else 'an array'} as the "
                f"{path.donor} donor, got {type(donor).__name__}"
            )
        if (self.decode is not None) != (path.space == "latent"):
            raise ValueError(
                f"expected a decoder in latent space alone, and the space is {path.space}"
            )
        result = (
            sampled(donor, mask, path.backprop_steps)
            if isinstance(donor, Sampler)
            else mixed(mask, donor, source)
        )
        return result if self.decode is None else self.decode(result)
