"""Several processes as one program: finding each other, waiting, agreeing, ending together, and
host copies."""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import util  # its way out is in no public module
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed  # its client is in no public module
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from brushjax.config import ConfigError

PORT = 8476  # of the first host, where the list names none
_ENDED = "brushjax/ended"  # key under which the processes hear that one of them ended the run
_LISTENING = 1.0  # seconds between two looks at it
_PATIENCE = 2.0  # seconds that workers have to end by themselves


def initialize(hosts: Sequence[str] = (), process: int | None = None) -> None:
    """Joins the processes of a run; to be called once, before anything computes.

    Without arguments: on a TPU machine, under SLURM, Open MPI or GKE's indexed jobs everything is
    found in the environment; elsewhere the process stays alone.

    Args:
      hosts: one name a process, the same list on all of them; the first, which the others must
        reach, may carry a port. (A host that runs several processes is named several times.)
      process: place of this process in the list; None finds it by the machine's own name.
    Raises: ConfigError if this machine is not in the list, or several times, or the list or the
      place is none.
    """
    # Used by CPU processes only: without it they can't add anything up between them.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if process is not None and not hosts:
        raise ConfigError(f"expected --hosts with --process {process}: the list that it counts in")
    if hosts:
        first, port = _checked(hosts, process)
        jax.distributed.initialize(
            f"{first}:{port}",
            num_processes=len(hosts),
            process_id=_own_place(hosts) if process is None else process,
        )
    elif _in_cluster():
        jax.distributed.initialize()
    if (client := distributed.global_state.client) is not None:
        threading.Thread(target=_listen, args=(client,), daemon=True).start()


def end_all(text: str, code: int = 1) -> NoReturn:
    """Ends this process and, within seconds, all others of the run, each after saying the text.

    For what one of them met and the others would wait for: a fault, or a signal.
    """
    client = distributed.global_state.client
    if client is None and code:
        sys.exit(text)
    if client is not None:
        about = {"process": jax.process_index(), "text": text, "code": code}
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was first
            client.key_value_set(_ENDED, json.dumps(about))
        if is_main():  # it is the one that the others hear it from
            time.sleep(2 * _LISTENING)
    print(text, file=sys.stderr if code else sys.stdout, flush=True)
    end_now(code)


def end_now(code: int) -> NoReturn:
    """Ends the process without Python's way out, on which it would wait for other processes and a
    compiler at work would crash."""
    # As multiprocessing begins its own way out: workers hear that it is over. One that is killed
    # while it shares an array leaves that behind for good.
    tell = util._run_finalizers  # pyright: ignore[reportAttributeAccessIssue]
    telling = threading.Thread(target=tell, args=(0,), daemon=True)
    telling.start()
    telling.join(_PATIENCE)
    for child in multiprocessing.active_children():
        child.kill()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed at the start
        stream.flush()
    os._exit(code)


def _listen(client: Any) -> None:
    """Ends this process when another one called `end_all`."""
    while True:
        time.sleep(_LISTENING)
        try:
            about = json.loads(client.key_value_try_get(_ENDED))
        except jax.errors.JaxRuntimeError:  # not found
            continue
        print(f"process {about['process']} ended the run: {about['text']}", file=sys.stderr)
        end_now(about["code"])


def decided(answer: bool) -> bool:
    """Returns the main process's answer, on every process."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.int32(answer)))


def is_main() -> bool:
    """Whether this process writes what only one may write."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Agreement:
    """A yes-or-no vote of all processes in every step, whose outcome is read one step later.

    So all decide the same in the same step, and no process waits for another.
    """

    def __init__(self, mesh: Mesh):
        self._alone = jax.process_count() == 1
        self._cut = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        whole = NamedSharding(mesh, PartitionSpec())
        self._any = jax.jit(lambda answers: answers.max(), out_shardings=whole)
        self._last: jax.Array | None = None

    def any(self, answer: bool) -> bool:
        """Gives this process's answer; returns whether any said yes (in the call before, where
        there are several)."""
        if self._alone:
            return answer
        heard = self._last is not None and bool(jax.device_get(self._last))
        mine = np.full(jax.local_device_count(), answer, np.int32)
        self._last = self._any(jax.make_array_from_process_local_data(self._cut, mine))
        return heard


def place(tree: Any, layout: Any) -> Any:
    """Returns arrays that every process has, wherever they lie, in the given shardings."""

    def one(leaf: Any, sharding: Any) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        values = np.asarray(jax.device_get(leaf))
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(one, tree, layout)


def whole_on_host(tree: Any) -> Any:
    """Returns a tree's arrays as numpy, those cut over devices of other hosts included.

    One after the other, so that no device ever holds more than one whole array.
    """

    def one(leaf: jax.Array) -> np.ndarray:
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined]
            leaf = jax.jit(lambda array: array, out_shardings=whole)(leaf)
        return np.asarray(jax.device_get(leaf))

    return jax.tree.map(one, tree)


def _checked(hosts: Sequence[str], process: int | None) -> tuple[str, int]:
    """Returns name and port of the first host.

    Raises: ConfigError if the list has an empty name or no number for a port, or fewer places.
    """
    first, _, port = hosts[0].partition(":")
    if not all(host.partition(":")[0].strip() for host in hosts):
        raise ConfigError(f"expected --hosts HOST[:PORT],HOST,... without gaps, got {list(hosts)}")
    if port and not (port.isdigit() and 0 < int(port) < 1 << 16):
        raise ConfigError(f"expected a port from 1 to 65535 behind {first!r}, got {port!r}")
    if process is not None and not 0 <= process < len(hosts):
        raise ConfigError(
            f"expected --process from 0 to {len(hosts) - 1}, a place in the list of hosts; got "
            f"{process}"
        )
    return first, int(port or PORT)


def _own_place(hosts: Sequence[str]) -> int:
    names = [host.partition(":")[0] for host in hosts]
    own = {socket.gethostname(), socket.gethostname().partition(".")[0], socket.getfqdn()}
    places = [place for place, name in enumerate(names) if name in own]
    if len(places) != 1:
        raise ConfigError(
            f"expected this machine ({', '.join(sorted(own))}) once in the list of hosts {names}; "
            f"found it {len(places)} times. Say which one it is with --process"
        )
    return places[0]


def _in_cluster() -> bool:
    """Whether the environment tells a process its place among several."""
    # The variables of a job step: a batch script of several tasks is one process itself.
    several = any(
        int(os.environ.get(name, 1)) > 1
        for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    )
    indexed = "JOB_COMPLETION_INDEX" in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ
    return several or indexed or _on_tpu()


def _on_tpu() -> bool:
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None
