"""Captions as people keep them: lines of JSON or CSV, or a text file beside each picture, in
whatever encoding their editor wrote."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from brushjax.config import ConfigError
from brushjax.data.sources.pictures import ENDINGS
from brushjax.files import inside

IMAGE_KEYS, CAPTION_KEYS = ("image", "file_name"), ("caption", "text")
LISTS = ("captions.jsonl", "metadata.jsonl", "metadata.csv")  # the first that is there is read
SIDECARS = (".txt", ".caption", ".TXT")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which begins with the same bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BINARY = re.compile("[\x00-\x08\x0e-\x1f]")  # no editor puts these into a text


@dataclasses.dataclass(frozen=True)
class Row:
    """A picture of a folder, its caption, and the mask pictures of its objects.

    Attributes:
        image: path below the folder.
        caption: None where there is none.
        masks: paths below the folder.
    """

    image: str
    caption: str | None
    masks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Captions:
    """The rows of a folder, and where the captions stood."""

    source: str
    rows: list[Row]


def decoded(data: bytes) -> tuple[str, bool]:
    """Returns a text whatever its encoding, without byte order mark, and whether it was not UTF-8.

    A byte order mark decides. Without one it is UTF-8, UTF-16 where many bytes are zero, or else
    Windows' western code page, and Latin-1 where that has no letter.

    Raises: ValueError if it is no text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _text(data[len(mark) :].decode(encoding)), encoding != "utf-8"
    odd, even = data[1::2].count(0), data[::2].count(0)
    if 4 * (odd + even) >= len(data) > 0:
        return _text(data.decode("utf-16-le" if odd > even else "utf-16-be")), True
    try:
        return _text(data.decode("utf-8")), False
    except UnicodeDecodeError:
        pass
    try:
        return _text(data.decode("cp1252")), True
    except UnicodeDecodeError:
        return _text(data.decode("latin-1")), True


def _text(text: str) -> str:
    if found := _BINARY.search(text):
        raise ValueError(f"expected text, got the byte {ord(found[0])} among it")
    return text


def read_beside(folder: Path) -> Captions | None:
    """Reads the text beside each picture of a folder, and of those below it; None if there is none.

    Raises: ConfigError if a file is no text.
    """
    pictures = [path for path in _visible(folder) if path.suffix.lower() in ENDINGS]
    beside = {path: _sidecar(path) for path in pictures}
    if not any(beside.values()):
        return None
    rows = [
        Row(path.relative_to(folder).as_posix(), _read(text).strip() if text else None)
        for path, text in beside.items()
    ]
    return Captions("the text beside each picture", rows)


def read_list(path: Path) -> Captions:
    """Reads a file that lists pictures with captions.

    Raises: ConfigError if it can't be understood, or names what lies elsewhere.
    """
    found = [_row(row, path, line) for line, row in LINES[path.suffix.lower()](path, _read(path))]
    return Captions(path.name, found)


def count_pictures(folder: Path, without: Collection[str] = ()) -> int:
    """Returns how many pictures lie in a folder and below it.

    Args:
      without: pictures that don't count, as paths from the folder.
    """
    pictures = (path for path in _visible(folder) if path.suffix.lower() in ENDINGS)
    return sum(path.relative_to(folder).as_posix() not in without for path in pictures)


def _visible(folder: Path) -> list[Path]:
    """Files below a folder, by name; without hidden ones, such as the ._ twins that macOS makes."""
    paths = sorted(folder.rglob("*"))
    return [p for p in paths if not any(q[0] == "." for q in p.relative_to(folder).parts)]


def _sidecar(picture: Path) -> Path | None:
    places = (picture.with_suffix(ending) for ending in SIDECARS)
    return next((place for place in places if place.is_file()), None)


def _read(path: Path) -> str:
    try:
        return decoded(path.read_bytes())[0]
    except ValueError as error:
        raise ConfigError(f"{path}: {error}. Save it as UTF-8 text") from error


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _unread(path, number, line) from error


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    del path
    rows = csv.DictReader(io.StringIO(text, newline=""))
    for row in rows:
        yield rows.line_num, row


LINES: dict[str, Callable[[Path, str], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".csv": _csv_lines,
}
"""{ending of a file that lists pictures with captions: its reader}"""


def _row(found: Any, path: Path, line: int) -> Row:
    row = found if isinstance(found, dict) else {}
    image, caption = (
        next((row[key] for key in keys if isinstance(row.get(key), str)), None)
        for keys in (IMAGE_KEYS, CAPTION_KEYS)
    )
    masks = row.get("mask") or []
    masks = [masks] if isinstance(masks, str) else masks
    listed = isinstance(masks, list) and all(isinstance(mask, str) for mask in masks)
    if image is None or caption is None or not listed:
        raise _unread(path, line, json.dumps(found, ensure_ascii=False))
    try:
        for name in (image, *masks):
            inside(path.parent, name)
    except ValueError as error:
        raise ConfigError(f"{path}, line {line}: {error}") from error
    return Row(image.replace("\\", "/"), caption, tuple(mask.replace("\\", "/") for mask in masks))


def _unread(path: Path, line: int, text: str) -> ConfigError:
    return ConfigError(
        f'{path}, line {line}: expected "image" (or "file_name"), a path in the folder, with '
        f'"caption" (or "text"), and perhaps "mask", a path or a list of paths; got {text[:80]}'
    )
