"""When a run ends early: Ctrl-C, and a machine that is taken away."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from types import FrameType, TracebackType
from typing import Any

from brushjax.distributed import end_all, end_now

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # of clusters that take a machine away, and Ctrl-C
PATIENCE = 5.0  # seconds in which Python may end by itself where there is nothing to save
GOES_ON = "stopped; the same command goes on"

log = logging.getLogger(__name__)


class Interrupted(BaseException):
    """Raised where a run may end at once. No Exception, so that no handler takes it for a fault."""


class Interruption:
    """Takes SIGTERM and Ctrl-C as a request to save and end; a second one ends the process at once.

    A context manager. After `learnt` the loop looks at `asked` and saves. Until then and after
    `saved` a signal raises Interrupted; where Python does not get a word in (a compiler may hold
    the main thread for minutes), a thread ends the process after some seconds.
    """

    def __init__(self) -> None:
        self.asked = False
        self._heard = 0
        self._may_end = True
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # others may not listen
            self._ear, self._mouth = socket.socketpair()
            self._mouth.setblocking(False)
            # The handler below has to wait for the main thread; this thread hears it in any case.
            self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._raise) for number in SIGNALS}
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._may_end = False  # for a timer that still runs
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            self._mouth.close()  # ends the thread

    def learnt(self) -> None:
        """From here on there is something that must be saved before the process may end."""
        self._may_end = False

    def saved(self) -> None:
        """From here on all is saved, and the process may end at any moment.

        Raises: Interrupted if a signal came already.
        """
        self._may_end = True
        if self.asked:
            raise Interrupted

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._may_end:
            raise Interrupted

    def _listen(self) -> None:
        with self._ear:
            while heard := self._ear.recv(64):
                for number in heard:
                    if number in SIGNALS:
                        self._hear(number)

    def _hear(self, number: int) -> None:
        self._heard += 1
        if self._heard > 1:
            end_now(128 + number)
        self.asked = True
        log.warning(
            "asked to stop: %s; a second time ends it at once",
            "ending" if self._may_end else "saving after this step",
        )
        if self._may_end:
            timer = threading.Timer(PATIENCE, self._end_if_nothing_to_save)
            timer.daemon = True
            timer.start()

    def _end_if_nothing_to_save(self) -> None:
        if self._may_end:
            end_all(GOES_ON, 0)
