"""The region predictor: stored outputs, what its equations promise, and its thresholds."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import brushjax
from brushjax.models import RegionConfig, RegionPredictor, Threshold
from brushjax.models.region import smoothed
from brushjax.nn import Keys
from brushjax.weights.loading import abstract_model
from tests.support import GOLDEN, doubled, error

FORMS = ("literal", "residual")


@pytest.fixture(scope="module")
def stored():
    return np.load(GOLDEN / "region" / "region_io.npz")


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def predictor(form):
    return brushjax.load("region", GOLDEN / "region" / f"region_{form}")


@jax.jit
def run(predictor, image, instruction, mask):
    regions = predictor(image, instruction, mask)
    return regions, predictor.semantics(regions.edited), predictor.semantics(image)


def inputs(stored, dtype=jnp.float32):
    image, instruction = (jnp.asarray(stored[name], dtype) for name in ("f_img", "f_ins"))
    return image, instruction, jnp.asarray(stored["mask"], bool)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 5e-5), (jnp.float64, 1e-9)])
def test_predictor_equals_stored_outputs(predictor, form, stored, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        model = doubled(predictor) if dtype == jnp.float64 else predictor
        regions, edited, image = run(model, *inputs(stored, dtype))
        outputs = {
            "f_e": regions.edited,
            "f_r": regions.refined,
            "logits": regions.logits,
            "p": regions.probability,
            "sem_e": edited,
            "sem_img": image,
        }
        for name, value in outputs.items():
            assert value.dtype == dtype
            assert error(value, stored[f"{form}/{name}_f64"]) <= tolerance, name


def test_predictor_is_saved_bit_for_bit(predictor, form, tmp_path):
    published = load_file(GOLDEN / "region" / f"region_{form}" / "model.safetensors")
    brushjax.save(predictor, tmp_path / "saved")
    again = load_file(tmp_path / "saved" / "model.safetensors")
    assert again.keys() == published.keys()
    assert all(np.array_equal(again[name], published[name]) for name in again)
    assert brushjax.load("region", tmp_path / "saved").config == predictor.config
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((tmp_path / "saved" / "model.safetensors").read_bytes())
    told = brushjax.load("region", bare)
    assert told.config.residual == (form == "residual")
    brushjax.save(predictor, tmp_path / "one.safetensors", layout="ldm")
    one = brushjax.load("region", tmp_path / "one.safetensors")
    assert np.array_equal(one.mlp.fc2.kernel[...], predictor.mlp.fc2.kernel[...])


def test_predictor_of_the_papers_size_has_its_parameters():
    """Six matrices, the MLP and f_sem of facts: 5.3 million."""
    for residual in (False, True):
        _, shapes = abstract_model("region", RegionConfig(residual=residual).to_dict())
        count = sum(int(np.prod(shape.shape)) for shape in shapes.values())
        square = 768 * 768
        heads = (square + 768) + (768 + 1) + 2 * (square + 768)
        assert count == 6 * square + heads + residual * 4 * 2 * 768


def test_predictor_reads_instructions_of_another_width():
    config = RegionConfig(width=8, instruction_width=6, residual=True)
    model = RegionPredictor(config, rngs=Keys(0))
    regions, _, _ = run(model, jnp.ones((2, 9, 8)), jnp.ones((2, 4, 6)), jnp.ones((2, 4), bool))
    assert regions.edited.shape == (2, 9, 8)
    assert regions.logits.shape == (2, 9)


def test_smoothed_logits_are_means_of_neighbouring_patches():
    hot = jnp.zeros((2, 5, 5)).at[0, 2, 2].set(16).at[1, 0, 0].set(16)
    found = jax.jit(smoothed)(hot.reshape(2, 25)).reshape(2, 5, 5)
    kernel = np.outer([1, 2, 1], [1, 2, 1])
    np.testing.assert_allclose(found[0, 1:4, 1:4], kernel)
    assert float(found[0].sum()) == 16
    assert np.array_equal(found[1, :2, :2], [[9, 3], [3, 1]])  # the border is repeated
    with pytest.raises(ValueError, match="square grid, got 24"):
        smoothed(jnp.zeros((1, 24)))


def test_predictor_smooths_its_logits_as_often_as_its_config_says(predictor, stored, tmp_path):
    config = dataclasses.replace(predictor.config, smoothing=2)
    graph, state = nnx.split(RegionPredictor(config, rngs=Keys(0)))
    del state
    model = nnx.merge(graph, nnx.state(predictor))
    plain, _, _ = run(predictor, *inputs(stored))
    found, _, _ = run(model, *inputs(stored))
    np.testing.assert_allclose(found.logits, smoothed(smoothed(plain.logits)), atol=1e-6)
    np.testing.assert_allclose(found.probability, jax.nn.sigmoid(found.logits))
    assert np.array_equal(found.refined, plain.refined)
    brushjax.save(model, tmp_path)
    assert brushjax.load("region", tmp_path).config == config


def test_predictor_says_what_config_it_can_not_honour():
    with pytest.raises(ValueError, match="heads"):
        RegionConfig.from_dict({"width": 8, "heads": 2})


def test_probability_lies_between_0_and_1_with_one_value_a_patch(predictor, stored):
    regions, _, _ = run(predictor, *inputs(stored))
    assert regions.probability.shape == (3, 64)
    assert float(regions.probability.min()) > 0
    assert float(regions.probability.max()) < 1
    np.testing.assert_allclose(regions.probability, jax.nn.sigmoid(regions.logits))


def test_predictor_follows_a_permutation_of_the_patches(predictor, stored):
    image, instruction, mask = inputs(stored)
    order = np.random.default_rng(0).permutation(64)
    plain, _, _ = run(predictor, image, instruction, mask)
    moved, _, _ = run(predictor, image[:, order], instruction, mask)
    for name in ("logits", "edited", "refined"):
        expected = getattr(plain, name)[:, order]
        np.testing.assert_allclose(getattr(moved, name), expected, atol=2e-5)
    assert np.abs(moved.logits - plain.logits).max() > 1e-3


def test_predictor_does_not_see_the_order_of_the_instructions_tokens(predictor, stored):
    image, instruction, mask = inputs(stored)
    order = np.random.default_rng(0).permutation(10)
    plain, _, _ = run(predictor, image, instruction, mask)
    moved, _, _ = run(predictor, image, instruction[:, order], mask[:, order])
    np.testing.assert_allclose(moved.logits, plain.logits, atol=2e-5)
    torn, _, _ = run(predictor, image, instruction[:, order], mask)
    assert np.abs(torn.logits - plain.logits).max() > 1e-3


def test_predictor_does_not_see_padding(predictor, stored):
    image, instruction, mask = inputs(stored)
    plain, _, _ = run(predictor, image, instruction, mask)
    more = jnp.concatenate([instruction, 9.0 * jnp.ones((3, 5, 32))], axis=1)
    padded, _, _ = run(predictor, image, more, jnp.pad(mask, ((0, 0), (0, 5))))
    np.testing.assert_allclose(padded.probability, plain.probability, atol=3e-6)
    leaky, _, _ = run(predictor, image, more, jnp.ones((3, 15), bool))
    assert np.abs(leaky.probability - plain.probability).max() > 1e-3


def test_literal_form_sees_the_picture_only_through_the_mixing_of_words(stored):
    """With one token nothing is mixed: every patch has the same logit, unless it is residual."""
    models = [brushjax.load("region", GOLDEN / "region" / f"region_{form}") for form in FORMS]
    image, instruction, mask = inputs(stored)
    assert mask[2].sum() == 1
    literal, residual = (run(model, image, instruction, mask)[0].logits[2] for model in models)
    assert float(jnp.ptp(literal)) < 3e-6
    assert float(jnp.ptp(residual)) > 1e-2


# --- thresholds

VALUES = np.array([[0.9, 0.1, 0.6, 0.2], [0.5, 0.5, 0.5, 0.5], [0.01, 0.02, 0.03, 0.4]])


def chosen(**settings):
    return [Threshold(**settings)(row).tolist() for row in VALUES.astype(np.float32)]


def test_tau_takes_what_is_above_it():
    assert chosen() == [[True, False, True, False], [False] * 4, [False] * 4]
    assert chosen(tau=0.15) == [[True, False, True, True], [True] * 4, [False, False, False, True]]


def test_quantile_takes_a_share_whatever_the_values():
    assert [sum(row) for row in chosen(rule="quantile", quantile=0.75)] == [1, 1, 1]
    assert chosen(rule="quantile", quantile=0.5)[2] == [False, False, True, True]
    assert chosen(rule="quantile", quantile=1.0) == [[False] * 4] * 3


def test_otsu_cuts_between_two_groups_and_finds_none_in_equals():
    assert chosen(rule="otsu") == [
        [True, False, True, False],
        [False] * 4,
        [False, False, False, True],
    ]


def test_otsu_equals_the_best_of_all_cuts():
    values = np.random.default_rng(0).random((6, 9)).astype(np.float32)
    for row in values:
        mask = Threshold(rule="otsu")(row)
        scores = {}
        for cut in sorted(row)[:-1]:
            upper, lower = row[row > cut], row[row <= cut]
            scores[cut] = len(upper) * len(lower) * (upper.mean() - lower.mean()) ** 2
        assert np.array_equal(mask, row > max(scores, key=scores.get))


def test_bounds_hold_for_every_rule_and_keep_the_most_probable_patches():
    for rule, (least, most) in itertools.product(
        ("tau", "quantile", "otsu"), [(0.5, 0.5), (0.25, 0.75), (0.0, 0.25)]
    ):
        masks = chosen(rule=rule, min_area=least, max_area=most)
        for values, mask in zip(VALUES, masks, strict=True):
            assert least * 4 <= sum(mask) <= most * 4
            if any(mask) and not all(mask):
                assert values[mask].min() >= values[np.invert(mask)].max()


def test_otsu_of_a_large_map_is_the_best_cut_but_for_a_bin():
    rng = np.random.default_rng(0)
    groups = rng.normal(0.3, 0.1, 20_000), rng.normal(0.7, 0.08, 10_000)
    values = np.clip(np.concatenate(groups), 0, 1).astype(np.float32)
    rng.shuffle(values)
    ours = Threshold(rule="otsu")(values.reshape(150, 200))
    falling = np.sort(values.astype(np.float64))[::-1]
    upper = np.arange(1, len(falling))
    sums = np.cumsum(falling)
    gap = sums[:-1] / upper - (sums[-1] - sums[:-1]) / (len(falling) - upper)
    best = falling[np.argmax(upper * (len(falling) - upper) * gap**2)]
    assert ours.shape == (150, 200)
    assert abs(values.reshape(150, 200)[ours].min() - best) < 1e-3


def test_bounds_hold_where_many_values_are_equal():
    plateau = np.full((10, 10), 0.25, np.float32)
    plateau[3, 4] = 0.75
    found = Threshold("otsu", min_area=0.02)(plateau)
    assert found.sum() == 2
    assert found[3, 4]
    assert Threshold(tau=0.1, max_area=0.9)(plateau).sum() == 90


def test_threshold_refuses_settings_that_mean_nothing():
    bounds = {"min_area": 0.6, "max_area": 0.5}
    for settings in (bounds, {"quantile": 1.5}, {"tau": 1.5}, {"tau": math.nan}):
        with pytest.raises(ValueError, match="expected"):
            Threshold(**settings)


@pytest.mark.parametrize("rule", ["tau", "quantile", "otsu"])
@pytest.mark.parametrize("values", [[0.2, math.nan, 0.9], [0.2, math.inf], [math.nan], []])
def test_threshold_refuses_maps_that_are_not_finite(rule, values):
    with pytest.raises(ValueError, match="expected a map of finite probabilities, got"):
        Threshold(rule)(np.array(values, np.float32))
