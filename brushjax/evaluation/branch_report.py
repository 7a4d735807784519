"""The report of a branch's evaluation: table, summary, per-sample scores, picture strips."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.evaluation.generate import Pictures
from brushjax.evaluation.report import (
    markdown_table,
    number,
    percent,
    write_json,
    write_jsonl,
    write_text,
)
from brushjax.evaluation.score import Scores, SteeringScores

TITLES = {
    "ring_error": "error in the hole's outer 4 pixels",
    "edge_discontinuity": "discontinuity across the edge",
    "edge_step": "step across the edge",
    "hole_psnr": "PSNR in the hole, dB",
    "hole_mse": "MSE in the hole",
    "kept_psnr": "PSNR outside the hole, dB",
    "kept_mse": "MSE outside the hole",
}


def write_report(
    out: Path, scores: Scores, pictures: Pictures, strips: int, settings: Mapping[str, Any]
) -> None:
    """Write scores.jsonl, summary.json, table.md, fill.png and steering.png to `out`."""
    write_jsonl(out / "scores.jsonl", _rows(scores, pictures))
    summary = {
        "means": scores.means,
        "reductions": scores.reductions,
        "reductions_clustered": scores.clustered,
        "steering": scores.steering,
        "seconds_per_picture": {name: pictures.seconds(name) for name in settings},
        "settings": settings,
        "environment": _environment(),
    }
    write_json(out / "summary.json", summary)
    write_text(out / "table.md", table(scores))
    _fill_strip(pictures, strips).save(out / "fill.png")
    if scores.steering:
        _steering_strip(pictures, scores.steering, strips).save(out / "steering.png")


def table(scores: Scores) -> str:
    """The means of every method, the reductions, and the steering test, as Markdown."""
    methods = list(scores.means)
    head = ["mean [95 % interval]", *methods]
    rows = [
        [title, *(_cell(scores, method, name) for method in methods)]
        for name, title in TITLES.items()
    ]
    count = next(iter(scores.means.values()))["ring_error"].count
    text = f"{count} held-out samples, raw results (not blended)\n\n{markdown_table(head, rows)}\n"
    lower = [
        [TITLES[name], percent(one), percent(scores.clustered[name])]
        for name, one in scores.reductions.items()
    ]
    head = ["reduction, zero to trained", "over samples", "over classes"]
    text += f"{markdown_table(head, lower)}\n"
    return text + (_steering_table(scores.steering) if scores.steering else "")


def _cell(scores: Scores, method: str, name: str) -> str:
    """Intervals where methods differ; a copy of the truth has no interval worth printing."""
    one = scores.means[method][name]
    digits = 2 if name.endswith("psnr") else 4
    return number(one if method in ("trained", "zero") else one.value, digits)


def _steering_table(steering: SteeringScores) -> str:
    rows = [
        ["swapped prompt: nearest to the class it names", percent(steering.named)],
        ["true caption: nearest to the true class", percent(steering.own_named)],
        ["true caption: nearest to the class named by the swap", percent(steering.own_swapped)],
        ["chance", percent(steering.chance)],
        ["the check on held-out real crops", percent(steering.accuracy)],
        ["the check on the true pictures, decoded", percent(steering.decoded_accuracy)],
        *([f"named: {name}", percent(share)] for name, share in steering.per_class.items()),
    ]
    return f"{markdown_table([f'steering, {len(steering.targets)} fills', 'share'], rows)}"


def _rows(scores: Scores, pictures: Pictures) -> list[dict[str, Any]]:
    """One row a picture, with every metric."""
    rows = []
    samples = pictures.samples("fill", "trained")
    for method, metrics in scores.metrics.items():
        for index, one in enumerate(samples):
            values = {name: float(column[index]) for name, column in metrics.items()}
            rows.append(
                {"part": "fill", "method": method, "sample": one.id, "label": one.label, **values}
            )
    if scores.steering:
        pairs = zip(scores.steering.targets, scores.steering.nearest)
        for one, (target, nearest) in zip(pictures.samples("swapped", "trained"), pairs):
            row = {"part": "swapped", "method": "trained", "sample": one.id, "label": one.label}
            rows.append({**row, "prompt": one.prompt, "target": target, "nearest": nearest})
    return rows


def _fill_strip(pictures: Pictures, count: int):
    from brushjax.inference.strip import strip

    samples = pictures.samples("fill", "trained")[:count]
    truth = np.stack([one.image for one in samples])
    mask = np.stack([one.mask for one in samples])[..., None]
    columns = {
        "image": truth * (1 - mask),
        "mask": mask,
        "trained branch": pictures.of("fill", "trained")[:count],
        "zero branch": pictures.of("fill", "zero")[:count],
        "ground truth": truth,
    }
    return strip(columns, [one.prompt for one in samples])


def _steering_strip(pictures: Pictures, steering: SteeringScores, count: int):
    from brushjax.inference.strip import strip

    samples = pictures.samples("swapped", "trained")[:count]
    truth = np.stack([one.image for one in samples])
    mask = np.stack([one.mask for one in samples])[..., None]
    columns = {
        "image": truth * (1 - mask),
        "mask": mask,
        "swapped prompt": pictures.of("swapped", "trained")[:count],
        "true caption": pictures.of("own", "trained")[:count],
        "ground truth": truth,
    }
    captions = [
        f"{one.prompt}: nearest to {nearest}" for one, nearest in zip(samples, steering.nearest)
    ]
    return strip(columns, captions)


def _environment() -> dict[str, str]:
    import flax
    import jax

    import brushjax

    device = jax.devices()[0]
    return {
        "brushjax": brushjax.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
    }
