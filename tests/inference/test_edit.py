"""The compiled programs of an edit: what they share, what they save, and when they compile."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from brushjax.inference.engine.options import NAIVE, Condition, EditInputs, EditOptions, Savings
from brushjax.inference.engine.predict import Predictor
from brushjax.models.brushnet import BrushNet, BrushNetConfig
from brushjax.models.unet import UNet, UNetConfig
from brushjax.nn import Execution, Keys, executing
from brushjax.training.objectives.contract import blueprint
from brushjax.training.scale.program import flops, trace
from brushjax.typing import AddedCondition, Residuals
from tests.inference.conftest import filled

SDXL_BODY = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": (2, 2),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 5,
}


@pytest.fixture(scope="module")
def sdxl():
    cross = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = filled(UNet, UNetConfig(**SDXL_BODY, **cross), 0)
    return unet, filled(BrushNet, BrushNetConfig(**SDXL_BODY, **plain), 1)


def added(seed, batch=1):
    random = np.random.default_rng(seed)
    return AddedCondition(
        text_embeds=jnp.asarray(random.standard_normal((batch, 5)), jnp.float32),
        time_ids=jnp.full((batch, 6), 32.0),
    )


def make_inputs(guided=True, batch=1, conditions=None, **changes):
    random = np.random.default_rng(5)
    context, negative = map(jnp.asarray, random.standard_normal((2, batch, 5, 16), np.float32))
    default = (Condition(negative), Condition(context)) if guided else (Condition(context),)
    return EditInputs(
        **{
            "masked": None,
            "masks": None,
            "noise": None,
            "conditions": conditions or default,
            "guidance": jnp.float32(2),
            "scales": np.float32([0.7]),
            **changes,
        }
    )


def latents(batch=1):
    random = np.random.default_rng(6)
    x, condition = (random.standard_normal((batch, 3, 4, c), np.float32) for c in (4, 5))
    return jnp.asarray(x), jnp.asarray(condition)


@functools.cache
def step_program(unet, branch, options):
    """The guided prediction at timestep 7, as the loop's first step asks for it; compiled once."""

    @jax.jit
    def run(x, condition, inputs):
        predict = Predictor(unet, branch, condition, inputs, jnp.array([7.0]), options)
        step = jax.tree.map(lambda table: table[0], predict.per_step)
        return predict(x, jnp.float32(7), step)

    return run


def one_step(unet, branch, x, condition, inputs, options=EditOptions()):  # noqa: B008 - frozen
    return np.asarray(step_program(unet, branch, options)(x, condition, inputs))


def assert_same(result, expected, tolerance=1e-5):
    assert np.abs(result - expected).max() <= tolerance * np.std(expected)


@functools.cache
def half_program(unet, branch):
    @jax.jit
    def one(x, condition, context, own=None):
        time = jnp.full(len(x), 7.0)
        residuals = branch(x, time, condition, 0.7, own)
        return unet(x, time, context, residuals, own)

    return one


def by_hand(unet, branch, x, condition, inputs):
    """A pass of batch B for each condition, with nothing shared."""
    one, last = half_program(unet, branch), inputs.conditions[-1].added
    every = [one(x, condition, c.context, c.added or last) for c in inputs.conditions]
    scales = np.broadcast_to(inputs.guidance, (1, len(every) - 1))[0]
    return np.asarray(
        every[0] + sum(g * (b - a) for g, a, b in zip(scales, every, every[1:], strict=False))
    )


@pytest.mark.parametrize(
    "negative_added", [pytest.param(None, marks=pytest.mark.heavy), added(2, 2)]
)
def test_sdxl_step_equals_two_passes_with_their_own_added_conditions(sdxl, negative_added):
    x, condition = latents(2)
    negative, positive = make_inputs(batch=2).conditions
    negative = dataclasses.replace(negative, added=negative_added)
    inputs, other = (
        make_inputs(conditions=(negative, dataclasses.replace(positive, added=added(seed, 2))))
        for seed in (1, 3)
    )
    expected = by_hand(*sdxl, x, condition, inputs)
    assert_same(one_step(*sdxl, x, condition, inputs), expected)
    assert np.abs(one_step(*sdxl, x, condition, other) - expected).max() > 1e-3 * np.std(expected)


ALONE = [
    pytest.param(dataclasses.replace(NAIVE, **{field.name: True}), marks=pytest.mark.slow)
    for field in dataclasses.fields(Savings)
]


@pytest.mark.parametrize("savings", [pytest.param(NAIVE, marks=pytest.mark.slow), Savings()])
def test_three_conditions_are_weighed_as_three_passes_and_share_the_branch(parts, savings):
    networks, (x, condition) = (parts["unet"], parts["brushnet"]), latents(2)
    random = np.random.default_rng(9)
    contexts = jnp.asarray(random.standard_normal((3, 2, 5, 16), np.float32))
    inputs = make_inputs(
        conditions=tuple(map(Condition, contexts)), guidance=np.float32([[1.5, 7.5]])
    )
    none, image, both = (np.float64(half_program(*networks)(x, condition, c)) for c in contexts)
    weighed = (1 - 1.5) * none + (1.5 - 7.5) * image + 7.5 * both
    options = EditOptions(savings=savings)
    assert_same(one_step(*networks, x, condition, inputs, options), weighed)
    assert_same(by_hand(*networks, x, condition, inputs), weighed)


@pytest.mark.parametrize("savings", [NAIVE, Savings(), *ALONE])
def test_savings_leave_the_step_as_it_is_together_and_each_alone(parts, savings):
    networks, (x, condition) = (parts["unet"], parts["brushnet"]), latents(2)
    inputs = make_inputs(batch=2)
    expected = by_hand(*networks, x, condition, inputs)
    assert_same(one_step(*networks, x, condition, inputs, EditOptions(savings=savings)), expected)


@pytest.mark.heavy
def test_steps_without_branch_or_guidance_are_exact_too(parts):
    unet, branch, (x, condition) = parts["unet"], parts["brushnet"], latents(2)
    idle = make_inputs(batch=2, scales=np.float32([0]))
    naive = one_step(unet, branch, x, condition, idle, EditOptions(savings=NAIVE))
    assert_same(one_step(unet, branch, x, condition, idle), naive)
    plain = make_inputs(batch=2, guidance=jnp.float32(1))
    switched = EditOptions(guidance_switches=True)
    unguided = one_step(unet, branch, x, condition, make_inputs(False, batch=2))
    assert_same(one_step(unet, branch, x, condition, plain, switched), unguided)
    guided = make_inputs(batch=2)
    same = one_step(unet, branch, x, condition, guided, switched)
    assert_same(same, one_step(unet, branch, x, condition, guided))


@pytest.mark.slow
def test_guess_mode_keeps_the_branch_from_the_negative_half(parts):
    unet, branch, (x, condition) = parts["unet"], parts["brushnet"], latents(2)
    inputs, time = make_inputs(batch=2), jnp.full(2, 7.0)

    @jax.jit
    def apart():
        residuals = branch(x, time, condition, 0.7, guess_mode=True)
        one, other = (condition.context for condition in inputs.conditions)
        negative = unet(x, time, one)
        return negative + 2.0 * (unet(x, time, other, residuals) - negative)

    options = EditOptions(guess_mode=True)
    assert_same(one_step(unet, branch, x, condition, inputs, options), np.asarray(apart()))


@pytest.mark.parametrize(
    ("guided", "text_attention", "expected"), [(True, False, 1), (False, False, 1), (True, True, 2)]
)
def test_branch_runs_once_for_both_halves_of_the_guidance_unless_it_reads_the_text(
    parts, guided, text_attention, expected
):
    config = parts["brushnet"].config
    if text_attention:
        kinds = ("CrossAttnDownBlock2D", "DownBlock2D")
        config = dataclasses.replace(config, down_block_types=kinds)
    maps = []

    def predict():
        branch = BrushNet(config, rngs=Keys(0))
        inputs = make_inputs(guided)
        x, condition = latents()
        predict = Predictor(
            parts["unet"], branch, condition, inputs, jnp.array([7.0]), EditOptions()
        )
        step = jax.tree.map(lambda table: table[0], predict.per_step)
        maps.append(predict._residuals(x, jnp.float32(7), step))
        return predict(x, jnp.float32(7), step)

    assert jax.eval_shape(predict).shape == (1, 3, 4, 4)
    assert len(maps[0].mid) == expected


def flops_of_a_step(savings, convolution="direct"):
    """Counted GFLOP of a guided step of SD1.5 at 64x64 latents, traced only."""
    shape = jax.ShapeDtypeStruct
    networks = ((UNet, UNetConfig.sd15()), (BrushNet, BrushNetConfig.sd15()))
    graphs, params = zip(*(blueprint(*one) for one in networks), strict=True)
    text = shape((1, 77, 768), jnp.float32)
    inputs = make_inputs(conditions=(Condition(text), Condition(text)))
    x, condition = (shape((1, 64, 64, c), jnp.float32) for c in (4, 5))

    def run(params, x, condition, inputs, step):
        unet, branch = (nnx.merge(*pair) for pair in zip(graphs, params, strict=True))
        options = EditOptions(savings=savings)
        with executing(Execution(convolution=convolution)):
            predict = Predictor(unet, branch, condition, inputs, jnp.array([7.0]), options)
            row = jax.tree.map(lambda table: table[0], predict.per_step)
            ahead = (predict.per_step, predict._text)
            return (predict(x, jnp.float32(7), row), ahead) if step else ahead

    whole, ahead = (
        flops(trace(lambda *a, step=step: run(*a, step), params, x, condition, inputs))
        for step in (True, False)
    )
    return (whole - ahead) / 1e9


@pytest.mark.heavy
def test_full_size_step_needs_no_more_flops_than_its_exact_form():
    # The naive step: 2 x 803.3 + 2 x 441.3 GFLOP, counted on the published PyTorch classes.
    assert flops_of_a_step(NAIVE) == pytest.approx(2489.1, abs=0.5)
    assert flops_of_a_step(Savings()) <= 2010
    assert flops_of_a_step(Savings(), "auto") <= 1600  # on a CPU, by Winograd's convolutions


@pytest.mark.parametrize("fresh", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_redoing_the_last_layers_of_the_same_step_gives_the_same_prediction(parts, fresh):
    unet, branch, (x, condition) = parts["unet"], parts["brushnet"], latents(1)
    inputs = make_inputs()

    @jax.jit
    def both():
        time, context = (
            unet.embed_time(jnp.array([7.0]), None, x.dtype),
            inputs.conditions[-1].context,
        )
        residuals = branch(x, jnp.array([7.0]), condition, 0.7)
        prediction, deep = unet.denoise(x, time, context, residuals, fresh)
        kept = Residuals(down=residuals.down[:fresh], up=residuals.up[-fresh:])
        again = unet.redo(x, time, context, kept, deep, fresh)
        other = unet.redo(x + 1, time, context, kept, deep, fresh)
        return prediction, again, other

    prediction, again, other = map(np.asarray, both())
    assert_same(again, prediction, 1e-6)
    assert np.abs(other - prediction).max() > 1e-3 * np.std(prediction)
