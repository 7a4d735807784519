"""FireEdit's two stages at tiny width: samples, what is read and trained, and what is exported."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import brushjax
from brushjax import sharding
from brushjax.config import ConfigError
from brushjax.data.feed import stacked
from brushjax.data.schema import Conversation, EditPair, Inpainting
from brushjax.diffusion.samplers import make_sampler
from brushjax.models.encoders.clip import CLIPTextConfig
from brushjax.models.encoders.llama import Llama
from brushjax.models.fireedit import vlm
from brushjax.models.fireedit.editor import dropped
from brushjax.pipelines.bases import SHIPPED_BASE
from brushjax.pipelines.instructions import read_writer
from brushjax.pipelines.published import read_config
from brushjax.training.objectives.alignment import AlignmentObjective
from brushjax.training.objectives.contract import join, split
from brushjax.training.optimizers import OptimizerConfig, make_optimizer
from brushjax.training.state import Places, make_state, state_shardings
from brushjax.training.step import make_step
from brushjax.weights.fireedit import load_fireedit
from tests import tiny_fireedit
from tests.support import loaded
from tests.training.conftest import QUICK

KEY = jax.random.key(0)
SIDE = 32


@pytest.fixture(scope="session")
def objective(tmp_path_factory):
    return tiny_fireedit.write(tmp_path_factory.mktemp("fireedit"))


@pytest.fixture(scope="session")
def aligning(objective):
    text = read_config(CLIPTextConfig, str(SHIPPED_BASE), "text_encoder")
    sizes = dataclasses.replace(
        objective.sizes,
        qformer=dataclasses.replace(objective.sizes.qformer, hidden=text.hidden_size, heads=4),
        tati=dataclasses.replace(objective.sizes.tati, width=text.hidden_size, input_dim=None),
    )
    sizes = dataclasses.replace(
        sizes, qformer=dataclasses.replace(sizes.qformer, num_queries=text.max_position_embeddings)
    )
    sources = dataclasses.replace(objective.sources, clip=str(SHIPPED_BASE))
    return AlignmentObjective(sizes, sources, objective.prompt, text, max_length=32)


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def records(count):
    made = []
    for n in range(count):
        if n % 4 == 3:
            made.append(Conversation(n, picture(n), "what is it", "a red ball"))
        else:
            made.append(EditPair(n, picture(n), 255 - picture(n), f"make number {n} red"))
    return made


def batch(objective, count):
    return stacked([objective.encode(record) for record in records(count)])


def test_edit_supervises_its_answer_the_img_tokens_and_the_end(objective):
    config = objective.sizes.sequence
    sample = objective.encode(records(1)[0])
    answer = len(read_writer(config, str(SHIPPED_BASE), objective.prompt).words("so"))
    learnt = sample["labels"] != vlm.IGNORED
    assert learnt.sum() == answer + config.img_tokens + 1
    assert not learnt[sample["kind"] != vlm.TEXT].any()
    assert sample["labels"][learnt][-1] == config.eos
    other = objective.encode(dataclasses.replace(records(1)[0], image=picture(77)))
    np.testing.assert_array_equal(other["labels"], sample["labels"])
    assert (sample["ids"] == config.img).sum() == 1  # of the system message
    assert sample["edit"] == 1


def test_question_has_no_img_tokens_and_a_long_answer_no_end(objective):
    config = objective.sizes.sequence
    short = Conversation(0, picture(0), "what", "a ball")
    long = dataclasses.replace(short, answer="a ball and a dog " * 9)
    sample, cut = objective.encode(short), objective.encode(long)
    assert not (sample["ids"] >= config.img_0).any()
    assert sample["labels"].max() == config.eos
    assert (cut["labels"] != vlm.IGNORED).sum() == config.max_answer - 1
    assert cut["labels"].max() < config.eos
    assert sample["edit"] == cut["edit"] == 0
    assert sample.keys() == objective.encode(records(1)[0]).keys()


def test_long_instruction_is_cut_to_what_there_is_room_for(objective):
    sample = objective.encode(dataclasses.replace(records(1)[0], instruction="red " * 500))
    assert not (sample["kind"] == vlm.PADDING).any()
    assert (sample["labels"] == objective.sizes.sequence.img_0).sum() == 1


def test_given_boxes_fill_their_places_and_no_detector_is_loaded(objective):
    given = dataclasses.replace(objective, boxes="given")
    boxes = np.full((2, 4), 0.5, np.float32)
    sample = given.encode(dataclasses.replace(records(1)[0], boxes=boxes))
    assert sample["boxes"].shape == (objective.sizes.sequence.region_slots, 4)
    assert sample["boxes_mask"].sum() == 2
    assert "proposer" not in given.shapes()
    assert "proposer" in objective.shapes()


def test_records_of_another_kind_are_refused(objective):
    with pytest.raises(ConfigError, match="EditPair or Conversation, got Inpainting"):
        objective.encode(Inpainting(0, picture(0), picture(0)[..., :1]))


def test_what_is_frozen_needs_a_source(objective):
    homeless = dataclasses.replace(
        objective, sources=dataclasses.replace(objective.sources, start="")
    )
    with pytest.raises(ConfigError, match=r"sources for dino, clip_vision, proposer, vae, region"):
        homeless.load(KEY, {})


def test_parts_that_start_afresh_are_learnt_whole_and_need_no_source(objective):
    kinds = ("llama", "region_encoder", "dino", "clip_vision", "proposer")
    fresh = dataclasses.replace(
        objective,
        afresh=kinds,
        sizes=dataclasses.replace(objective.sizes, update=None),
        sources=dataclasses.replace(objective.sources, start="", vae=str(SHIPPED_BASE)),
    )
    trained, frozen = split(fresh.shapes(), fresh.trains)
    assert frozen.keys() == {"vae", "null_context"}
    assert set(kinds) < trained.keys()
    sample = fresh.encode(records(1)[0])
    assert sample["boxes"].shape == (fresh.sizes.sequence.region_slots, 4)
    assert {k: v.shape for k, v in sample.items()} == {
        k: v.shape for k, v in fresh.blank({"image": picture(0), "id": np.int64(0)}).items()
    }
    fresh.load(KEY, {})  # lacks no source
    for wrong in (("dino",), ("qformer",)):
        with pytest.raises(ConfigError, match="expected afresh of dino, clip_vision, proposer"):
            dataclasses.replace(objective, afresh=wrong)


def test_features_are_held_to_a_frozen_text_encoder_of_their_width(objective):
    sources = dataclasses.replace(objective.sources, clip=str(SHIPPED_BASE))
    aligned = dataclasses.replace(objective, alignment_weight=1.0, sources=sources)
    with pytest.raises(ConfigError, match=r"with states of qformer\.hidden 8 "):
        aligned.shapes()
    queries = dataclasses.replace(objective.sizes.qformer, hidden=64)
    aligned = dataclasses.replace(
        aligned, sizes=dataclasses.replace(objective.sizes, qformer=queries)
    )
    trained, frozen = split(aligned.shapes(), aligned.trains)
    assert "clip_text" in frozen
    assert "clip_text" not in trained
    edit, question = (aligned.encode(record) for record in (records(4)[0], records(4)[3]))
    assert edit["token_ids"].shape == question["token_ids"].shape
    assert len(set(edit["token_ids"])) > len(set(question["token_ids"])) == 2  # start and end
    blank = aligned.blank({"image": picture(0), "id": np.int64(0)})
    assert {k: v.shape for k, v in blank.items()} == {k: v.shape for k, v in edit.items()}


@pytest.mark.slow  # a minute of compiling
def test_loss_of_fresh_parts_reaches_all_of_them_and_is_exported(objective, tmp_path):
    kinds = ("llama", "region_encoder", "dino", "clip_vision", "proposer")
    fresh = dataclasses.replace(
        objective, afresh=kinds, sizes=dataclasses.replace(objective.sizes, update=None)
    )
    trained, frozen = loaded(fresh, KEY)
    records = [
        EditPair(n, picture(n), 255 - picture(n), "make it red", np.full((1, 4), 0.5, np.float32))
        for n in range(2)
    ]
    data = jax.tree.map(jnp.asarray, stacked([fresh.encode(record) for record in records]))

    def loss(trained):
        batch = fresh.prepare(frozen, data)
        losses = fresh.loss(join(trained, frozen), batch, jax.random.split(KEY, 2))
        return losses.value, {name: term.value for name, term in losses.terms.items()}

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (_, terms), gradients = run(trained)
    assert terms.keys() == {"answer", "diffusion", "proposals"}
    for kind in kinds:
        assert any(np.any(x) for x in jax.tree.leaves(gradients[kind])), kind
    fresh.export(jax.device_get(trained), tmp_path, {})
    llama = load_fireedit(tmp_path).models["llama"]
    np.testing.assert_array_equal(llama.new_embed[...], trained["llama"]["new_embed"])


def test_blank_sample_has_the_shapes_of_an_encoded_one(objective, aligning):
    zeros = {"image": picture(0), "id": np.int64(0)}
    caption = Inpainting(0, picture(0), picture(0)[..., :1], "a red ball")
    for kind, record in ((objective, records(4)[3]), (aligning, caption)):
        shape = lambda sample: {k: (v.shape, v.dtype) for k, v in sample.items()}  # noqa: E731
        assert shape(kind.blank(zeros)) == shape(kind.encode(record))


def test_parts_are_loaded_as_the_shapes_say_and_new_ones_start_beside_the_old(objective):
    trained, frozen = loaded(objective, KEY)
    shapes = jax.tree.map(lambda x: x.shape, objective.shapes())
    assert jax.tree.map(lambda x: x.shape, join(trained, frozen)) == shapes
    table = frozen["llama"]["model"]["embed_tokens"]["embedding"]
    rows = trained["llama"]["new_embed"]
    np.testing.assert_allclose(rows, np.tile(table.mean(0), (len(rows), 1)), atol=1e-6)
    factors = trained["llama"]["model"]["layers"]["stack"]["self_attn"]["q_proj"]
    assert np.any(factors["lora_A"]["kernel"])
    assert not np.any(factors["lora_B"]["kernel"])


def step_on(objective, data, devices, steps=2):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.001), steps)
    trainable, frozen = jax.device_get(loaded(objective, KEY))
    mesh = sharding.make_mesh(None, jax.devices()[:devices])
    state = make_state(trainable, optimizer)
    layout = state_shardings(state, mesh, ((".*", "cut:data"),))
    places = Places(mesh, layout, sharding.shardings(trainable, mesh, ()))
    step = make_step(objective, optimizer, seed=0, places=places)
    state, losses = jax.device_put(state, layout), []
    data = jax.device_put(data, jax.sharding.NamedSharding(mesh, sharding.BATCH))
    for _ in range(steps):
        state, metrics = step(state, frozen, data)
        losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.slow  # two programs with gradients, a minute each
def test_stage_2_gives_the_same_losses_on_one_and_on_eight_devices(objective):
    data = batch(objective, 8)
    one, eight = (step_on(objective, data, devices, steps=20) for devices in (1, 8))
    np.testing.assert_allclose(eight, one, rtol=1e-6)
    assert eight[-1] < eight[0]


def test_one_step_of_an_export_is_at_the_noisiest_timestep_where_asked_for(objective):
    trailing = dataclasses.replace(objective, spacing="trailing")
    last = objective.noise.num_train_timesteps - 1
    for one, first in ((trailing, last), (objective, 1)):
        assert make_sampler("ddim", one.scheduler, 1).rows.timestep.tolist() == [first]


@pytest.mark.slow  # half a minute of compiling
def test_stage_2_exports_a_folder_with_every_part(objective, tmp_path):
    trained, frozen = loaded(objective, KEY)

    def loss(trained, frozen, batch, keys):
        losses = objective.loss(join(trained, frozen), objective.prepare(frozen, batch), keys)
        return losses.value

    run = jax.jit(loss, compiler_options=QUICK)
    assert np.isfinite(run(trained, frozen, batch(objective, 4), jax.random.split(KEY, 4)))
    moved = jax.tree.map(lambda x: np.asarray(x) + 0.01, trained)
    objective.export(moved, tmp_path, {})
    parts = load_fireedit(tmp_path)
    new = parts.models["llama"].new_embed[...]
    np.testing.assert_array_equal(new, moved["llama"]["new_embed"])
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()
    assert parts.sequence == objective.sizes.sequence
    start = dataclasses.replace(
        objective, sources=dataclasses.replace(objective.sources, start=str(tmp_path))
    )
    again, _ = loaded(start, jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, again, moved)


def test_stage_1_trains_new_rows_and_queries_alone(aligning):
    trained, _ = split(aligning.shapes(), aligning.trains)
    assert trained.keys() == {"llama", "qformer"}
    assert trained["llama"].keys() == {"new_embed", "new_head"}
    wider = dataclasses.replace(aligning, resampler=True)
    assert split(wider.shapes(), wider.trains)[0].keys() == {"llama", "qformer", "tati"}


@pytest.mark.slow  # half a minute of compiling
def test_stage_1_moves_the_features_towards_the_captions(aligning, tmp_path):
    sources = dataclasses.replace(aligning.sources, start="", llama=str(tiny_llama(tmp_path)))
    aligning = dataclasses.replace(aligning, sources=sources)
    words = ("a red ball", "a dog", "two cats on a sofa", "the sea")
    pairs = [Inpainting(n, picture(n), picture(n)[..., :1], w) for n, w in enumerate(words)]
    data = jax.tree.map(jnp.asarray, stacked([aligning.encode(record) for record in pairs]))
    trained, frozen = loaded(aligning, KEY)

    def loss(trained):
        losses = aligning.loss(join(trained, frozen), data, jax.random.split(KEY, 4))
        return losses.value, {name: term.value for name, term in losses.terms.items()}

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (before, terms), gradients = run(trained)
    assert terms.keys() == {"answer", "distance"}
    assert all(np.any(x) for x in jax.tree.leaves(gradients["llama"]))
    moved = jax.tree.map(lambda x, g: x - 0.05 * g, trained, gradients)
    assert run(moved)[0][0] < before
    aligning.export(jax.device_get(moved), tmp_path / "stage1", {})
    start = dataclasses.replace(sources, start=str(tmp_path / "stage1"))
    again, _ = loaded(dataclasses.replace(aligning, sources=start), jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(moved))


def tiny_llama(folder):
    """A folder of a language model with its tokenizer."""
    place = folder / "llama"
    brushjax.save(tiny_fireedit.random_model(Llama, tiny_fireedit.sizes().llama, 0), place)
    shutil.copytree(SHIPPED_BASE / "tokenizer", place / "tokenizer")
    return place


def test_dropped_conditions_have_a_twentieth_each_by_one_draw_a_sample():
    keys = jax.random.split(KEY, 40_000)
    lost = dropped(jax.vmap(jax.random.uniform)(keys), 0.05)
    shares = [
        (lost.text & ~lost.image).mean(),
        (lost.text & lost.image).mean(),
        (lost.image & ~lost.text).mean(),
    ]
    np.testing.assert_allclose(jnp.stack(shares), 0.05, atol=0.004)  # 3.7 standard errors
