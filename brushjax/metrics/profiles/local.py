"""Scores of a local edit: CLIP on the box around the mask, and what became of the background.

Sources:
    compbench    comp-bench/CompBench at cb9165b0, eval_all.py
    reasonedit   TencentARC/SmartEdit at 858146eb, test/metrics_evaluation.py
Differs: docs/deviations.md, local-crops.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from brushjax.metrics.metric import Metric, Need, given, image, text
from brushjax.metrics.similarity import clip_score, cosine
from brushjax.metrics.ssim import ssim
from brushjax.metrics.views import (
    RESULT,
    SOURCE,
    TRUTH,
    Resize,
    View,
    Views,
    box,
    cut_box,
    cut_script_box,
    fade,
)

CLIP = "clip_l14"
BOTH = tuple(text(f"{CLIP}.text", field) for field in ("local_caption", "second_caption"))


@dataclasses.dataclass(frozen=True)
class Script:
    """How a published script scores the background.

    Attributes:
        side: all pictures are resized to this square.
        crop_border: SSIM leaves out the frame, as the torchmetrics of its day did.
    """

    profile: str
    side: int
    crop_border: bool

    def kept(self, views: Views, view: View) -> np.ndarray:
        """[1, side, side, 3] in 0..1: a picture times how black the mask is, in float."""
        black = 1 - views.strength(self.side, self.side)[..., None] / 255
        return (views.picture(view.then(Resize(self.side))) / 255 * black)[None]

    def mse(self, views: Views) -> float:
        """Over all pixels, those that the mask blackened too."""
        return float(np.mean((self.kept(views, RESULT) - self.kept(views, SOURCE)) ** 2))

    def psnr(self, views: Views) -> float:
        """Of that error; infinite for a copy."""
        error = self.mse(views)
        return -10 * math.log10(error) if error else math.inf

    def ssim(self, views: Views) -> float:
        """Over all pixels likewise."""
        pictures = self.kept(views, RESULT), self.kept(views, SOURCE)
        return float(ssim(*pictures, crop_border=self.crop_border)[0])

    def lpips(self) -> Need:
        """Of the blackened pictures, as whole pictures."""
        faded = tuple(view.then(Resize(self.side), fade) for view in (RESULT, SOURCE))
        return Need("lpips_squeeze.score", "lpips", faded)

    def cropped(self, view: View) -> Need:
        """CLIP's features of the box as the scripts cut it."""
        return image(f"{CLIP}.image", "hf", view.then(Resize(self.side), cut_script_box))

    def boxed(self, function: Callable[..., float]) -> Callable[..., float]:
        """0 where the box has no area, as the script counts it."""

        def value(views: Views, *features: np.ndarray) -> float:
            size = (self.side, self.side)
            found = box(views.strength(*size) > 0, size)
            flat = found is None or found[2] <= found[0] or found[3] <= found[1]
            return 0.0 if flat else function(*features)

        return value

    def background(self) -> list[Metric]:
        """PSNR, SSIM, MSE and LPIPS."""
        inputs, lower = ("source", "mask"), False
        return [
            Metric(self.profile, "psnr", inputs, self.psnr, sentinel=math.inf, scale="dB"),
            Metric(self.profile, "ssim", inputs, self.ssim),
            Metric(self.profile, "mse", inputs, self.mse, higher_is_better=lower),
            Metric(
                self.profile,
                "lpips",
                inputs,
                given,
                (self.lpips(),),
                higher_is_better=lower,
            ),
        ]


def _two_captions(picture: np.ndarray, *captions: np.ndarray) -> float:
    """The mean over the captions; of one edited part there are two equal ones."""
    return float(np.mean([clip_score(picture, caption) for caption in captions]))


def _compbench() -> list[Metric]:
    script = Script("paper:compbench", 512, crop_border=False)
    result, truth = script.cropped(RESULT), script.cropped(TRUTH)
    fields = ("mask", "local_caption")
    return [
        *(one for one in script.background() if one.name != "mse"),
        Metric(script.profile, "lc_t", fields, script.boxed(_two_captions), (result, *BOTH)),
        Metric(script.profile, "lc_i", ("mask", "truth"), script.boxed(cosine), (result, truth)),
    ]


def _reasonedit() -> list[Metric]:
    script = Script("paper:reasonedit", 256, crop_border=True)
    fields, needs = ("mask", "local_caption"), (script.cropped(RESULT), BOTH[0])
    return [
        *script.background(),
        Metric(script.profile, "clip_score", fields, script.boxed(clip_score), needs),
    ]


def _clean() -> list[Metric]:
    """The same questions with the box whole, at the source's own size; NaN without a box."""

    def boxed(function: Callable[..., float]) -> Callable[..., float]:
        return lambda views, *features: function(*features) if views.hole().any() else math.nan

    result, truth = (
        image(f"{CLIP}.image", "openai", view.then(cut_box)) for view in (RESULT, TRUTH)
    )
    fields = ("mask", "local_caption")
    return [
        Metric("clean", "clip_text_box", fields, boxed(_two_captions), (result, *BOTH)),
        Metric("clean", "clip_image_box", ("mask", "truth"), boxed(cosine), (result, truth)),
    ]


METRICS = (*_clean(), *_compbench(), *_reasonedit())
