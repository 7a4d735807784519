"""What the contract of an objective promises, tried with a loss that is not BrushNet's.

It has two terms over different counts, and an adapter that learns over a frozen matrix.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brushjax import sharding
from brushjax.config import ConfigError
from brushjax.training.objectives.contract import Losses, Mean, Objective, join, placed, split
from brushjax.training.optimizers import Group, OptimizerConfig, make_optimizer
from brushjax.training.state import Places, make_state, state_shardings
from brushjax.training.step import StepOptions, make_step, without_unused
from tests.support import loaded

WIDTH, RANK, LENGTH, BATCH = 8, 2, 5, 16


@dataclasses.dataclass(frozen=True)
class Tokens(Objective):
    """Next to a mean over samples, one over tokens, of which every sample has another number."""

    trains = (r"layer\.lora_[ab]", "offset")

    def shapes(self):
        sizes = {
            "layer": {"kernel": (WIDTH, WIDTH), "lora_a": (WIDTH, RANK), "lora_b": (RANK, WIDTH)},
            "offset": (WIDTH,),
        }
        return jax.tree.map(
            lambda size: jax.ShapeDtypeStruct(size, jnp.float32),
            sizes,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    def load(self, key, wanted):
        values = jax.tree.map(
            lambda leaf: jax.random.normal(jax.random.fold_in(key, leaf.size), leaf.shape),
            self.shapes(),
        )
        return placed(values, wanted)

    def loss(self, params, batch, keys):
        layer = params["layer"]
        kernel = layer["kernel"] + layer["lora_a"] @ layer["lora_b"]
        error = jnp.square(batch["x"] @ kernel + params["offset"])  # [B, L, D]
        samples = Mean.over(jnp.abs(params["offset"]) + 0 * error[:, 0])
        tokens = Mean.over(error.mean(-1), batch["counted"])
        return Losses(
            {"tokens": tokens, "samples": samples.scaled(0.5)}, {"twice": tokens.scaled(2)}
        )

    def export(self, trainable, folder, batch):
        raise NotImplementedError


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    counted = rng.random((BATCH, LENGTH)) < np.linspace(0, 0.9, BATCH)[:, None]
    assert counted.any(axis=1).sum() < BATCH  # some samples, and with them devices, have none
    x = rng.standard_normal((BATCH, LENGTH, WIDTH)).astype(np.float32)
    return {"x": x, "counted": counted, "id": np.arange(BATCH)}


def trained(batch, devices, rules=(), shape=None, **settings):
    """Some steps on so many devices; the metrics of each, and the state."""
    objective, optimizer = Tokens(), make_optimizer(OptimizerConfig(learning_rate=0.01), 10)
    trainable, frozen = jax.device_get(loaded(objective, jax.random.key(1)))
    mesh = sharding.make_mesh(shape, jax.devices()[:devices])
    state = make_state(trainable, optimizer)
    layout = state_shardings(state, mesh, rules)
    places = Places(mesh, layout, sharding.shardings(trainable, mesh, ()))
    step = make_step(objective, optimizer, seed=0, options=StepOptions(**settings), places=places)
    state, rows = jax.device_put(state, layout), []
    data = jax.device_put(batch, jax.sharding.NamedSharding(mesh, sharding.BATCH))
    for _ in range(3):
        state, metrics = step(state, frozen, data)
        rows.append(jax.device_get(metrics))
    return rows, jax.device_get(state["params"])


def test_loss_is_the_sum_of_its_terms_each_over_its_own_count(batch):
    rows, _ = trained(batch, 1)
    first = rows[0]
    expected = first["tokens"].value + first["samples"].value
    assert first["loss"] == pytest.approx(expected, rel=1e-6)
    assert first["tokens"].weight == batch["counted"].sum()
    assert first["samples"].weight == BATCH * WIDTH
    assert first["twice"].value == pytest.approx(2 * first["tokens"].value, rel=1e-6)


CUT = ((".*", "cut:data"),)


@pytest.mark.parametrize(
    ("devices", "settings"),
    [
        (1, {"accumulation": 4}),
        (8, {}),
        (8, {"rules": CUT}),
        (4, {"rules": CUT, "accumulation": 2}),
        (8, {"shape": sharding.MeshShape(2, 1, 4)}),
    ],
    ids=["parts", "devices", "zero-1", "devices and parts", "tensor"],
)
def test_loss_over_tokens_is_that_of_the_whole_batch_however_it_is_divided(
    batch, devices, settings
):
    whole, expected = trained(batch, 1)
    rows, params = trained(batch, devices, **settings)
    for one, other in zip(whole, rows):
        for name in ("loss", "gradient_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-6), name
        assert other["tokens"].value == pytest.approx(one["tokens"].value, rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), params, expected
    )


def test_batch_without_a_single_token_has_no_loss_over_tokens(batch):
    rows, params = trained({**batch, "counted": 0 * batch["counted"]}, 1)
    assert rows[0]["tokens"].value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_adapter_learns_and_its_frozen_matrix_has_no_gradient_moment_or_copy(batch):
    objective, optimizer = Tokens(), make_optimizer(OptimizerConfig(), 10)
    trainable, frozen = loaded(objective, jax.random.key(1))
    assert set(trainable["layer"]) == {"lora_a", "lora_b"}
    assert set(frozen) == {"layer"}
    state = make_state(trainable, optimizer)
    large = [leaf for leaf in jax.tree.leaves(state) if leaf.size == WIDTH * WIDTH]
    assert not large
    step = make_step(objective, optimizer, seed=0)
    text = step.lower(state, frozen, batch).compile().as_text()
    result = re.search(r"ENTRY .*?-> \((.*?)\)(?:,| \{)", text, re.DOTALL)
    assert result
    assert f"f32[{WIDTH},{WIDTH}]" not in result[1]  # what the step gives back
    before = jax.tree.map(np.array, trainable)
    new, _ = step(state, frozen, batch)
    jax.tree.map(lambda a, b: np.any(a != b) or pytest.fail("not trained"), new["params"], before)


def test_split_and_join_are_inverse_and_a_name_that_fits_nothing_is_refused():
    shapes = Tokens().shapes()
    one, other = split(shapes, Tokens.trains)
    assert join(one, other) == join(other, one) == shapes
    with pytest.raises(ConfigError, match=r"nothing matches \['lora'\]"):
        split(shapes, ("offset", "lora"))


def test_weights_are_found_without_the_work_of_the_loss():
    def both(x):
        return {"weight": (x > 0).sum(), "total": jnp.sin(x @ x.T).sum()}

    def weigh(x):
        return {"weight": both(x)["weight"]}

    jaxpr = str(jax.make_jaxpr(lambda x: without_unused(weigh, x))(jnp.ones((3, 3))))
    assert "dot_general" in str(jax.make_jaxpr(weigh)(jnp.ones((3, 3))))
    assert "dot_general" not in jaxpr
    assert int(without_unused(weigh, jnp.ones((3, 3)))["weight"]) == 9


def test_optimizer_groups_have_their_own_rate_and_decay():
    params = {"base": jnp.ones(3), "lora": jnp.ones(3)}
    gradients = {"base": jnp.full(3, 0.1), "lora": jnp.full(3, 0.1)}
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.0, clip_norm=0.0)
    grouped = dataclasses.replace(config, groups=(Group("lora", learning_rate=0.3),))
    moved = {}
    for name, settings in (("plain", config), ("grouped", grouped)):
        optimizer = make_optimizer(settings, 10)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        moved[name] = optax.apply_updates(params, updates)
    np.testing.assert_allclose(moved["grouped"]["base"], moved["plain"]["base"])
    np.testing.assert_allclose(
        1 - moved["grouped"]["lora"], 3 * (1 - moved["plain"]["lora"]), rtol=1e-5
    )
