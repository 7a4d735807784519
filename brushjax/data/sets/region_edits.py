"""Pictures with an instruction, captions and a donor: what a region predictor is trained from.

A folder holds `edits.jsonl`, a JSON object a line with "image" and "donor" (pictures, by their
places within the folder), "source_caption", "instruction" and "target_caption"; further entries
are not read. Or it holds ArrayRecord files (`*.array_record`) of `python -m brushjax prepare`, with
both pictures and, as "edit", that object.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from brushjax.config import ConfigError
from brushjax.data.faults import Fault
from brushjax.data.schema import Encode, RegionEdit
from brushjax.data.sources import pictures
from brushjax.data.sources.files import find
from brushjax.data.sources.records import RecordCollection
from brushjax.files import inside

if TYPE_CHECKING:
    import grain

LIST = "edits.jsonl"
WORDS = ("source_caption", "instruction", "target_caption")
NEEDED = ("image", "donor", *WORDS)


@dataclasses.dataclass(frozen=True)
class RegionEdits:
    """Stored edits; pictures are stretched to a square, as `Placement` does with fit "squash".

    Attributes:
      path: folder with edits.jsonl or with ArrayRecord files.
      size: side of the square, pixels.
      seed: of the order of training.
      pool: how many of them, the first; 0 is all.
    """

    path: str
    size: int = 224
    seed: int = 0
    pool: int = 0

    def source(self, encode: Encode) -> EditSamples:
        """The samples by number, in the list's order."""
        return EditSamples(self, encode)

    def batches(
        self, batch_size: int, encode: Encode, *, shard: tuple[int, int] = (0, 1)
    ) -> grain.IterDataset:
        """An endless dataset of this host's batches, in a new order every epoch."""
        import grain

        samples = grain.MapDataset.source(self.source(encode)).seed(self.seed).shuffle().repeat()
        samples = samples[shard[0] :: shard[1]].batch(batch_size)
        return samples.to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=64))

    def shapes(self) -> dict[str, Any]:
        """Returns a sample of zeros, for programs that are compiled where the data is not: of the
        default encoders, CLIP with 77 tokens and T5 with 64."""
        image = np.zeros((self.size, self.size, 3), np.uint8)
        ids = {
            "caption_ids": np.zeros((2, 77), np.int32),
            "instruction_ids": np.zeros(64, np.int32),
        }
        return {"image": image, "donor": image, **ids, "id": np.int64(0)}


class EditSamples:
    """The samples of a RegionEdits: arrays as `samples[n]`, records by `record(n)`."""

    def __init__(self, data: RegionEdits, encode: Encode):
        self._data, self._encode = data, encode
        folder = Path(data.path)
        records = not (folder / LIST).is_file() and any(folder.glob("*.array_record"))
        self._stored = _Records(folder) if records else _Listed(folder)

    def __len__(self) -> int:
        return min(self._data.pool or len(self._stored), len(self._stored))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return dict(self._encode(self.record(int(index))))

    def record(self, n: int) -> RegionEdit:
        """Returns record n, before an objective turns it into arrays."""
        row, *stored = self._stored.read(n)
        image, donor = (self._picture(data) for data in stored)
        before, instruction, after = (row[name] for name in WORDS)
        return RegionEdit(n, image, donor, before, instruction, after)

    def _picture(self, data: bytes) -> np.ndarray:
        pixels, size = pictures.decode(data).pixels, self._data.size
        shrinks = pixels.shape[0] >= size and pixels.shape[1] >= size
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return cv2.resize(pixels, (size, size), interpolation=how)


class _Listed:
    """Edits of a list, whose pictures lie beside it."""

    def __init__(self, folder: Path):
        self._folder, self._rows = folder, _rows(folder)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, n: int) -> tuple[dict[str, str], bytes, bytes]:
        row = self._rows[n]
        image, donor = (inside(self._folder, row[name]).read_bytes() for name in NEEDED[:2])
        return row, image, donor


class _Records:
    """Edits of ArrayRecord files, in the order of their names."""

    def __init__(self, folder: Path):
        self._records = RecordCollection(find(f"{folder}/*.array_record"))

    def __len__(self) -> int:
        return len(self._records)

    def read(self, n: int) -> tuple[dict[str, str], bytes, bytes]:
        """Raises: ConfigError for a record that is no edit with a donor."""
        try:
            members = self._records.read(n, ("edit", *NEEDED[:2]))
        except Fault as fault:
            raise ConfigError(
                f"{self._records.name(n)}: expected edit, image and donor, got {fault.cause}: "
                f"{fault.found}; `python -m brushjax prepare` with the steps instructions and "
                "donors writes them"
            ) from fault
        row = json.loads(members["edit"])
        _check(row, WORDS, self._records.name(n))
        return row, members["image"], members["donor"]


@functools.lru_cache(maxsize=2)
def _rows(folder: Path) -> tuple[dict[str, str], ...]:
    """Reads the list.

    Raises:
      FileNotFoundError: without one. ConfigError: if a line lacks an entry or names what lies
        elsewhere, or its captions are one (eq. 8 has no direction then).
    """
    path = folder / LIST
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {path}, a line for each edit with {', '.join(NEEDED)}; docs/regions.md says "
            "how to make one"
        )
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        _check(row, NEEDED, f"{path}:{number}")
        rows.append({name: row[name] for name in NEEDED})
    return tuple(rows)


def _check(row: Mapping[str, Any], needed: Sequence[str], where: str) -> None:
    missing = [name for name in needed if not isinstance(row.get(name), str)]
    if missing or row["source_caption"] == row["target_caption"]:
        found = f"no {', '.join(missing)}" if missing else "one caption twice"
        raise ConfigError(f"{where}: expected {', '.join(needed)}, got {found}")
