"""Twenty steps of FireEdit's second stage against PyTorch: losses, gradients' norms, what moved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from brushjax import config
from brushjax.data.feed import stacked
from brushjax.data.schema import Conversation, EditPair
from brushjax.sharding import path_name
from brushjax.training.objectives.contract import build, join, parameters, split
from brushjax.training.objectives.fireedit_parts import NULL
from brushjax.training.optimizers import make_optimizer
from brushjax.training.state import make_state, named_keys, sample_keys
from brushjax.training.step import StepOptions, make_step
from brushjax.weights.fireedit import JOINED
from tests import tiny_fireedit
from tests.models.conftest import float64
from tests.models.encoders.test_parity_llama import precise
from tests.torch_fireedit import TorchFireEdit

__all__ = ["float64", "precise"]  # fixtures that the test below asks for

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,  # most of a minute, of compiling
    # peft 0.21 asks transformers 5.23 by a name that it no longer likes.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

STEPS, BATCH, SIDE, SEED = 20, 6, 4, 5
DROPPED = 0.15  # of each kind, thrice the recipe's, so that each happens often
RECIPE = config.load("configs/fireedit/stage2.py").optimizer
# The recipe's groups, a hundred times as fast, so that the parameters move visibly; a shorter
# warm-up, that steps of both kinds are compared; decay, which the recipe has none of.
OPTIMIZER = dataclasses.replace(
    RECIPE,
    learning_rate=100 * RECIPE.learning_rate,
    groups=tuple(
        dataclasses.replace(group, learning_rate=100 * group.learning_rate)
        for group in RECIPE.groups
    ),
    warmup_steps=5,
    weight_decay=0.01,
)


def make_objective():
    objective = tiny_fireedit.objective("nowhere")
    edit = dataclasses.replace(objective.sizes.edit, drop_probability=DROPPED)
    sizes = dataclasses.replace(objective.sizes, edit=edit)
    return dataclasses.replace(objective, sizes=sizes, boxes="given")


def make_batch(objective):
    """Four edits and two questions, and what the frozen parts might have seen in their pictures."""
    rng = np.random.default_rng(3)
    picture = np.zeros((32, 32, 3), np.uint8)
    boxes = [rng.uniform(0.2, 0.8, (n % 5, 4)).astype(np.float32) for n in range(1, BATCH + 1)]
    records = [
        EditPair(n, picture, picture, f"make number {n} red", boxes=boxes[n])
        if n % 3 < 2
        else Conversation(n, picture, "what is it", "a red ball", boxes=boxes[n])
        for n in range(BATCH)
    ]
    batch = stacked([objective.encode(record) for record in records])
    batch = {name: x for name, x in batch.items() if name not in ("image", "target")}
    sizes, latents = objective.sizes, (BATCH, SIDE, SIDE, 4)
    patches = (sizes.dino.image_size // sizes.dino.patch_size) ** 2
    seen = (sizes.clip_vision.image_size // sizes.clip_vision.patch_size) ** 2
    shapes = {
        "hidden": (BATCH, sizes.layers, 1 + patches, sizes.dino.hidden_size),
        "clip": (BATCH, 1 + seen, sizes.clip_vision.hidden_size),
        "dino": (BATCH, patches, sizes.dino.hidden_size),
        **dict.fromkeys(("mean", "image_latents"), latents),
    }
    batch |= {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return {**batch, "deviation": np.full(latents, 0.3), "id": np.arange(BATCH) + 100}


def make_params(objective):
    """Trained and frozen parameters, none of them trivial."""
    sizes = objective.sizes
    models = {n: (kind, *sizes.of(kind)) for n, kind in enumerate(JOINED)}
    params = {
        kind: parameters(tiny_fireedit.random_model(make, settings, n))
        for n, (kind, make, settings) in models.items()
    }
    params[NULL] = tiny_fireedit.null_context()
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    return split(params, objective.trains)


def flat(tree):
    """Arrays by dotted name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): np.array(leaf) for path, leaf in leaves}


def region_features(objective, params, batch):
    """What the frozen layers of the region encoder make of the boxes; Groma's, by another test."""
    model = build(*objective.sizes.of("region_encoder"), params["region_encoder"])
    grid = round((batch["hidden"].shape[2] - 1) ** 0.5)
    levels = [x[:, 1:].reshape(BATCH, grid, grid, -1) for x in np.moveaxis(batch["hidden"], 1, 0)]
    levels = tuple(map(jnp.asarray, levels[-objective.sizes.edit.region_layers :]))
    boxes = jnp.asarray(batch["boxes"], jnp.float64)
    return np.array(jax.jit(model.features)(levels, boxes, jnp.asarray(batch["boxes_mask"])))


def draws_of(batch, number):
    """What chance decides in a step, from the step's keys: the paper's noising and its dropout."""
    keys = named_keys(
        sample_keys(SEED, number, batch["id"]), "latents", "noise", "timestep", "dropped"
    )

    def normal(name):
        draw = jax.vmap(lambda key: jax.random.normal(key, (SIDE, SIDE, 4), jnp.float32))
        return torch.tensor(np.array(draw(keys[name]))).double()

    timestep = jax.vmap(lambda key: jax.random.randint(key, (), 0, 1000))(keys["timestep"])
    timestep = torch.tensor(np.array(timestep))
    u = torch.tensor(np.array(jax.vmap(jax.random.uniform)(keys["dropped"])))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    kept = (1 - betas).cumprod(0)[timestep][:, None, None, None]
    mean, deviation = (torch.tensor(batch[name]) for name in ("mean", "deviation"))
    latents, noise = mean + deviation * normal("latents"), normal("noise")
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    text = u < 2 * DROPPED  # alone, or with the picture
    image = (u >= DROPPED) & (u < 3 * DROPPED)
    return noise, noisy, timestep, text, image


def ours(objective, trained, frozen, batch):
    """Losses and gradients' norms of the steps, and the parameters behind them."""
    optimizer = make_optimizer(OPTIMIZER, STEPS)
    step = make_step(
        objective,
        optimizer,
        seed=SEED,
        options=StepOptions(compute_dtype=jnp.float64, prepared=True),
    )
    state, run = make_state(trained, optimizer), []
    for _ in range(STEPS):
        state, metrics = step(state, frozen, batch)
        run.append((float(metrics["loss"]), float(metrics["gradient_norm"])))
    return run, flat(state["params"])


def torch_optimizer(params):
    """torch's AdamW in the recipe's groups, and their warm-up."""
    (group,) = OPTIMIZER.groups
    new = ("tati.", "hvca.")
    fast = [n for n in params if n.startswith(new) or "to_k_ip" in n or "to_v_ip" in n]
    slow = [n for n in params if n not in fast]
    groups = [
        {"params": [params[n] for n in names], "lr": rate}
        for names, rate in ((fast, group.learning_rate), (slow, OPTIMIZER.learning_rate))
    ]
    adamw = torch.optim.AdamW(groups, weight_decay=OPTIMIZER.weight_decay)
    warm = lambda step: min((step + 1) / OPTIMIZER.warmup_steps, 1.0)  # noqa: E731
    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, warm)


def in_torch(objective, start, fixed, batch):
    """What `ours` returns, by the restatement."""
    model = TorchFireEdit(objective.sizes)
    params = {name: torch.tensor(x, requires_grad=True) for name, x in start.items()}
    still = {name: torch.tensor(x) for name, x in fixed.items()}
    given = {name: torch.tensor(x) for name, x in batch.items()}
    (adamw, warm), run = torch_optimizer(params), []
    for number in range(STEPS):
        adamw.zero_grad()
        loss = model.loss({**still, **params}, given, draws_of(batch, number))
        loss.backward()
        size = torch.nn.utils.clip_grad_norm_(params.values(), OPTIMIZER.clip_norm)
        adamw.step()
        warm.step()
        run.append((float(loss.detach()), float(size)))
    return run, {name: x.detach().numpy() for name, x in params.items()}


@pytest.mark.usefixtures("float64", "precise")
def test_twenty_steps_of_stage_2_equal_pytorch():
    """The same weights, batch and draws. What never learns is given to both: features of the
    pictures, and those of their regions up to the last layer."""
    objective = make_objective()
    batch, (trained, frozen) = make_batch(objective), make_params(objective)
    start, fixed = flat(trained), flat(frozen)
    regions = region_features(objective, join(trained, frozen), batch)
    run, moved = ours(objective, trained, frozen, batch)
    with torch.enable_grad():
        other, expected = in_torch(objective, start, fixed, {**batch, "regions": regions})

    off = np.abs(np.divide(run, other) - 1).max(axis=0)
    print("losses and gradients' norms", off)
    assert (np.array(run)[:, 1] > OPTIMIZER.clip_norm).all()  # clipping counts in every step
    assert off[0] <= 1e-6
    assert off[1] <= 1e-6
    changes = {
        name: np.linalg.norm(moved[name] - x) / np.linalg.norm(x - start[name])
        for name, x in expected.items()
    }
    print("changes", max(zip(changes.values(), changes)))
    assert max(changes.values()) <= 1e-5  # every tensor moved, and by the same


@pytest.mark.usefixtures("float64")
def test_draws_of_the_steps_drop_every_kind():
    """Else the steps above would show nothing of dropped conditions."""
    batch = make_batch(make_objective())
    edits = batch["edit"] > 0
    kinds = [np.array(draws_of(batch, number)[3:])[:, edits].T for number in range(STEPS)]
    seen, counts = np.unique(np.concatenate(kinds), axis=0, return_counts=True)
    assert len(seen) == 4
    assert min(counts) > 3
