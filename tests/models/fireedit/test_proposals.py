"""Groma's detector and the selection among its boxes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.models.fireedit.proposals import Proposals, select, selected
from tests.models.fireedit.golden import (
    TOLERANCE,
    Golden,
    count,
    deviation,
    full_size,
    published_names,
)


@pytest.fixture(scope="module")
def golden():
    return Golden("proposer")


def features(golden):
    """The mean of four layers without the class token, as a map."""
    side = golden.config["grid"]
    mean = golden["dino_hidden_last4"].mean(0)[:, 1:]
    return mean.reshape(len(mean), side, side, -1)


@jax.jit
def run(model, x):
    """Everything on the way to the boxes."""
    projected, detector = model.project(x), model.perceiver.ddetr_transformer
    encoded = detector.encode(projected)
    states = detector.decode(encoded, x.shape[1:3])
    boxes = [detector.boxes(states, encoded.reference, i) for i in range(len(states))]
    return projected, encoded, states, boxes, model(x)


@pytest.fixture(scope="module")
def traced(golden):
    return run(golden.model(), features(golden))


@functools.partial(jax.jit, static_argnames=("count", "iou", "threshold"))
def taken(proposals, count, iou=0.6, threshold=0.15):
    """Which proposals are taken, and the boxes of these; compiled once for all sets of one size."""
    limits = {"iou": iou, "threshold": threshold}
    return selected(proposals, count, **limits), select(proposals, count, **limits)


def padded(boxes, scores, count):
    """Proposals of one picture, with some that are no numbers to make them so many."""
    lacking = count - len(boxes)
    boxes = np.pad(boxes, ((0, lacking), (0, 0)), constant_values=np.nan)
    scores = np.pad(scores, (0, lacking), constant_values=np.nan)
    return Proposals(jnp.asarray(boxes)[None], jnp.asarray(scores)[None])


def test_proposer_equals_groma_at_every_stage(golden, traced):
    projected, encoded, states, boxes, out = traced
    assert deviation(projected.transpose(0, 3, 1, 2), golden.io["tap/input_proj"]) <= TOLERANCE
    assert deviation(encoded.states, golden.io["encoder_last_hidden"]) <= TOLERANCE
    assert deviation(encoded.scores, golden.io["enc_class"][..., 0]) <= TOLERANCE
    assert deviation(encoded.boxes, golden.io["enc_coord_logits"]) <= TOLERANCE
    np.testing.assert_array_equal(encoded.chosen, golden.io["topk_index"])
    assert deviation(encoded.reference, golden.io["init_reference"]) <= TOLERANCE
    for i, state in enumerate(states):
        assert deviation(state, golden.io["decoder_hidden"][:, i]) <= TOLERANCE
        assert deviation(boxes[i], golden.io["boxes_all_layers"][:, i]) <= TOLERANCE
    assert deviation(out.boxes, golden.io["pred_boxes"]) <= TOLERANCE
    assert deviation(out.scores, golden.io["scores_fused"]) <= TOLERANCE


@pytest.mark.parametrize(("name", "iou", "most"), [("", 0.6, 100), ("_iou0.3_max4", 0.3, 4)])
def test_select_takes_what_groma_takes(golden, traced, name, iou, most):
    chosen, mask = selected(traced[-1], most, iou=iou, threshold=0.15)
    for i in range(len(chosen)):
        np.testing.assert_array_equal(chosen[i][mask[i]], golden.io[f"selected_{i}{name}"])


@pytest.mark.parametrize(
    "name", json.loads((Golden("proposer").folder / "selection.json").read_text())
)
def test_select_takes_what_groma_takes_of_hand_made_boxes(golden, name):
    sets = np.load(golden.folder / "selection.npz")
    how = json.loads((golden.folder / "selection.json").read_text())[name]
    most = max(len(sets[key]) for key in sets.files if key.endswith("/scores"))
    boxes, expected = sets[f"{name}/boxes"], sets[f"{name}/selected"]
    (chosen, found), (kept, mask) = taken(
        padded(boxes, sets[f"{name}/scores"], most),
        how["max_regions"],
        how["iou"],
        how["score_threshold"],
    )
    np.testing.assert_array_equal(chosen[0][found[0]], expected)
    np.testing.assert_array_equal(kept[0][mask[0]], boxes[expected])
    assert kept.shape == (1, how["max_regions"], 4)
    assert not np.asarray(kept[0][~mask[0]]).any()


def some(*boxes):
    """Proposals of one picture, each worse than the one before."""
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    return padded(np.asarray(boxes, np.float32).reshape(-1, 4), scores, 5)


def test_select_leaves_out_what_is_no_number():
    nan, box = [np.nan, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]
    _, (boxes, mask) = taken(some(nan, [np.inf, 0, 0, 0], box), 5)
    assert mask.tolist() == [[True, False, False, False, False]]
    np.testing.assert_array_equal(boxes[0, 0], np.float32(box))
    _, (boxes, mask) = taken(some(nan, nan), 5)
    assert not mask.any()
    assert not np.asarray(boxes).any()


def test_select_has_a_result_for_no_proposals_and_for_three_hundred():
    none = Proposals(jnp.zeros((2, 0, 4)), jnp.zeros((2, 0)))
    boxes, mask = select(none, 7)
    assert boxes.shape == (2, 7, 4)
    assert not mask.any()
    rng = np.random.default_rng(0)
    many = Proposals(jnp.asarray(rng.uniform(size=(1, 300, 4)), jnp.float32), jnp.ones((1, 300)))
    _, (boxes, mask) = taken(many, 100, iou=1.0)
    assert mask.all()
    np.testing.assert_array_equal(boxes[0], many.boxes[0, :100])


def test_select_has_a_result_for_negative_empty_and_outer_boxes():
    odd = some([0.5, 0.5, -0.2, -0.2], [0.1, 0.1, 0, 0], [3.0, 3.0, 0.5, 0.5], [-1, -1, 0.1, 0.1])
    _, (boxes, mask) = taken(odd, 5)
    assert np.isfinite(boxes).all()
    assert mask.sum() == 4


def test_proposer_refuses_a_map_of_fewer_cells_than_queries(golden):
    with pytest.raises(ValueError, match=r"at least 12 cells.*3 x 3.*enlarge"):
        golden.model()(jnp.zeros((1, 3, 3, golden.config["dino_dim"])))


def test_proposer_gives_equal_boxes_within_the_picture_for_equal_pictures(golden):
    x = features(golden)
    out = run(golden.model(), jnp.repeat(x[:1], len(x), axis=0))[-1]
    np.testing.assert_array_equal(out.boxes[0], out.boxes[1])
    assert ((out.boxes > 0) & (out.boxes < 1)).all()


def test_proposer_heads_of_early_layers_change_nothing(golden, traced):
    """All decoder layers look around the same boxes, so only the last two heads say anything."""
    model = golden.model()
    heads = model.perceiver.ddetr_transformer.bbox_embed
    heads[0].layers[2].bias[...] += 1.0
    again = run(model, features(golden))[-1]
    np.testing.assert_allclose(again.boxes, traced[-1].boxes, atol=1e-6)
    heads[1].layers[2].bias[...] += 1.0
    again = run(model, features(golden))[-1]
    assert np.abs(again.boxes - traced[-1].boxes).max() > 0.01


def test_full_size_proposer_has_the_published_tensors():
    ours, published = full_size("proposer", {}), published_names("proposer")
    tied = {name for name in published if ".decoder.bbox" in name or ".decoder.class" in name}
    assert ours == {name: shape for name, shape in published.items() if name not in tied}
    assert count(ours) == 11_377_833
