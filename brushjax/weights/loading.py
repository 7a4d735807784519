"""Fills models with weights, strictly: all tensors fit, or one error names each that does not."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax.progress import progress_bar
from brushjax.typing import Params
from brushjax.weights import folders
from brushjax.weights.checkpoints import flat, nested, restore_orbax
from brushjax.weights.maps import MAPS, map_of
from brushjax.weights.reading import Config, Weights, read, unjoined
from brushjax.weights.rules import EACH, WeightsError, checkpoint_axes, checkpoint_name
from brushjax.weights.rules import Path as ParameterPath
from brushjax.weights.store import Joined, Tensor, copy_cast, naming

ALIGNMENT = 64  # bytes; JAX takes over a host array without a copy if it starts at such an address
READERS = min(4, os.cpu_count() or 1)  # threads; more find no more memory bandwidth
HINTS = 10  # offenders for which the nearest names are looked up; the search is quadratic


def load(
    kind: str,
    path: str | Path,
    dtype: Any = jnp.float32,
    shardings: Any = None,
    *,
    config: Config = None,
) -> nnx.Module:
    """Loads a model.

    The model is built without memory, checked against the names and shapes in the files, and then
    filled tensor by tensor, the largest first. Files are read in small pieces straight into place.

    Args:
        kind: "unet", "vae", "clip_text", "clip_text_2" or "brushnet".
        path: the model's folder, a pipeline folder, a weight file (.safetensors, .ckpt, .bin;
            published names or those of the original Stable Diffusion code), a folder written by
            `save`, or a hub id.
        dtype: of the parameters; None keeps the files'.
        shardings: where to put the parameters: None (the default device), one sharding for all, a
            tree of shardings shaped like the pure parameter dict, or a function from the tree of
            ShapeDtypeStructs to such a tree.
        config: used instead of the config that stands with the weights: a dict, a config.json, or a
            config of ours.

    Raises:
        WeightsError: the files are damaged, or hold anything but exactly the tensors of the model.
        ValueError: the config asks for something that is not implemented.
    """
    weights = read(kind, path, config)
    graph, structs = abstract_model(kind, weights.config)
    check_fit(weights, structs)
    wanted = {
        path: jax.ShapeDtypeStruct(struct.shape, _kept_dtype(dtype, weights, path))
        for path, struct in structs.items()
    }
    places = places_of(shardings, wanted)
    if weights.layout == "orbax":
        folder = Path(weights.source) / folders.ORBAX
        return nnx.merge(graph, nested(restore_orbax(folder, wanted, places)))
    return nnx.merge(graph, nested(fill_all(kind, weights.tensors, wanted, places)))


def fill(kind: str, path: str | Path, wanted: Params, *, config: Config = None) -> Params:
    """Reads some of a model's parameters, each straight into its dtype and place.

    Args:
        kind, path, config: as those of `load`.
        wanted: jax.ShapeDtypeStruct by path, with dtype and sharding; parameters that the published
            model lacks, such as those that an adapter adds, or that are not needed may be left out.

    Raises:
        WeightsError: as `load`, or if the model has no such parameter, or of another shape.
    """
    weights = read(kind, path, config)
    _, structs = abstract_model(kind, weights.config)
    check_fit(weights, structs)
    targets = flat(wanted)
    for name, target in targets.items():
        if name not in structs or structs[name].shape != target.shape:
            raise WeightsError(
                f"expected {checkpoint_name(name)} {list(target.shape)} in {weights.source}; it "
                f"has {list(structs[name].shape) if name in structs else 'no such tensor'}."
            )
    places = {name: target.sharding for name, target in targets.items()}
    return nested(fill_all(kind, weights.tensors, targets, places))


def fill_all(
    kind: str,
    tensors: dict[str, Tensor],
    wanted: dict[ParameterPath, jax.ShapeDtypeStruct],
    places: dict[ParameterPath, Any],
) -> dict[ParameterPath, jax.Array]:
    """Reads all tensors, a few at a time: reading and transposing leave Python free meanwhile."""

    # A block that turns double precision on does so in its own thread alone.
    double = jax.dtypes.canonicalize_dtype(np.float64) == np.float64

    def fill(path: ParameterPath) -> jax.Array:
        name = checkpoint_name(path)
        with naming(name), jax.enable_x64(double):
            return _filled(tensors[name], path, wanted[path], places[path])

    largest_first = sorted(wanted, key=lambda path: -tensors[checkpoint_name(path)].nbytes)
    with ThreadPoolExecutor(READERS) as readers:
        arrays = progress_bar(
            readers.map(fill, largest_first),
            f"loading {kind}",
            total=len(wanted),
            unit="tensor",
            delay=2,
            leave=False,
        )
        return dict(zip(largest_first, arrays))


def abstract_model(
    kind: str, config: dict[str, Any]
) -> tuple[Any, dict[ParameterPath, jax.ShapeDtypeStruct]]:
    """Builds a model without memory.

    Returns:
        Its graph definition, and the shape of each parameter by path.

    Raises:
        ValueError: the config asks for something that is not implemented.
    """
    module_name, _, config_name = map_of(kind).model
    settings = getattr(importlib.import_module(module_name), config_name).from_dict(config)
    graph, structs = _traced(kind, settings)
    return graph, dict(structs)


@functools.lru_cache(maxsize=16)
def _traced(kind: str, settings: Any) -> tuple[Any, dict[ParameterPath, jax.ShapeDtypeStruct]]:
    from brushjax.nn import Shapes

    module_name, model_name, _ = map_of(kind).model
    model_class = getattr(importlib.import_module(module_name), model_name)
    # Split inside: nnx.eval_shape would split twice and merge in between.
    graph, state = jax.eval_shape(lambda: nnx.split(model_class(settings, rngs=Shapes())))
    return graph, {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in flat(nnx.to_pure_dict(state)).items()
    }


def check_fit(weights: Weights, structs: dict[ParameterPath, jax.ShapeDtypeStruct]) -> None:
    """Raises one WeightsError that lists every missing, unused and misshaped tensor, if any."""
    expected: dict[str, tuple[int, ...]] = {}
    for path, struct in structs.items():
        expected |= expected_shapes(path, struct.shape)
    found = unjoined(weights.tensors)
    missing = sorted(expected.keys() - found.keys())
    unused = sorted(found.keys() - expected.keys())
    misshaped = [
        name for name in sorted(expected) if name in found and found[name].shape != expected[name]
    ]
    if not (missing or unused or misshaped):
        return
    lines = [
        f"{weights.source} does not fit the {weights.kind} that its config describes; nothing was "
        f"loaded."
    ]
    lines += _section("missing", missing, lambda name: f"{name} {list(expected[name])}", unused)
    lines += _section("unused", unused, lambda name: f"{name} {list(found[name].shape)}", missing)
    lines += _section(
        "wrong shape",
        misshaped,
        lambda name: f"{name}: expected {list(expected[name])}, got {list(found[name].shape)}",
        [],
    )
    lines.append(
        "Check that the weights belong to this kind and config, or pass another config= (--config)."
    )
    raise WeightsError("\n".join(lines))


def _section(
    title: str, names: list[str], line: Callable[[str], str], others: list[str]
) -> list[str]:
    lines = [f"  {title} ({len(names)}):"] if names else []
    for number, name in enumerate(names):
        near = difflib.get_close_matches(name, others, n=1) if number < HINTS else []
        lines.append(f"    {line(name)}" + (f"   (nearest: {near[0]})" if near else ""))
    return lines


def expected_shapes(path: ParameterPath, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Returns the checkpoint names of a parameter, one or one for each layer, and their shapes."""
    name = checkpoint_name(path)
    stored = tuple(shape[axis] for axis in checkpoint_axes(path, len(shape)))
    if EACH not in name:
        return {name: stored}
    return {name.replace(EACH, str(number)): stored[1:] for number in range(stored[0])}


def _kept_dtype(dtype: Any, weights: Weights, path: ParameterPath) -> np.dtype:
    wanted = np.dtype(dtype or weights.tensors[checkpoint_name(path)].dtype)
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise WeightsError(
            f"{wanted} parameters need jax.config.update('jax_enable_x64', True) first."
        )
    return wanted


def places_of(
    shardings: Any, wanted: dict[ParameterPath, jax.ShapeDtypeStruct]
) -> dict[ParameterPath, Any]:
    """Brings the forms in which shardings may be given to {path: sharding or None}."""
    if shardings is None or isinstance(shardings, jax.sharding.Sharding):
        return dict.fromkeys(wanted, shardings)
    tree = shardings(nested(wanted)) if callable(shardings) else shardings
    places = flat(tree)
    if places.keys() != wanted.keys():
        odd = sorted(map(str, places.keys() ^ wanted.keys()))
        raise WeightsError(
            f"the tree of shardings differs from the parameters' at {', '.join(odd)}."
        )
    return places


def _filled(
    tensor: Tensor, path: ParameterPath, struct: jax.ShapeDtypeStruct, sharding: Any
) -> jax.Array:
    """Reads a tensor into an array of our layout, which JAX takes over without a copy if it can.

    Of stacked layers a few rows are read at a time, so that there is little beside the shards.
    """
    dtype = np.dtype(struct.dtype)
    if sharding is None:
        values = _aligned(struct.shape, dtype)
        tensor.fill(values.transpose(checkpoint_axes(path, values.ndim)))
        return jax.device_put(values, may_alias=True)
    if not isinstance(tensor, Joined):
        values = _aligned(struct.shape, dtype)
        tensor.fill(values.transpose(checkpoint_axes(path, values.ndim)))
        return jax.make_array_from_callback(struct.shape, sharding, lambda index: values[index])
    devices = sharding.addressable_devices_indices_map(struct.shape)
    shards = {_bounds(index, struct.shape): None for index in devices.values()}
    shards = {
        bounds: _aligned(tuple(stop - start for start, stop in bounds), dtype) for bounds in shards
    }
    _fill_layers(tensor, path, struct, shards)
    taken: set[Any] = set()
    arrays = []
    for device, index in devices.items():
        bounds = _bounds(index, struct.shape)
        first = bounds not in taken  # other devices get copies
        taken.add(bounds)
        arrays.append(jax.device_put(shards[bounds], device, may_alias=first))
    return jax.make_array_from_single_device_arrays(struct.shape, sharding, arrays)


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Returns a shard's start and stop along each axis."""
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _fill_layers(
    tensor: Joined,
    path: ParameterPath,
    struct: jax.ShapeDtypeStruct,
    shards: dict[tuple[tuple[int, int], ...], np.ndarray],
) -> None:
    """Reads each layer that a shard here has a part of, once, and copies the parts out of the few
    rows that are read at a time."""
    axes = checkpoint_axes(path[-1:], len(struct.shape) - 1)  # of one layer
    for number, part in enumerate(tensor.parts):
        targets = []
        for bounds, shard in shards.items():
            if bounds[0][0] <= number < bounds[0][1]:
                stored = shard[number - bounds[0][0]].transpose(axes)
                targets.append((stored, [bounds[1:][axis] for axis in axes]))
        if not targets:
            continue
        for first, rows in part.slabs():
            for stored, ((start, stop), *others) in targets:
                low, high = max(start, first), min(stop, first + len(rows))
                if low < high:
                    cut = (slice(low - first, high - first), *(slice(*other) for other in others))
                    copy_cast(stored[low - start : high - start], rows[cut])


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def kind_of(model: nnx.Module) -> str:
    """Returns the kind of one of our models."""
    for kind, table in MAPS.items():
        if table.model[1] == type(model).__name__:
            return kind
    raise WeightsError(
        f"{type(model).__name__} is none of the models that can be saved: {', '.join(MAPS)}."
    )
