"""Reading the files of benchmarks, with errors that name all that is wrong at once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from brushjax.evaluation.records import BenchmarkError, shortened

T = TypeVar("T")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


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
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG chunks
        raise BenchmarkError(f"{name} is no complete picture ({error}); get it again") from error
    if size and (image.height, image.width) != size:
        image = image.resize((size[1], size[0]))
    return np.asarray(image)


def white(data: bytes, name: str, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """1 where a mask picture is at least half white; another size is resized to the nearest pixel.

    Raises:
        BenchmarkError: bytes that are no picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("L")
    except (OSError, SyntaxError) as error:
        raise BenchmarkError(f"{name} is no complete picture ({error}); get it again") from error
    if (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return (np.asarray(image) >= 128).astype(np.uint8)


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
