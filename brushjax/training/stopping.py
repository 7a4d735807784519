"""When a run ends early: a machine that is taken away, and steps that are not finite."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from jax.sharding import Mesh

from brushjax.distributed import Agreement

log = logging.getLogger(__name__)


class Interruption:
    """Takes SIGTERM, which clusters send before they take a machine away, as a request to save.

    A context manager; `agreed` says in the same step on every host that one of them was asked. A
    second signal ends the process at once.
    """

    def __init__(self, mesh: Mesh):
        self._asked = False
        self._agreement = Agreement(mesh)
        self._before: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # others may not listen
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def agreed(self) -> bool:
        """To be called once a step on every host."""
        return self._agreement.any(self._asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        log.warning("asked to stop: saving after this step")
        self._asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
