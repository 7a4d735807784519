"""The scoring stage: metrics of every picture, and what they say about the methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from brushjax.evaluation.held_out import Steering, Swap
from brushjax.evaluation.units import Sample
from brushjax.metrics import pixel
from brushjax.metrics.bootstrap import Bootstrap, Interval
from brushjax.metrics.nearest_class import NearestClass

Metrics = dict[str, Float[np.ndarray, " n"]]
REDUCED = ("ring_error", "edge_discontinuity")  # what a branch is there to lower


@dataclasses.dataclass(frozen=True)
class SteeringScores:
    """Whether the prompt decides what the hole shows, by the nearest class of real crops.

    Attributes:
        named: share of fills nearest to the class that the swapped prompt names.
        own_named: share of fills under the true caption that are nearest to the true class.
        own_swapped: share of fills under the true caption that happen to be nearest to the class
            that the swapped prompt names: what `named` would be if prompts did nothing.
        chance: share that random classes would reach.
        accuracy: of the nearest-class check on held-out real crops.
        decoded_accuracy: of the check on the samples' true pictures after the autoencoder, which no
            fill can be sharper than.
        nearest: class of every fill with a swapped prompt.
        targets: the class that its prompt names.
        per_class: `named` among the fills whose prompt names that class.
    """

    named: Interval
    own_named: Interval
    own_swapped: Interval
    chance: float
    accuracy: float
    decoded_accuracy: float
    nearest: list[str]
    targets: list[str]
    per_class: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        metrics: method -> metric -> value of every sample.
        means: method -> metric -> mean with its interval over samples.
        reductions: metric -> by how much the trained branch lowers the zero-initialised one's mean.
        clustered: the same with whole classes drawn: whether it would hold for other photographs.
    """

    metrics: dict[str, Metrics]
    means: dict[str, dict[str, Interval]]
    reductions: dict[str, Interval]
    clustered: dict[str, Interval]
    steering: SteeringScores | None = None

    def flat(self) -> dict[str, float]:
        """Numbers by name, for a log."""
        numbers = {
            f"{method}/{metric}": interval.value
            for method, row in self.means.items()
            for metric, interval in row.items()
        }
        numbers |= {f"reduction/{name}": one.value for name, one in self.reductions.items()}
        if self.steering:
            numbers["steering/named"] = self.steering.named.value
        return numbers


def metrics_of(samples: Sequence[Sample], pictures: UInt8[np.ndarray, "n H W 3"]) -> Metrics:
    """Every metric of raw pictures of these samples."""
    truth = np.stack([one.image for one in samples])
    mask = np.stack([one.mask for one in samples])
    return {
        "ring_error": pixel.ring_error(pictures, truth, mask),
        "edge_discontinuity": pixel.edge_discontinuity(pictures, truth, mask),
        "edge_step": pixel.edge_step(pictures, truth, mask),
        "hole_psnr": pixel.psnr(pictures, truth, mask),
        "hole_mse": pixel.mse(pictures, truth, mask),
        "kept_psnr": pixel.psnr(pictures, truth, 1 - mask),
        "kept_mse": pixel.mse(pictures, truth, 1 - mask),
    }


def score_fills(
    samples: Sequence[Sample],
    pictures: Mapping[str, UInt8[np.ndarray, "n H W 3"]],
    bootstrap: Bootstrap,
) -> Scores:
    """Metrics of every method's pictures, and the paired reductions from "zero" to "trained".

    The untouched truth is a method too: the discontinuity that natural pictures have of themselves.
    """
    pictures = {**pictures, "truth": np.stack([one.image for one in samples])}
    metrics = {method: metrics_of(samples, mine) for method, mine in pictures.items()}
    classes = [one.label for one in samples]
    means = {
        method: {name: bootstrap.mean(values) for name, values in row.items()}
        for method, row in metrics.items()
    }
    before, after = metrics["zero"], metrics["trained"]
    return Scores(
        metrics,
        means,
        {name: bootstrap.reduction(before[name], after[name]) for name in REDUCED},
        {name: bootstrap.reduction(before[name], after[name], classes) for name in REDUCED},
    )


def score_steering(
    steering: Steering,
    swap: Swap,
    *,
    swapped: UInt8[np.ndarray, "n H W 3"],
    own: UInt8[np.ndarray, "n H W 3"],
    decoded: UInt8[np.ndarray, "n H W 3"],
    bootstrap: Bootstrap,
) -> SteeringScores:
    """How often a fill is nearest to the named class.

    Args:
        swapped: raw pictures under the swapped captions.
        own: raw pictures of the same samples, same noise, under their own captions.
        decoded: the same samples' true pictures, through the autoencoder and back.
    """
    classifier = NearestClass.fit(*steering.real_crops("train"))
    real, real_names = steering.real_crops("held_out")
    labels = [one.label for one in swap.own]
    nearest = classifier.predict(steering.cut(swapped))
    nearest_own = classifier.predict(steering.cut(own))
    hits = _agreement(nearest, swap.targets)
    return SteeringScores(
        named=bootstrap.mean(hits),
        own_named=bootstrap.mean(_agreement(nearest_own, labels)),
        own_swapped=bootstrap.mean(_agreement(nearest_own, swap.targets)),
        chance=classifier.chance,
        accuracy=float(_agreement(classifier.predict(real), real_names).mean()),
        decoded_accuracy=float(
            _agreement(classifier.predict(steering.cut(decoded)), labels).mean()
        ),
        nearest=nearest,
        targets=swap.targets,
        per_class={
            name: float(hits[np.array(swap.targets) == name].mean())
            for name in steering.classes
            if name in swap.targets
        },
    )


def _agreement(found: Sequence[str], wanted: Sequence[str]) -> Float[np.ndarray, " n"]:
    return np.array([one == other for one, other in zip(found, wanted, strict=True)], float)
