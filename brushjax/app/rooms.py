"""What belongs to one open page: a room with its folder, its session and its job."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from brushjax.agents.sessions import Session
from brushjax.app.jobs import Full, Job

SLACK = 1 << 16  # bytes of a turn besides its pixels


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server gives away.

    Attributes:
        rooms: pages that are served at once.
        room_bytes: of disk for one room; all of them together take at most `rooms` times that.
        idle: seconds after which a room that no page looks at is closed.
        away: seconds after which the jobs of a closed page are dropped.
        upload_bytes, upload_pixels: of a picture.
        upload_seconds: until all of a request has to be there.
        side: pixels; larger pictures are scaled so that their longer side has as many.
        jobs_each, jobs: that wait or run, of one room and of all.
    """

    rooms: int = 32
    room_bytes: int = 256 << 20
    idle: float | int = 4 * 3600
    away: float | int = 10
    upload_bytes: int = 32 << 20
    upload_pixels: int = 50_000_000
    upload_seconds: float | int = 60
    side: int = 1024
    jobs_each: int = 2
    jobs: int = 24


class Room:
    """One page's things; its `lock` is held by whoever changes the session."""

    def __init__(self, folder: Path, limits: Limits):
        self.folder, self.limits = folder, limits
        self.lock = threading.RLock()
        self.session: Session | None = None
        self.job: Job | None = None
        self.closed = False
        self.seen = time.monotonic()
        self.token = secrets.token_urlsafe(24)
        self._watchers: dict[object, Callable[[], None]] = {}
        self._sessions = 0

    @property
    def name(self) -> str:
        """Tells rooms apart, and opens none."""
        return self.folder.name

    @property
    def watched(self) -> bool:
        """Whether a page looks at it."""
        return bool(self._watchers)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Has a function called, from any thread, after each change; returns what ends that."""
        key = object()
        self._watchers[key] = changed

        def leave() -> None:
            self._watchers.pop(key, None)
            self.seen = time.monotonic()

        return leave

    def changed(self) -> None:
        """Tells the pages."""
        for call in list(self._watchers.values()):
            call()

    def begin(self, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Starts a session with a picture; the one before goes."""
        with self.lock:
            old, self._sessions = self.session, self._sessions + 1
            self.session = Session.start(self.folder / str(self._sessions), picture)
            if old is not None:
                shutil.rmtree(old.folder)
        self.changed()

    def opened(self) -> Session:
        """The session.

        Raises:
            ValueError: there is none yet.
        """
        if self.session is None:
            raise ValueError("expected a picture first: open one")
        return self.session

    def check_space(self, turns: int, height: int, width: int) -> None:
        """Raises Full unless as many more turns of this size have room on the disk."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        used = sum(path.stat().st_size for path in files)
        if used + turns * (4 * height * width + SLACK) > self.limits.room_bytes:
            raise Full("the history is full: begin anew from this picture")

    def describe(self, ahead: Callable[[Job], int]) -> dict[str, Any]:
        """What a page shows."""
        with self.lock:
            row: dict[str, Any] = {"session": self._sessions, "turns": [], "at": None}
            if self.session is not None:
                row["turns"] = [dataclasses.asdict(turn) for turn in self.session.turns]
                row["at"] = self.session.at
            row["job"] = None if self.job is None else self.job.describe(ahead(self.job))
        return row

    def close(self) -> None:
        """Removes all that it kept."""
        with self.lock:
            self.closed, self.session = True, None
            shutil.rmtree(self.folder, ignore_errors=True)
        self.changed()


class Rooms:
    """The rooms of a server, in one folder of its own."""

    def __init__(self, limits: Limits, place: Path | None = None):
        """Args:
        place: folder in which the server's own one is made; None is the system's for such.
        """
        self.limits = limits
        self.folder = Path(tempfile.mkdtemp(prefix="brushjax-app-", dir=place))
        self._rooms: dict[str, Room] = {}
        self._lock = threading.Lock()

    def create(self) -> Room:
        """Opens a room; where all are taken, the one unused for longest is closed for it.

        Raises:
            Full: all of them are in use.
        """
        self.sweep()
        with self._lock:
            gone = None
            if len(self._rooms) >= self.limits.rooms:
                left = [room for room in self._rooms.values() if not room.watched]
                left = [r for r in left if time.monotonic() - r.seen > self.limits.away]
                if not left:
                    raise Full("many people are at work here just now: try again later")
                gone = min(left, key=lambda room: room.seen)
                del self._rooms[gone.token]
            room = Room(Path(tempfile.mkdtemp(dir=self.folder)), self.limits)
            self._rooms[room.token] = room
        if gone is not None:
            gone.close()
        return room

    def get(self, token: str) -> Room | None:
        """The room of a token."""
        room = self._rooms.get(token)
        if room is not None:
            room.seen = time.monotonic()
        return room

    def changed(self) -> None:
        """Tells the pages of all rooms."""
        for room in list(self._rooms.values()):
            room.changed()

    def sweep(self) -> None:
        """Closes rooms that have not been used for long."""
        with self._lock:
            end = time.monotonic() - self.limits.idle
            old = [r for r in self._rooms.values() if not r.watched and r.seen < end]
            for room in old:
                del self._rooms[room.token]
        for room in old:
            room.close()

    def close(self) -> None:
        """Closes all, and removes the folder."""
        for room in list(self._rooms.values()):
            room.close()
        shutil.rmtree(self.folder, ignore_errors=True)
