"""What metrics are called in every table and chart, and what they mean."""

from __future__ import annotations

from brushjax.metrics.metric import Metric

ARROWS = {True: " ↑", False: " ↓", None: ""}
UNITS = {"dB": ", in dB", "share": ", as a share of the pictures", "ratio": "", "interval": ""}

MEASURES = {
    "psnr": "peak signal-to-noise ratio",
    "mse": "mean squared error (colours 0 to 1)",
    "mae": "mean absolute error (colours 0 to 1)",
    "ssim": "structural similarity (at most 1)",
    "lpips": "LPIPS, a learned perceptual distance,",
    "structure_distance": "distance of self-similarities in DINO's features",
}
PLACES = {
    "": "to the source",
    "_all": "to the source, over the whole picture",
    "_keep": "to the source, outside the hole",
    "_hole": "to the truth, in the hole",
    "_truth": "to the truth, over the whole picture",
    "_unedit_part": "to the source, the edited part set to black",
    "_edit_part": "to the source, all but the edited part set to black",
}
MEANINGS = {
    **{f"{m}{p}": f"{what} {where}" for m, what in MEASURES.items() for p, where in PLACES.items()},
    "keep_max_change": "largest change of a colour outside the hole, from 0 to 1",
    "ring_error": "mean absolute error to the truth in the hole's outer 4 pixels",
    "edge_discontinuity": "discontinuity across the hole's edge: its step less those beside it",
    "edge_step": "step across the hole's edge; natural texture has one too",
    "nearest_named": "fills that look most like the class that the swapped prompt names",
    "nearest_true": "fills that look most like the true class",
    "clip_text": "CLIP: how well the picture fits the prompt, times 100",
    "clip_text_edited_part": "CLIP: how well the edited part fits the prompt, times 100",
    "clip_image": "CLIP: likeness to the source",
    "clip_image_truth": "CLIP: likeness to the truth",
    "clip_direction": "CLIP: whether the picture moved as the captions say",
    "clip_similarity": "CLIP: how well the picture fits the caption, times 100",
    "clip_similarity_source_image": "CLIP: how well the source fits its caption, times 100",
    "clip_similarity_target_image": "CLIP: how well the result fits its caption, times 100",
    "clip_similarity_target_image_edit_part": "CLIP: the same of the edited part",
    "clip_i": "CLIP: likeness to the picture that the benchmark compares with",
    "clip_t": "CLIP: likeness to the caption",
    "clip_text_box": "CLIP: how well the mask's box fits the local caption, times 100",
    "clip_image_box": "CLIP: likeness of the mask's box to the truth's",
    "lc_t": "CLIP: how well the box fits the local caption, times 100, cut as the script cuts it",
    "lc_i": "CLIP: likeness of the box to the truth's, cut as the script cuts it",
    "clip_score": "CLIP: how well the box fits the caption, times 100, cut as the script cuts it",
    "dino": "DINO: likeness to the picture that is compared with",
    "dino_truth": "DINO: likeness to the truth",
    "l1": "mean absolute error to the picture that the benchmark compares with",
    "l2": "mean squared error to the picture that the benchmark compares with",
    "sim_0": "CLIP: source and its caption",
    "sim_1": "CLIP: result and its caption",
    "sim_image": "CLIP: source and result",
    "image_reward": "ImageReward: what people prefer, by a network; mean 0 on its training set",
    "hps": "HPS v2.1: what people prefer, by a network",
    "aesthetic": "LAION's aesthetic score, 1 to 10",
    "judge_unanswered": "questions that the judge has not answered",
    "judge_unparsed": "the judge's answers that can't be read",
    "region_iou": "overlap of the region that the method chose with the mask (IoU)",
    "region_precision": "share of the chosen region that is in the mask",
    "region_recall": "share of the mask that is in the chosen region",
    "region_area": "share of the picture that the method chose",
    "mask_area": "share of the picture that the mask covers",
}


def title(metric: Metric) -> str:
    """A metric's name with an arrow to its better end; a paper's with its profile."""
    profile = "" if metric.profile == "clean" else f" ({metric.profile})"
    return f"{metric.name}{profile}{ARROWS[metric.higher_is_better]}"


def meaning(metric: Metric) -> str:
    """What a metric measures, in one line; empty where none is written."""
    networks = ", ".join(dict.fromkeys(need.network for need in metric.needs))
    text = MEANINGS.get(metric.name, "")
    return f"{text}{UNITS[metric.scale]}{f' [{networks}]' if networks else ''}"
