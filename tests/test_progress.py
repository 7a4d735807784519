"""The progress bar on a terminal and in a log."""

import io
import sys

import pytest

from brushjax import progress


def shown(monkeypatch, stream, **how):
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in progress.progress_bar(range(3), "working", **how):
        pass
    return stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_writes_lines_to_a_log(monkeypatch):
    written = shown(monkeypatch, io.StringIO())
    assert "\r" not in written
    lines = written.splitlines()
    assert lines[0].startswith("working:   0%")
    assert lines[-1].startswith("working: 100%")
    assert len(lines) == 2  # three quick steps: none between


def test_progress_within_another_moves_no_cursor_in_a_log(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress_bar(total=1, what="outer"):
        for _ in progress.progress_bar(range(3), "inner"):
            pass
    assert all(line.startswith(("outer: ", "inner: ")) for line in stream.getvalue().splitlines())


def test_progress_moves_on_a_terminal(monkeypatch):
    assert "\r" in shown(monkeypatch, Terminal())


@pytest.mark.parametrize("how", [{"leave": False}, {"shown": False}, {"leave": False, "delay": 2}])
def test_progress_says_nothing_of_short_work_or_where_not_asked(monkeypatch, how):
    assert shown(monkeypatch, io.StringIO(), **how) == ""


class Bare:
    """A stream that can no more than write."""

    def __init__(self):
        self.written = []

    def write(self, text):
        self.written.append(text)


def test_progress_needs_no_more_of_a_stream_than_write(monkeypatch):
    stream = Bare()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress.progress_bar(range(3), "working")) == [0, 1, 2]
    assert stream.written[-1].startswith("working: 100%")
    assert not progress.on_terminal()


@pytest.mark.parametrize("closed", [False, True])
def test_work_goes_on_without_stderr(monkeypatch, closed):
    stream = io.StringIO() if closed else None
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress.progress_bar(range(3), "working")) == [0, 1, 2]
    assert not progress.on_terminal()
