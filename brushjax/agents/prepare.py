"""The command `python -m brushjax prepare`: captioned pictures in, records for training out, as an
Apache Beam pipeline of one to three steps: instructions, donors, objects.

It runs in this process, or on the Beam runner that --runner names. What a language model or a base
made lies in files of its own, as `instruct` and `donors` keep it: a pipeline that is started again,
on any runner, makes only what is missing, and the records are the same on any number of workers.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brushjax import config as configs
from brushjax.agents import donors as painting
from brushjax.agents import instruct as asking
from brushjax.agents.donors import DonorArguments
from brushjax.agents.endpoint import MODEL, URL, Endpoint
from brushjax.agents.instruct import InstructArguments
from brushjax.data.masks import rle
from brushjax.data.sources.records import pack, writing
from brushjax.files import inside, write_json
from brushjax.lock import locked

if TYPE_CHECKING:
    from brushjax.agents.protocols import Segmenter

Item = tuple[int, dict[str, Any]]
"""A picture's number in the list, and what is known of it."""
RowStep = Callable[[dict[str, Any]], Any]
"""What is known of a picture in; more of it, or None where it drops out."""
STEPS = ("instructions", "donors", "objects")
LOCAL = "local"


@dataclasses.dataclass(frozen=True)
class PrepareArguments:
    """Makes ArrayRecord files for training from captioned pictures, step by step.

    Attributes:
        captions: file with a JSON object a line: "image", a picture's place, and "caption".
        images: folder that the pictures are named from.
        out: folder to write, which every worker reaches: *.array_record, replies/ and donors/.
        steps: what to make: instructions (and captions after the edit), donors (after those), and
            objects, the masks of what a caption names by Grounding DINO and SAM.
        shards: ArrayRecord files.
        model, url, tries: of the instructions, as `instruct` takes them.
        base, size: of the donors, as `donors` takes them.
        runner: "local" is this process; else a Beam runner, such as FlinkRunner.
        workers: threads of the local runner.
        options: of another runner, such as --options=--flink_master=HOST:8081.
    """

    captions: Path
    images: Path
    out: Path
    steps: tuple[str, ...] = ("instructions", "donors")
    shards: int = 1
    model: str = MODEL
    url: str = URL
    tries: int = 3
    base: str | None = None
    size: int = 512
    runner: str = LOCAL
    workers: int = 8
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [step for step in self.steps if step not in STEPS]
        if unknown or not self.steps or self.shards < 1 or self.workers < 1:
            raise ValueError(
                f"expected steps of {', '.join(STEPS)} and at least one shard and worker; got "
                f"{self.steps}, {self.shards} and {self.workers}"
            )
        if "donors" in self.steps and "instructions" not in self.steps:
            raise ValueError("expected the step instructions before donors, which paints by them")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax prepare ...`, with the process's own arguments by default."""
    try:
        options = configs.parsed(PrepareArguments, arguments, "brushjax prepare")
        with locked(options.out):
            counts = prepare(options, steps_of(options))
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{options.out}: {sum(counts)} records in {len(counts)} files")


# --- the steps


@dataclasses.dataclass(frozen=True)
class Instructions:
    """Adds what `instruct` does: "instruction", "target_caption" and the others."""

    options: InstructArguments

    def __call__(self, row: dict[str, Any]) -> dict[str, Any] | None:
        place = asking.place_of(self.options, row)
        if not place.is_file():
            endpoint = _endpoint(self.options.model, self.options.url)
            write_json(place, asking.answered(row, self.options, endpoint))
        reply = json.loads(place.read_text(encoding="utf-8"))
        if "rejected" in reply:
            return None
        return row | asking.edit_of(row, reply, self.options.model)


@dataclasses.dataclass(frozen=True)
class Donors:
    """Adds "donor", the place of a painting of the caption after the edit."""

    options: DonorArguments
    generator: Callable[[str | None], Any] = painting.donor_generator

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        name = f"donors/{painting.donor_name(row, self.options)}.png"
        place = self.options.edits / name
        if not place.is_file():
            generator = _loaded(self.generator, self.options.base)
            painting.paint_donors([row], [place], self.options, generator)
        return row | {"donor": name}


@dataclasses.dataclass(frozen=True)
class Objects:
    """Adds "segmentation", the masks of what the caption names, with "height" and "width"."""

    images: Path
    segmenter: Callable[[], Segmenter]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from brushjax.inference.images import read_image

        image = read_image(inside(self.images, row["image"]))
        found = _loaded(self.segmenter)(image, row["caption"])
        runs = [rle.encode(mask > 0, first=1, order="column") for mask in found.masks]
        boxes = [[float(side) for side in box] for box in found.boxes]
        height, width = image.shape[:2]
        segmentation = {"mask": runs, "boxes": boxes, "scores": list(map(float, found.scores))}
        return row | {"segmentation": segmentation, "height": height, "width": width}


def steps_of(options: PrepareArguments) -> list[RowStep]:
    """The steps that the arguments name, in their order."""
    ask = InstructArguments(
        options.captions, options.out, options.model, options.url, tries=options.tries
    )
    paint = DonorArguments(options.out, options.images, options.base, options.size)
    made = {
        "instructions": Instructions(ask),
        "donors": Donors(paint),
        "objects": Objects(options.images, _grounded),
    }
    return [made[name] for name in STEPS if name in options.steps]


def _grounded() -> Segmenter:
    from brushjax.agents.segmenters import segmenter

    return segmenter("grounded-sam")


@functools.cache
def _loaded(make: Callable[..., Any], *arguments: Any) -> Any:
    """What a worker loads once."""
    return make(*arguments)


@functools.cache
def _endpoint(model: str, url: str) -> Endpoint:
    return Endpoint(model, url)


# --- the pipeline


@dataclasses.dataclass(frozen=True)
class Step:
    """One step over numbered pictures."""

    run: RowStep

    def __call__(self, item: Item) -> Iterator[Item]:
        number, row = item
        made = self.run(row)
        if made is not None:
            yield number, made


@dataclasses.dataclass(frozen=True)
class Shards:
    """Writes the records of each shard, in the list's order."""

    options: PrepareArguments

    def of(self, item: Item) -> tuple[int, Item]:
        """The shard of a picture: neighbours lie in different ones."""
        return item[0] % self.options.shards, item

    def write(self, shard: tuple[int, Any]) -> int:
        """Writes one file; returns its number of records."""
        number, items = shard
        rows = [row for _, row in sorted(items, key=lambda item: item[0])]
        name = f"records-{number:05d}-of-{self.options.shards:05d}.array_record"
        with writing(self.options.out / name) as add:
            for row in rows:
                add(pack(self._members(row)))
        return len(rows)

    def _members(self, row: dict[str, Any]) -> dict[str, bytes]:
        members = {
            "image": inside(self.options.images, row["image"]).read_bytes(),
            "caption": row["caption"].encode(),
        }
        if "donor" in row:
            members["donor"] = inside(self.options.out, row["donor"]).read_bytes()
        for name in ("segmentation", "height", "width"):
            if name in row:
                members[name] = json.dumps(row[name]).encode()
        words = {name: value for name, value in row.items() if isinstance(value, str)}
        return members | {"edit": json.dumps(words, ensure_ascii=False, sort_keys=True).encode()}


def prepare(
    options: PrepareArguments, steps: Sequence[Callable[[dict[str, Any]], Any]]
) -> list[int]:
    """Runs the pipeline; returns the number of records of each file that has any.

    Raises:
        ImportError: Beam is not installed.
        ValueError: a line of the captions that can't be read.
        EndpointError, OSError: what a step met; what was made is kept.
    """
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"expected Apache Beam for this; {error}: pip install -e '.[prepare]'"
        ) from error
    rows = list(enumerate(asking.captioned(options.captions)))
    shards = Shards(options)
    for old in options.out.glob("records-*.array_record"):
        old.unlink()  # of another number of shards, say: files that are there are this run's
    with beam.Pipeline(_runner(options), PipelineOptions(list(_flags(options)))) as pipeline:
        items = pipeline | "pictures" >> beam.Create(rows) | beam.Reshuffle()
        for step in steps:
            items = items | type(step).__name__.lower() >> beam.FlatMap(Step(step))
        _ = (
            items
            | "shard" >> beam.Map(shards.of)
            | beam.GroupByKey()
            | "write" >> beam.Map(shards.write)
        )
    return _counts(options.out)


def _counts(folder: Path) -> list[int]:
    from brushjax.data.sources.files import find
    from brushjax.data.sources.records import RecordCollection

    return [len(RecordCollection(find(str(f)))) for f in sorted(folder.glob("*.array_record"))]


def _runner(options: PrepareArguments) -> Any:
    if options.runner != LOCAL:
        return options.runner
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner  # pyright: ignore[reportMissingImports]

    return FnApiRunner()  # not DirectRunner, which may fetch a runner written in Go


def _flags(options: PrepareArguments) -> Iterator[str]:
    if options.runner == LOCAL:
        yield f"--direct_num_workers={options.workers}"
        yield "--direct_running_mode=multi_threading"
    yield from options.options
