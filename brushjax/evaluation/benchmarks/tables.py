"""Benchmarks published as Parquet tables: Emu Edit's test set, and MagicBrush's open splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from brushjax.evaluation.benchmarks.files import chosen, each, picture, white
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.evaluation.store import require_parquet
from brushjax.identity import digest


@dataclasses.dataclass(frozen=True)
class EmuEdit(Benchmark):
    """Emu Edit's test set: instructions with captions before and after, without masks or truths.

    Attributes:
        folder: of the Parquet files, named {split}-*.parquet.
        split: "validation" has 2022 rows and "test" 3589. (The published folder of generations has
            these two names the wrong way round.)
        drop_equal_captions: leave out rows whose two captions are the same, as some papers do.
        limit: how many records at most; 0 is all.
        skip: ids to leave out.
        methods: labels of the methods that are run; empty: all. None may need a mask.

    Source: facebook/emu_edit_test_set on the Hugging Face hub.
    """

    folder: str = "data/emu_edit_test_set/data"
    split: Literal["validation", "test"] = "test"
    drop_equal_captions: bool = False
    limit: int = 0
    skip: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    choosing = (*Benchmark.choosing, "methods")
    profiles = ("paper:ultraedit", "paper:fireedit", "paper:ip2p")

    @property
    def name(self) -> str:
        """Name with its split, and the filter where there is one."""
        return f"emuedit-{self.split}" + ("-filtered" if self.drop_equal_captions else "")

    @property
    def published_count(self) -> int:
        """Number of records as published."""
        counts = {"validation": 2022, "test": 3589}
        return 0 if self.drop_equal_captions else counts[self.split]

    def records(self) -> list[Record]:
        """The records, in the order of the files."""
        columns = ("instruction", "image", "task", "idx", "input_caption", "output_caption")
        entries = list(table_rows(self.folder, self.split, columns))
        if self.drop_equal_captions:
            entries = [(at, row) for at, row in entries if not _equal_captions(row)]
        entries = chosen(entries, _emu_id, self.skip, self.limit)
        return check_ids(each(entries, self._record, _emu_id))

    def wants(self, label: str, repeat: int) -> bool:
        """Whether the method with this label is run on it."""
        del repeat
        return not self.methods or label in self.methods

    def relabelled(self, labels: Mapping[str, Sequence[str]]) -> EmuEdit:
        """Runs the methods that took the place of its own."""
        methods = tuple(new for old in self.methods for new in labels.get(old, (old,)))
        return dataclasses.replace(self, methods=methods)

    def _record(self, entry: tuple[RowAt, dict[str, Any]]) -> Record:
        at, row = entry

        def read() -> Pixels:
            return Pixels(picture(at.cell("image"), _emu_id(entry)))

        return Record(
            self.name,
            _emu_id(entry),
            row["output_caption"],
            read,
            digest(cell_bytes(row["image"])),
            group=row["task"],
            instruction=row["instruction"],
            source_caption=row["input_caption"],
            target_caption=row["output_caption"],
            results=(_emu_id(entry),),
        )


@dataclasses.dataclass(frozen=True)
class MagicBrushTable(Benchmark):
    """MagicBrush's training and development splits, every turn from its true source.

    Attributes:
        folder: of the Parquet files, named {split}-*.parquet.
        split: "train" has 8807 rows and "dev" 528.
        limit: how many records at most; 0 is all.
        skip: ids to leave out.

    Source: osunlp/MagicBrush on the Hugging Face hub. It has no captions.
    """

    folder: str = "data/MagicBrush/data"
    split: Literal["train", "dev"] = "dev"
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = ("paper:magicbrush",)

    @property
    def name(self) -> str:
        """Name with its split."""
        return f"magicbrush-{self.split}"

    @property
    def published_count(self) -> int:
        """Number of records as published."""
        return {"train": 8807, "dev": 528}[self.split]

    def records(self) -> list[Record]:
        """The records, in the order of the files."""
        columns = ("img_id", "turn_index", "source_img", "mask_img", "instruction", "target_img")
        entries = list(table_rows(self.folder, self.split, columns))
        entries = chosen(entries, _turn_id, self.skip, self.limit)
        return check_ids(each(entries, self._record, _turn_id))

    def _record(self, entry: tuple[RowAt, dict[str, Any]]) -> Record:
        at, row = entry
        name, key, number = _turn_id(entry), str(row["img_id"]), int(row["turn_index"])

        def read() -> Pixels:
            source = picture(at.cell("source_img"), name)
            hole = white(at.cell("mask_img"), name, source.shape[:2])
            return Pixels(source, hole, picture(at.cell("target_img"), name))

        content = [cell_bytes(row[column]) for column in ("source_img", "mask_img", "target_img")]
        return Record(
            self.name,
            name,
            row["instruction"],
            read,
            digest(*content),
            turn=number,
            session=key,
            group=f"turn {number}",
            instruction=row["instruction"],
            results=(f"{key}/{key}_1" if number == 1 else f"{key}/{key}_inde_{number}",),
        )


@dataclasses.dataclass(frozen=True)
class RowAt:
    """Where a row stands, so that its pictures need not stay in memory."""

    file: Path
    group: int
    row: int

    def cell(self, column: str) -> bytes:
        """The bytes of a picture of this row."""
        import pyarrow.parquet as parquet

        with parquet.ParquetFile(self.file) as table:
            cells = table.read_row_group(self.group, columns=[column]).column(column)
        return cell_bytes(cells[self.row].as_py())


def table_rows(
    place: str, split: str, columns: Sequence[str]
) -> Iterator[tuple[RowAt, dict[str, Any]]]:
    """The rows of a split's files.

    Raises:
        BenchmarkError: no files, files that are damaged, or without a column.
    """
    folder = Path(place)
    require_parquet()
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise BenchmarkError(
            f"expected {split}-*.parquet in {folder}, found none; docs/evaluating.md says where the"
            " files are to be had"
        )
    for file in files:
        try:
            with parquet.ParquetFile(file) as table:
                if missing := sorted(set(columns) - set(table.schema_arrow.names)):
                    raise BenchmarkError(f"{file} lacks the columns {missing}")
                for group in range(table.num_row_groups):
                    rows = table.read_row_group(group, columns=list(columns)).to_pylist()
                    yield from ((RowAt(file, group, at), row) for at, row in enumerate(rows))
        except arrow.ArrowException as error:
            raise BenchmarkError(
                f"{file} is no complete Parquet file ({error}); get it again"
            ) from error


def cell_bytes(cell: Any) -> bytes:
    """The bytes of a picture column, which is a struct of bytes and path, or bytes."""
    data = cell["bytes"] if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise BenchmarkError("the picture's bytes are missing")
    return data


def _emu_id(entry: tuple[RowAt, dict[str, Any]]) -> str:
    return str(entry[1]["idx"])


def _turn_id(entry: tuple[RowAt, dict[str, Any]]) -> str:
    return f"{entry[1]['img_id']}-{entry[1]['turn_index']}"


def _equal_captions(row: dict[str, Any]) -> bool:
    before, after = (row[name].strip().lower() for name in ("input_caption", "output_caption"))
    return before == after
