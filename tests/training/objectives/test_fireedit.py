"""FireEdit's stage 2 against stored losses and gradients, and what its gradients reach."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.models.fireedit.editor import dropped
from brushjax.nn import lora
from brushjax.pipelines.fireedit import Sizes
from brushjax.pipelines.instructions import columns
from brushjax.training.objectives.contract import join, parameters, split
from brushjax.training.objectives.fireedit import Draws, FireEditObjective
from brushjax.weights.fireedit import JOINED
from tests.models.fireedit.golden import deviation, named
from tests.models.fireedit.test_editor import dino_tokens, editor, golden, region_mask, sequence
from tests.models.fireedit.test_unet import nhwc
from tests.models.fireedit.test_whole import llama, lora_name, whole
from tests.training.conftest import QUICK

__all__ = ["editor", "golden", "llama", "whole"]  # fixtures that the tests below ask for

CASES = ("edit", "drop", "vqa")
UNOPTIMISED = 2e-4  # of the std; sums in another order than in the optimised program's 1e-4


@pytest.fixture(scope="module")
def objective(whole):
    kinds = [kind for kind in JOINED if kind != "llama"]
    configs = {kind: getattr(whole, kind).config for kind in kinds}
    language = whole.llama.config
    plain = type(language)(**{**vars(language), "new_tokens": 0})
    sizes = Sizes(
        llama=plain, update=lora.LoRA(), edit=whole.config, sequence=whole.sequence, **configs
    )
    return FireEditObjective(sizes, boxes="given")


@pytest.fixture(scope="module")
def params(whole):
    models = {kind: parameters(getattr(whole, kind)) for kind in JOINED}
    return {**models, "null_context": whole.null_context[...]}


def batch_of(golden, case):
    """The stored sample, as `prepare` would give it."""
    plan = sequence(golden, "vqa/" if case == "vqa" else "")
    edit = golden["vqa/is_edit"] if case == "vqa" else jnp.ones(3)
    return {
        **{name: jnp.asarray(x) for name, x in columns(plan).items()},
        "edit": edit,
        "hidden": jnp.stack(list(golden["dino_hidden_last4"]), axis=1),
        "clip": golden["clip_tokens"],
        "dino": dino_tokens(golden),
        "boxes": golden["boxes"],
        "boxes_mask": region_mask(golden),
        "image_latents": nhwc(golden["image_latents"]),
    }


def draws_of(golden, case):
    u = golden["drop/u"] if case == "drop" else jnp.ones(3)
    return Draws(
        nhwc(golden["target_latents"]),
        nhwc(golden["noise"]),
        jnp.asarray(golden.io["timesteps"], jnp.int32),
        dropped(u, 0.05),
    )


@pytest.fixture(scope="module")
def gradient(objective, params):
    """The compiled loss with its terms and its gradients of what is trained, of a batch."""
    trained, frozen = split(params, objective.trains)

    def run(trained, frozen, batch, draws):
        losses = objective.losses(join(trained, frozen), batch, draws)
        terms = {name: term.value for name, term in losses.terms.items()}
        return losses.value, terms

    program = jax.jit(jax.value_and_grad(run, has_aux=True), compiler_options=QUICK)
    return lambda batch, draws: program(trained, frozen, batch, draws)


@pytest.fixture(scope="module")
def results(golden, gradient):
    return {case: gradient(batch_of(golden, case), draws_of(golden, case)) for case in CASES}


@pytest.fixture(scope="module")
def value(objective, params):
    """The compiled loss with its terms, of a batch."""

    def run(params, batch, draws):
        losses = objective.losses(params, batch, draws)
        return losses.value, {name: term.value for name, term in losses.terms.items()}

    program = jax.jit(run, compiler_options=QUICK)
    return lambda batch, draws: program(params, batch, draws)


@pytest.mark.parametrize("case", CASES)
def test_losses_equal_the_stored_ones(golden, value, case):
    loss, terms = value(batch_of(golden, case), draws_of(golden, case))
    np.testing.assert_allclose(terms["answer"], golden.io[f"{case}/L_vlm"], rtol=1e-5)
    np.testing.assert_allclose(terms["diffusion"], golden.io[f"{case}/L_diff"], rtol=1e-5)
    np.testing.assert_allclose(loss, golden.io[f"{case}/L_total"], rtol=1e-5)


def test_what_a_question_has_of_a_picture_reaches_no_loss_of_the_noise(golden, value):
    """Its row of latents, noise and features is multiplied by 0; that of an edit is not."""
    batch, draws = batch_of(golden, "vqa"), draws_of(golden, "vqa")
    edits = np.flatnonzero(golden.io["vqa/is_edit"])
    (question,) = set(range(3)) - set(edits.tolist())
    loss, terms = value(batch, draws)
    for row in (question, edits[0]):
        moved = lambda x, row=row: x.at[row].add(1.0)  # noqa: E731
        other = {name: moved(batch[name]) for name in ("clip", "dino", "image_latents")}
        drawn = dataclasses.replace(draws, latents=moved(draws.latents), noise=moved(draws.noise))
        changed, parts = value({**batch, **other}, drawn)
        same = row == question
        assert (parts["diffusion"] == terms["diffusion"]) == same
        assert (changed == loss) == same
        assert parts["answer"] == terms["answer"]


FILES = {
    "qformer": "smartedit_qformer.safetensors:",
    "tati": "ella.safetensors:",
    "hvca": "hvca.safetensors:",
    "bridge": "groma.safetensors:",
    "region_encoder": "groma.safetensors:",
}


def by_file(golden, tree):
    """Our gradients by the names of the stored ones; the second stream's are numbered there."""
    ours = {}
    for kind, file in FILES.items():
        ours |= {file + name: value for name, value in named(tree[kind]).items()}
    index = json.loads((golden.folder.parent / "whole" / "config.json").read_text())["trainable"]
    numbers = [name for name in index if name.startswith("ip_adapter.")]
    for name, value in named(tree["unet"]).items():
        if "_ip." not in name:
            ours[f"unet.safetensors:{name}"] = value
    assert numbers
    for name, value in named(tree["llama"]).items():
        if name in ("new_embed", "new_head"):
            ours[f"tokens.safetensors:{name}"] = value
        else:
            layers = enumerate(value)
            ours |= {lora_name(name.replace("*", str(i))): layer for i, layer in layers}
    return ours, numbers


@pytest.mark.slow  # two minutes of compiling
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_stored_ones(golden, results, case):
    stored = np.load(golden.folder / "grads.npz")
    _, tree = results[case]
    norms = dict(zip(stored["edit/all_names"], stored[f"{case}/all_grad_norms"], strict=True))
    total = stored[f"{case}/total_grad_norm"]
    ours, numbered = by_file(golden, tree)
    assert set(ours) == set(norms) - set(numbered)
    for name, value in ours.items():
        assert abs(np.linalg.norm(value) - norms[name]) <= 1e-4 * norms[name] + 1e-6 * total, name
        if f"{case}/grad/{name}" in stored.files:
            assert deviation(value, stored[f"{case}/grad/{name}"]) <= UNOPTIMISED, name
    second = [value for name, value in named(tree["unet"]).items() if "_ip." in name]
    theirs = np.sqrt(sum(norms[name] ** 2 for name in numbered))
    own = np.sqrt(sum(np.linalg.norm(value) ** 2 for value in second))
    assert len(second) == len(numbered)
    np.testing.assert_allclose(own, theirs, rtol=1e-4)


@pytest.mark.slow  # as above
def test_questions_alone_move_nothing_of_the_picture(golden, gradient):
    batch = batch_of(golden, "vqa")
    question = {name: jnp.stack([value[1]] * 3) for name, value in batch.items()}
    (loss, terms), tree = gradient(question, draws_of(golden, "vqa"))
    assert terms["diffusion"] == 0
    assert loss == terms["answer"] > 0
    for kind in ("unet", "tati", "hvca", "qformer"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(tree[kind])), kind
    for kind in ("bridge", "region_encoder"):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(tree[kind])), kind


def test_what_is_trained_is_what_the_table_says(golden, objective, params):
    trained, frozen = split(params, objective.trains)
    listed = golden.config["trainable"]
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    layers = golden.config["llm_layers"]
    stacked = 4 * layers - 4  # factors of all layers are one array each
    assert len(jax.tree.leaves(trained)) == len(listed) - stacked
    assert set(trained["llama"]) == {"model", "new_embed", "new_head"}
    assert set(frozen) == {"llama", "region_encoder", "null_context"}
    assert count(trained["llama"]["model"]) < count(frozen["llama"])
