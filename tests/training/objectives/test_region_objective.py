"""The region predictor's objective through the one step: stored losses, devices, gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import brushjax
from brushjax import sharding
from brushjax.config import ConfigError
from brushjax.data.schema import RegionEdit
from brushjax.metrics.region import iou
from brushjax.models import CLIPTextConfig, RegionConfig, Threshold, ViTConfig
from brushjax.models.region import Regions
from brushjax.pipelines.regions import RegionEncoders
from brushjax.training.objectives.brushnet import SHIPPED_BASE
from brushjax.training.objectives.contract import join, split
from brushjax.training.objectives.contract import parameters as parameters_of
from brushjax.training.objectives.contrastive import ContrastiveObjective
from brushjax.training.objectives.region import RegionLosses
from brushjax.training.objectives.region_masks import MaskPath
from brushjax.training.objectives.region_objective import RegionObjective
from brushjax.training.optimizers import OptimizerConfig, make_optimizer
from brushjax.training.scale.program import flops, trace
from brushjax.training.state import Places, make_state, state_shardings
from brushjax.training.step import StepOptions, make_step
from tests.support import GOLDEN, loaded

FOLDER = GOLDEN / "region"
ENCODERS = RegionEncoders(str(FOLDER / "clip"), str(FOLDER / "t5"), "t5", 10)
RESIDUAL = RegionConfig(32, residual=True)
NORMALIZED = RegionLosses(normalize_before_difference=True)
OBJECTIVE = RegionObjective(ENCODERS, RESIDUAL, NORMALIZED)
MASK_HEAD = (r"region\.(self_attention|mlp|norm_self|norm_mlp)\..*",)


@functools.cache
def stored():
    return np.load(FOLDER / "end_to_end.npz")


def stored_batch():
    data = stored()
    captions = np.stack([data["ids_o"], data["ids_e"]], axis=1).astype(np.int32)
    names = {"image": "image_uint8", "donor": "donor_uint8", "instruction_ids": "ids_ins"}
    arrays = {name: data[key] for name, key in names.items()}
    return {**arrays, "caption_ids": captions, "id": np.arange(len(captions))}


def sixteen():
    """Sixteen different samples out of the three that are stored."""
    batch, rng = stored_batch(), np.random.default_rng(0)
    rows = {name: rng.integers(3, size=16) for name in batch}
    many = {name: array[rows[name]] for name, array in batch.items()}
    region = rng.integers(2, size=(16, 64, 64, 1)).astype(np.uint8)
    return {**many, "region": region, "id": np.arange(16)}


@functools.cache
def parameters(objective):
    return loaded(objective, jax.random.key(0))


def gradient(objective, trained, frozen, batch):
    def loss(trained, frozen, batch):
        keys = jax.random.split(jax.random.key(0), len(batch["id"]))
        losses = objective.loss(join(trained, frozen), objective.prepare(frozen, batch), keys)
        return losses.value, {"loss": losses.value, **losses.logged}

    return jax.jit(jax.grad(loss, has_aux=True))(trained, frozen, batch)


def test_objective_has_the_stored_losses_of_the_step():
    _, frozen = parameters(OBJECTIVE)
    predictor = brushjax.load("region", FOLDER / "region_residual")
    config = predictor.config
    objective = dataclasses.replace(OBJECTIVE, predictor=config)
    trained = {"region": parameters_of(predictor)}
    _, logged = gradient(objective, trained, frozen, stored_batch())
    names = {"sem_edited": "l_sem_edited", "clip_g": "l_g", "clip_d": "l_d", "clip_s": "l_s_mean"}
    for ours, name in names.items():
        expected = stored()[f"residual/normalized/{name}"].mean()
        assert float(logged[ours].value) == pytest.approx(expected, rel=5e-5), ours
    total = stored()["residual/normalized/total"]
    assert float(logged["loss"]) == pytest.approx(float(np.mean(total)), rel=5e-5)
    logits = stored()["residual/logits"]
    area = (1 / (1 + np.exp(-logits))).mean()
    assert float(logged["region_area"].value) == pytest.approx(area, rel=1e-4)


def steps(objective, devices, rules=()):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3), 10)
    trained, frozen = parameters(objective)
    mesh = sharding.make_mesh(None, jax.devices()[:devices])
    state = make_state(jax.tree.map(jnp.array, trained), optimizer)
    layout = state_shardings(state, mesh, rules)
    places = Places(mesh, layout, sharding.shardings(trained, mesh, ()))
    step = make_step(
        objective, optimizer, seed=0, options=StepOptions(prepared=True), places=places
    )
    state, rows = jax.device_put(state, layout), []
    batch = sixteen()
    batch = {**jax.jit(objective.prepare)(frozen, batch), "id": batch["id"]}
    batch = jax.device_put(batch, jax.sharding.NamedSharding(mesh, sharding.BATCH))
    frozen = jax.device_put(frozen, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    for _ in range(2):
        state, metrics = step(state, frozen, batch)
        rows.append(jax.device_get(metrics))
    return rows


@pytest.mark.parametrize(
    "gradient",
    [
        pytest.param("soft", marks=pytest.mark.heavy),
        pytest.param("concrete", marks=pytest.mark.slow),
    ],
)
def test_losses_on_eight_devices_are_those_on_one(gradient):
    objective = dataclasses.replace(OBJECTIVE, path=MaskPath(gradient=gradient))
    one, eight = steps(objective, 1), steps(objective, 8, ((".*", "cut:data"),))
    for ours, other in zip(one, eight, strict=True):
        for name in ("loss", "gradient_norm"):
            assert other[name] == pytest.approx(ours[name], rel=1e-6), name
        for name in ("clip_d", "region_area", "region_entropy", "region_iou"):
            assert other[name].value == pytest.approx(ours[name].value, rel=1e-6), name
    assert one[1]["loss"] != one[0]["loss"]


def test_overlap_in_training_is_that_of_the_region_a_finder_cuts():
    rng, place = np.random.default_rng(0), ENCODERS.placement
    logits = jnp.asarray(rng.normal(size=(3, place.grid**2)), jnp.float32)
    probability, unread = jax.nn.sigmoid(logits), jnp.zeros((3, place.grid**2, 1))
    truth = rng.integers(2, size=(3, 40, 60, 1)).astype(np.uint8)
    ours = OBJECTIVE._overlap(Regions(logits, probability, unread, unread), jnp.asarray(truth))
    cut = Threshold(tau=OBJECTIVE.path.tau)
    found = [cut(map_) for map_ in np.asarray(place.pixels(probability, 40, 60))]
    expected = [iou(region, true[..., 0] > 0) for region, true in zip(found, truth, strict=True)]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.slow
def test_without_clip_the_step_leaves_the_mask_head_as_it_was():
    losses = dataclasses.replace(NORMALIZED, beta=0.0)
    objective = dataclasses.replace(OBJECTIVE, losses=losses)
    trained, frozen = parameters(objective)
    grads, _ = gradient(objective, trained, frozen, sixteen())
    head, others = split(grads, MASK_HEAD)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(head))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(others))
    with_clip, _ = gradient(OBJECTIVE, trained, frozen, sixteen())
    assert all(np.any(leaf) for leaf in jax.tree.leaves(split(with_clip, MASK_HEAD)[0]))


def test_step_forms_no_gradient_of_what_is_frozen():
    """Every product of the backward pass that has a frozen weight's shape would be one."""
    trained, frozen = parameters(OBJECTIVE)
    assert set(trained) == {"region"}
    assert set(frozen) == {"clip_vision", "clip_text", "reader"}
    optimizer = make_optimizer(OptimizerConfig(), 10)
    state = make_state(trained, optimizer)
    batch = sixteen()
    step = make_step(OBJECTIVE, optimizer, seed=0)
    jaxpr = jax.make_jaxpr(step)(state, frozen, batch)
    outputs = {tuple(leaf.shape) for leaf in jaxpr.out_avals}
    widest = {leaf.shape for leaf in jax.tree.leaves(frozen) if leaf.ndim > 1}
    own = {leaf.shape for leaf in jax.tree.leaves(trained)}
    assert not outputs & (widest - own)
    keys = jax.random.split(jax.random.key(0), 16)

    def forward(trained, frozen, batch):
        prepared = OBJECTIVE.prepare(frozen, batch)
        return OBJECTIVE.loss(join(trained, frozen), prepared, keys).value

    once, both = (flops(trace(f, trained, frozen, batch)) for f in (forward, jax.grad(forward)))
    assert both < 2 * once  # twice a forward pass and more, if CLIP's weights had gradients


def test_export_is_a_folder_that_loads_with_the_same_values(tmp_path):
    trained, _ = parameters(OBJECTIVE)
    OBJECTIVE.export(trained, tmp_path, {})
    again = brushjax.load("region", tmp_path / "region")
    assert again.config.residual
    kernel = again.cross_attention.to_q.kernel[...]
    np.testing.assert_array_equal(kernel, trained["region"]["cross_attention"]["to_q"]["kernel"])


def test_predictor_of_another_width_than_clips_is_refused():
    objective = dataclasses.replace(OBJECTIVE, predictor=RegionConfig(48))
    with pytest.raises(ConfigError, match=r"expected predictor\.width 32 .* got 48"):
        objective.shapes()
    with pytest.raises(ConfigError, match=r"expected path\.space 'pixel'"):
        RegionObjective(path=MaskPath(space="latent"))
    with pytest.raises(ConfigError, match="expected reader_kind 'clip_text'"):
        RegionEncoders(reader="")


@pytest.mark.heavy
def test_default_step_at_full_size_costs_at_most_six_tenths_of_a_teraflop_a_sample():
    """CLIP ViT-L/14 twice forward and once back, both texts and FLAN-T5-base."""
    objective = RegionObjective()
    trained, frozen = split(objective.shapes(), objective.trains)
    shapes = {"image": (224, 224, 3), "donor": (224, 224, 3)}
    batch = {name: jax.ShapeDtypeStruct((1, *s), np.uint8) for name, s in shapes.items()}
    batch["caption_ids"] = jax.ShapeDtypeStruct((1, 2, 77), np.int32)
    batch["instruction_ids"] = jax.ShapeDtypeStruct((1, 64), np.int32)
    keys = jax.random.split(jax.random.key(0), 1)

    def step(trained, frozen, batch):
        prepared = objective.prepare(frozen, batch)
        return jax.grad(lambda own: objective.loss(join(own, frozen), prepared, keys).value)(
            trained
        )

    work = flops(trace(step, trained, frozen, batch))
    assert 0.45e12 < work <= 0.6e12


# --- a tiny CLIP of our own, and words

VISION = ViTConfig(32, 64, 2, 2, image_size=32, patch_size=8, projection_dim=24)
TEXT = CLIPTextConfig(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=20,
    projection_dim=24,
    architectures=("CLIPTextModelWithProjection",),
)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A folder as the run of a tiny CLIP leaves it."""
    folder = tmp_path_factory.mktemp("clip")
    objective = ContrastiveObjective(VISION, TEXT, str(SHIPPED_BASE))
    trained, frozen = loaded(objective, jax.random.key(0))
    assert not frozen
    objective.export(trained, folder, {})
    return folder


def edit(instruction="replace the cat with a flower"):
    image = np.zeros((32, 32, 3), np.uint8)
    return RegionEdit(5, image, image + 9, "a cat", instruction, "a flower")


def test_clip_reads_the_instruction_too_where_there_is_no_other_encoder(tiny_clip):
    encoders = RegionEncoders(str(tiny_clip), "", "clip_text", 16)
    objective = RegionObjective(encoders, RegionConfig(24, 16))
    arrays = objective.encode(edit())
    assert {name: array.shape for name, array in arrays.items()} == {
        "image": (32, 32, 3),
        "donor": (32, 32, 3),
        "id": (),
        "caption_ids": (2, 20),
        "instruction_ids": (16,),
    }
    trained, frozen = loaded(objective, jax.random.key(0))
    assert set(frozen) == {"clip_vision", "clip_text"}
    batch = {name: array[None] for name, array in arrays.items()}
    prepared = jax.jit(objective.prepare)(frozen, batch)
    there = prepared["instruction_mask"][0]
    end = int(np.argmax(arrays["instruction_ids"] == objective.encoders.text.eos_token_id))
    assert there[: end + 1].all()
    assert not there[end + 1 :].any()
    keys = jax.random.split(jax.random.key(0), 1)
    value = jax.jit(lambda *args: objective.loss(*args).value)(
        join(trained, frozen), prepared, keys
    )
    assert np.isfinite(value)


def test_predictor_that_starts_in_clips_space_scores_words_as_clip_does(tiny_clip):
    encoders = RegionEncoders(str(tiny_clip), "", "clip_text", 16)
    config = RegionConfig(24, 16, residual=True)
    objective = RegionObjective(encoders, config, starts_as_clip=True)
    trained, _ = loaded(objective, jax.random.key(0))
    plain, _ = loaded(dataclasses.replace(objective, starts_as_clip=False), jax.random.key(0))
    cross = trained["region"].pop("cross_attention")
    old = plain["region"].pop("cross_attention")
    assert np.array_equal(cross["to_v"]["kernel"], old["to_v"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, trained, plain)
    patches, words = np.random.default_rng(0).normal(size=(2, 7, 24)), np.eye(16)
    scores = (patches @ cross["to_q"]["kernel"]) @ (words @ cross["to_k"]["kernel"]).T
    projection = brushjax.load("clip_text", tiny_clip / "text_encoder").text_projection
    told = patches @ np.asarray(projection.kernel[...]).T
    assert np.corrcoef(scores.ravel(), told.ravel())[0, 1] > 1 - 1e-5
    with pytest.raises(ConfigError, match=r"empty encoders\.reader with starts_as_clip"):
        dataclasses.replace(OBJECTIVE, starts_as_clip=True)


def test_t5_reads_instructions_with_its_own_tokenizer(tiny_clip, tmp_path):
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "replace": 3, "the": 4, "cat": 5}
    backend = Backend(models.WordLevel(words, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(str(tmp_path))
    encoders = RegionEncoders(str(tiny_clip), str(tmp_path), "t5", 6)
    ids = encoders.instructions(["replace the cat", "the the the the the the the the"])
    assert ids.tolist() == [[3, 4, 5, 1, 0, 0], [4, 4, 4, 4, 4, 1]]


def test_contrastive_loss_takes_texts_of_the_same_things_for_one(tiny_clip):
    """Two pictures and four texts, of which two name the first picture's things."""
    objective = ContrastiveObjective(VISION, TEXT, str(SHIPPED_BASE))
    trained, _ = loaded(objective, jax.random.key(0))
    texts = [("a cat", "a rocket"), ("a tabby cat", "grass")]
    ids = np.stack([objective._tokenize(pair) for pair in texts])
    things = np.array([[[1, 0], [0, 1]], [[1, 0], [0, 0]]], np.uint8)
    image = np.random.default_rng(0).integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    batch = {"image": image, "text_ids": ids, "things": things, "id": np.arange(2)}
    everyone = objective.across(batch)
    assert everyone["all_ids"].shape == (2, 4, 20)
    keys = jax.random.split(jax.random.key(0), 2)
    value = jax.jit(lambda *args: objective.loss(*args).value)(trained, everyone, keys)
    vision = brushjax.load("clip_vision", tiny_clip)
    text = brushjax.load("clip_text", tiny_clip)
    view = objective.placement.view(jnp.asarray(image / 127.5 - 1, jnp.float32))
    seen = jax.jit(lambda vision, view: vision(view).embeds)(vision, view)
    read = jax.jit(lambda text, ids: text(ids).text_embeds)(text, jnp.asarray(ids.reshape(4, 20)))
    unit = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (seen, read)]
    scores = jnp.exp(unit[0] @ unit[1].T / 0.07)  # texts 0 and 2 are true of both
    expected = -jnp.log(scores[:, [0, 2]].sum(1) / scores.sum(1)).mean()
    assert float(value) == pytest.approx(float(expected), rel=1e-4)
