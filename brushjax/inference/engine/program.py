"""Programs that are compiled once: what varies between two calls is an argument.

`Program` runs any function of weights, a sampler, inputs and options; an edit is one of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from brushjax.diffusion.samplers import Sampler
from brushjax.diffusion.tables import padded_rows
from brushjax.inference.engine.approximations import Approximations
from brushjax.inference.engine.cache import SavedPrograms, use_compilation_cache
from brushjax.inference.engine.edit import (
    STATIC,
    Graphs,
    begin,
    check_finite,
    edit,
    end,
    proceed,
)
from brushjax.inference.engine.options import EditInputs, EditOptions
from brushjax.nn import Execution
from brushjax.sharding import BATCH, Rule, shardings
from brushjax.typing import Params

# XLA puts no loop, branch or convolution into CUDA graphs unless told to; the thousand kernels
# of a step would otherwise wait for the host, a tenth of the time of a single picture.
GRAPHS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
    "DYNAMIC_SLICE_FUSION,CONVOLUTION,WHILE,CONDITIONAL"
}
# XLA ends a process in which one thread records a CUDA graph while another waits for its program.
RECORDING = threading.RLock()
TELL_EVERY = 0.5  # seconds: quicker steps are run several at a time, or starting them would cost
Progress = Callable[[int, int], None]
"""Is called with the steps that are done and with how many there are, from 0 on."""


@runtime_checkable
class Inputs(Protocol):
    """What varies between two calls: a frozen dataclass that is a pytree of host arrays."""

    def samples(self) -> Mapping[str, Any]:
        """The fields with a batch axis, by name."""
        ...

    def per_step(self) -> Mapping[str, Any]:
        """The fields with a value for each of the sampler's calls, or one for all of them."""
        ...


@runtime_checkable
class Options(Protocol):
    """What a program is compiled for, beside sizes: hashable, its repr tells two apart."""

    @property
    def together(self) -> int | None:
        """Samples that a device works on at once; None takes its whole share."""
        ...


@dataclasses.dataclass(frozen=True)
class Stages:
    """A program in parts, for those who want to see how far it is.

    Attributes:
        begin: (params, sampler, inputs, options=, mesh=) -> what is under way.
        proceed: (params, sampler, inputs, under way, (first, last), options=, mesh=) -> the same
            after these steps.
        end: (params, under way, options=, mesh=) -> what the whole program returns.
    """

    begin: Callable[..., Any]
    proceed: Callable[..., Any]
    end: Callable[..., Any]


class Program:
    """Runs a jitted function on fixed weights, on any devices, with its compilations kept.

    One program is compiled for each combination of sizes and options. Values don't matter to it,
    nor does the number of steps up to the next power of two.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        params: Mapping[str, Params],
        *,
        key: Hashable = (),
        stages: Stages | None = None,
        mesh: Mesh | None = None,
        rules: Sequence[Rule] = (),
        saved: str | Path | None = None,
    ):
        """Places the weights, and turns XLA's cache on disk on unless JAX was told otherwise.

        Args:
            function: (params, sampler, inputs, options=, mesh=) -> tree of arrays [B, ...], jitted
                with options and mesh static.
            key: what the function depends on beside its arguments; its repr must tell two apart.
            stages: the same function in parts, for `progress`.
            mesh: batches are cut over its data axes. None computes on one device.
            rules: how weights are cut over the mesh (`brushjax.sharding`); replicated by default.
            saved: folder of ahead-of-time programs, read from and added to.
        """
        self._saved = None if saved is None else SavedPrograms(saved)
        if saved is None:
            use_compilation_cache()
        self._function, self._key, self._stages, self._mesh = function, key, stages, mesh
        self._params = dict(params)
        self._alone = RECORDING if on_gpu(mesh) else contextlib.nullcontext()
        if mesh is not None:
            self._params = jax.device_put(self._params, shardings(self._params, mesh, rules))

    def __call__(
        self, sampler: Sampler, inputs: Any, options: Options, progress: Progress | None = None
    ) -> Any:
        """Runs the function, and returns its results on the host.

        Args:
            sampler: of make_sampler.
            inputs: `Inputs`; per-step ones as long as the sampler's network calls.
            progress: called after every step, or after several where they are quick. The function
                then runs in its parts, with the same results.

        Raises:
            ValueError: per-step values of another number than the network calls; progress of a
                program without parts.
        """
        batch = _count(inputs)
        steps, sampler, inputs = sampler.steps, sampler.padded(), padded_inputs(inputs, sampler)
        shape = {} if self._mesh is None else self._mesh.shape
        parts = shape.get("data", 1) * shape.get("fsdp", 1)
        inputs = filled_up(inputs, parts * (options.together or 1))
        if self._mesh is not None:
            inputs = over_devices(inputs, self._mesh)
        with self._alone:
            if progress is None:
                whole = (self._params, sampler, inputs)
                results = self._run("whole", self._function, whole, options)
            else:
                results = self._in_parts(sampler, inputs, options, steps, progress)
            return jax.tree.map(lambda x: x[:batch], jax.device_get(results))

    def _run(
        self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...], options: Options
    ) -> Any:
        """Calls the function, or its saved program, which is known by this name."""
        how = {"options": options, "mesh": self._mesh}
        if self._saved is None:
            return function(*arguments, **how)
        leaves, structure = jax.tree.flatten(arguments)

        def flat(*leaves: Any) -> Any:
            return function(*jax.tree.unflatten(structure, leaves), **how)

        if self._mesh is not None:  # an exported program takes all of its arguments on its devices
            whole = NamedSharding(self._mesh, PartitionSpec())
            leaves = [x if isinstance(x, jax.Array) else jax.device_put(x, whole) for x in leaves]
        devices = 1 if self._mesh is None else self._mesh.size
        return self._saved((name, self._key, structure, options), flat, leaves, devices)

    def _in_parts(
        self, sampler: Sampler, inputs: Any, options: Options, steps: int, progress: Progress
    ) -> Any:
        """Runs a step, or several quick ones, at a time, one ahead of those that are waited for."""
        if self._stages is None:
            raise ValueError("expected no progress=: this program runs as a whole")
        stages, given = self._stages, (self._params, sampler, inputs)
        now = self._run("begin", stages.begin, given, options)
        progress(0, steps)
        first, last, length, seen = 0, 0, 1, None
        while last < steps:
            before, first, last = first, last, min(steps, last + length)
            some = (*given, now, (np.int32(first), np.int32(last)))
            after = self._run("proceed", stages.proceed, some, options)
            if first:
                jax.block_until_ready(now)
                progress(first, steps)
                if seen is not None:
                    each = (time.perf_counter() - seen) / (first - before)
                    length = max(1, round(TELL_EVERY / each))
                seen = time.perf_counter()
            now = after
        jax.block_until_ready(now)
        progress(steps, steps)
        return self._run("end", stages.end, (self._params, now), options)


class EditProgram(Program):
    """The program of an edit with a BrushNet branch; guidance on or off makes two of it."""

    def __init__(self, graphs: Graphs, params: Mapping[str, Params], **placing: Any):
        """Takes `params` by the names of `graphs`, and mesh, rules and saved as `Program`."""
        self._graphs = graphs
        mesh = placing.get("mesh")
        of = lambda function: functools.partial(tuned(function, mesh), graphs)  # noqa: E731
        stages = Stages(of(begin), of(proceed), of(end))
        super().__init__(of(edit), params, key=graphs, stages=stages, **placing)

    def __call__(
        self,
        sampler: Sampler,
        inputs: EditInputs,
        options: EditOptions | None = None,
        approximations: Approximations | None = None,
        progress: Progress | None = None,
    ) -> tuple[Float[np.ndarray, "B h w C"], UInt8[np.ndarray, "B H W 3"]]:
        """Runs an edit.

        Returns:
            Final scaled latents, and the decoded pictures before blending.

        Raises:
            ValueError: as `Program`; a sampler that draws noise without seeds; progress with steps
                that reuse another's features.
            FloatingPointError: a network gave NaN or infinity; names it and the samples.
        """
        if sampler.draws_noise and inputs.seeds is None:
            raise ValueError("expected seeds: this sampler draws noise at every step")
        options = EditOptions() if options is None else options
        if approximations is not None:
            inputs, options = approximations.apply(sampler.steps, inputs, options)
        if progress is not None and options.fresh_layers:
            raise ValueError(
                "expected progress= or approximations with reuse_every, got both: its steps are "
                "one program"
            )
        latents, pictures, finite = super().__call__(sampler, inputs, options, progress)
        check_finite(finite)
        return latents, pictures


def tuned(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """Returns one of the engine's jitted functions with what its devices want of the compiler."""
    return _in_graphs(function) if on_gpu(mesh) else function


def on_gpu(mesh: Mesh | None) -> bool:
    """Returns whether programs on this mesh, or without one, run on GPUs."""
    return Execution(mesh=mesh).platform == "gpu"


@functools.cache
def _in_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, so compiled that a GPU starts the whole loop by itself."""
    return jax.jit(function.__wrapped__, static_argnames=STATIC, compiler_options=GRAPHS)  # type: ignore[attr-defined]


def padded_inputs(inputs: Any, sampler: Sampler) -> Any:
    """Brings per-step values to the rows of the sampler's bucket.

    Raises:
        ValueError: another number of values than network calls.
    """
    rows = len(sampler.padded().rows.timestep)
    changes = {}
    for name, given in inputs.per_step().items():
        if given is None:
            continue
        values = np.asarray(given)
        values = values if values.dtype == bool else values.astype(np.float32)
        if values.ndim == 0:
            values = np.broadcast_to(values, (sampler.steps,))
        if len(values) != sampler.steps:
            raise ValueError(
                f"expected {sampler.steps} {name}, one a network call, got {values.shape}"
            )
        changes[name] = padded_rows(values, rows)
    return dataclasses.replace(inputs, **changes)


def filled_up(inputs: Any, multiple: int) -> Any:
    """Repeats the last sample until the batch is a multiple of a number."""
    missing = -_count(inputs) % multiple
    if not missing:
        return inputs
    repeat = lambda values: np.concatenate([values, *[values[-1:]] * missing])  # noqa: E731
    rows = {name: jax.tree.map(repeat, values) for name, values in inputs.samples().items()}
    return dataclasses.replace(inputs, **rows)


def over_devices(inputs: Any, mesh: Mesh) -> Any:
    """Cuts what has a batch axis over the mesh's data axes; the rest goes whole to every device."""
    samples = inputs.samples()
    placed = {
        name: jax.device_put(
            values, NamedSharding(mesh, BATCH if name in samples else PartitionSpec())
        )
        for name, values in vars(inputs).items()
    }
    return dataclasses.replace(inputs, **placed)


def _count(inputs: Inputs) -> int:
    """How many samples there are."""
    return len(jax.tree.leaves(dict(inputs.samples()))[0])
