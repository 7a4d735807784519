"""A folder belongs to one run at a time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brushjax.config import ConfigError
from brushjax.distributed import is_main
from brushjax.files import alive, started_at, try_places

NAME = ".lock"
BEAT = 5.0  # seconds between two signs of life of an owner
SILENCE = 4 * BEAT  # after so long an owner on another machine counts as gone


@contextlib.contextmanager
def locked(folder: Path, name: str = NAME, main: bool | None = None) -> Iterator[None]:
    """Holds a folder for this run; of several processes of one run the main one does.

    A lock whose owner is gone is taken over: at once where it was a process of this machine, after
    some seconds without a sign of life where it was one of another.

    Args:
      name: of the lock file; processes that share a folder on purpose have one each.
      main: whether this process holds it; None asks JAX, which then takes its devices.
    Raises: ConfigError if another process holds it; names host, process and time. WriteError if the
      folder can't be written to.
    """
    if not (is_main() if main is None else main):
        yield
        return
    path = folder / name
    try_places([], [folder])
    folder.mkdir(parents=True, exist_ok=True)
    while not _take(path):
        owner = _owner(path)
        if _lives(path, owner):
            raise ConfigError(
                f"{folder} is in use: process {owner['pid']} on {owner['host']} works there since "
                f"{owner['since']}. Wait for it or stop it, or choose another folder"
            )
        _remove(path, owner)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, done), daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()
        if _owner(path).get("pid") == os.getpid():
            path.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    """Makes the lock file, unless there is one."""
    pid, since = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")
    row = {"host": socket.gethostname(), "pid": pid, "started": started_at(pid), "since": since}
    try:
        with path.open("x") as file:
            file.write(json.dumps(row))
    except FileExistsError:
        return False
    return True


def _owner(path: Path) -> dict[str, Any]:
    """Returns who holds the lock; nobody where the file is gone, or has no content even after a
    moment (its maker was killed before it wrote)."""
    for _ in range(20):
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            break
        except ValueError:
            time.sleep(0.05)
    return {}


def _remove(path: Path, owner: dict[str, Any]) -> None:
    """Removes the lock of an owner who is gone, and not that of who took it over meanwhile."""
    mine = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        os.rename(path, mine)
    except FileNotFoundError:
        return
    if _owner(mine) != owner:
        os.rename(mine, path)
    else:
        mine.unlink()


def _lives(path: Path, owner: dict[str, Any]) -> bool:
    if not owner:
        return False
    if owner["host"] == socket.gethostname():
        return alive(owner["pid"], owner["started"])
    before, end = _sign_of(path), time.monotonic() + SILENCE
    while time.monotonic() < end:  # clocks of two machines differ: only a change tells
        time.sleep(BEAT / 5)
        if _sign_of(path) != before:
            return bool(_owner(path))
    return False


def _sign_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(FileNotFoundError):  # somebody removed it by hand
            os.utime(path)
