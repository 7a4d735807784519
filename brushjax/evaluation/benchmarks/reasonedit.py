"""ReasonEdit: SmartEdit's understanding and reasoning scenes, with masks, without a judge."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from brushjax.evaluation.benchmarks.files import chosen, each, file_bytes, grey, picture, white
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.identity import digest

# Scene -> names of its folder, the first that is there; and the folder of a model's results.
SCENES = {
    "left-right": (("1-Left-Right",), "LeftRight_metrics_1"),
    "relative-size": (("2-Relative-Size",), "RelativeSize_metrics_2"),
    "mirror": (("3-Mirror",), "Mirror_metrics_3"),
    "color": (("4-Color",), "Color_metrics_4"),
    "multiple-objects": (("5-Multiple-Objects",), "MultipleObjects_metrics_5"),
    "reasoning": (("6-Reasoning", "Reasoning-231115"), "Reasoning_metrics_1"),
}
MARK = "CLIP: "  # between a line's instruction and its caption


@dataclasses.dataclass(frozen=True)
class ReasonEdit(Benchmark):
    """ReasonEdit's six kinds of scenes.

    Attributes:
        folder: holds 1-Left-Right/ ... 6-Reasoning/; the last is also found as Reasoning-231115,
            which SmartEdit's scorer looks for while its inference reads 6-Reasoning.
        scenes: keys of `SCENES`; empty is all.
        limit: how many records of each kind at most; 0 is all.
        skip: ids to leave out.

    Source: TencentARC/SmartEdit at 858146eb, test/DS_SmartEdit_test.py and
        test/metrics_evaluation.py. Line n of a folder's only text file, "instruction CLIP: what the
        edited part shows", belongs to the n-th picture by name; masks are found by their picture's
        name.
    """

    folder: str = "data/ReasonEdit"
    scenes: tuple[str, ...] = ()
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = ("paper:reasonedit",)

    def __post_init__(self) -> None:
        if unknown := set(self.scenes) - set(SCENES):
            raise BenchmarkError(f"expected scenes of {', '.join(SCENES)}, got {sorted(unknown)}")

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "reasonedit"

    def records(self) -> list[Record]:
        """The records, scene by scene, by name."""
        entries = [entry for scene in self.scenes or SCENES for entry in self._scene(scene)]
        entries = chosen(entries, Entry.id, self.skip, 0)
        kept = [entry for entry in entries if not self.limit or entry.number <= self.limit]
        return check_ids(each(kept, self._record, Entry.id))

    def _scene(self, scene: str) -> list[Entry]:
        names = SCENES[scene][0]
        folder = next((p for name in names if (p := Path(self.folder) / name).is_dir()), None)
        if folder is None:
            raise BenchmarkError(
                f"expected a folder {' or '.join(names)} in {self.folder};"
                " docs/evaluating.md says where ReasonEdit is to be had"
            )
        texts = sorted(folder.glob("*.txt"))
        if len(texts) != 1:
            raise BenchmarkError(f"expected one text file in {folder}, got {len(texts)}")
        lines = texts[0].read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if line.strip()]
        pictures = sorted(folder.glob("*.png"))
        if len(lines) != len(pictures) or not lines:
            raise BenchmarkError(
                f"expected a line in {texts[0]} for each picture beside it, got {len(lines)} lines"
                f" and {len(pictures)} pictures"
            )
        return [Entry(scene, n, *both) for n, both in enumerate(zip(pictures, lines), 1)]

    def _record(self, entry: Entry) -> Record:
        instruction, mark, caption = entry.line.partition(MARK)
        if not mark or not instruction.strip() or not caption.strip():
            raise BenchmarkError(f"expected 'instruction {MARK}caption', got {entry.line!r}")
        source = entry.picture
        mask = source.with_name(f"{source.stem}_mask.jpg")
        content = [file_bytes(path) for path in (source, mask)]
        if not (grey(content[1], str(mask)) >= 128).any():
            raise BenchmarkError(f"{mask} marks nothing, so that there is no part to crop")

        def read() -> Pixels:
            pixels, data = picture(source.read_bytes(), str(source)), mask.read_bytes()
            hole = white(data, str(mask), pixels.shape[:2])
            return Pixels(pixels, hole, grey=grey(data, str(mask)))

        results = SCENES[entry.scene][1]
        return Record(
            self.name,
            entry.id(),
            caption.strip(),
            read,
            digest(*content),
            group=entry.scene,
            instruction=instruction.strip(),
            local_caption=caption.strip(),
            results=(f"{results}/{entry.number:04d}_T7.5_I1.5", f"{results}/{source.stem}"),
        )


@dataclasses.dataclass(frozen=True)
class Entry:
    """A picture with its line; `number` counts from 1 by name, as the scripts number results."""

    scene: str
    number: int
    picture: Path
    line: str

    def id(self) -> str:
        """Scene and picture."""
        return f"{self.scene}/{self.picture.stem}"
