"""A folder belongs to one run at a time, and is free again once that one is gone."""

import json
import os
import subprocess
import sys
import threading

import pytest

from brushjax import lock
from brushjax.config import ConfigError
from brushjax.files import WriteError
from brushjax.lock import locked


def held_by(folder, **changes):
    row = {"host": "elsewhere", "pid": 7, "started": "12", "since": "yesterday", **changes}
    (folder / lock.NAME).write_text(json.dumps(row))


def test_locked_folder_refuses_a_second_run_and_names_the_first(tmp_path):
    with locked(tmp_path):
        message = rf"in use: process {os.getpid()} on .* since"
        with pytest.raises(ConfigError, match=message), locked(tmp_path):
            pass
        assert (tmp_path / lock.NAME).exists()
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_killed_process_is_taken_over(tmp_path):
    program = (
        "import os, sys, pathlib; from brushjax.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    owner = json.loads((tmp_path / lock.NAME).read_text())
    assert owner["pid"] != os.getpid()
    with locked(tmp_path):
        pass


def test_lock_of_another_process_with_the_same_number_is_taken_over(tmp_path):
    held_by(tmp_path, host=lock.socket.gethostname(), pid=os.getpid(), started="12")
    with locked(tmp_path):
        pass


def test_lock_without_content_is_taken_over(tmp_path):
    (tmp_path / lock.NAME).touch()
    with locked(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


def test_lock_of_another_machine_counts_while_it_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "SILENCE", 0.4)
    held_by(tmp_path)
    done = threading.Event()
    beating = threading.Thread(target=lock._beat, args=(tmp_path / lock.NAME, done))
    beating.start()
    message = "process 7 on elsewhere works there since yesterday"
    with pytest.raises(ConfigError, match=message), locked(tmp_path):
        pass
    done.set()
    beating.join()
    with locked(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


def test_lock_of_a_place_that_is_no_folder_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WriteError, match="a file is in the way of a folder"),
        locked(tmp_path / "file" / "run"),
    ):
        pass
