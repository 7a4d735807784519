"""Parquet tables as rows by number: pictures in cells, read a group of rows at a time."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from brushjax.data.faults import Fault, as_fault
from brushjax.data.sources.files import find, stream

KEPT = 16  # groups of rows in memory: some 100 rows of 100 kB each, as the hub writes them


class Table:
    """The rows of Parquet files.

    Args:
      pattern: files, with * and ?; local or with a protocol.
      columns: that are read.
    Raises:
      FileNotFoundError: if nothing matches.
      ValueError: if a file lacks a column, or pyarrow is missing.
    """

    def __init__(self, pattern: str, columns: Sequence[str]):
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise ValueError("expected pyarrow, to read Parquet: pip install pyarrow") from error
        self._columns, self._groups = list(columns), []
        self._kept: OrderedDict[int, Any] = OrderedDict()
        for file in find(pattern):
            with stream(file.path) as opened, parquet.ParquetFile(opened) as table:
                lacking = sorted(set(columns) - set(table.schema_arrow.names))
                if lacking:
                    raise ValueError(f"{file.path}: expected columns {lacking}, found none of them")
                counts = [table.metadata.row_group(n).num_rows for n in range(table.num_row_groups)]
            self._groups += [(file.path, n, count) for n, count in enumerate(counts)]
        self.sizes = np.array([count for _, _, count in self._groups], np.int64)
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": OrderedDict(), "_lock": None}  # for worker processes

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def name(self, number: int) -> str:
        """Returns where a row stands."""
        group = self._group_of(number)
        path, place, _ = self._groups[group]
        return f"{path}, group {place}, row {number - self._starts[group]}"

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Returns a row's cells; of a picture its bytes.

        Raises: Fault if the file can't be read, or a cell is empty.
        """
        group = self._group_of(number)
        cells = self._read(group)[int(number - self._starts[group])]
        row = {name: _content(value) for name, value in cells.items()}
        empty = [name for name, value in row.items() if value is None]
        if empty:
            raise Fault("missing member", f"no {', '.join(empty)}")
        return row

    def _group_of(self, number: int) -> int:
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def _read(self, group: int) -> list[dict[str, Any]]:
        import pyarrow.parquet as parquet

        with self._lock:
            if group not in self._kept:
                path, place, _ = self._groups[group]
                with (
                    as_fault("unreadable member"),
                    stream(path) as opened,
                    parquet.ParquetFile(opened) as table,
                ):
                    rows = table.read_row_group(place, columns=self._columns).to_pylist()
                self._kept[group] = rows
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]


def _content(value: Any) -> Any:
    return value.get("bytes") if isinstance(value, dict) else value


class GroupOrder:
    """Rows in random order, of a few groups at a time, so that a group is read but once an epoch.

    Args:
      sizes: rows of each group.
      together: groups whose rows are mixed.
    """

    def __init__(self, sizes: np.ndarray, seed: int, together: int = KEPT // 2):
        if not sizes.sum():
            raise ValueError("expected rows, got none")
        self._sizes, self._seed, self._together = sizes, seed, together
        self.length = int(sizes.sum())
        self._epoch = functools.lru_cache(maxsize=2)(self._permuted)

    def __getitem__(self, position: int) -> int:
        epoch, within = divmod(position, self.length)
        return int(self._epoch(epoch)[within])

    def _permuted(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self._seed, epoch))
        starts = np.cumsum(self._sizes) - self._sizes
        groups = rng.permutation(len(self._sizes))
        parts = []
        for first in range(0, len(groups), self._together):
            some = groups[first : first + self._together]
            rows = [int(starts[g]) + np.arange(int(self._sizes[g])) for g in some]
            parts.append(rng.permutation(np.concatenate(rows)))
        return np.concatenate(parts).astype(np.int32 if self.length < 2**31 else np.int64)
