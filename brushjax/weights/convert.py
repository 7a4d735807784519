"""Converts weights between layouts, and compares weights of any two layouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.files import try_places
from brushjax.progress import progress_bar
from brushjax.weights import folders
from brushjax.weights.loading import abstract_model, check_fit
from brushjax.weights.maps import MAPS
from brushjax.weights.reading import TOGETHER, WHOLES, Config, Weights, kinds_in, read
from brushjax.weights.rules import WeightsError
from brushjax.weights.store import Tensor
from brushjax.weights.writing import FOLDERS, write


def convert(
    kind: str,
    source: str | Path,
    target: str | Path,
    *,
    layout: str | None = None,
    dtype: Any = None,
    config: Config = None,
    without: Sequence[str] = (),
    dry_run: bool = False,
) -> list[Weights]:
    """Converts weights of any layout that can be read into any that can be written.

    Args:
        kind: a kind of model; "clip" for both halves of one, with its tokenizer, "pipeline" for
            all that `source` holds, or "fireedit" for all parts of FireEdit's folder.
        source: as for `load`.
        target: as for `save`.
        layout: one of writing.LAYOUTS. When None: for a .safetensors name "comfyui" for a branch
            and "ldm" for the others, otherwise "diffusers".
        dtype: of floats in the target; None keeps the source's.
        config: used instead of the source's own; not with "pipeline".
        without: kinds of a pipeline to leave out.
        dry_run: check everything, write nothing.

    Returns:
        What was converted.

    Raises:
        WeightsError: the source does not fit its config, or cannot be written so. `target` is as it
            was then.
        WriteError: nothing can be written there; said before anything is read.
    """
    pipeline = kind in WHOLES
    if pipeline and config is not None:
        raise WeightsError(
            "a pipeline has several configs; convert its parts one by one to give one."
        )
    if layout is None:
        single = "comfyui" if kind == "brushnet" else "ldm"
        layout = single if Path(target).suffix == ".safetensors" else "diffusers"
    if not dry_run:
        place = Path(target).expanduser()
        try_places([place / "config.json" if layout in FOLDERS else place])
    together = TOGETHER.get(kind, (kind,))
    parts = _parts(kind, source) if pipeline else dict.fromkeys(together, source)
    kinds = _kept(tuple(parts), without) if pipeline else together
    models = [read(one, parts[one], config) for one in kinds]
    for weights in models:
        _, structs = abstract_model(weights.kind, weights.config)
        check_fit(weights, structs)
    tables = tuple(MAPS[one] for one in (MAPS if pipeline else kinds))
    whole = folders.local_path(source, tables) if pipeline or kind in TOGETHER else None
    write(models, target, layout, dtype, pipeline=whole, dry_run=dry_run)
    return models


def _kept(kinds: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    unknown = [one for one in without if one not in kinds]
    if unknown or not set(kinds) - set(without):
        raise WeightsError(
            f"expected kinds to leave out among {', '.join(kinds)}, and not all of them, got "
            f"{', '.join(without)}."
        )
    return tuple(kind for kind in kinds if kind not in without)


def _parts(kind: str, source: str | Path) -> Mapping[str, str | Path]:
    """Returns the kinds of model that a whole consists of, and where each is."""
    if kind == "fireedit":
        from brushjax.weights import fireedit  # here: it loads and writes models

        return fireedit.places(Path(source).expanduser())
    return dict.fromkeys(kinds_in(source), source)


@dataclasses.dataclass(frozen=True)
class Compared:
    """One row of `check`.

    Attributes:
        name: checkpoint name.
        dtypes: on both sides, None where the tensor is missing.
        difference: largest absolute difference; infinite where a side is missing, misshaped or not
            a number.
        bit_equal: same dtype, shape and bits.
        problem: what is wrong other than values, or None.
    """

    name: str
    dtypes: tuple[str | None, str | None]
    difference: float
    bit_equal: bool
    problem: str | None = None


def check(
    kind: str,
    first: str | Path,
    second: str | Path,
    config: Config = None,
    without: Sequence[str] = (),
) -> Iterator[Compared]:
    """Compares two weights tensor by tensor, whatever their layouts.

    Args:
        kind: a kind of model, "pipeline" or "fireedit".
        first: as for `load`.
        second: as for `load`.
        config: of both; needed only where a side comes without one that its shapes could tell.
        without: kinds of a pipeline that are not compared.
    """
    if kind in WHOLES:
        parts, others = (
            {one: there for one, there in _parts(kind, side).items() if one not in without}
            for side in (first, second)
        )
        if set(parts) != set(others):
            raise WeightsError(
                f"{first} holds {', '.join(parts)}; {second} {', '.join(others)}. Leave out "
                f"(--without) what only one of them has."
            )
    else:
        parts, others = (dict.fromkeys(TOGETHER.get(kind, (kind,)), s) for s in (first, second))
    for one, there in parts.items():
        sides = read(one, there, config).tensors, read(one, others[one], config).tensors
        names = sorted(sides[0].keys() | sides[1].keys())
        for name in progress_bar(names, f"comparing {one}", unit="tensor", delay=2, leave=False):
            yield _compared(
                name if len(parts) == 1 else f"{one}: {name}",
                sides[0].get(name),
                sides[1].get(name),
            )


def _compared(name: str, first: Tensor | None, second: Tensor | None) -> Compared:
    dtypes = (str(first.dtype) if first else None, str(second.dtype) if second else None)
    if first is None or second is None:
        side = "second" if first is None else "first"
        return Compared(name, dtypes, float("inf"), False, f"only in the {side}")
    if first.shape != second.shape:
        return Compared(
            name,
            dtypes,
            float("inf"),
            False,
            f"shapes {list(first.shape)} and {list(second.shape)}",
        )
    a, b = first.array(), second.array()
    if a.dtype == b.dtype and np.array_equal(
        a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)
    ):
        return Compared(name, dtypes, 0.0, True)
    wide = np.float64 if np.float64 in (a.dtype, b.dtype) else np.float32
    difference = float(np.max(np.abs(a.astype(wide) - b.astype(wide)), initial=0.0))
    return Compared(name, dtypes, float("inf") if np.isnan(difference) else difference, False)
