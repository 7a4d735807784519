"""A whole evaluation with tiny random networks, and what a restart does."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from brushjax.data.pipeline import PhotoData
from brushjax.evaluation import branch as evaluation
from brushjax.evaluation.branch import BranchEvaluation, Sampling, digest, noise_seed, zero_branch
from brushjax.evaluation.held_out import HeldOut, Steering
from brushjax.inference.edit import edit
from brushjax.models.brushnet import BrushNet
from brushjax.models.clip import CLIPText, CLIPTextConfig
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.nn import Keys
from tests.support import GOLDEN

CONFIG = BranchEvaluation(
    held_out=HeldOut(count=3, data=PhotoData(size=64, split="held_out", seed=1)),
    steering=Steering(count=3, classes=("galaxies", "flower"), hole=32, size=64, examples=10),
    sampling=Sampling(steps=2),
    batch_size=2,
    strips=2,
)


def words_to_ids(captions):
    """Stands in for a tokenizer: one id a letter."""
    ids = np.full((len(captions), 77), 199, np.int32)
    for row, caption in zip(ids, captions, strict=True):
        letters = [1 + ord(letter) % 190 for letter in caption[:70]]
        row[: len(letters)] = letters
    return ids


def random_model(kind, config, seed):
    """A model of random weights, drawn by numpy: no program is compiled for it."""
    model = nnx.eval_shape(lambda: kind(config, rngs=Keys(0)))
    random, state = np.random.default_rng(seed), nnx.state(model)
    for path, leaf in nnx.to_flat_state(state):
        values = 0.1 * random.normal(size=leaf.shape) + (path[-1] == "scale")
        leaf.set_value(jnp.asarray(values, jnp.float32))
    nnx.update(model, state)
    return model


@pytest.fixture(scope="module")
def parts():
    """The smallest networks of the right kind: two levels, a few channels, random weights."""
    unet = UNetConfig(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    text = CLIPTextConfig(
        vocab_size=200,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=199,
    )
    return {
        "unet": random_model(UNet, unet, 0),
        "vae": random_model(AutoencoderKL, vae, 1),
        "text_encoder": random_model(CLIPText, text, 2),
        "tokenizer": words_to_ids,
        "scheduler": GOLDEN / "tiny_sd15_pipeline/scheduler",
    }


@pytest.fixture(scope="module")
def branch(parts):
    """A branch that does something: the zero convolutions of a new one would not."""
    config = nnx.eval_shape(lambda: BrushNet.from_unet(parts["unet"])).config
    return random_model(BrushNet, config, 3)


@pytest.fixture(scope="module")
def finished(parts, branch, tmp_path_factory):
    """The folder of a finished evaluation, and its scores."""
    out = tmp_path_factory.mktemp("evaluation")
    programs = edit._cache_size()
    scores = CONFIG.compare(parts, branch, out, progress=False)
    assert edit._cache_size() <= programs + 1  # one for both branches and both kinds of mask
    return out, scores


def rows(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_report_holds_every_metric_of_every_picture(finished):
    out, scores = finished
    assert len(rows(out)) == 3 * 3 + 3 * 3  # three methods; each steering sample three times
    table = (out / "table.md").read_text()
    assert table.count("trained") >= 1
    for title in ("outer 4 pixels", "discontinuity", "reduction", "swapped prompt", "chance"):
        assert title in table
    written = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    mine = [row["ring_error"] for row in written if row.get("method") == "zero"]
    np.testing.assert_allclose(mine, scores.metrics["zero"]["ring_error"])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steering"]["chance"] == 0.5
    assert summary["environment"]["jax"] == jax.__version__
    assert summary["means"]["trained"]["ring_error"]["count"] == 3


def test_strips_show_image_mask_results_and_truth(finished):
    out, _ = finished
    for name in ("fill.png", "steering.png"):
        with Image.open(out / name) as sheet:
            assert sheet.size[0] >= 5 * 64
            assert sheet.size[1] >= 2 * 64


def test_metrics_are_of_the_raw_pictures(finished):
    out, scores = finished
    row = next(row for row in rows(out) if (row["part"], row["method"]) == ("fill", "trained"))
    raw = np.asarray(Image.open(out / row["picture"]))
    sample = CONFIG.held_out.samples()[row["sample"]]
    kept = sample.mask == 0
    error = np.mean((raw[kept] / 255 - sample.image[kept] / 255) ** 2)
    assert error > 0  # a blended picture would repeat the kept pixels
    assert scores.metrics["trained"]["kept_mse"][0] == pytest.approx(error)


def test_truth_has_no_error_and_its_own_edge(finished):
    _, scores = finished
    assert not scores.metrics["truth"]["ring_error"].any()
    assert (scores.metrics["truth"]["edge_step"] > 0).all()


def test_restart_makes_only_what_is_missing(finished, parts, branch, monkeypatch):
    out, scores = finished
    path = out / "rows.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:-4]) + lines[-4][:30])  # killed amid a line
    made = []
    add = evaluation.Ledger.add

    def counting(self, units, pictures, seconds):
        made.extend(units)
        add(self, units, pictures, seconds)

    monkeypatch.setattr(evaluation.Ledger, "add", counting)
    again = CONFIG.compare(parts, branch, out, progress=False)
    assert len(made) == 4
    assert again.flat() == scores.flat()
    assert {row["key"] for row in rows(out)} == {json.loads(line)["key"] for line in lines}
    made.clear()
    CONFIG.compare(parts, branch, out, progress=False)
    assert made == []


def test_other_weights_or_settings_never_reuse_rows(finished, parts, branch):
    done = {row["key"] for row in rows(finished[0])}
    unit = evaluation.Unit("fill", "trained", CONFIG.held_out.samples()[0])
    settings = CONFIG._settings(parts, branch)["trained"]
    assert unit.key(settings) in done
    more = dataclasses.replace(CONFIG, sampling=Sampling(steps=3))
    assert unit.key(more._settings(parts, branch)["trained"]) not in done
    other = zero_branch(parts["unet"], branch)
    assert unit.key(CONFIG._settings(parts, other)["trained"]) not in done
    prompt = dataclasses.replace(unit.sample, prompt="something else")
    assert dataclasses.replace(unit, sample=prompt).key(settings) not in done


def test_a_picture_does_not_depend_on_its_batch(finished, parts, branch):
    out, _ = finished
    samples = CONFIG.held_out.samples()  # made as 0 with 1, and 2 with a copy of itself
    pictures = CONFIG._fills(parts, branch)["trained"]([samples[2], samples[0]])
    mine = [row for row in rows(out) if (row["part"], row["method"]) == ("fill", "trained")]
    for index, picture in zip((2, 0), pictures, strict=True):
        before = np.asarray(Image.open(out / mine[index]["picture"]))
        np.testing.assert_array_equal(picture, before)


def test_zero_branch_adds_nothing_and_shares_the_program(parts, branch):
    zero = zero_branch(parts["unet"], branch)
    assert nnx.split(zero)[0] == nnx.split(branch)[0]
    inputs = jnp.ones((1, 4, 4, 4)), jnp.zeros(1), jnp.ones((1, 4, 4, 5))
    residuals = jax.jit(lambda model: model(*inputs))  # one program, for both as well
    assert not any(leaf.any() for leaf in jax.tree.leaves(residuals(zero)))
    assert all(leaf.any() for leaf in jax.tree.leaves(residuals(branch)))


def test_evaluator_returns_numbers_for_the_log(parts, branch, tmp_path, monkeypatch):
    asked = []

    def run(self, weights, out, progress=True):
        asked.append((weights, out))
        return self.compare(parts, branch, out, progress=False)

    monkeypatch.setattr(BranchEvaluation, "run", run)
    few = dataclasses.replace(CONFIG, held_out=dataclasses.replace(CONFIG.held_out, count=2))
    numbers = few(7, tmp_path / "export", tmp_path)
    assert asked == [(tmp_path / "export", tmp_path / "samples")]
    assert {"reduction/ring_error", "trained/edge_discontinuity", "steering/named"} <= set(numbers)
    assert all(np.isfinite(value) for value in numbers.values())


def test_seeds_and_digests_differ_where_they_must(branch):
    assert len({noise_seed(seed, sample) for seed in range(10) for sample in range(50)}) == 500
    assert digest(branch) == digest(branch)
    other = nnx.clone(branch)
    other.conv_in_condition.bias.set_value(other.conv_in_condition.bias[...] + 1e-7)
    assert digest(other) != digest(branch)
