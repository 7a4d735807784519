"""IP-Adapter-Plus's resampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import brushjax
from tests.models.fireedit.golden import (
    TOLERANCE,
    Golden,
    count,
    deviation,
    full_size,
    published_names,
    same_gradients,
)


@pytest.fixture(scope="module")
def golden():
    return Golden("ip_attention")


@pytest.fixture(scope="module")
def model(golden):
    file = golden.folder / "model.safetensors"
    return brushjax.load("resampler", file, config=golden.config["resampler"])


def test_resampler_equals_ip_adapter(golden, model):
    ours = jax.jit(lambda model, x: model(x))(model, golden["resampler/input"])
    assert deviation(ours, golden.io["resampler/output"]) <= TOLERANCE


def test_resampler_gradients_equal_ip_adapter(golden, model):
    x, cotangent = golden["resampler/input"], golden["resampler/cotangent"]
    loss = lambda model: jnp.sum(model(x) * cotangent)  # noqa: E731
    same_gradients(model, loss, np.load(golden.folder / "grads.npz"), prefix="resampler/")


def test_full_size_resampler_has_the_published_tensors():
    names = published_names("ip_attention")
    published = {name: shape for name, shape in names.items() if name.startswith("image_proj.")}
    depth = len({name.split(".")[2] for name in published if ".layers." in name})
    ours = full_size("resampler", {"embedding_dim": 1024, "depth": depth})
    assert ours == published
    assert count(ours) == 29_721_600
