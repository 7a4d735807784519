"""FireEdit's second stage on several devices and hosts, killed, and gone on with on other meshes.

pytest -s -m slow tests/training/test_edit_hosts.py
"""

import shutil

import pytest

from tests import tiny_fireedit
from tests.training.hosts import killed, launch, losses, saved, wait

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
    moments = killed(tmp_path, KILLS, (), config=CONFIG, most_rows=14)
    assert any(rows for rows, _, _ in moments), "every kill hit before the first step"
