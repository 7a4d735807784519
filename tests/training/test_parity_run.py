"""Twenty steps of the real training step against PyTorch: diffusers' blocks, torch's AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from flax import nnx

from brushjax.models import (
    BrushNet,
    BrushNetConfig,
    CLIPText,
    CLIPTextConfig,
    UNet,
    UNetConfig,
    VAEConfig,
)
from brushjax.nn import Keys
from brushjax.pipelines import published as base
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.objectives.contract import build, parameters, split
from brushjax.training.optimizers import OptimizerConfig, make_optimizer
from brushjax.training.state import make_state, named_keys, sample_keys
from brushjax.training.step import StepOptions, make_step
from tests.models.test_parity import SD15, SDXL, TWO_LEVELS
from tests.models.test_parity_branch import plain
from tests.support import fill, to_torch, torch_names
from tests.torch_reference import TorchBranch, arrays, injected, noise, randomize

pytestmark = pytest.mark.torch

STEPS, BATCH, SIDE = 20, 4, 8
# Twenty times the reference's learning rate, so that the parameters move visibly.
OPTIMIZER = OptimizerConfig(learning_rate=2e-4, weight_decay=0.01, clip_norm=1.0)
SMALL = {"intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {
    "two-levels": (CLIPTextConfig(hidden_size=12, **SMALL),),
    "sd15": (CLIPTextConfig(hidden_size=12, **SMALL),),
    "sdxl": (
        CLIPTextConfig(hidden_size=4, **SMALL),
        CLIPTextConfig(
            hidden_size=8,
            projection_dim=10,
            architectures=("CLIPTextModelWithProjection",),
            **SMALL,
        ),
    ),
}
NAMES = (
    "latents",
    "masked_latents",
    "noise",
    "timestep",
    "captions",
)  # as the loss splits its keys


@pytest.fixture
def kind(request, monkeypatch):
    settings = {"two-levels": TWO_LEVELS, "sd15": SD15, "sdxl": SDXL}[request.param]
    tiny = base.Base(UNetConfig(**settings), VAEConfig(), TEXT[request.param], base.NOISE, None)
    monkeypatch.setitem(base.PUBLISHED, f"tests/{request.param}", tiny)
    return request.param, settings


def nchw(array):
    return torch.tensor(np.asarray(array)).permute(0, 3, 1, 2)


def make_batch():
    sizes = np.array([[80, 64, 0, 8, 64, 64]] * BATCH, np.float32) + np.arange(BATCH)[:, None]
    ids = np.random.default_rng(3).integers(1, 400, (BATCH, 77)).astype(np.int32)
    ids[:, 0], ids[:, 9:] = base.START, base.END
    keep = np.random.default_rng(4).integers(0, 2, (BATCH, SIDE, SIDE, 1))
    shape = (BATCH, SIDE, SIDE, 4)
    return {
        "mean": noise(1, *shape).astype(np.float32),
        "deviation": np.zeros(shape, np.float32),
        "condition": np.concatenate([noise(2, *shape), keep], axis=-1).astype(np.float32),
        "masked_deviation": np.zeros(shape, np.float32),
        "token_ids": ids,
        "time_ids": sizes,
        "id": np.arange(BATCH) + 100,
    }


def text_of(name, models, batch):
    """Context and added condition, for PyTorch."""
    first = jax.jit(models[0].__call__)(batch["token_ids"])
    if name != "sdxl":
        return torch.tensor(np.asarray(first.last_hidden_state)), None
    ids = batch["token_ids"].copy()
    ids[:, 10:] = 0  # the second tokenizer fills up with zeros behind the end, at 9
    second = jax.jit(models[1].__call__)(ids)
    states = [np.asarray(out.hidden_states[-2]) for out in (first, second)]
    pooled = torch.tensor(np.asarray(second.text_embeds))
    return torch.tensor(np.concatenate(states, axis=-1)), (pooled, torch.tensor(batch["time_ids"]))


def torch_step(unet, branch, optimizer, inputs):
    """One step of the reference's training script."""
    noisy, timestep, condition, context, added, target = inputs
    residuals = branch(noisy, timestep, condition, added=added)
    prediction = injected(unet, noisy, timestep, context, residuals, added)
    loss = torch.nn.functional.mse_loss(prediction, target)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(branch.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(
    "kind",
    ["two-levels", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd15", "sdxl"))],
    indirect=True,
)
def test_twenty_steps_equal_pytorch(kind):
    name, settings = kind
    torch_unet = randomize(UNet2DConditionModel(**settings), 0, torch.float32).requires_grad_(False)
    torch_branch = randomize(TorchBranch(5, **plain(settings)), 1, torch.float32)
    config = BrushNetConfig(**plain(settings), mid_block_type="MidBlock2D", conditioning_channels=5)
    start = {key: value.copy() for key, value in arrays(torch_branch).items()}
    models = [
        nnx.merge(*nnx.split(CLIPText(text, rngs=Keys(n)))) for n, text in enumerate(TEXT[name])
    ]
    frozen = {"unet": parameters(fill(UNet, UNetConfig(**settings), arrays(torch_unet)))}
    frozen |= dict(zip(("text_encoder", "text_encoder_2"), map(parameters, models)))
    branch = parameters(fill(BrushNet, config, start))

    batch, optimizer = make_batch(), make_optimizer(OPTIMIZER, STEPS)
    objective = BrushNetObjective(base=f"tests/{name}")
    step = make_step(objective, optimizer, seed=5, options=StepOptions(prepared=True))
    state, losses = make_state({"brushnet": branch}, optimizer), []
    for _ in range(STEPS):
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["loss"]))

    adamw = torch.optim.AdamW(torch_branch.parameters(), lr=2e-4, weight_decay=0.01)
    context, added = text_of(name, models, batch)
    share = np.float32(objective._schedule().alphas_cumprod)
    for number in range(STEPS):
        keys = named_keys(sample_keys(5, number, batch["id"]), *NAMES)
        target = jax.vmap(lambda key: jax.random.normal(key, (SIDE, SIDE, 4)))(keys["noise"])
        timestep = jax.vmap(lambda key: jax.random.randint(key, (), 0, 1000))(keys["timestep"])
        kept = share[np.asarray(timestep)][:, None, None, None]
        noisy = np.sqrt(kept) * batch["mean"] + np.sqrt(1 - kept) * np.asarray(target)
        inputs = (
            nchw(noisy),
            torch.tensor(np.asarray(timestep)),
            nchw(batch["condition"]),
            context,
            added,
            nchw(target),
        )
        loss = torch_step(torch_unet, torch_branch, adamw, inputs)
        assert losses[number] == pytest.approx(loss, rel=2e-5), number

    trained = build(BrushNet, config, state["params"]["brushnet"])
    theirs = arrays(torch_branch)
    worst = {"value": 0.0, "change": 0.0}
    for key, (leaf, _) in torch_names(trained).items():
        ours = to_torch("kernel" if leaf.ndim in (2, 4) else "bias", np.asarray(leaf[...]))
        off = np.linalg.norm(ours - theirs[key])
        worst["value"] = max(worst["value"], off / np.linalg.norm(theirs[key]))
        worst["change"] = max(worst["change"], off / np.linalg.norm(theirs[key] - start[key]))
    print(name, worst)
    assert worst["value"] <= 1e-4
    assert worst["change"] <= 1e-1  # every tensor moved, and by the same


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("two-levels", marks=pytest.mark.heavy),
        pytest.param("sdxl", marks=pytest.mark.slow),
    ],
    indirect=True,
)
def test_captions_and_sizes_reach_the_loss(kind):
    """What a loss must depend on: captions and, for SDXL, the picture's sizes."""
    name, _ = kind
    objective = BrushNetObjective(base=f"tests/{name}")
    params = objective.shapes()
    assert set(split(params, objective.trains)[0]) == {"brushnet"}
    assert ("text_encoder_2" in params) == (name == "sdxl")
    both = BrushNetObjective(base=f"tests/{name}", train_base=True)
    trained, frozen = split(both.shapes(), both.trains)
    assert set(trained) == {"brushnet", "unet"}
    assert "unet" not in frozen

    params.pop("vae")
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), params)
    batch = {key: jnp.asarray(value) for key, value in make_batch().items()}
    keys = sample_keys(0, 0, batch["id"])
    # The parameters are arguments: as constants they would be folded, for a minute.
    quick = {"xla_backend_optimization_level": 0}
    program = jax.jit(lambda *a: objective.loss(*a).value, compiler_options=quick)

    def loss(batch):
        return float(program(params, batch, keys))

    value = loss(batch)
    other = {**batch, "token_ids": batch["token_ids"].at[:, 3].set(5)}
    assert loss(other) != value
    moved = {**batch, "time_ids": batch["time_ids"] + 100}
    assert (loss(moved) != value) == (name == "sdxl")
    # Without sizes a picture counts as whole: (height, width) twice, and no crop.
    square = jnp.tile(jnp.float32([64, 64, 0, 0, 64, 64]), (BATCH, 1))
    bare = {key: array for key, array in batch.items() if key != "time_ids"}
    assert loss(bare) == pytest.approx(loss({**batch, "time_ids": square}))


def test_second_tokenizer_pads_with_zeros():
    ids = jnp.asarray(
        [[base.START, 7, base.END, base.END], [base.START, base.END] + [base.END] * 2]
    )
    expected = [[base.START, 7, base.END, 0], [base.START, base.END, 0, 0]]
    np.testing.assert_array_equal(base.second_ids(ids, base.END), expected)
