"""Fixtures of the model tests."""

import jax
import pytest


@pytest.fixture
def float64(monkeypatch):
    """Runs both sides in float64, where a wrong constant can't hide behind rounding.

    diffusers computes timestep sinusoids in float32 always; they are replaced, and tests/nn
    compares ours with the original at that precision.
    """
    import torch  # here: most tests of this folder run without it
    from diffusers.models import embeddings

    from tests.torch_reference import precise_sinusoid

    monkeypatch.setattr(embeddings, "get_timestep_embedding", precise_sinusoid)
    with jax.enable_x64(True), torch.no_grad():
        yield
