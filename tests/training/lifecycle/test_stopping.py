"""Signals: what is saved, and how soon a process is gone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from brushjax.training.lifecycle.publishing import published
from brushjax.training.lifecycle.stopping import Interrupted
from brushjax.training.loop import run
from tests.training.hosts import launch, losses, saved, wait, wait_for_rows
from tests.training.test_loop import recipe

# Locking a mutex twice holds the main thread as a compiler does: no handler of Python's is run.
HELD = """
import ctypes, sys
from brushjax.training.lifecycle import stopping
stopping.PATIENCE = 0.2
with stopping.Interruption() as interruption:
    if sys.argv[1] == "learnt":
        interruption.learnt()
    print("ready", flush=True)
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex), lock(mutex)
"""


def held(state):
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, state], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    time.sleep(1.0)  # to get from there into the lock
    return process


@pytest.mark.slow
def test_ctrl_c_saves_as_sigterm_does(tmp_path):
    folder = tmp_path / "run"
    settings = ("--log_every", "1", "--data.pause", "0.02", "--checkpoint_every", "99")
    processes = launch(folder, 1, 1, *settings)
    wait_for_rows(folder, 4, processes)
    processes[0].send_signal(signal.SIGINT)
    wait(processes, folder)
    (step,) = saved(folder)
    assert step >= max(losses(folder)) >= 4
    assert "the same command goes on" in (tmp_path / "run.0.log").read_text()


def test_ctrl_c_ends_a_process_that_compiles_and_has_nothing_to_save():
    process = held("nothing learnt")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, b"stopped; the same command goes on\n")


def test_second_ctrl_c_ends_a_process_at_once():
    process = held("learnt")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # it has something to save
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_signal_while_evaluating_ends_the_run_which_evaluates_when_started_again(tmp_path):
    calls = []

    def judge(step, export, workdir):
        calls.append(step)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return {"score": float(step)}

    config = recipe(steps=12, export_every=6, checkpoint_every=99)
    with pytest.raises(Interrupted):
        run(config, tmp_path, [judge])
    assert saved(tmp_path) == [6]
    run(config, tmp_path, [judge])
    assert calls == [6, 6, 12]
    assert published(tmp_path) == 12


@pytest.mark.parametrize(
    "kept",
    [
        "multiprocessing.get_context('spawn').Event()",  # is taken away before the end
        "(feed._start_tracker(), shared_memory.SharedMemory(create=True, size=8))",  # and after it
    ],
)
def test_what_ends_at_once_leaves_its_workers_things_without_a_warning(kept):
    program = (
        "import multiprocessing\n"
        "from multiprocessing import shared_memory\n"
        "from brushjax.data import feed\n"
        "from brushjax.distributed import end_now\n"
        f"kept = {kept}\n"
        "end_now(3)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")


def test_a_process_without_stderr_ends_at_once_too():
    program = "import sys; sys.stderr = None; from brushjax.distributed import end_now; end_now(3)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 3
