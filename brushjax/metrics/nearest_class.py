"""Which class of real crops is a fill nearest to, by plain colour and texture statistics?

It has no weights of its own: features are simple statistics of a crop, scaled by their spread over
real training crops, and a crop belongs to the class that most of its nearest real crops are of.
Always report it beside its accuracy on held-out real crops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from brushjax.metrics.pixel import Pictures, to_unit
from brushjax.metrics.state import Moments


@dataclasses.dataclass(frozen=True)
class NearestClass:
    """k nearest neighbours among real crops, in standardised feature space.

    The vote is weighted so that classes count the same, however many crops they have.
    Build it with `fit`; `classes` are the class names in the order of the labels.
    """

    classes: tuple[str, ...]
    features: Float[np.ndarray, "n F"]
    labels: Int[np.ndarray, " n"]
    centre: Float[np.ndarray, " F"]
    spread: Float[np.ndarray, " F"]
    neighbours: int

    @classmethod
    def fit(cls, crops: Pictures, names: Sequence[str], neighbours: int = 9) -> NearestClass:
        """Remember the features of real crops [n, H, W, 3] and their class names [n].

        Raises:
            ValueError: fewer than two classes, lengths that differ, or fewer crops than neighbours.
        """
        classes = tuple(sorted(set(names)))
        if len(classes) < 2 or len(names) != len(crops) or len(crops) < neighbours:
            raise ValueError(
                f"expected at least two classes and {neighbours} crops with one name each,"
                f" got {len(crops)} crops, {len(names)} names, classes {classes}"
            )
        features = crop_features(crops)
        centre, spread = Moments.of(features).compute()
        # A column that never varies says nothing: spread 1 makes it 0 for every crop like the
        # training ones.
        spread = np.where(spread > 1e-12, spread, 1.0)
        labels = np.array([classes.index(name) for name in names])
        return cls(classes, (features - centre) / spread, labels, centre, spread, neighbours)

    def predict(self, crops: Pictures) -> list[str]:
        """The nearest class of every crop [n, H, W, 3]; any H and W."""
        return [self.classes[index] for index in np.argmax(self.votes(crops), axis=1)]

    def votes(self, crops: Pictures) -> Float[np.ndarray, "n classes"]:
        """Share of the vote of every class, rows sum to 1."""
        queries = (crop_features(crops) - self.centre) / self.spread
        squared = (
            (queries**2).sum(axis=1)[:, None]
            - 2 * queries @ self.features.T
            + (self.features**2).sum(axis=1)
        )
        nearest = np.argsort(squared, axis=1, kind="stable")[:, : self.neighbours]
        # The nearer the louder, 1 / rank, so that there are practically no ties.
        voices = 1 / np.arange(1, self.neighbours + 1)
        # Without this, a class with twice the crops would win twice as often near a border.
        fairness = 1 / np.bincount(self.labels, minlength=len(self.classes))
        votes = np.zeros((len(queries), len(self.classes)))
        for rank, voice in enumerate(voices):
            label = self.labels[nearest[:, rank]]
            votes[np.arange(len(queries)), label] += voice * fairness[label]
        return votes / votes.sum(axis=1, keepdims=True)

    @property
    def chance(self) -> float:
        """How often a uniformly random class would be the named one."""
        return 1 / len(self.classes)


def crop_features(crops: Pictures) -> Float[np.ndarray, "n F"]:
    """Colour and texture statistics of crops [n, H, W, 3], comparable between crop sizes.

    Mean and standard deviation of the Lab channels, and the log of the lightness's mean gradient at
    full, half and quarter resolution. On the shipped photographs these nine tell ten classes of
    held-out crops apart without an error; histograms of directions or colours made it worse.
    """
    lab = srgb_to_lab(to_unit(crops))
    lightness = lab[..., 0] / 100
    columns = [lab.mean(axis=(1, 2)), lab.std(axis=(1, 2))]
    for _ in range(3):
        columns.append(_gradient_energy(lightness)[:, None])
        lightness = _halved(lightness)
    return np.concatenate(columns, axis=1)


def srgb_to_lab(pictures: Float[np.ndarray, "*B 3"]) -> Float[np.ndarray, "*B 3"]:
    """CIE L*a*b* (D65 white, L in 0..100) of sRGB colours in [0, 1].

    Source: IEC 61966-2-1 (sRGB primaries and transfer curve) and CIE 15 (L*a*b*).
    """
    linear = np.where(
        pictures <= 0.04045,
        pictures / 12.92,
        (np.maximum(pictures, 0.04045) + 0.055) ** 2.4 / 1.055**2.4,
    )
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    relative = linear @ (to_xyz / to_xyz.sum(axis=1, keepdims=True)).T  # white becomes (1, 1, 1)
    root = np.where(
        relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29
    )
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _gradient_energy(lightness: Float[np.ndarray, "n H W"]) -> Float[np.ndarray, " n"]:
    """Log of the mean gradient magnitude; the floor keeps flat crops finite."""
    down, right = np.gradient(lightness, axis=(1, 2))
    return np.log(np.hypot(down, right).mean(axis=(1, 2)) + 1e-3)


def _halved(values: Float[np.ndarray, "n H W"]) -> Float[np.ndarray, "n h w"]:
    """2x2 means; an odd last row or column is dropped."""
    count, height, width = values.shape
    even = values[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
