"""Reading the files of benchmarks, with errors that name all that is wrong at once."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from brushjax.data.faults import Fault
from brushjax.data.sources import mask_files, pictures
from brushjax.data.sources.pictures import ENDINGS
from brushjax.evaluation.records import BenchmarkError, shortened

T = TypeVar("T")
MOST_GREY = 0.1  # share of a mask that may be neither black nor white


def read_json(path: Path, kind: type, where: str) -> Any:
    """The content of a JSON file.

    Args:
        kind: dict or list, what it must hold.
        where: how to get the file, for the error.

    Raises:
        BenchmarkError: no such file, no JSON, or something else in it.
    """
    if not path.is_file():
        raise BenchmarkError(f"expected {path}; {where}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path} is no complete JSON file ({error}); get it again") from error
    if not isinstance(content, kind):
        raise BenchmarkError(
            f"expected a JSON {kind.__name__} in {path}, got {type(content).__name__}"
        )
    return content


def read_lines(path: Path, where: str) -> list[dict[str, Any]]:
    """The objects of a file with a JSON object in every line.

    Args:
        where: how to get the file, for the error.

    Raises:
        BenchmarkError: no such file, or lines that hold something else, by their numbers.
    """
    if not path.is_file():
        raise BenchmarkError(f"expected {path}; {where}")
    rows, wrong = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        rows.append(row)
        if not isinstance(row, dict):
            wrong.append(str(number))
    if wrong:
        raise BenchmarkError(f"{path} holds no JSON object in line {shortened(wrong)}")
    return rows


def each(items: Sequence[T], make: Callable[[T], Any], name: Callable[[T], str]) -> list[Any]:
    """What `make` gives for every item, or one error about all items for which it fails.

    Raises:
        BenchmarkError: what is wrong with the first few items, and how many there are.
    """
    made, wrong = [], []
    for item in items:
        try:
            made.append(make(item))
        except (BenchmarkError, ValueError, OSError, KeyError, TypeError) as error:
            text = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            wrong.append(f"{name(item)}: {text}")
    if wrong:
        raise BenchmarkError(
            f"{len(wrong)} of {len(items)} entries can't be used: {shortened(wrong, 3)};"
            " repair them, or leave them out with the benchmark's field `skip`"
        )
    return made


def chosen(items: Sequence[T], name: Callable[[T], str], skip: Sequence[str], limit: int) -> list:
    """The first `limit` items (0: all) whose names are not to be skipped.

    Raises:
        BenchmarkError: names to skip that don't exist.
    """
    unknown = sorted(set(skip) - {name(item) for item in items})
    if unknown:
        raise BenchmarkError(f"expected ids of the benchmark in `skip`, got {shortened(unknown)}")
    left = [item for item in items if name(item) not in set(skip)]
    return left[:limit] if limit else left


def file_bytes(path: Path) -> bytes:
    """The bytes of a file that must be there.

    Raises:
        BenchmarkError: it is not.
    """
    if not path.is_file():
        raise BenchmarkError(f"{path} is missing")
    return path.read_bytes()


def picture(data: bytes, name: str, size: tuple[int, int] | None = None):
    """A decoded picture in RGB.

    Args:
        size: (height, width); another size is resized with Pillow's default for pictures (bicubic),
            as the published scripts do.

    Raises:
        BenchmarkError: bytes that are no picture.
    """
    try:
        pixels = pictures.decode(data).pixels
    except Fault as fault:
        raise BenchmarkError(f"{name} is no complete picture ({fault}); get it again") from fault
    if size and pixels.shape[:2] != size:
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0])))
    return pixels


def white(
    data: bytes, name: str, size: tuple[int, int], alpha: str = "auto", *, clear: bool = False
) -> UInt8[np.ndarray, "H W"]:
    """1 where a mask picture marks something; another size is scaled.

    Args:
        alpha: which part of a mask with transparent parts is meant, see
            `brushjax.data.sources.mask_files`.
        clear: refuse a mask of many greys, which is a photograph that lost its transparency.

    Raises:
        BenchmarkError: bytes that are no picture, or a mask whose meaning can't be told.
    """
    try:
        mask = mask_files.decode(data, alpha)
    except Fault as fault:
        raise BenchmarkError(f"{name} is no complete picture ({fault}); get it again") from fault
    except ValueError as error:
        raise BenchmarkError(f"{name}: {error}") from error
    if mask.reading:
        warnings.warn(f"{name} {mask.reading}", stacklevel=2)
    between = ((mask.white > 64) & (mask.white < 192)).mean()
    if clear and between > MOST_GREY:
        raise BenchmarkError(
            f"{name}: expected a mask, transparent or white where it is edited, got an opaque "
            f"picture of which {between:.0%} is neither black nor white; get it again, as RGBA"
        )
    return mask.resized(*size).marked


def grey(data: bytes, name: str) -> UInt8[np.ndarray, "H W"]:
    """A mask as its file has it, 0 to 255.

    Raises:
        BenchmarkError: bytes that are no picture, or a mask whose meaning can't be told.
    """
    try:
        return mask_files.decode(data).white
    except (Fault, ValueError) as error:
        raise BenchmarkError(f"{name} is no mask ({error}); get it again") from error


def pictures_in(folder: Path) -> Iterator[Path]:
    """Picture files of a folder, by name."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS:
            yield path


def with_ending(stem: Path) -> Path | None:
    """The picture file with this path but for the ending, or None."""
    if stem.suffix.lower() in ENDINGS and stem.is_file():
        return stem
    found = (stem.with_name(stem.name + ending) for ending in ENDINGS)
    return next((path for path in found if path.is_file()), None)
