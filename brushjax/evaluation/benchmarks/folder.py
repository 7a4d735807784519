"""Any folder of pictures, masks and prompts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from brushjax.evaluation.benchmarks.files import (
    chosen,
    each,
    file_bytes,
    picture,
    pictures_in,
    read_json,
    white,
    with_ending,
)
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.identity import digest


@dataclasses.dataclass(frozen=True)
class Folder(Benchmark):
    """Pictures of any size in one folder, with masks and prompts of the same names.

    Attributes:
        folder: holds images/, masks/ (white = edit), prompts.json (picture's name without its
            ending -> prompt) and, where there is a right answer, truths/.
        title: what the benchmark is called in the report.
        truth: "source": the result should keep or restore the picture itself, as in inpainting;
            "folder": it should look like the picture in truths/; "none": nothing is right.
        limit: how many records at most; 0 is all.
        skip: ids to leave out.
    """

    folder: str = "data/mine"
    title: str = "folder"
    truth: str = "source"
    limit: int = 0
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.truth not in ("source", "folder", "none"):
            raise BenchmarkError(f"expected truth source, folder or none, got {self.truth!r}")

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return self.title

    def records(self) -> list[Record]:
        """The records, by name."""
        folder = Path(self.folder)
        if not (folder / "images").is_dir():
            raise BenchmarkError(f"expected a folder {folder / 'images'} with pictures")
        how = 'write {"picture\'s name without its ending": "prompt"}'
        prompts = read_json(folder / "prompts.json", dict, how)
        files = chosen(
            list(pictures_in(folder / "images")), lambda path: path.stem, self.skip, self.limit
        )
        if not files:
            raise BenchmarkError(f"expected pictures in {folder / 'images'}, found none")
        records = each(files, lambda path: self._record(path, prompts), lambda path: path.name)
        return check_ids(records)

    def _record(self, path: Path, prompts: dict[str, str]) -> Record:
        mask = self._partner("masks", path)
        truth = self._partner("truths", path) if self.truth == "folder" else None
        content = [file_bytes(file) for file in (path, mask, truth) if file]

        def read() -> Pixels:
            source = picture(path.read_bytes(), str(path))
            hole = white(mask.read_bytes(), str(mask), source.shape[:2])
            right = {"source": source, "none": None}.get(self.truth)
            if truth:
                right = picture(truth.read_bytes(), str(truth))
            return Pixels(source, hole, right)

        return Record(
            self.name,
            path.stem,
            prompts[path.stem],
            read,
            digest(self.truth, *content),
            target_caption=prompts[path.stem],
            results=(path.stem,),
        )

    def _partner(self, kind: str, path: Path) -> Path:
        found = with_ending(Path(self.folder) / kind / path.stem)
        if found is None:
            raise BenchmarkError(f"expected {Path(self.folder) / kind / path.stem}.png, found none")
        return found
