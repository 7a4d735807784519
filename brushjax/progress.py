"""The one progress bar: it moves on a terminal, and writes a line now and then into a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

SECONDS = 30.0  # between two lines of a log


def progress_bar(
    items: Iterable[Any] | None = None,
    what: str | None = None,
    *,
    shown: bool = True,
    leave: bool = True,
    **how: Any,
) -> tqdm[Any]:
    """Returns a tqdm bar on stderr, over items or moved by hand.

    Where stderr is no terminal, each state is a line of its own, one in 30 seconds: a bar that
    moves by carriage returns makes a log unreadable. Where it is closed, none is shown.

    Args:
      what: is done, before the bar.
      shown: False for all processes but one.
      leave: whether the bar stays when it is done. One that doesn't writes no line to a log unless
        it takes longer than the time between two.
      how: further arguments of tqdm, as `total`, `initial` and `unit`.
    """
    from tqdm import tqdm

    shown = shown and _open()
    if shown and not on_terminal():
        wait = 0.0 if leave else SECONDS
        how |= {"file": Lines(sys.stderr), "delay": wait, "position": 0}  # no cursor to be moved
        how |= {"mininterval": SECONDS, "maxinterval": SECONDS}
    return tqdm(items, what, disable=not shown, leave=leave, **how)


def on_terminal() -> bool:
    """Whether stderr is where somebody sees a bar move. What a program puts in its place need not
    say so."""
    return _open() and hasattr(sys.stderr, "isatty") and sys.stderr.isatty()


def _open() -> bool:
    """Whether there is a stderr: Python has none without a console, or if it was closed before."""
    return sys.stderr is not None and not getattr(sys.stderr, "closed", False)


class Lines:
    """A stream for tqdm that ends each state of a bar with a line break."""

    encoding = "utf-8"

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> None:
        """Writes a bar's state; what only clears the one before is left out."""
        state = text.strip()
        if state:
            self._stream.write(f"{state}\n")

    def flush(self) -> None:
        """Flushes the stream, if it keeps anything back."""
        if hasattr(self._stream, "flush"):
            self._stream.flush()
