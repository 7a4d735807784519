"""Random weights and batches of full-size models within seconds, and the clock of both sides."""

import statistics
import time

import numpy as np

POOL = 2**20 + 7  # values that are drawn; no width of a layer divides it


def filled(shapes):
    """Returns arrays for a tree of jax.ShapeDtypeStruct, each placed where its shape says.

    Kernels and embeddings get deviation fan_in^-0.5, gains values near 1, biases small and all else
    standard normal ones; whole numbers are 0. A pool of values is repeated: drawing and compiling a
    generator for hundreds of shapes would take longer than what is measured.
    """
    import jax

    pool = np.random.default_rng(0).standard_normal(POOL, np.float32)

    def fill(path, leaf):
        if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
        name = str(getattr(path[-1], "key", ""))
        scale, shift = 1.0, 0.0
        if name == "kernel":
            scale = float(np.prod(leaf.shape[:-1])) ** -0.5
        elif name in ("scale", "bias", "embedding"):
            scale, shift = 0.1, float(name == "scale")
        values = (pool * np.float32(scale) + np.float32(shift)).astype(leaf.dtype)
        return jax.device_put(np.resize(values, leaf.shape), leaf.sharding)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def networks(kinds, dtype):
    """Returns graphs and filled parameters of {name: (class, config)}."""
    import jax
    from flax import nnx

    from brushjax.nn import Keys

    graphs, params = {}, {}
    for name, (kind, config) in kinds.items():
        shaped = nnx.eval_shape(lambda kind=kind, config=config: kind(config, rngs=Keys(0)))
        graphs[name], state = nnx.split(shaped)
        wanted = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), nnx.to_pure_dict(state)
        )
        params[name] = filled(wanted)
    return graphs, params


def torch_module(kind, settings, device, dtype):
    """Builds a frozen PyTorch network whose weights are drawn on the device."""
    import torch

    with torch.device("meta"):
        model = kind(**settings)
    model = model.to_empty(device=device).to(dtype).requires_grad_(False).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(float("norm" in name and name.endswith("weight")), 0.1)
    return model.to(memory_format=torch.channels_last)


def seconds(run, rounds, budget=20.0):
    """Returns the seconds of every round of `run`, which waits for its result; fewer rounds when
    the budget in seconds is spent."""
    found, start = [], time.perf_counter()
    while not found or (len(found) < rounds and time.perf_counter() - start < budget):
        before = time.perf_counter()
        run()
        found.append(time.perf_counter() - before)
    return found


def row(case, side, unit, values, **more):
    """Returns a row of the table: the median and the least of some values, and what else is
    known."""
    middle = statistics.median(values)
    return {"case": case, "side": side, "unit": unit, "value": middle, "least": min(values)} | more
