"""The profiles "paper:<name>": what the published evaluation scripts compute, quirks and all.

Sources:
    brushedit    TencentARC/BrushNet at b9d5a9e2, examples/brushnet/evaluate_brushnet.py
    pie          cure-lab/PnPInversion at f480116d, evaluation/{evaluate,matrics_calculator}.py
    magicbrush   OSU-NLP-Group/MagicBrush at 44745b5b, evaluation/image_eval.py
    ultraedit    the scripts that stand in for Emu Edit's unpublished one: MagicBrush's functions
                 applied to input and output
    ip2p         timothybrooks/instruct-pix2pix at 2afcb7e4, metrics/clip_similarity.py
    fireedit     arXiv 2503.19839, tables 1 and 2; models unstated there, MagicBrush's taken
Differs: docs/deviations.md, paper-profiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from brushjax.metrics import pixel
from brushjax.metrics.metric import Metric, Need, given, image, of_features, text
from brushjax.metrics.similarity import clip_score, cosine, direction, structure_distance
from brushjax.metrics.ssim import ssim
from brushjax.metrics.views import (
    RESULT,
    SOURCE,
    TRUTH,
    Like,
    Resize,
    View,
    Views,
    as_jpeg,
    hole,
    keep,
    last_panel,
)

# --- BrushNet and BrushEdit

SAME = 1000.0  # what the script calls the PSNR of pictures that differ by less than 1e-10
BRUSHEDIT_SIDE = 512
BRUSHEDIT_RESULT = RESULT.then(as_jpeg, Resize(BRUSHEDIT_SIDE))
BRUSHEDIT_SOURCE = SOURCE.then(Resize(BRUSHEDIT_SIDE))


def brushedit_mse(result: np.ndarray, source: np.ndarray, keep: np.ndarray) -> float:
    """Squared differences summed over channels and divided by the number of kept pixels.

    Three times the usual mean, because the mask has one channel and the pictures three. In float32
    like the script, so that the last digits agree. NaN where nothing is kept.
    """
    kept = keep[..., None].astype(np.float32)
    a, b = (x.astype(np.float32) / np.float32(255) * kept for x in (result, source))
    with np.errstate(invalid="ignore"):
        return float(((a - b) ** 2).sum() / kept.sum())


def brushedit_psnr(mse: float) -> float:
    """The script's PSNR of its own mean squared error: 4.77 dB below the usual one."""
    if mse < 1e-10:
        return SAME
    return 20 * math.log10(1 / math.sqrt(mse)) if mse == mse else math.nan


def _brushedit_mse(views: Views) -> float:
    result, source = views.picture(BRUSHEDIT_RESULT), views.picture(BRUSHEDIT_SOURCE)
    return brushedit_mse(result, source, ~views.hole(BRUSHEDIT_SIDE))


def _brushedit_psnr(views: Views) -> float:
    return brushedit_psnr(_brushedit_mse(views))


def _brushedit() -> list[Metric]:
    kept = (BRUSHEDIT_SOURCE.then(keep), BRUSHEDIT_RESULT.then(keep))

    def metric(name: str, inputs: tuple[str, ...], function: Any, *needs: Need, **facts: Any):
        return Metric("paper:brushedit", name, inputs, function, needs, **facts)

    def seen(feature: str, preprocess: str) -> Need:
        return image(feature, preprocess, BRUSHEDIT_RESULT)

    pixels, caption = ("source", "mask"), ("caption",)
    lpips = Need("lpips_squeeze.score", "lpips", kept)
    clip = seen("clip_l14.image", "hf"), text("clip_l14.text")
    reward = Need("image_reward.score", "openai", (BRUSHEDIT_RESULT, "caption"))
    hps = seen("hps_v21.image", "hps"), text("hps_v21.text")
    aesthetic = seen("aesthetic.score", "openai")
    return [
        metric("psnr", pixels, _brushedit_psnr, sentinel=SAME, scale="dB"),
        metric("mse", pixels, _brushedit_mse, higher_is_better=False),
        metric("lpips", pixels, given, lpips, higher_is_better=False),
        # Printed in the papers, absent from the script: PIE-Bench's definition.
        metric("ssim", pixels, _cropped_ssim(*kept[::-1])),
        metric("clip_similarity", caption, of_features(clip_score), *clip),
        metric("aesthetic", (), given, aesthetic, scale="interval"),
        metric("image_reward", caption, given, reward, scale="interval"),
        metric("hps", caption, of_features(cosine), *hps),
    ]


def _cropped_ssim(result: View, source: View) -> Callable[[Views], float]:
    """SSIM without the frame, as the torchmetrics of the scripts' day had it."""
    return lambda views: float(
        ssim(views.picture(result)[None], views.picture(source)[None], crop_border=True)[0]
    )


# --- PIE-Bench

PIE_RESULT, PIE_SOURCE = RESULT.then(as_jpeg, last_panel, Like(SOURCE)), SOURCE
PIE_PARTS = {"": (), "_unedit_part": (keep,), "_edit_part": (hole,)}
"""Behind a metric's name: what is set to 0 in the pictures that it is of."""


def _pie_part(suffix: str) -> list[Metric]:
    """The metrics over all pixels of pictures of which a part was set to 0."""
    steps = PIE_PARTS[suffix]
    result, source = PIE_RESULT.then(*steps), PIE_SOURCE.then(*steps)

    def metric(name: str, function: Callable[..., float], *needs: Need, **facts: Any) -> Metric:
        inputs = ("source", "mask") if steps else ("source",)
        return Metric("paper:pie", name + suffix, inputs, defined(function), needs, **facts)

    def defined(function: Callable[..., float]) -> Callable[..., float]:
        """NaN where the part is empty, as the script writes "nan" there."""

        def value(views: Views, *features: np.ndarray) -> float:
            left = {keep: lambda: ~views.hole(), hole: views.hole}
            if not all(left[step]().any() for step in steps):
                return math.nan
            return function(views, *features)

        return value

    def mse(views: Views) -> float:
        return float(pixel.mse(views.picture(result)[None], views.picture(source)[None])[0])

    def psnr(views: Views) -> float:
        error = mse(views)
        return -10 * math.log10(error) if error else math.inf

    keys = [image("dino_b8.keys", "splice", view) for view in (source, result)]
    lpips = Need("lpips_squeeze.score", "lpips", (source, result))
    structure = of_features(structure_distance)
    return [
        metric("structure_distance", structure, *keys, higher_is_better=False),
        metric("psnr", psnr, sentinel=math.inf, scale="dB"),
        metric("lpips", given, lpips, higher_is_better=False),
        metric("mse", mse, higher_is_better=False),
        metric("ssim", _cropped_ssim(result, source)),
    ]


def _pie_clip() -> list[Metric]:
    """How well a picture and a caption go together, by CLIP."""

    def metric(name: str, function: Any, inputs: tuple[str, ...], view: View, caption: str):
        needs = image("clip_l14.image", "hf", view), text("clip_l14.text", caption)
        return Metric("paper:pie", f"clip_similarity_{name}", inputs, function, needs)

    score = of_features(clip_score)
    of_the_part = lambda v, *features: score(v, *features) if v.hole().any() else math.nan  # noqa: E731
    before, after = ("source", "source_caption"), ("source", "caption")
    part = PIE_RESULT.then(hole)
    return [
        metric("source_image", score, before, PIE_SOURCE, "source_caption"),
        metric("target_image", score, after, PIE_RESULT, "caption"),
        metric("target_image_edit_part", of_the_part, (*after, "mask"), part, "caption"),
    ]


# --- instruction editing


def _against(profile: str, other: View, caption: str) -> list[Metric]:
    """MagicBrush's five metrics of the result against another picture and a caption.

    L1 and L2 see the result at the other picture's size, the networks at its own.
    """

    def metric(name: str, field: str, function: Any, *needs: Need, **facts: Any) -> Metric:
        return Metric(profile, name, (field,), function, needs, **facts)

    def distance(function: Callable[..., np.ndarray]) -> Callable[[Views], float]:
        view = RESULT.then(Like(other))
        return lambda v: float(function(v.picture(view)[None], v.picture(other)[None])[0])

    clip = [image("clip_b32.image", "openai", view) for view in (RESULT, other)]
    dino = [image("dino_s16.class", "dino", view) for view in (RESULT, other)]
    words, near = text("clip_b32.text", caption), of_features(cosine)
    return [
        metric("l1", other.picture, distance(pixel.mae), higher_is_better=False),
        metric("l2", other.picture, distance(pixel.mse), higher_is_better=False),
        metric("clip_i", other.picture, near, *clip),
        metric("dino", other.picture, near, *dino),
        metric("clip_t", caption, near, clip[0], words),
    ]


def _direction(profile: str, network: str, preprocess: str, normalized: bool) -> Metric:
    """Whether the pictures changed as the captions did."""
    pictures = [image(f"{network}.image", preprocess, view) for view in (SOURCE, RESULT)]
    texts = [text(f"{network}.text", field) for field in ("source_caption", "caption")]
    return Metric(
        profile,
        name="clip_direction",
        inputs=("source", "source_caption", "caption"),
        function=of_features(functools.partial(direction, normalized=normalized)),
        needs=(*pictures, *texts),
        scale="interval",
    )


def _ip2p() -> list[Metric]:
    """What InstructPix2Pix's class returns."""

    def metric(name: str, inputs: tuple[str, ...], *needs: Need) -> Metric:
        return Metric("paper:ip2p", name, inputs, of_features(cosine), needs)

    source, result = (image("clip_l14.image", "ip2p", view) for view in (SOURCE, RESULT))
    before, after = (text("clip_l14.text", field) for field in ("source_caption", "caption"))
    return [
        metric("sim_0", ("source", "source_caption"), source, before),
        metric("sim_1", ("caption",), result, after),
        metric("sim_image", ("source",), source, result),
        _direction("paper:ip2p", "clip_l14", "ip2p", normalized=True),
    ]


def _fireedit_lpips() -> Metric:
    return Metric(
        "paper:fireedit",
        name="lpips",
        inputs=("source",),
        function=given,
        needs=(Need("lpips_alex.score", "lpips", (RESULT.then(Like(SOURCE)), SOURCE)),),
        higher_is_better=False,
    )


METRICS = (
    *_brushedit(),
    *(metric for suffix in PIE_PARTS for metric in _pie_part(suffix)),
    *_pie_clip(),
    *_against("paper:magicbrush", TRUTH, "local_caption"),
    *_against("paper:ultraedit", SOURCE, "caption"),
    _direction("paper:ultraedit", "clip_b32", "openai", normalized=False),
    *_ip2p(),
    *_against("paper:fireedit", SOURCE, "caption"),
    _fireedit_lpips(),
)
