"""A checkpoint that can't be written is one line with the cause."""

import contextlib
import resource
import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.files import WriteError
from brushjax.training.checkpoint import Checkpoints

STATE = {"params": jnp.asarray(np.random.default_rng(0).normal(size=400_000), jnp.float32)}


@contextlib.contextmanager
def files_up_to(size):
    """Lets this process write no larger files, as a disk of little room would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    with contextlib.closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_500_000))
        with pytest.raises(WriteError, match="needs 3 MB, 2 MB are free; make room") as caught:
            checkpoints.save(1, STATE, {})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_is_one_line_and_the_checkpoint_before_stays(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, STATE, {})
    checkpoints.wait()
    with files_up_to(1 << 19):
        checkpoints.save(2, STATE, {})
        with pytest.raises(WriteError, match=r"checkpoint.*File too large;") as caught:
            checkpoints.wait()
    assert "\n" not in str(caught.value)
    assert not [record for record in caplog.records if "_SignalingThread" in record.message]
    checkpoints.close()
    assert Checkpoints(tmp_path, keep=1).latest() == 1
