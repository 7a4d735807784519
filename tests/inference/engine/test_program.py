"""The engine runs anything that is sampled, not edits alone."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.diffusion.samplers import make_sampler, sample
from brushjax.inference.engine.batch import in_groups
from brushjax.inference.engine.program import Program
from brushjax.sharding import MeshShape, make_mesh
from tests.inference.conftest import SD15_SCHEDULER


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ToyInputs:
    noise: Any  # [B, 1, 1, D]
    pull: Any  # [n]

    def samples(self):
        return {"noise": self.noise}

    def per_step(self):
        return {"pull": self.pull}


@dataclasses.dataclass(frozen=True)
class ToyOptions:
    power: int = 1
    together: int | None = None


@functools.partial(jax.jit, static_argnames=("options", "mesh"))
def toy(params, sampler, inputs, options, mesh=None):
    """Samples with one matrix as the network."""

    def run(samples):
        predict = lambda x, t, pull: pull * jnp.tanh(x @ params["net"]["kernel"]) ** options.power  # noqa: E731
        return {"end": sample(sampler, predict, samples["noise"], inputs.pull)}

    return in_groups(run, inputs.samples(), options.together, mesh)


PARAMS = {"net": {"kernel": np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)}}
CUT = (("net.kernel", "cut:tensor"),)


def inputs(count, steps=3):
    noise = np.random.default_rng(1).standard_normal((count, 1, 1, 8)).astype(np.float32)
    return ToyInputs(noise, np.ones(steps))


def sampler(steps=3):
    return make_sampler("ddim", SD15_SCHEDULER, steps)


def test_program_runs_a_function_of_ones_own_on_any_devices(tmp_path):
    one = Program(toy, PARAMS)
    expected = one(sampler(), inputs(5), ToyOptions())["end"]
    assert expected.shape == (5, 1, 1, 8)
    compiled = toy._cache_size()
    one(sampler(9), inputs(5, 9), ToyOptions())  # the same program for more steps
    assert toy._cache_size() == compiled
    mesh = make_mesh(MeshShape(2, 2, 2))
    for rules in ((), CUT):
        many = Program(toy, PARAMS, mesh=mesh, rules=rules)
        for options in (ToyOptions(), ToyOptions(together=1)):
            end = many(sampler(), inputs(5), options)["end"]
            np.testing.assert_allclose(end, expected, atol=1e-5)
    assert np.abs(one(sampler(), inputs(5), ToyOptions(power=2))["end"] - expected).max() > 1e-3


def test_program_is_saved_by_its_key(tmp_path, monkeypatch):
    from brushjax.inference.engine import cache

    monkeypatch.setattr(cache, "use_compilation_cache", lambda folder=None: None)
    expected = Program(toy, PARAMS)(sampler(), inputs(2), ToyOptions())["end"]
    for key in ("a", "b", "a"):
        saved = Program(toy, PARAMS, key=key, saved=tmp_path)
        end = saved(sampler(), inputs(2), ToyOptions())["end"]
        np.testing.assert_array_equal(end, expected)
    assert len(list(tmp_path.glob("*.program"))) == 2


def test_program_refuses_what_does_not_fit():
    program = Program(toy, PARAMS)
    with pytest.raises(ValueError, match=r"expected 3 pull, one a network call, got \(4,\)"):
        program(sampler(), inputs(1, 4), ToyOptions())
    with pytest.raises(ValueError, match="expected no progress=: this program runs as a whole"):
        program(sampler(), inputs(1), ToyOptions(), lambda *_: None)
