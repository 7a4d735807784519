"""Distances between two folders of pictures, Fréchet and kernel, on features of networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.data.faults import Fault
from brushjax.data.sources import pictures
from brushjax.data.sources.pictures import ENDINGS
from brushjax.evaluation.networks import Networks
from brushjax.metrics.frechet import SET_METRICS, SetMetric
from brushjax.metrics.views import Views

CHUNK = 64  # pictures in memory at once


def folder_distances(
    networks: Networks,
    results: str | Path,
    references: str | Path,
    metrics: Iterable[SetMetric] | None = None,
) -> dict[str, float]:
    """Compares all pictures of one folder with all of another, {metric's id: distance}.

    Args:
        metrics: None takes those of `SET_METRICS` that the networks suffice for.

    Raises:
        ValueError: a folder without pictures.
    """
    chosen = SET_METRICS.values() if metrics is None else metrics
    chosen = [metric for metric in chosen if metric.need.network in networks.names]
    sides = [_states(networks, pictures_in(place), chosen) for place in (results, references)]
    return {metric.id: sides[0][metric.id].distance(sides[1][metric.id]) for metric in chosen}


def pictures_in(folder: str | Path) -> list[Path]:
    """The picture files below a folder, in order of name."""
    found = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in ENDINGS)
    if not found:
        raise ValueError(f"expected pictures ({', '.join(ENDINGS)}) in {folder}, found none")
    return found


def _states(
    networks: Networks, files: Sequence[Path], metrics: Sequence[SetMetric]
) -> dict[str, Any]:
    """Returns each metric's state of all pictures, by id."""
    states: dict[str, Any] = {}
    needs = list(dict.fromkeys(metric.need for metric in metrics))
    for start in range(0, len(files), CHUNK):
        samples = [Views(_read(file)) for file in files[start : start + CHUNK]]
        features = networks.features(needs, samples)
        for metric in metrics:
            state = metric.state.of(np.stack([row[metric.need] for row in features]))
            before = states.get(metric.id)
            states[metric.id] = state if before is None else before.merge(state)
    return states


def _read(file: Path) -> np.ndarray:
    try:
        return pictures.decode(file.read_bytes()).pixels
    except Fault as fault:
        raise ValueError(f"{file} is no complete picture ({fault})") from fault
