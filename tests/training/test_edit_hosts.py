"""FireEdit's second stage on several devices and hosts, killed, and gone on with on other meshes.

pytest -s -m slow tests/training/test_edit_hosts.py
"""

import random
import shutil
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import tiny_fireedit
from tests.training.hosts import launch, losses, saved, wait, wait_for_rows

CONFIG = "tests/training/tiny_edits.py"
CUT = (".*", "cut:fsdp")
SHARDED = ("--parameter_rules", *CUT, "--optimizer_rules", *CUT, "--frozen_rules", *CUT)
MODES = {
    "data": (),
    "fsdp": ("--mesh.data", "1", "--mesh.fsdp", "-1", *SHARDED),
    "data x tensor": ("--mesh.tensor", "2"),
}
ONE = "1x1"
LAYOUTS = {"1x8": (1, 8), "2x4": (2, 4)}
KILLS = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The folder of the parts; processes of a run find it, and each other's programs."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_fireedit.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_FIREEDIT", str(folder))
        patch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("programs")))
        yield folder


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    """A run on one device."""
    folder = tmp_path_factory.mktemp("whole") / ONE
    wait(launch(folder, 1, 1, config=CONFIG), folder)
    assert len(losses(folder)) == 20
    return folder


def furthest(one, other):
    assert one.keys() == other.keys()
    return max(abs(one[step] / other[step] - 1) for step in other)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_edits_losses_do_not_depend_on_devices_and_hosts(mode, layout, whole, tmp_path):
    folder = tmp_path / layout
    wait(launch(folder, *LAYOUTS[layout], *MODES[mode], config=CONFIG), folder)
    worst = furthest(losses(folder), losses(whole))
    print(f"{mode}, {layout}: {worst:.1e}")
    assert worst <= 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_edits_go_on_on_another_mesh(mode, whole, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(whole, folder)
    for step in saved(folder)[2:]:
        shutil.rmtree(folder / "checkpoints" / str(step))
    wait(launch(folder, 1, 8, *MODES[mode], config=CONFIG), folder)
    worst = furthest(losses(folder), losses(whole))
    print(f"{mode}: {worst:.1e}")
    assert worst <= 1e-6


def test_edits_killed_at_random_moments_end_bit_identical(parts, tmp_path):
    """Half of the kills hit while a checkpoint is being written, if one is."""
    whole = tmp_path / "whole"
    start = time.monotonic()
    wait(launch(whole, 2, 4, config=CONFIG), whole)
    lasted = time.monotonic() - start
    rng, moments = random.Random(0), []
    for kill in range(KILLS):
        folder = tmp_path / f"killed{kill}"
        processes = launch(folder, 2, 4, config=CONFIG)
        if kill % 2:
            wait_for_rows(folder, rng.randrange(1, 14), processes)
            while not list((folder / "checkpoints").glob("*tmp*")) and processes[0].poll() is None:
                pass
            time.sleep(rng.random() * 0.02)
        else:
            time.sleep(rng.random() * lasted)
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        there = saved(folder) if (folder / "checkpoints").is_dir() else []
        cut = len(list((folder / "checkpoints").glob("*tmp*")))
        moments.append((len(losses(folder)), there[-1:], cut))
        wait(launch(folder, 2, 4, config=CONFIG), folder)
        assert losses(folder) == losses(whole)
        compare(folder / "export", whole / "export")
    print("(rows, last checkpoint, partial ones) at each kill:", moments)
    assert any(rows for rows, _, _ in moments), "every kill hit before the first step"


def compare(folder, expected):
    files = sorted(expected.rglob("*.safetensors"))
    assert files
    for file in files:
        tensors, ended = load_file(file), load_file(folder / file.relative_to(expected))
        assert tensors.keys() == ended.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(ended[name], tensor, err_msg=name)
