"""What a metric is: a name, what it needs, and a pure function of one sample.

Nothing here runs a network. A metric says which features it needs (`Need`); whoever scores computes
them, batched over samples, and hands them in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from brushjax.metrics.state import Mean
from brushjax.metrics.views import View, Views


@dataclasses.dataclass(frozen=True)
class Need:
    """A feature of one sample that a network gives.

    Attributes:
        feature: network and output, such as "clip_l14.image" or "dino_b8.keys".
        preprocess: how pictures are brought to the network's input, a key of
            `preprocess.PREPROCESS`; for texts "tokens".
        inputs: views of pictures and names of texts ("caption"), in the order in which the network
            takes them.
    """

    feature: str
    preprocess: str
    inputs: tuple[View | str, ...]

    @property
    def network(self) -> str:
        """The network's name, such as "clip_l14"."""
        return self.feature.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.feature}/{self.preprocess}({', '.join(map(str, self.inputs))})"


Features = Mapping[Need, np.ndarray]
"""Of one sample: a vector [D], a matrix [N, D], a map [H, W] or a single number [], by need."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of a sample.

    Attributes:
        profile: "clean" (what the definition says) or "paper:<name>" (what that paper's published
            script computes).
        name: what it measures, with the region in it where there is one: "psnr_keep".
        inputs: fields of `Views` that a sample must have; other samples have no such number.
        needs: features that it is computed from.
        higher_is_better: None where neither end is better.
        function: from the sample and the features, in the order of `needs`, to the value; NaN is
            "not defined for this sample" and is left out of means.
        sentinel: the value that stands for "no difference at all", such as a PSNR's cap. Reports
            count it, because a few of them decide a mean.
        scale: what differences mean. "ratio": zero is nothing, so that half is half; "share": the
            mean of yes and no; "dB": a logarithm, of which no percentage means anything;
            "interval": zero is an arbitrary point, likewise.
        version: raised whenever the same pictures would give another number.
        judge: whose answers it is made of, and the digest of what was asked.
        settings: what else the number depends on, such as a benchmark's own settings.
    """

    profile: str
    name: str
    inputs: tuple[str, ...]
    function: Callable[..., float]
    needs: tuple[Need, ...] = ()
    _: dataclasses.KW_ONLY
    higher_is_better: bool | None = True
    sentinel: float | None = None
    scale: Literal["ratio", "share", "dB", "interval"] = "ratio"
    version: int = 1
    judge: str = ""
    settings: str = ""

    @property
    def id(self) -> str:
        """Names the number for good: profile, name, networks with their preprocessing, version."""
        models = dict.fromkeys(
            f"{need.network}/{need.preprocess}" for need in self.needs if need.preprocess != TOKENS
        )
        made_by = [*models, *([self.judge] if self.judge else [])]
        networks = f"[{','.join(made_by)}]" if made_by else ""
        return f"{self.profile}/{self.name}{networks}@{self.version}"

    @property
    def has_percentages(self) -> bool:
        """Whether a percentage of its value means anything."""
        return self.scale in ("ratio", "share")

    def __call__(self, sample: Views, features: Features) -> dict[str, float]:
        """Returns {id: value} of one sample.

        Raises:
            ValueError: the sample lacks a field, or sizes do not fit together.
            KeyError: a needed feature is missing.
        """
        for need in self.needs:
            if need not in features:
                raise KeyError(f"{self.id} needs the feature {need}, which was not computed")
        value = self.function(sample, *(features[need] for need in self.needs))
        return {self.id: float(value)}

    def applies(self, sample: Views) -> bool:
        """Whether the sample has the fields that the number is about."""
        return sample.has(self.inputs)

    def state(self, values) -> Mean:
        """The mergeable state of many samples' values."""
        return Mean.of(values)


TOKENS = "tokens"


def image(feature: str, preprocess: str, view: View) -> Need:
    """The need of a picture's feature."""
    return Need(feature, preprocess, (view,))


def text(feature: str, field: str = "caption") -> Need:
    """The need of a text's feature."""
    return Need(feature, TOKENS, (field,))


def of_features(function: Callable[..., Any]) -> Callable[..., float]:
    """A metric's function that looks at the features alone."""
    return lambda views, *features: float(function(*features))


given = of_features(float)
"""A metric's function for networks that give the number themselves."""


def fields(need: View | str) -> frozenset[str]:
    """The fields of `Views` that an input of a network is made of."""
    return frozenset({need}) if isinstance(need, str) else need.fields
