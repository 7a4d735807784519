"""A file or a folder is there whole, or as it was before."""

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from brushjax import files
from brushjax.files import (
    WriteError,
    inside,
    merged_folder,
    try_places,
    whole_file,
    whole_folder,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_files():
    """No file may grow beyond 1000 bytes: what a full disk does, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_file_that_does_not_fit_leaves_the_old_one_and_says_why(tmp_path, small_files):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(WriteError) as caught:
        files.write_bytes(tmp_path / "a", bytes(2000))
    message = str(caught.value)
    assert message == f"can't write {tmp_path / 'a'}: File too large; " + files.ADVICE[errno.EFBIG]
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_full_disk_is_named(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = "No space left on device; make room"
    with pytest.raises(WriteError, match=message), whole_file(tmp_path / "a"):
        raise full
    assert names(tmp_path) == []


def test_file_makes_its_parents_and_says_what_is_in_the_way(tmp_path):
    files.write_text(tmp_path / "a" / "b", "text")
    assert (tmp_path / "a" / "b").read_text() == "text"
    with pytest.raises(WriteError, match=r"can't write .*a/b/c: .*; a file is in the way"):
        files.write_text(tmp_path / "a" / "b" / "c", "text")


def test_errors_of_what_is_read_in_the_block_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), whole_file(tmp_path / "a"):
        Path("/elsewhere/file").read_bytes()
    assert names(tmp_path) == []


def test_folder_keeps_what_others_put_there(tmp_path):
    folder = tmp_path / "export"
    for content in ("first", "second"):
        with whole_folder(folder) as new:
            (new / "branch").mkdir()
            (new / "branch" / content).write_text(content)
        (folder / "README.md").write_text("my model card")
        (folder / "branch" / "licence").write_text("mine")
    with whole_folder(folder) as new:
        (new / "branch").mkdir()
    assert names(folder) == ["README.md", "branch"]
    assert names(folder / "branch") == ["licence"]


def test_folder_is_put_back_after_a_crash_between_the_renames(tmp_path, monkeypatch):
    folder = tmp_path / "best"
    with whole_folder(folder) as new:
        (new / "weights").write_text("best so far")

    def crash(source, target):
        if str(target) == str(folder):
            raise KeyboardInterrupt
        os.rename(source, target)

    def write():
        with whole_folder(folder) as new:
            (new / "weights").write_text("newer")

    monkeypatch.setattr(files.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write()
    monkeypatch.undo()
    assert not folder.exists()
    assert (files.restored(folder) / "weights").read_text() == "best so far"
    assert [name for name in names(tmp_path) if "part" in name or "old" in name] == []


def test_folder_left_by_a_process_that_is_gone_is_removed(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "getpid", lambda: 2**22 + 1)  # above Linux's largest
        files._unfinished(tmp_path / "export").mkdir()
    with whole_folder(tmp_path / "export"):
        pass
    assert [name for name in names(tmp_path) if name.endswith(files.PART)] == []


def test_merged_folder_keeps_the_rest_and_replaces_named_folders(tmp_path):
    folder = tmp_path / "model"
    (folder / "orbax").mkdir(parents=True)
    (folder / "orbax" / "stale").write_text("")
    (folder / "card").write_text("")
    with merged_folder(folder, ("orbax",)) as new:
        (new / "orbax").mkdir()
        (new / "orbax" / "fresh").write_text("")
    assert names(folder) == ["card", "orbax"]
    assert names(folder / "orbax") == ["fresh"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "..\\a", "", "a\0b"])
def test_names_that_lead_out_of_their_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="expected a name inside"):
        inside(tmp_path, name)


@pytest.mark.parametrize(
    ("text", "name"), [("../a b", "___a_b"), ("..", "__"), ("", "_"), ("brushbench-in.1", None)]
)
def test_titles_become_names(text, name):
    assert files.as_name(text) == (name or text)


def test_names_inside_a_folder_are_paths(tmp_path):
    assert inside(tmp_path, "a/b.png") == tmp_path / "a" / "b.png"
    assert inside(tmp_path, "..a") == tmp_path / "..a"


def test_process_is_known_by_its_start():
    started = files.started_at(os.getpid())
    assert files.alive(os.getpid(), started)
    assert not files.alive(os.getpid(), "1")


def test_places_are_tried_and_nothing_stays(tmp_path):
    (tmp_path / "old").write_text("old")
    try_places([tmp_path / "old", tmp_path / "new", tmp_path / "no" / "folder" / "yet"])
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file/in/the/way", "Not a directory; a file is in the way"),
        ("folder", "Is a directory; a folder of that name is in the way"),
        ("x" * 300, "File name too long; choose a shorter name"),
    ],
)
def test_places_that_take_no_file_are_said_before_the_work(tmp_path, place, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match=f"can't write .*{place}: {message}"):
        try_places([tmp_path / "fine", tmp_path / place])
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_folders_that_take_no_file_are_named_before_the_work(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    try_places([], [tmp_path / "folder", tmp_path / "no" / "folder" / "yet"])
    with pytest.raises(WriteError, match=f"can't write .*{place}: Not a directory; a file is in"):
        try_places([], [tmp_path / place])
    assert names(tmp_path) == ["file", "folder"]


def test_full_disk_is_noticed_where_places_are_tried(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match="No space left on device; make room"):
        try_places([tmp_path / "a"])
