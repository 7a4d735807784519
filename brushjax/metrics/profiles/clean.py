"""The profile "clean": what the definitions say, on lossless pictures at the source's size.

Networks and their preprocessing are those of their authors: CLIP L/14, DINO S/16 for similarity,
DINO B/8 for structure, LPIPS with AlexNet (its authors' recommendation for measuring).
"""

from __future__ import annotations

import numpy as np

from brushjax.metrics import pixel, region
from brushjax.metrics.metric import Metric, Need, given, image, of_features, text
from brushjax.metrics.similarity import clip_score, cosine, direction, structure_distance
from brushjax.metrics.ssim import ssim
from brushjax.metrics.views import RESULT, SOURCE, TRUTH, View, Views, hole

PROFILE = "clean"
PARTS = ("all", "keep", "hole")
LPIPS_NET = "lpips_alex"


def _part(views: Views, part: str) -> np.ndarray | None:
    """The region [1, H, W] that a part's name means; None is the whole picture."""
    if part == "all":
        return None
    inside = views.hole()
    return (inside if part == "hole" else ~inside)[None]


def _pixel(function, other: View, part: str):
    """A metric function of the result against another picture in one part."""

    def value(views: Views) -> float:
        result, reference = views.picture(RESULT), views.picture(other)
        if result.shape != reference.shape:
            raise ValueError(
                f"expected a result of its {other}'s size {reference.shape[:2]}, got "
                f"{result.shape[:2]}; score it with a profile that resizes, or resize it yourself"
            )
        return float(function(result[None], reference[None], _part(views, part))[0])

    return value


def _pixel_metrics() -> list[Metric]:
    metrics = []
    kinds = (
        ("psnr", pixel.psnr, True, pixel.PSNR_CAP),
        ("mse", pixel.mse, False, None),
        ("mae", pixel.mae, False, None),
        ("ssim", ssim, True, None),
    )
    for part in PARTS:
        fields = ("source",) if part == "all" else ("source", "mask")
        # In the hole only a truth is a target; the source is what was to be replaced.
        other = TRUTH if part == "hole" else SOURCE
        fields = ("truth", "mask") if part == "hole" else fields
        for name, function, higher, sentinel in kinds:
            metrics.append(
                Metric(
                    PROFILE,
                    f"{name}_{part}",
                    fields,
                    _pixel(function, other, part),
                    higher_is_better=higher,
                    sentinel=sentinel,
                    scale="dB" if name == "psnr" else "ratio",
                )
            )
    metrics += [
        Metric(PROFILE, f"{name}_truth", ("truth",), _to_truth(function), higher_is_better=False)
        for name, function in (("mae", pixel.mae), ("mse", pixel.mse))
    ]
    metrics += [
        Metric(
            PROFILE,
            "keep_max_change",
            ("source", "mask"),
            _keep_max_change,
            higher_is_better=False,
        ),
    ]
    return metrics


def _to_truth(function):
    """A metric function of the whole result against the truth; NaN where the truth is the source,
    for which the same number has a name already: `mae_all`.
    """
    against = _pixel(function, TRUTH, "all")
    return lambda views: np.nan if views.truth is views.source else against(views)


def _keep_max_change(views: Views) -> float:
    """The largest change of a kept value, in the [0, 1] range; NaN where nothing is kept."""
    result, source = views.picture(RESULT), views.picture(SOURCE)
    keep = ~views.hole()
    change = np.abs(result.astype(np.int16) - source.astype(np.int16))[keep]
    return float(change.max() / 255) if change.size else np.nan


def _lpips(part: str) -> Metric:
    """LPIPS averaged over a part: the mean of its map over the part's pixels."""
    fields = ("source",) if part == "all" else ("source", "mask")
    need = Need(f"{LPIPS_NET}.map", "lpips", (RESULT, SOURCE))

    def value(views: Views, distances: np.ndarray) -> float:
        chosen = _part(views, part)
        if chosen is None:
            return float(distances.mean(dtype=np.float64))
        if chosen[0].shape != distances.shape:
            raise ValueError(f"expected a mask of size {distances.shape}, got {chosen[0].shape}")
        inside = distances[chosen[0]]
        return float(inside.mean(dtype=np.float64)) if inside.size else np.nan

    return Metric(PROFILE, f"lpips_{part}", fields, value, (need,), higher_is_better=False)


def _clip(size: str) -> list[Metric]:
    feature, words = f"clip_{size}.image", f"clip_{size}.text"
    result, source, truth = (image(feature, "openai", v) for v in (RESULT, SOURCE, TRUTH))
    part = image(feature, "openai", RESULT.then(hole))
    caption, before = text(words), text(words, "source_caption")
    return [
        Metric(PROFILE, "clip_text", ("caption",), of_features(clip_score), (result, caption)),
        Metric(
            PROFILE,
            "clip_text_edited_part",
            ("caption", "mask"),
            lambda v, i, t: clip_score(i, t) if v.hole().any() else np.nan,
            (part, caption),
        ),
        Metric(PROFILE, "clip_image", ("source",), of_features(cosine), (result, source)),
        Metric(PROFILE, "clip_image_truth", ("truth",), of_features(cosine), (result, truth)),
        Metric(
            PROFILE,
            "clip_direction",
            ("source", "caption", "source_caption"),
            lambda v, *features: direction(*features, normalized=True),
            (source, result, before, caption),
            scale="interval",
        ),
    ]


def _dino() -> list[Metric]:
    result, source, truth = (
        image("dino_s16.class", "dino", view) for view in (RESULT, SOURCE, TRUTH)
    )
    keys = tuple(image("dino_b8.keys", "splice-unit", view) for view in (SOURCE, RESULT))
    return [
        Metric(PROFILE, "dino", ("source",), of_features(cosine), (result, source)),
        Metric(PROFILE, "dino_truth", ("truth",), of_features(cosine), (result, truth)),
        Metric(
            PROFILE,
            "structure_distance",
            ("source",),
            of_features(structure_distance),
            keys,
            higher_is_better=False,
        ),
    ]


def _preferences() -> list[Metric]:
    return [
        Metric(
            PROFILE,
            "image_reward",
            ("caption",),
            given,
            (Need("image_reward.score", "openai", (RESULT, "caption")),),
            scale="interval",
        ),
        Metric(
            PROFILE,
            "hps",
            ("caption",),
            of_features(cosine),
            (image("hps_v21.image", "hps-antialias", RESULT), text("hps_v21.text")),
        ),
        Metric(
            PROFILE,
            "aesthetic",
            (),
            given,
            (image("aesthetic.score", "openai", RESULT),),
            scale="interval",
        ),
    ]


def _region(name: str, function, higher: bool | None, fields=("region", "mask")) -> Metric:
    def value(views: Views) -> float:
        return function(*(np.asarray(getattr(views, field)) > 0 for field in fields))

    return Metric(PROFILE, name, fields, value, higher_is_better=higher)


METRICS = (
    *_pixel_metrics(),
    *(_lpips(part) for part in ("all", "keep")),
    *_clip("l14"),
    *_dino(),
    *_preferences(),
    _region("region_iou", region.iou, True),
    _region("region_precision", region.precision, True),
    _region("region_recall", region.recall, True),
    _region("region_area", region.area, None, ("region",)),
    _region("mask_area", region.area, None, ("mask",)),
)
