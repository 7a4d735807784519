"""Work that takes longer than an answer may: one job at a time, in the order that they came."""

from __future__ import annotations

import collections
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from typing import Any

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
OF_USERS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
"""Kinds of errors whose message is meant for the user."""
MISHAP = "something went wrong here; the server's log says what"

logger = logging.getLogger(__name__)


class Full(Exception):
    """There is no place for one more."""


class Cancelled(Exception):
    """The one who asked for it doesn't want it any more."""


class Job:
    """A piece of work of one owner, and how far it is.

    Attributes:
        owner: whose it is.
        state: WAITING, RUNNING, DONE, FAILED or CANCELLED.
        phase: what is being done, for people.
        done, steps: of the part that is under way.
        part, parts: which of the results is under way, from 0, and of how many.
        error: of a failed one, in one line.
    """

    def __init__(
        self,
        owner: str,
        work: Callable[[Job], Any],
        parts: int = 1,
        changed: Callable[[], None] = lambda: None,
    ):
        self.owner, self.parts = owner, parts
        self.state, self.phase, self.error = WAITING, "", ""
        self.done, self.steps, self.part = 0, 0, 0
        self.result: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._work, self._changed = work, changed
        self._unwanted = threading.Event()

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (WAITING, RUNNING)

    def tell(self, done: int, steps: int) -> None:
        """Notes the steps done; work calls it between two of them, which is where it stops.

        Raises:
            Cancelled: it is not wanted any more.
        """
        self.check()
        self.done, self.steps, self.phase = done, steps, "painting"
        self._changed()

    def begin(self, part: int, phase: str) -> None:
        """Notes what is done next; raises Cancelled as `tell`."""
        self.check()
        self.part, self.phase, self.done, self.steps = part, phase, 0, 0
        self._changed()

    def check(self) -> None:
        """Raises Cancelled where it is not wanted any more."""
        if self._unwanted.is_set():
            raise Cancelled

    def cancel(self) -> None:
        """Ends it: before it begins, or between two steps."""
        self._unwanted.set()
        if self.state == WAITING:
            self._end(CANCELLED)

    def run(self) -> None:
        """Does the work; what it raises becomes the job's error."""
        if not self.active:
            return
        self.state = RUNNING
        self._changed()
        try:
            self.check()
            value = self._work(self)
        except Cancelled:
            self._end(CANCELLED)
        except OF_USERS as error:
            self._end(FAILED, " ".join(str(error).split()))
        except Exception:  # the next one's work must go on; the owner of the server reads the log
            logger.exception("a job ended by a fault that was not foreseen")
            self._end(FAILED, MISHAP)
        else:
            self._end(DONE, value=value)

    def describe(self, ahead: int) -> dict[str, Any]:
        """What a page shows of it."""
        names = ("state", "phase", "done", "steps", "part", "parts", "error")
        return {name: getattr(self, name) for name in names} | {"ahead": ahead}

    def _end(self, state: str, error: str = "", value: Any = None) -> None:
        self.state, self.error = state, error
        if not self.result.done():
            if state == DONE:
                self.result.set_result(value)
            else:
                self.result.set_exception(Cancelled() if state == CANCELLED else ValueError(error))
        self._changed()


class Queue:
    """Runs jobs one after the other in a thread of its own."""

    def __init__(self, each: int, most: int):
        """Args:
        each: jobs that an owner may have here at once.
        most: jobs of all owners.
        """
        self._each, self._most = each, most
        self._waiting: collections.deque[Job] = collections.deque()
        self._now: Job | None = None
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> Job:
        """Adds a job.

        Raises:
            Full: its owner, or all together, have as many as they may.
        """
        with self._news:
            jobs = self._jobs()
            if sum(other.owner == job.owner for other in jobs) >= self._each:
                raise Full("there is work of yours under way: wait for it, or cancel it")
            if len(jobs) >= self._most:
                raise Full("many people are at work here just now: try again in a minute")
            self._waiting.append(job)
            self._news.notify()
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs come before this one."""
        with self._news:
            jobs = self._jobs()
            return jobs.index(job) if job in jobs else 0

    def drop(self, owner: str) -> None:
        """Cancels all jobs of an owner."""
        with self._news:
            jobs = [job for job in self._jobs() if job.owner == owner]
            self._waiting = collections.deque(job for job in self._waiting if job not in jobs)
        for job in jobs:
            job.cancel()

    def close(self) -> None:
        """Cancels everything and ends the thread."""
        with self._news:
            self._ended = True
            jobs = self._jobs()
            self._waiting.clear()
            self._news.notify()
        for job in jobs:
            job.cancel()
        self._thread.join()

    def _jobs(self) -> list[Job]:
        return [job for job in (self._now, *self._waiting) if job is not None and job.active]

    def _loop(self) -> None:
        while True:
            with self._news:
                self._now = None
                self._news.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
                self._now = self._waiting.popleft()
            self._now.run()
