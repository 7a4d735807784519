"""CompBench: complex edits with masks and true results, scored without a judge."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from brushjax.evaluation.benchmarks.files import (
    chosen,
    each,
    file_bytes,
    grey,
    picture,
    read_json,
    read_lines,
    white,
)
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.files import inside
from brushjax.identity import digest

HOW = "docs/evaluating.md says where CompBench is to be had and how its folder looks"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the files and fields of a task are.

    Attributes:
        table: its list of edits.
        folder: of its pictures.
        results: of a model's pictures, behind the model's name.
        name, instruction, captions: fields of the list.
        pictures: names of the folders of sources, masks and truths.
    """

    table: str
    folder: str
    results: str
    name: str = "image_name"
    instruction: str = "instruction"
    captions: tuple[str, ...] = ("caption",)
    pictures: tuple[str, str, str] = ("ori_images", "masks", "edited_images")


def _local(kind: str) -> Layout:
    pictures = ("input_image", "mask", "edited_image")
    return Layout(f"{kind}/metadata.json", kind, f"local/{kind}", "image_path", pictures=pictures)


def _multi(table: str, folder: str, instruction: str, *captions: str) -> Layout:
    place = f"multi_turn_editing/{folder}"
    table = f"multi_turn_editing/{table}.jsonl"
    return Layout(table, place, f"multi/{folder}", instruction=instruction, captions=captions)


TASKS = {
    **{kind: _local(kind) for kind in ("add", "remove", "replace")},
    "implicit": Layout("implicit_reasoning/implicit_info.jsonl", "implicit_reasoning", "implicit"),
    **{
        f"turn{turn}_{kind}": _multi(
            f"multi_turn_{kind}",
            f"turn{turn}_{kind}",
            f"turn{turn}_{kind}_ins",
            f"turn{turn}_caption",
        )
        for kind in ("remove", "add")
        for turn in (1, 2)
    },
    **{
        f"multi_object_{kind}": _multi(
            f"multi_object_{kind}",
            f"multi_object_{kind}",
            f"{kind}_ins",
            "caption1",
            "caption2",
        )
        for kind in ("remove", "add")
    },
}


@dataclasses.dataclass(frozen=True)
class CompBench(Benchmark):
    """CompBench's tasks that its script scores: local, implicit, of two turns, of two objects.

    Attributes:
        folder: `tasks/` as published.
        tasks: keys of `TASKS`; empty is all.
        model: what the script calls a model whose results are looked for: it stands before the
            names of its folders, MODEL_local/add/NAME.png.
        limit: how many records of each task at most; 0 is all.
        skip: ids to leave out.

    Source: comp-bench/CompBench at cb9165b0, eval_all.py. The two turns are scored apart, each
        against its published source. Of two objects the mask is MASK_t1.png where there is no whole
        one, so that the second object counts as background.
    """

    folder: str = "data/CompBench/tasks"
    tasks: tuple[str, ...] = ()
    model: str = ""
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = ("paper:compbench",)
    choosing = ("folder", "model", "limit", "skip")

    def __post_init__(self) -> None:
        if unknown := set(self.tasks) - set(TASKS):
            raise BenchmarkError(f"expected tasks of {', '.join(TASKS)}, got {sorted(unknown)}")

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "compbench"

    def records(self) -> list[Record]:
        """The records, task by task."""
        entries = [entry for task in self.tasks or TASKS for entry in self._entries(task)]
        entries = chosen(entries, _id, self.skip, 0)
        kept = [entry for entry in entries if not self.limit or entry[2] < self.limit]
        return check_ids(each(kept, self._record, _id))

    def _entries(self, task: str) -> list[tuple[str, dict[str, Any], int]]:
        path = Path(self.folder) / TASKS[task].table
        rows = read_json(path, list, HOW) if path.suffix == ".json" else read_lines(path, HOW)
        return [(task, row, number) for number, row in enumerate(rows)]

    def _record(self, entry: tuple[str, dict[str, Any], int]) -> Record:
        task, row, _ = entry
        kind = TASKS[task]
        name = str(row[kind.name])
        folder = Path(self.folder) / kind.folder
        source, mask, truth = (inside(folder / part, name) for part in kind.pictures)
        if len(kind.captions) > 1 and not mask.exists():
            mask = mask.with_name(f"{mask.stem}_t1.png")
        content = [file_bytes(path) for path in (source, mask, truth)]
        grey(content[1], str(mask))  # an error now, not in an hour
        captions = [str(row.get(field, "")) for field in kind.captions]
        captions = [caption for caption in captions if caption]

        def read() -> Pixels:
            pixels = picture(source.read_bytes(), str(source))
            data = mask.read_bytes()
            hole = white(data, str(mask), pixels.shape[:2])
            right = picture(truth.read_bytes(), str(truth))
            return Pixels(pixels, hole, right, grey(data, str(mask)))

        return Record(
            self.name,
            _id(entry),
            ", ".join(captions) or row[kind.instruction],
            read,
            digest(*content),
            session=f"{kind.table}/{name}",
            group=task,
            instruction=row[kind.instruction],
            local_caption=captions[0] if captions else "",
            second_caption=captions[1] if len(captions) > 1 else "",
            results=self._results(kind, Path(name).with_suffix("")),
        )

    def _results(self, kind: Layout, stem: Path) -> tuple[str, ...]:
        """Under the script's names; two turns of additions are looked for in a folder of their own
        first."""
        first, _, rest = kind.results.partition("/")
        start = f"{self.model}_{first}" if self.model else first
        folders = [f"{start}/{rest}" if rest else start]
        if rest.startswith("turn") and rest.endswith("_add"):
            folders.insert(0, f"{start}/multi_turn_add_new/{rest}")
        return tuple(f"{folder}/{stem}" for folder in folders)


def _id(entry: tuple[str, dict[str, Any], int]) -> str:
    task, row, number = entry
    return f"{task}/{Path(str(row.get(TASKS[task].name, number))).with_suffix('')}"
