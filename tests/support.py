"""What several test files share: weights from PyTorch state dicts, and the error measure."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax.nn import Shapes
from brushjax.training.objectives.contract import placed_in, split

GOLDEN = Path(__file__).parent / "golden"
TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def loaded(objective, key):
    """Returns an objective's parameters on the first device, (trained, frozen)."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = objective.load(key, placed_in(here, objective.shapes()))
    return split(params, objective.trains)


def torch_names(model):
    """Returns {checkpoint name: (variable, shape in PyTorch's layout)} of a model."""
    names = {}
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        name = ".".join(map(str, (*path[:-1], TORCH_LEAVES[path[-1]])))
        names[name] = (leaf, tuple(to_torch(path[-1], np.empty(leaf.shape)).shape))
    return names


def to_torch(kind, array):
    """Turns one of our arrays into PyTorch's layout."""
    if kind != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def fill(kind, config, state_dict: Mapping[str, np.ndarray]):
    """Builds a model from a PyTorch state dict, independently of brushjax.weights."""
    model = nnx.eval_shape(lambda: kind(config, rngs=Shapes()))
    state, used = nnx.state(model), set()
    for path, leaf in nnx.to_flat_state(state):
        name = ".".join(map(str, (*path[:-1], TORCH_LEAVES[path[-1]])))
        array = np.asarray(state_dict[name])
        if path[-1] == "kernel":
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        assert array.shape == leaf.shape, (name, array.shape, leaf.shape)
        leaf.set_value(jnp.asarray(array))
        used.add(name)
    assert used == set(state_dict), set(state_dict) - used
    nnx.update(model, state)
    return model


def nhwc(array):
    """Turns NCHW into NHWC."""
    return jnp.asarray(np.asarray(array).transpose(0, 2, 3, 1))


def error(ours, reference) -> float:
    """Returns the largest absolute error in units of the reference's standard deviation.

    Feature maps of ours are NHWC, of the reference NCHW.
    """
    ours, reference = np.asarray(ours), np.asarray(reference)
    ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    return float(np.abs(ours - reference).max() / reference.std())


def doubled(model):
    """Returns the model with its parameters in float64."""
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.float64), state))
