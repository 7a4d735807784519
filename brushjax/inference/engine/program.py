"""Edits as programs that are compiled once: what varies between two edits is an argument."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from brushjax.diffusion.samplers import Sampler
from brushjax.diffusion.tables import padded_rows
from brushjax.inference.engine.approximations import Approximations
from brushjax.inference.engine.cache import SavedPrograms, use_compilation_cache
from brushjax.inference.engine.edit import Graphs, check_finite, edit
from brushjax.inference.engine.options import PER_STEP, EditInputs, EditOptions
from brushjax.sharding import BATCH, Rule, shardings
from brushjax.typing import Params


class EditProgram:
    """Runs edits on fixed networks, one compiled program for each combination of sizes and options.

    Prompts, seeds, masks, scales and the sampler don't matter to a program, nor does the number of
    steps up to the next power of two; guidance on or off does.
    """

    def __init__(
        self,
        graphs: Graphs,
        params: dict[str, Params],
        *,
        mesh: Mesh | None = None,
        rules: Sequence[Rule] = (),
        saved: str | Path | None = None,
    ):
        """Places the weights, and turns XLA's cache on disk on unless JAX was told otherwise.

        Args:
            params: pure dicts by the names of `graphs`.
            mesh: batches are cut over its data axes. None computes on one device.
            rules: how weights are cut over the mesh (`brushjax.sharding`); replicated by default.
            saved: folder of ahead-of-time programs, read from and added to.
        """
        self._saved = None if saved is None else SavedPrograms(saved)
        if saved is None:
            use_compilation_cache()
        self._graphs, self._mesh = graphs, mesh
        self._params = params
        if mesh is not None:
            self._params = jax.device_put(params, shardings(params, mesh, rules))

    def __call__(
        self,
        sampler: Sampler,
        inputs: EditInputs,
        options: EditOptions | None = None,
        approximations: Approximations | None = None,
    ) -> tuple[Float[np.ndarray, "B h w C"], UInt8[np.ndarray, "B H W 3"]]:
        """Runs an edit.

        Args:
            sampler: of make_sampler.
            inputs: of host arrays; per-step ones as long as the sampler's network calls.

        Returns:
            Final scaled latents, and the decoded pictures before blending.

        Raises:
            ValueError: a sampler that draws noise without seeds, or per-step values of another
                number than the network calls.
            FloatingPointError: a network gave NaN or infinity; names it and the samples.
        """
        if sampler.draws_noise and inputs.seeds is None:
            raise ValueError("expected seeds: this sampler draws noise at every step")
        options = EditOptions() if options is None else options
        if approximations is not None:
            inputs, options = approximations.apply(sampler.steps, inputs, options)
        batch = len(inputs.masked)
        sampler, inputs = sampler.padded(), padded_inputs(inputs, sampler)
        parts = 1 if self._mesh is None else self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        inputs = filled_up(inputs, parts * (options.together or 1))
        if self._mesh is not None:
            inputs = over_devices(inputs, self._mesh)
        results = self._run(sampler, inputs, options)
        latents, pictures, finite = jax.device_get(results)
        check_finite(finite[:batch])
        return latents[:batch], pictures[:batch]

    def _run(self, sampler: Sampler, inputs: EditInputs, options: EditOptions) -> Any:
        arguments = (self._params, sampler, inputs)
        if self._saved is None:
            return edit(self._graphs, *arguments, options, self._mesh)
        leaves, structure = jax.tree.flatten(arguments)

        def flat(*leaves: Any) -> Any:
            return edit(self._graphs, *jax.tree.unflatten(structure, leaves), options, self._mesh)

        if self._mesh is not None:  # an exported program takes all of its arguments on its devices
            whole = NamedSharding(self._mesh, PartitionSpec())
            leaves = [x if isinstance(x, jax.Array) else jax.device_put(x, whole) for x in leaves]
        devices = 1 if self._mesh is None else self._mesh.size
        return self._saved((self._graphs, structure, options), flat, leaves, devices)


def padded_inputs(inputs: EditInputs, sampler: Sampler) -> EditInputs:
    """Brings per-step values to the rows of the sampler's bucket.

    Raises:
        ValueError: another number of values than network calls.
    """
    rows = len(sampler.padded().rows.timestep)
    changes = {}
    for name in PER_STEP:
        values = getattr(inputs, name)
        if values is None:
            continue
        values = np.asarray(values)
        values = values if values.dtype == bool else values.astype(np.float32)
        if values.ndim == 0:
            values = np.broadcast_to(values, (sampler.steps,))
        if len(values) != sampler.steps:
            raise ValueError(
                f"expected {sampler.steps} {name}, one a network call, got {values.shape}"
            )
        changes[name] = padded_rows(values, rows)
    return dataclasses.replace(inputs, **changes)


def filled_up(inputs: EditInputs, multiple: int) -> EditInputs:
    """Repeats the last sample until the batch is a multiple of a number."""
    missing = -len(inputs.masked) % multiple
    if not missing:
        return inputs
    repeat = lambda values: np.concatenate([values, *[values[-1:]] * missing])  # noqa: E731
    rows = {name: jax.tree.map(repeat, values) for name, values in inputs.samples().items()}
    return dataclasses.replace(inputs, **rows)


def over_devices(inputs: EditInputs, mesh: Mesh) -> EditInputs:
    """Cuts what has a batch axis over the mesh's data axes; the rest goes whole to every device."""
    placed = {
        name: jax.device_put(
            values, NamedSharding(mesh, BATCH if name in inputs.samples() else PartitionSpec())
        )
        for name, values in vars(inputs).items()
    }
    return EditInputs(**placed)
