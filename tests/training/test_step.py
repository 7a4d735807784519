"""The step: what is differentiated, averaged, drawn and donated, on one device and on eight."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brushjax import sharding
from brushjax.config import ConfigError
from brushjax.sharding import MeshShape
from brushjax.training.objectives.contract import Losses, Mean
from brushjax.training.optimizers import OptimizerConfig, learning_rate, make_optimizer
from brushjax.training.recipe import FULLY_SHARDED
from brushjax.training.state import Places, make_state, sample_keys, state_shardings
from brushjax.training.step import StepOptions, make_step, make_validation
from tests.support import loaded
from tests.training import tiny

OBJECTIVE = tiny.Line()


@pytest.fixture
def batch():
    samples = [tiny.Numbers()[n] for n in range(8)]
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def start(optimizer, ema=False):
    trainable, frozen = loaded(OBJECTIVE, jax.random.key(0))
    return make_state(trainable, optimizer, ema), jax.device_get(frozen)


def test_step_is_the_gradient_step(batch):
    state, frozen = start(optax.sgd(0.1))
    before = jax.tree.map(np.array, state["params"])

    def loss(params):
        keys = sample_keys(7, 0, batch["id"])
        return OBJECTIVE.loss({**params, **frozen}, OBJECTIVE.prepare(frozen, batch), keys).value

    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before, jax.grad(loss)(before))
    state, metrics = make_step(OBJECTIVE, optax.sgd(0.1), seed=7)(state, frozen, batch)
    np.testing.assert_allclose(state["params"]["slope"], expected["slope"], rtol=1e-6, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(loss(before)), rel=1e-6)
    assert int(state["step"]) == 1


def test_step_draws_anew_in_every_step_and_for_every_seed(batch):
    step, other = (make_step(OBJECTIVE, optax.sgd(0.0), seed=seed) for seed in (7, 8))
    state, frozen = start(optax.sgd(0.0))
    losses = []
    for function in (step, step, other):
        state, metrics = function(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3  # with a rate of zero only the noise changes


def test_step_donates_the_state_and_keeps_the_frozen_parameters(batch):
    state, frozen = start(optax.adamw(0.1))
    frozen = jax.device_put(frozen)
    new, _ = make_step(OBJECTIVE, optax.adamw(0.1), seed=0)(state, frozen, batch)
    assert state["params"]["slope"].is_deleted()
    assert not frozen["factor"].is_deleted()
    assert not new["params"]["slope"].is_deleted()


def test_step_averages_parameters_faster_at_first(batch):
    step = make_step(OBJECTIVE, optax.sgd(0.1), seed=0, options=StepOptions(ema_decay=0.99))
    state, frozen = start(optax.sgd(0.1), ema=True)
    average = np.array(state["ema"]["slope"])
    for count in (1, 2):
        state, _ = step(state, frozen, batch)
        decay = min(0.99, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * np.array(state["params"]["slope"])
        np.testing.assert_allclose(state["ema"]["slope"], average, rtol=1e-5)


def test_step_computes_in_bfloat16_and_keeps_float32(batch):
    step = make_step(
        OBJECTIVE, optax.sgd(0.1), seed=0, options=StepOptions(compute_dtype=jnp.bfloat16)
    )
    state, frozen = start(optax.sgd(0.1))
    program = step.lower(state, frozen, batch).as_text()
    assert "bf16" in program
    state, _ = step(state, frozen, batch)
    assert state["params"]["slope"].dtype == jnp.float32


MODES = {
    "replicated": (MeshShape(), (), ()),
    "zero-1": (MeshShape(), (), ((".*", "cut:data"),)),
    "fully sharded": (MeshShape(data=1, fsdp=-1), FULLY_SHARDED, FULLY_SHARDED),
    "both": (MeshShape(data=2, fsdp=-1), FULLY_SHARDED, FULLY_SHARDED),
}


def trained(batch, mode, devices, steps=4, **settings):
    """Runs some steps on so many devices; returns losses, slope and the state."""
    shape, parameter_rules, optimizer_rules = MODES[mode]
    if devices == 1:
        shape = MeshShape()
    mesh = sharding.make_mesh(shape, jax.devices()[:devices])
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.01), 10)
    state, frozen = start(optimizer)
    layout = state_shardings(state, mesh, optimizer_rules)
    places = Places(mesh, layout, sharding.shardings(state["params"], mesh, parameter_rules))
    state = jax.device_put(state, layout)
    data = jax.device_put(batch, jax.sharding.NamedSharding(mesh, sharding.BATCH))
    step = make_step(OBJECTIVE, optimizer, seed=0, options=StepOptions(**settings), places=places)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, frozen, data)
        losses.append(jax.device_get(metrics))
    return losses, np.array(state["params"]["slope"]), state


@pytest.mark.parametrize("mode", MODES)
def test_step_on_eight_devices_equals_one(batch, mode):
    expected, slope, _ = trained(batch, mode, 1)
    losses, ours, state = trained(batch, mode, 8)
    for step, (one, eight) in enumerate(zip(expected, losses)):
        for name in ("loss", "gradient_norm"):
            assert eight[name] == pytest.approx(one[name], rel=1e-6), (step, name)
        assert eight["slope"].value == pytest.approx(one["slope"].value, rel=1e-6), step
        np.testing.assert_allclose(eight["half"].value, one["half"].value, rtol=1e-6)
    np.testing.assert_allclose(ours, slope, rtol=1e-6, atol=1e-6)
    cut = {"replicated": 1, "both": 4}.get(mode, 8)
    for leaf in jax.tree.leaves(state):
        if leaf.shape == (4, 8):
            assert leaf.sharding.shard_shape((4, 8)) == (4, 8 // cut)


def test_samples_draw_the_same_wherever_they_lie(batch):
    order = np.array([5, 2, 7, 0, 1, 3, 6, 4])
    moved = {name: array[order] for name, array in batch.items()}
    losses, *_ = trained(batch, "replicated", 8)
    again, *_ = trained(moved, "replicated", 8)
    for row, other in zip(losses, again):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-6)


@pytest.mark.parametrize(("devices", "mode"), [(1, "replicated"), (2, "zero-1")])
def test_accumulation_equals_the_whole_batch(batch, devices, mode):
    whole, slope, _ = trained(batch, mode, devices)
    losses, ours, _ = trained(batch, mode, devices, accumulation=4)
    for one, four in zip(whole, losses):
        assert four["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert four["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-6)
        np.testing.assert_allclose(four["half"].value, one["half"].value, rtol=1e-6)
    np.testing.assert_allclose(ours, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("reduce", "expected"), [(None, "bf16"), (jnp.float32, "f32"), (jnp.bfloat16, "bf16")]
)
def test_gradients_are_added_up_in_the_dtype_of_the_config(batch, reduce, expected):
    optimizer = optax.sgd(0.1)
    state, frozen = start(optimizer)
    mesh = sharding.make_mesh()
    layout = state_shardings(state, mesh, ((".*", "cut:data"),))
    places = Places(mesh, layout, sharding.shardings(state["params"], mesh, ()))
    step = make_step(
        OBJECTIVE,
        optimizer,
        seed=0,
        options=StepOptions(compute_dtype=jnp.bfloat16, reduce_dtype=reduce),
        places=places,
    )
    program = step.lower(jax.device_put(state, layout), frozen, batch).as_text()
    scatter = re.search(r"reduce_scatter.*?->\s*tensor<4x1x(\w+)>", program, re.DOTALL)
    assert scatter, "the slope, which is cut, is not reduce-scattered"
    assert scatter[1] == expected


def test_another_reduction_dtype_is_refused_where_the_compiler_reduces(batch):
    with pytest.raises(ConfigError, match=r"reduced in the compute dtype, bfloat16, .*'fsdp': 8"):
        trained(
            batch,
            "fully sharded",
            8,
            compute_dtype=jnp.dtype(jnp.bfloat16),
            reduce_dtype=jnp.dtype(jnp.float32),
        )


def test_step_that_is_not_finite_is_left_out(batch):
    step = make_step(
        OBJECTIVE, optax.adamw(0.1), seed=0, options=StepOptions(ema_decay=0.9, skip=True)
    )
    state, frozen = start(optax.adamw(0.1), ema=True)
    before = jax.tree.map(np.array, state)
    bad = {**batch, "y": np.full_like(batch["y"], np.inf)}
    state, metrics = step(state, frozen, bad)
    assert not np.isfinite(metrics["loss"])
    assert int(state["step"]) == 1
    for name in ("params", "optimizer", "ema"):
        jax.tree.map(np.testing.assert_array_equal, state[name], before[name])
    state, metrics = step(state, frozen, batch)
    assert np.abs(state["params"]["slope"] - before["params"]["slope"]).max() > 0


def test_validation_uses_the_same_noise_every_time(batch):
    state, frozen = start(optax.sgd(0.1))
    validate = make_validation(OBJECTIVE, seed=0)
    first, again = (validate(state["params"], frozen, batch) for _ in range(2))
    assert float(first["loss"]) == float(again["loss"])
    other = make_validation(OBJECTIVE, seed=1)(state["params"], frozen, batch)
    assert float(first["loss"]) != float(other["loss"])


def test_learning_rate_rises_then_falls():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, decay="cosine", final_fraction=0.1)
    rate = learning_rate(config, 12)
    np.testing.assert_allclose([rate(n) for n in range(4)], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose([rate(8), rate(12)], [1.1, 0.2], rtol=1e-6)
    constant = learning_rate(OptimizerConfig(learning_rate=2.0), 12)
    assert constant(0) == constant(11) == 2.0


def test_learning_rate_refuses_a_warmup_longer_than_the_run():
    with pytest.raises(ValueError, match="warmup_steps <= steps; got 5 > 4"):
        learning_rate(OptimizerConfig(warmup_steps=5), 4)


def test_optimizer_is_adamw_with_clipping_as_torch_does_it():
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.05, clip_norm=0.5)
    optimizer = make_optimizer(config, 10)
    ours = jnp.asarray([1.0, -2.0, 3.0])
    state = optimizer.init(ours)
    theirs, first, second = np.array([1.0, -2.0, 3.0]), 0.0, 0.0
    for step in range(1, 6):
        gradient = np.float32([step - 2.0, 0.5, 2.0])
        updates, state = optimizer.update(jnp.asarray(gradient), state, ours)
        ours = optax.apply_updates(ours, updates)

        gradient = gradient * min(1.0, 0.5 / np.linalg.norm(gradient))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        theirs = theirs * (1 - 0.1 * 0.05)
        denominator = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        theirs = theirs - 0.1 * first / (1 - 0.9**step) / denominator
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Wide(tiny.Line):
    """Many parameters, each with a gradient of its own that bfloat16 holds exactly."""

    def start(self):
        return {"slope": jnp.zeros((64, 1024)), "offset": jnp.zeros(())}, {"factor": jnp.ones(())}

    def loss(self, params, batch, keys):
        del keys
        wanted = 1.0 + jnp.arange(64 * 1024).reshape(64, 1024) % 7
        value = (wanted.astype(params["slope"].dtype) * params["slope"]).sum()
        return Losses({"sum": Mean.over(value.astype(jnp.float32) + 0 * batch["x"][:, 0])})


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("mode", ["one device", "zero-1", "fully sharded"])
def test_gradient_norm_is_added_up_in_float32(batch, mode, accumulation):
    """It is what clipping divides by: the same in every mode, and that of float64."""
    expected = np.sqrt(np.square(1.0 + np.arange(64 * 1024) % 7).sum())
    shape, parameter_rules, optimizer_rules = MODES.get(mode, MODES["replicated"])
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    params, frozen = Wide().start()
    state = make_state(params, optimizer)
    places = None
    if mode != "one device":
        mesh = sharding.make_mesh(shape)
        layout = state_shardings(state, mesh, optimizer_rules)
        places = Places(mesh, layout, sharding.shardings(params, mesh, parameter_rules))
        state = jax.device_put(state, layout)
        batch = jax.device_put(batch, jax.sharding.NamedSharding(mesh, sharding.BATCH))
    if accumulation > 1 and mode == "zero-1":
        accumulation = 1  # a sample a device
    step = make_step(
        Wide(),
        optimizer,
        seed=0,
        options=StepOptions(compute_dtype=jnp.bfloat16, accumulation=accumulation),
        places=places,
    )
    state, metrics = step(state, frozen, batch)
    assert metrics["gradient_norm"].dtype == jnp.float32
    assert float(metrics["gradient_norm"]) == pytest.approx(expected, rel=1e-5)
    moved = np.linalg.norm(np.asarray(state["params"]["slope"], np.float64))
    assert moved == pytest.approx(1, rel=1e-5)


def test_parts_of_a_batch_are_added_up_in_float32(batch):
    """Thirds of a bfloat16 gradient are no bfloat16 numbers."""
    optimizer = optax.sgd(1.0)
    six = {name: array[:6] for name, array in batch.items()}
    norms = []
    for parts in (1, 3):
        params, frozen = Wide().start()
        step = make_step(
            Wide(),
            optimizer,
            seed=0,
            options=StepOptions(compute_dtype=jnp.bfloat16, accumulation=parts),
        )
        norms.append(float(step(make_state(params, optimizer), frozen, six)[1]["gradient_norm"]))
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)


def test_sample_met_twice_draws_twice_wherever_it_lies():
    ids = np.array([3, 5, 3, 7, 3])
    data = np.asarray(jax.random.key_data(sample_keys(0, 1, ids)))
    assert len({row.tobytes() for row in data}) == 5
    moved = np.asarray(jax.random.key_data(sample_keys(0, 1, ids[[2, 4, 3, 1, 0]])))
    assert {row.tobytes() for row in moved} == {row.tobytes() for row in data}
    # What is met once, or for the first time, draws as it would alone.
    alone = np.asarray(jax.random.key_data(sample_keys(0, 1, ids[[0, 1, 3]])))
    np.testing.assert_array_equal(data[[0, 1, 3]], alone)
