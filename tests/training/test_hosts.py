"""Several processes as one run: equal losses, signals, kills, and going on on other machines."""

import dataclasses
import shutil
import signal

import pytest

from brushjax.config import ConfigError
from brushjax.distributed import _own_place, initialize
from brushjax.training.loop import run
from tests.training import tiny
from tests.training.hosts import BRANCH, killed, launch, losses, saved, wait, wait_for_rows

EVERY_STEP = ("--log_every", "1")
SHARDED = ("--parameter_rules", ".*", "cut:fsdp", "--optimizer_rules", ".*", "cut:fsdp")
MODES = {
    "replicated": ("--optimizer_rules",),
    "zero-1": (),
    "fully sharded": ("--mesh.data", "1", "--mesh.fsdp", "-1", *SHARDED),
}
LAYOUTS = {"1x1": (1, 1), "1x8": (1, 8), "2x4": (2, 4)}
KILLS = 20


def close(ours, expected, rel=1e-6):
    assert ours.keys() == expected.keys()
    for step, loss in expected.items():
        assert ours[step] == pytest.approx(loss, rel=rel), step


@pytest.mark.heavy
def test_two_hosts_stop_together_and_one_goes_on(tmp_path):
    """SIGTERM reaches one of two processes: both save the same step, and eight devices of one
    process end as if they had done it all."""
    recipe = dataclasses.replace(tiny.get_config(), log_every=1)
    run(recipe, tmp_path / "whole")
    folder = tmp_path / "two"
    processes = launch(
        folder, 2, 4, *EVERY_STEP, "--data.pause", "0.02", "--checkpoint_every", "99"
    )
    wait_for_rows(folder, 4, processes)
    processes[1].send_signal(signal.SIGTERM)
    wait(processes, folder)
    (step,) = saved(folder)
    assert 4 <= step < 24
    assert not (folder / "export").exists()
    run(dataclasses.replace(recipe, data=tiny.Numbers(pause=0.02)), folder)
    # Two processes add up in another order than one; by its last steps Adam has made 1.3e-6 of it.
    close(losses(folder), losses(tmp_path / "whole"), rel=3e-6)


def test_fault_on_one_host_ends_all_with_its_error(tmp_path):
    folder = tmp_path / "two"
    # Sample 5 is in the first batch, in the part of the second process alone.
    processes = launch(folder, 2, 1, "--data.broken", "5")
    codes = [process.wait(timeout=120) for process in processes]
    assert codes == [1, 1]
    for number in range(2):
        log = (tmp_path / f"two.{number}.log").read_text()
        assert "sample" in log, log[-2000:]
    assert (
        "process 1 ended the run: error: ValueError: sample" in (tmp_path / "two.0.log").read_text()
    )


def test_own_place_in_a_list_of_hosts(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "gpu1.cluster")
    monkeypatch.setattr("socket.getfqdn", lambda: "gpu1.cluster")
    assert _own_place(["gpu0:1234", "gpu1"]) == 1
    for hosts in (["gpu0", "gpu2"], ["gpu1", "gpu1"]):
        with pytest.raises(ValueError, match="Say which one it is with --process"):
            initialize(hosts)


@pytest.mark.parametrize(
    ("hosts", "process", "message"),
    [
        (["a:port", "b"], 0, "expected a port from 1 to 65535 behind 'a', got 'port'"),
        (["a", ""], 0, "without gaps"),
        (["a", "b"], 2, "--process from 0 to 1"),
        (["a", "b"], None, "Say which one it is with --process"),
        ([], 1, "expected --hosts with --process 1"),
    ],
)
def test_wrong_list_of_hosts_is_an_error_of_the_config(hosts, process, message):
    with pytest.raises(ConfigError, match=message):
        initialize(hosts, process)


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"JOB_COMPLETION_INDEX": "0", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
    ],
)
def test_clusters_are_known_by_their_variables(variables, several, monkeypatch):
    monkeypatch.setattr("brushjax.distributed._on_tpu", lambda: False)
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    joined = []
    monkeypatch.setattr("jax.distributed.initialize", lambda: joined.append(True))
    initialize()
    assert bool(joined) == several


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_loss_curves_do_not_depend_on_devices_and_hosts(mode, base, tmp_path):
    curves, settings = {}, ("--objective.base", str(base), *MODES[mode])
    for name, layout in LAYOUTS.items():
        wait(launch(tmp_path / name, *layout, *settings, config=BRANCH), tmp_path / name)
        curves[name] = losses(tmp_path / name)
        assert len(curves[name]) == 30
    worst = {
        name: max(abs(curve[step] / curves["1x1"][step] - 1) for step in curve)
        for name, curve in curves.items()
    }
    print(mode, worst)
    assert max(worst.values()) <= 1e-6


@pytest.mark.slow
def test_run_goes_on_on_other_machines(base, tmp_path):
    first, settings = tmp_path / "2x4", ("--objective.base", str(base))
    wait(launch(first, 2, 4, *settings, config=BRANCH), first)
    expected = losses(first)
    for name, layout in {"1x8": (1, 8), "1x1": (1, 1), "2x1": (2, 1)}.items():
        folder = tmp_path / name
        shutil.copytree(first, folder)
        for step in (20, 30):
            shutil.rmtree(folder / "checkpoints" / str(step))
        wait(launch(folder, *layout, *settings, config=BRANCH), folder)
        again = losses(folder)
        worst = max(abs(again[step] / expected[step] - 1) for step in expected)
        print(name, worst)
        assert worst <= 1e-6


@pytest.mark.slow
def test_run_killed_at_random_moments_ends_bit_identical(tmp_path):
    settings = (*EVERY_STEP, "--steps", "60", "--checkpoint_every", "4", "--data.pause", "0.002")
    moments = killed(tmp_path, KILLS, settings)
    assert any(cut for _, _, cut in moments), "no kill hit a checkpoint that was being written"
