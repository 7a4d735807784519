"""The generating stage: every planned picture once, in batches of one size (one compilation)."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from brushjax.evaluation.benchmarks.files import picture
from brushjax.evaluation.methods.contract import Fill, Made, Recipe, Task
from brushjax.evaluation.plan import Plan
from brushjax.evaluation.records import BenchmarkError, Unit
from brushjax.evaluation.store import NUMBER, TEXT, read_parts, write_part
from brushjax.files import as_name, write_bytes
from brushjax.identity import digest
from brushjax.progress import progress_bar

COLUMNS = {
    "key": TEXT,
    "picture": TEXT,
    "sha256": TEXT,
    "region": TEXT,
    "region_sha256": TEXT,
    "plan": TEXT,
    "fault": TEXT,
    "seconds": NUMBER,
}
NOT_FINITE = "not finite"  # the networks gave NaN or infinity: there is no picture


class Gallery:
    """The pictures of a folder and the Parquet parts that list them.

    A unit is done when its row stands in a part and its picture exists. Parts are written after
    their pictures, so that a row without its picture can't come out of a kill.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.rows: dict[str, dict[str, Any]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have added."""
        self.rows = read_parts(self.folder / "generated")

    def __contains__(self, key: str) -> bool:
        row = self.rows.get(key)
        if row is None or row["fault"]:
            return row is not None
        files = [row["picture"], row.get("region")]
        return all((self.folder / file).is_file() for file in files if file)

    def path(self, key: str) -> Path:
        """The picture's file; given pictures stay where they are."""
        return self.folder / self.rows[key]["picture"]

    def picture(self, key: str) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of a unit that is done.

        Raises:
            BenchmarkError: the file is no longer what was written.
        """
        path = self.path(key)
        return picture(_unchanged(path, self.rows[key]["sha256"]), str(path))

    def region(self, key: str) -> Bool[np.ndarray, "H W"] | None:
        """Where the method of a unit that is done decided to edit; None where it found no region.

        Raises:
            BenchmarkError: the file is no longer what was written.
        """
        row = self.rows[key]
        if not row.get("region"):
            return None
        path = self.folder / row["region"]
        return picture(_unchanged(path, row["region_sha256"]), str(path))[..., 0] > 0

    def plan(self, key: str) -> tuple[str, str] | None:
        """Category and object that the method of a unit took its instruction for; None where it
        makes no plans."""
        stored = self.rows[key].get("plan")
        return tuple(json.loads(stored)) if stored else None

    def add(self, units: Sequence[Unit], made: Made | None, seconds: float) -> None:
        """Write the pictures and regions of units, then one part with their rows; None: none.

        Args:
            seconds: time per picture.
        """
        rows = []
        for index, unit in enumerate(units):
            row = {**dict.fromkeys(COLUMNS, ""), "key": unit.key, "seconds": round(seconds, 4)}
            if made is None:
                rows.append({**row, "fault": NOT_FINITE})
                continue
            row |= self._saved("picture", "sha256", unit, made.pictures[index])
            if made.regions is not None:
                region = made.regions[index].astype(np.uint8) * 255
                row |= self._saved("region", "region_sha256", unit, region)
            if made.plans is not None:
                row["plan"] = json.dumps(made.plans[index])
            rows.append(row)
        self._write(rows)

    def link(self, units: Sequence[Unit], recipe: Recipe) -> None:
        """List pictures that somebody else made."""
        rows = []
        for unit in units:
            path = recipe.find(unit.record)
            assert path is not None  # checked for the whole benchmark
            place = {"picture": str(path.resolve()), "sha256": digest(path.read_bytes())}
            empty = dict.fromkeys(COLUMNS, "")
            rows.append({**empty, "key": unit.key, **place, "seconds": 0.0})
        self._write(rows)

    def _saved(self, what: str, hashed: str, unit: Unit, pixels: np.ndarray) -> dict[str, str]:
        """Where a picture of a unit was written, and its digest."""
        path = self.folder / f"{what}s" / _file_name(unit)
        data = encoded(pixels)
        write_bytes(path, data)
        return {what: str(path.relative_to(self.folder)), hashed: digest(data)}

    def _write(self, rows: list[dict[str, Any]]) -> None:
        write_part(self.folder / "generated", rows, COLUMNS)
        self.rows |= {row["key"]: row for row in rows}


def generate(
    plan: Plan,
    units: Sequence[Unit],
    fills: Callable[[str], Fill],
    gallery: Gallery,
    batch_size: int,
    progress: bool = True,
) -> None:
    """Generate what the gallery lacks of these units.

    Args:
        fills: from a method's label to what makes its pictures; asked only for methods that
            lack some.
        batch_size: pictures per call; a batch that is not full is padded with copies, which are
            thrown away.
    """
    missing = [unit for unit in units if unit.key not in gallery]
    before = plan.before()
    done = len(units) - len(missing)
    with progress_bar(
        what="inpainting", total=len(units), initial=done, unit="picture", shown=progress
    ) as bar:
        for label in dict.fromkeys(unit.method for unit in missing):
            mine = [unit for unit in missing if unit.method == label]
            bar.set_postfix_str(label)
            if not plan.methods[label].makes:
                gallery.link(mine, plan.methods[label])
                bar.update(len(mine))
                continue
            fill = fills(label)
            # A turn's source may be the result of the turn before.
            for turn in sorted({unit.record.turn for unit in mine}):
                now = [unit for unit in mine if unit.record.turn == turn]
                now = [unit for unit in now if _source_exists(unit, before, gallery)]
                for batch, tasks in _batches(now, before, gallery, batch_size):
                    _make(batch, tasks, fill, gallery, batch_size)
                    bar.update(len(batch))


def _source_exists(unit: Unit, before: Mapping[str, str], gallery: Gallery) -> bool:
    """Whether there is something to start from; if not, the fault is passed on."""
    key = before.get(unit.key)
    if key is None or not gallery.rows[key]["fault"]:
        return True
    gallery.add([unit], None, 0.0)
    return False


def _make(
    batch: Sequence[Unit], tasks: Sequence[Task], fill: Fill, gallery: Gallery, batch_size: int
) -> None:
    """Make the pictures of one batch; after NaN or infinity, one by one, to find whose they are."""
    try:
        made, seconds = _filled(fill, tasks, batch_size)
    except FloatingPointError:
        if len(batch) == 1:
            gallery.add(batch, None, 0.0)
            return
        for unit, task in zip(batch, tasks, strict=True):
            _make([unit], [task], fill, gallery, batch_size)
        return
    gallery.add(batch, made, seconds)


def _batches(
    units: Sequence[Unit], before: Mapping[str, str], gallery: Gallery, batch_size: int
) -> Iterator[tuple[list[Unit], list[Task]]]:
    """Batches of tasks whose sources are of one size; reading runs ahead in a thread."""
    waiting: dict[tuple[int, ...], tuple[list[Unit], list[Task]]] = {}

    def task(unit: Unit) -> Task:
        pixels, key = unit.record.read(), before.get(unit.key)
        if key is not None:
            pixels = dataclasses.replace(pixels, source=gallery.picture(key))
        return Task(unit.record, pixels, unit.record.noise_seed(unit.seed))

    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(task, unit) for unit in units[: 2 * batch_size]]
        for index, unit in enumerate(units):
            if index + 2 * batch_size < len(units):
                ahead.append(reader.submit(task, units[index + 2 * batch_size]))
            read = ahead.pop(0).result()
            batch, tasks = waiting.setdefault(read.pixels.source.shape, ([], []))
            batch.append(unit)
            tasks.append(read)
            if len(batch) == batch_size:
                yield waiting.pop(read.pixels.source.shape)
        yield from waiting.values()


def _filled(fill: Fill, tasks: Sequence[Task], batch_size: int) -> tuple[Made, float]:
    """What is made of at most `batch_size` tasks, and the seconds for each."""
    padded = [*tasks, *[tasks[-1]] * (batch_size - len(tasks))]
    start = time.perf_counter()
    made = fill(padded)
    pictures = np.asarray(made.pictures)
    seconds = (time.perf_counter() - start) / len(tasks)
    expected = (batch_size, *tasks[0].pixels.source.shape)
    if pictures.shape != expected or pictures.dtype != np.uint8:
        raise ValueError(
            f"expected uint8 pictures {expected}, got {pictures.dtype} {pictures.shape}"
        )
    plans = None if made.plans is None else made.plans[: len(tasks)]
    if made.regions is None:
        return Made(pictures[: len(tasks)], plans=plans), seconds
    regions = np.asarray(made.regions)
    if regions.shape != expected[:3] or regions.dtype != bool:
        raise ValueError(
            f"expected boolean regions {expected[:3]}, got {regions.dtype} {regions.shape}"
        )
    return Made(pictures[: len(tasks)], regions[: len(tasks)], plans), seconds


def _unchanged(path: Path, sha256: str) -> bytes:
    """The bytes of a file that are those that were written."""
    data = path.read_bytes()
    if digest(data) != sha256:
        raise BenchmarkError(
            f"{path} has changed since it was made; delete it to have it made again"
        )
    return data


def encoded(pixels: np.ndarray) -> bytes:
    """A picture as PNG."""
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def _file_name(unit: Unit) -> Path:
    """Readable, and different for every key; ids may hold what file names must not."""
    words = [unit.record.benchmark, unit.method, unit.record.id[:60]]
    clean = [as_name(word) for word in words]
    return Path(clean[0], clean[1], f"{clean[2]}-s{unit.seed}-{unit.key}.png")
