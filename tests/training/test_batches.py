"""Which host reads which samples, on meshes whose axes lie within hosts and over them."""

import dataclasses

import numpy as np
import pytest
from jax.sharding import Mesh

from brushjax.config import ConfigError
from brushjax.sharding import AXES
from brushjax.training.batches import share_of
from tests.training.hosts import launch, losses, wait


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    process_index: int
    platform: str = "cpu"


def mesh_of(processes):
    """A mesh (data, fsdp, tensor) of devices of these processes."""
    owners = np.array(processes)
    devices = [Device(n, int(owner)) for n, owner in enumerate(owners.flat)]
    return Mesh(np.array(devices).reshape(owners.shape), AXES)


def shares(processes, batch_size, monkeypatch):
    """What each process reads."""
    found = []
    for process in range(np.max(processes) + 1):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        found.append(share_of(batch_size, mesh_of(processes)))
    return found


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ([[[0]], [[0]], [[1]], [[1]]], [(4, (0, 2)), (4, (1, 2))]),
        ([[[1], [0]]], [(4, (1, 2)), (4, (0, 2))]),  # in the order in which the batch is cut
        ([[[0, 0]], [[1, 1]]], [(4, (0, 2)), (4, (1, 2))]),
        ([[[0, 1]]], [(8, (0, 1))] * 2),  # the tensor axis over two hosts: both read all
        ([[[0, 1]], [[2, 3]]], [(4, (0, 2))] * 2 + [(4, (1, 2))] * 2),
        ([[[0, 1]], [[0, 1]]], [(8, (0, 1))] * 2),
    ],
)
def test_hosts_read_what_their_devices_hold(processes, expected, monkeypatch):
    assert shares(processes, 8, monkeypatch) == expected


def test_uneven_shares_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"mesh.tensor 2 to lie within one host"):
        shares([[[0, 0]], [[0, 1]], [[1, 1]]], 6, monkeypatch)
    with pytest.raises(ConfigError, match="2 hosts divide; got 7"):
        shares([[[0]], [[1]]], 7, monkeypatch)


@pytest.mark.slow
def test_tensor_axis_over_two_hosts_trains_on_the_whole_batch(tmp_path):
    settings = ("--log_every", "1", "--steps", "4", "--optimizer.warmup_steps", "1")
    cut = ("--mesh.data", "1", "--mesh.tensor", "2", "--optimizer_rules", ".*", "cut:tensor")
    for name, hosts, more in (("one", 1, ()), ("two", 2, cut)):
        folder = tmp_path / name
        wait(launch(folder, hosts, 1, *settings, *more), folder)
    for step, loss in losses(tmp_path / "one").items():
        assert losses(tmp_path / "two")[step] == pytest.approx(loss, rel=1e-6)
