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

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from brushjax.metrics import pixel
from brushjax.metrics.metric import Metric, Need, image, text
from brushjax.metrics.similarity import clip_score, cosine, direction, structure_distance
from brushjax.metrics.ssim import ssim
from brushjax.metrics.views import Views

# --- BrushNet and BrushEdit

SAME = 1000.0  # what the script calls the PSNR of pictures that differ by less than 1e-10
BRUSHEDIT_RESULT, BRUSHEDIT_SOURCE = "result|jpeg|512", "source|512"
BRUSHEDIT_SIDE = 512


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


def _brushedit() -> list[Metric]:
    profile, inputs = "paper:brushedit", ("source", "mask")
    kept = (f"{BRUSHEDIT_RESULT}|keep", f"{BRUSHEDIT_SOURCE}|keep")
    clip_image = image("clip_l14.image", "hf", BRUSHEDIT_RESULT)
    hps = image("hps_v21.image", "hps", BRUSHEDIT_RESULT)
    return [
        Metric(
            profile,
            "psnr",
            inputs,
            lambda v: brushedit_psnr(_brushedit_mse(v)),
            sentinel=SAME,
            scale="dB",
        ),
        Metric(profile, "mse", inputs, _brushedit_mse, higher_is_better=False),
        Metric(
            profile,
            "lpips",
            inputs,
            lambda v, score: float(score),
            (Need("lpips_squeeze.score", "lpips", kept[::-1]),),
            higher_is_better=False,
        ),
        # Printed in the papers, absent from the script: PIE-Bench's definition.
        Metric(profile, "ssim", inputs, lambda v: _cropped_ssim(v, *kept)),
        Metric(
            profile,
            "clip_similarity",
            ("caption",),
            lambda v, i, t: clip_score(i, t),
            (clip_image, text("clip_l14.text")),
        ),
        Metric(
            profile,
            "aesthetic",
            (),
            lambda v, score: float(score),
            (image("aesthetic.score", "openai", BRUSHEDIT_RESULT),),
            scale="interval",
        ),
        Metric(
            profile,
            "image_reward",
            ("caption",),
            lambda v, score: float(score),
            (Need("image_reward.score", "openai", (BRUSHEDIT_RESULT, "caption")),),
            scale="interval",
        ),
        Metric(
            profile,
            "hps",
            ("caption",),
            lambda v, i, t: cosine(i, t),
            (hps, text("hps_v21.text")),
        ),
    ]


# --- PIE-Bench

PIE_RESULT, PIE_SOURCE = "result|jpeg|end|like-source", "source"


def _cropped_ssim(views: Views, result: str, source: str) -> float:
    a, b = views.picture(result)[None], views.picture(source)[None]
    return float(ssim(a, b, crop_border=True)[0])


def _plain_mse(views: Views, result: str, source: str) -> float:
    return float(pixel.mse(views.picture(result)[None], views.picture(source)[None])[0])


def _plain_psnr(views: Views, result: str, source: str) -> float:
    mse = _plain_mse(views, result, source)
    return -10 * math.log10(mse) if mse else math.inf


def _pie_part(part: str) -> list[Metric]:
    """The metrics over all pixels of pictures whose other part was set to 0 ("" masks nothing)."""
    step, suffix = {
        "all": ("", ""),
        "keep": ("|keep", "_unedit_part"),
        "hole": ("|hole", "_edit_part"),
    }[part]
    result, source = PIE_RESULT + step, PIE_SOURCE + step
    inputs = ("source",) if part == "all" else ("source", "mask")

    def defined(function: Callable[..., float]) -> Callable[..., float]:
        """NaN where the part is empty, as the script writes "nan" there."""

        def value(views: Views, *features: np.ndarray) -> float:
            if part != "all" and not (views.hole() if part == "hole" else ~views.hole()).any():
                return math.nan
            return function(views, *features)

        return value

    def metric(name, function, needs=(), **facts) -> Metric:
        return Metric("paper:pie", name + suffix, inputs, defined(function), needs, **facts)

    keys = tuple(image("dino_b8.keys", "splice", view) for view in (source, result))
    lpips = Need("lpips_squeeze.score", "lpips", (source, result))
    lower: dict[str, Any] = {"higher_is_better": False}
    decibels: dict[str, Any] = {"sentinel": math.inf, "scale": "dB"}
    return [
        metric("structure_distance", lambda v, a, b: structure_distance(a, b), keys, **lower),
        metric("psnr", lambda v: _plain_psnr(v, result, source), **decibels),
        metric("lpips", lambda v, score: float(score), (lpips,), **lower),
        metric("mse", lambda v: _plain_mse(v, result, source), **lower),
        metric("ssim", lambda v: _cropped_ssim(v, result, source)),
    ]


def _pie() -> list[Metric]:
    before = (image("clip_l14.image", "hf", PIE_SOURCE), text("clip_l14.text", "source_caption"))
    after = (image("clip_l14.image", "hf", PIE_RESULT), text("clip_l14.text"))
    edited = (image("clip_l14.image", "hf", f"{PIE_RESULT}|hole"), text("clip_l14.text"))
    return [
        *(metric for part in ("all", "keep", "hole") for metric in _pie_part(part)),
        Metric(
            "paper:pie",
            "clip_similarity_source_image",
            ("source", "source_caption"),
            lambda v, i, t: clip_score(i, t),
            before,
        ),
        Metric(
            "paper:pie",
            "clip_similarity_target_image",
            ("source", "caption"),
            lambda v, i, t: clip_score(i, t),
            after,
        ),
        Metric(
            "paper:pie",
            "clip_similarity_target_image_edit_part",
            ("source", "caption", "mask"),
            lambda v, i, t: clip_score(i, t) if v.hole().any() else math.nan,
            edited,
        ),
    ]


# --- instruction editing


def _against(profile: str, other: str, caption: str) -> list[Metric]:
    """MagicBrush's five metrics of the result against another picture and a caption.

    L1 and L2 see the result at the other picture's size, the networks at its own.
    """

    def distance(power: int) -> Callable[[Views], float]:
        function = pixel.mae if power == 1 else pixel.mse
        return lambda views: float(
            function(views.picture(f"result|like-{other}")[None], views.picture(other)[None])[0]
        )

    clip = tuple(image("clip_b32.image", "openai", view) for view in ("result", other))
    dino = tuple(image("dino_s16.class", "dino", view) for view in ("result", other))
    return [
        Metric(profile, "l1", (other,), distance(1), higher_is_better=False),
        Metric(profile, "l2", (other,), distance(2), higher_is_better=False),
        Metric(profile, "clip_i", (other,), lambda v, a, b: cosine(a, b), clip),
        Metric(profile, "dino", (other,), lambda v, a, b: cosine(a, b), dino),
        Metric(
            profile,
            "clip_t",
            (caption,),
            lambda v, i, t: cosine(i, t),
            (clip[0], text("clip_b32.text", caption)),
        ),
    ]


def _directions(profile: str, network: str, preprocess: str, normalized: bool) -> list[Metric]:
    """Directional similarity, and what else InstructPix2Pix's class returns beside it."""
    pictures = [image(f"{network}.image", preprocess, view) for view in ("source", "result")]
    texts = [text(f"{network}.text", field) for field in ("source_caption", "caption")]
    return [
        Metric(
            profile,
            "clip_direction",
            ("source", "source_caption", "caption"),
            lambda v, *features: direction(*features, normalized=normalized),
            (*pictures, *texts),
            scale="interval",
        ),
    ]


def _ip2p() -> list[Metric]:
    profile, before, after = "paper:ip2p", "source_caption", "caption"
    source, result = (image("clip_l14.image", "ip2p", view) for view in ("source", "result"))
    value = lambda v, a, b: cosine(a, b)  # noqa: E731 - one expression, used three times
    return [
        Metric(
            profile, "sim_0", ("source", before), value, (source, text("clip_l14.text", before))
        ),
        Metric(profile, "sim_1", (after,), value, (result, text("clip_l14.text", after))),
        Metric(profile, "sim_image", ("source",), value, (source, result)),
        *_directions(profile, "clip_l14", "ip2p", normalized=True),
    ]


def _fireedit_lpips() -> Metric:
    return Metric(
        "paper:fireedit",
        "lpips",
        ("source",),
        lambda v, score: float(score),
        (Need("lpips_alex.score", "lpips", ("result|like-source", "source")),),
        higher_is_better=False,
    )


METRICS = (
    *_brushedit(),
    *_pie(),
    *_against("paper:magicbrush", "truth", "local_caption"),
    *_against("paper:ultraedit", "source", "caption"),
    *_directions("paper:ultraedit", "clip_b32", "openai", normalized=False),
    *_ip2p(),
    *_against("paper:fireedit", "source", "caption"),
    _fireedit_lpips(),
)
