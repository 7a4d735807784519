"""The one write-then-rename: a file or a folder is there whole, or as it was before."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

PART = ".part"  # ends the names of what is being written
ADVICE = {
    errno.ENOSPC: "make room and start again",
    errno.EDQUOT: "the quota is used up; make room and start again",
    errno.EFBIG: "files that large are not allowed there; choose another place",
    errno.EACCES: "get the right to write there, or choose another place",
    errno.EPERM: "get the right to write there, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOTDIR: "a file is in the way of a folder; choose another place",
    errno.EEXIST: "a file is in the way of a folder; choose another place",
    errno.EISDIR: "a folder of that name is in the way; choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class WriteError(OSError):
    """Something could not be written; one line with place, cause and what to do."""

    def __str__(self) -> str:
        return str(self.args[1])


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path that takes the place of `path` once the block ends without an error.

    Folders on the way to it are made.

    Raises: WriteError if it can't be written; nothing half-written stays.
    """
    path = Path(path)
    unfinished = _unfinished(path)
    with _explained(path, unfinished):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())  # or a power cut leaves the name without the bytes
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def try_places(files: Iterable[str | Path], folders: Iterable[str | Path] = ()) -> None:
    """Tries, before work that takes long, whether files can be written at these places, or in
    these folders.

    Nothing stays of it, and folders on the way may be missing: they are made with the file.

    Raises: WriteError for the first place where none can be written.
    """
    tried: set[Path] = set()
    within = [Path(given).absolute() for given in folders]
    for path in (*within, *(Path(given).absolute() for given in files)):
        holds = path in within
        around = (path, *path.parents) if holds else path.parents
        ground = next((place for place in around if os.path.lexists(place)), path)
        probe = ground / _unfinished(path).name
        with _explained(path, probe):
            if path.is_dir() and not holds:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if ground in tried:
                continue
            tried.add(ground)
            try:
                probe.write_bytes(b"?")  # a byte: a full disk takes empty files
            finally:
                probe.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file in one piece.

    Raises: WriteError if that fails; the file is then as it was.
    """
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Writes text as UTF-8 in one piece; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as JSON in one piece; see `write_bytes`."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder that takes the place of `folder` once the block ends without an
    error.

    Files in the old folder that an earlier call did not write, such as a model card, stay. A reader
    sees the old content or the new one, apart from the instant between two renames; a crash in
    that instant is made good by `restored`.

    Raises: WriteError if it can't be written; the old folder stays then.
    """
    unfinished, old = _unfinished(folder), _old(folder)
    with _explained(folder, unfinished):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        restored(folder)
        try:
            unfinished.mkdir()
            yield unfinished
            ours = _files(unfinished)
            _keep_foreign(folder, unfinished)
            if folder.exists():
                os.replace(folder, old)
            os.replace(unfinished, folder)
            write_json(_list_of(folder), ours)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def restored(folder: Path) -> Path:
    """Puts the old content of a `whole_folder` back, should a crash between its two renames have
    left none; returns the folder."""
    old = _old(folder)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


@contextlib.contextmanager
def merged_folder(path: Path, whole: Sequence[str] = ()) -> Iterator[Path]:
    """Gives a temporary folder whose content moves into `path` if the block ends without an error.

    What else is in `path` stays.

    Args:
      whole: names of folders that are replaced rather than merged.
    Raises: WriteError if it can't be written.
    """
    unfinished = _unfinished(path)
    with _explained(path, unfinished):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        try:
            unfinished.mkdir()
            yield unfinished
            _move(unfinished, path, whole)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def inside(folder: str | Path, name: str) -> Path:
    """Returns the path of a name that a file or a user gave, which must stay in its folder.

    Raises: ValueError if it is absolute, or leads out of the folder.
    """
    parts = Path(name.replace("\\", "/")).parts
    if not parts or Path(*parts).is_absolute() or ".." in parts or "\0" in name:
        raise ValueError(f"expected a name inside {folder}; got {name!r}, which leads out of it")
    return Path(folder, *parts)


def as_name(text: str) -> str:
    """Returns a title or an id as a file's name: what such names must not hold becomes "_"."""
    name = re.sub(r"[^\w.-]+", "_", text)
    return "_" * (len(name) - len(name.lstrip("."))) + name.lstrip(".") or "_"


def same_file(one: str | Path, other: str | Path) -> bool:
    """Says whether two paths are one file or folder, also through links."""
    return Path(one).resolve() == Path(other).resolve()


def alive(pid: int, started: str = "") -> bool:
    """Says whether a process of this machine lives.

    Args:
      started: of `started_at`; a process that started at another time only has the same number.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, and is somebody else's
        pass
    return not started or started_at(pid) in ("", started)


def started_at(pid: int) -> str:
    """Returns when a process started, in ticks since this machine did; empty where the system
    doesn't tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *numbers = text.rpartition(")")[2].split()
    return "" if state == "Z" else numbers[18]


def _unfinished(path: Path) -> Path:
    # Host and process: others may write the same name on a disk that machines share.
    path = path.absolute()
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{PART}")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _list_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.written.json")


def _sweep(path: Path) -> None:
    """Removes what processes of this machine that are gone left of a folder."""
    for stale in path.parent.glob(f".{path.name}.{socket.gethostname()}.*{PART}"):
        pid = stale.name.removesuffix(PART).rpartition(".")[2]
        if not pid.isdigit() or int(pid) == os.getpid() or not alive(int(pid)):
            shutil.rmtree(stale, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def _keep_foreign(folder: Path, new: Path) -> None:
    """Brings the files of `folder` that were put there by others into `new`."""
    if not folder.is_dir():
        return
    listed = _list_of(folder)
    ours = set(json.loads(listed.read_text())) if listed.is_file() else set()
    for name in _files(folder):
        if name not in ours and not (new / name).exists():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, new / name, follow_symlinks=False)


def _move(source: Path, target: Path, whole: Sequence[str]) -> None:
    """Renames a folder, or, where there is one of that name, its content."""
    if not target.exists():
        os.rename(source, target)
        return
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and entry.name not in whole:
            _move(entry, place, whole)
        else:
            if place.is_dir():
                shutil.rmtree(place)
            os.replace(entry, place)


@contextlib.contextmanager
def _explained(path: Path, unfinished: Path) -> Iterator[None]:
    """Turns an error of the operating system about these paths into one line."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        about = str(error.filename or error.filename2 or "")
        ours = (
            not about
            or about.startswith(str(unfinished))
            or Path(about)
            in (
                path,
                *path.parents,
            )
        )
        if not ours:
            raise  # of something else that was read in the block
        advice = ADVICE.get(error.errno or 0, "choose another place; what was there before stays")
        cause = error.strerror or type(error).__name__
        raise WriteError(
            error.errno, f"can't write {path}: {cause}; {advice}", str(path)
        ) from error
