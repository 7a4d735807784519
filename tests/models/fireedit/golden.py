"""Stored outputs of the code that FireEdit's parts come from, and how closely they are met."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import brushjax
from brushjax.weights.checkpoints import flat
from brushjax.weights.loading import abstract_model
from brushjax.weights.rules import checkpoint_axes, checkpoint_name
from tests.support import GOLDEN

FOLDER = GOLDEN / "fireedit"
TOLERANCE = 5e-5  # of a tensor's std; PyTorch against itself is up to 1.3e-5
PRECISE = 1e-9  # the same in float64


class Golden:
    """One part's stored arrays."""

    def __init__(self, part):
        self.part, self.folder = part, FOLDER / part
        self.config = json.loads((self.folder / "config.json").read_text())
        self.io = np.load(self.folder / "io.npz")

    def __getitem__(self, name):
        array = self.io[name]
        return jnp.asarray(array.astype(np.float32) if array.dtype == np.int64 else array)

    def model(self, **changes):
        """Loads the part as users do."""
        file = self.folder / "model.safetensors"
        return brushjax.load(self.part, file, config=self.config | changes)

    def gradients(self, model, loss, **where):
        """Compares the loss, its gradients' norms and the gradients that were stored in full."""
        same_gradients(model, loss, np.load(self.folder / "grads.npz"), **where)


def deviation(ours, reference):
    """Returns the largest absolute error in units of the reference's standard deviation."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    return float(np.abs(ours - reference).max() / reference.std())


def doubled(model):
    """Returns the model in float64."""
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model)))
    return model


def named(tree):
    """Brings a tree of parameters to checkpoint names and axes."""
    arrays = {path: np.asarray(leaf) for path, leaf in flat(tree).items()}
    return {
        checkpoint_name(path): array.transpose(checkpoint_axes(path, array.ndim))
        for path, array in arrays.items()
    }


def same_gradients(model, loss, stored, prefix="", names=lambda name: name):
    graph, state = nnx.split(model)
    run = jax.jit(jax.value_and_grad(lambda params: loss(nnx.merge(graph, params))))
    value, tree = run(nnx.to_pure_dict(state))
    ours = named(tree)
    np.testing.assert_allclose(value, stored[f"{prefix}loss"], rtol=2e-5)
    assert set(ours) == set(map(names, stored[f"{prefix}all_names"]))
    total = stored[f"{prefix}total_grad_norm"]
    norms = zip(stored[f"{prefix}all_names"], stored[f"{prefix}all_grad_norms"], strict=True)
    for name, norm in norms:  # a gradient that is truly 0 is rounding on both sides
        assert abs(np.linalg.norm(ours[names(name)]) - norm) <= 1e-4 * norm + 1e-6 * total, name
    full = [key for key in stored.files if key.startswith(f"{prefix}grad/")]
    assert full
    for key in full:
        name = names(key.removeprefix(f"{prefix}grad/"))
        assert deviation(ours[name], stored[key]) <= TOLERANCE, key


def full_size(kind, config):
    """Returns names and shapes of a model that is not built."""
    _, structs = abstract_model(kind, config)
    return {
        checkpoint_name(path): [
            struct.shape[axis] for axis in checkpoint_axes(path, len(struct.shape))
        ]
        for path, struct in structs.items()
    }


def count(shapes):
    return sum(map(math.prod, shapes.values()))


def published_names(part):
    return json.loads((FOLDER / part / "full_size_keys.json").read_text())
