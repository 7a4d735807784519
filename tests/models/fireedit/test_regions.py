"""Groma's region encoder, and RoIAlign alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.models.fireedit.regions import roi_align
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
    return Golden("region_encoder")


@pytest.fixture(scope="module")
def inputs(golden):
    """Levels, boxes and mask: two pictures with unlike numbers of boxes."""
    side = golden.config["grid"]
    levels = [golden[f"feature_{i}"] for i in range(golden.config["levels"])]
    levels = tuple(x.reshape(len(x), side, side, -1) for x in levels)
    given = [golden.io[f"boxes_{i}"] for i in range(len(levels[0]))]
    most = max(map(len, given))
    boxes = np.stack([np.pad(one, ((0, most - len(one)), (0, 0))) for one in given])
    mask = np.stack([np.arange(most) < len(one) for one in given])
    return levels, jnp.asarray(boxes), jnp.asarray(mask)


run = jax.jit(lambda model, *inputs: model(*inputs))


@pytest.mark.parametrize("mode", ["compat", "corrected"])
def test_regions_equal_groma(golden, inputs, mode):
    model = golden.model(compat=mode == "compat")
    out = np.asarray(run(model, *inputs))
    mask = np.asarray(inputs[2])
    assert deviation(out[mask], golden.io[f"output_{mode}"]) <= TOLERANCE
    assert not out[~mask].any()


def test_regions_of_levels_in_another_order_are_others(golden, inputs):
    levels, boxes, mask = inputs
    model, kept = golden.model(), np.asarray(mask)
    out = np.asarray(run(model, levels[::-1], boxes, mask))[kept]
    assert deviation(out, golden.io["output_compat"]) > 0.1


def test_regions_fused_levels_equal_groma(golden, inputs):
    model = golden.model()
    maps = jax.jit(lambda model, levels: model.region_encoder.mlvl_fuse(levels))(model, inputs[0])
    for i, x in enumerate(maps):
        step = x.shape[1] // 8
        some = x[:, ::step, ::step].transpose(0, 3, 1, 2)
        assert deviation(some, golden.io[f"tap/fused_{i}_strided"]) <= TOLERANCE


@pytest.mark.heavy
def test_regions_gradients_equal_groma(golden, inputs):
    mask, cotangent = np.asarray(inputs[2]), golden["cotangent"]
    golden.gradients(golden.model(), lambda model: jnp.sum(model(*inputs)[mask] * cotangent))


@pytest.mark.parametrize("stride", [7.0, 3.5])
def test_roi_align_equals_mmcv(golden, stride):
    """Reversed and outer boxes are among them."""
    size = tuple(golden.config["roialign_alone"]["output_size"])
    features = golden["roialign/feature"].transpose(0, 2, 3, 1)
    rois = golden["roialign/rois"]
    cut = [roi_align(features[int(roi[0])], roi[None, 1:], 1 / stride, size, 2)[0] for roi in rois]
    ours = jnp.stack(cut).transpose(0, 3, 1, 2)
    assert deviation(ours, golden.io[f"roialign/out_stride_{stride}"]) <= TOLERANCE


def test_roi_align_of_a_constant_is_the_constant_and_of_a_ramp_the_bins_centres():
    box = jnp.asarray([[112.0, 112.0, 336.0, 336.0]])
    ramp = jnp.broadcast_to(jnp.arange(32.0)[None, :, None], (32, 32, 1))
    cut = roi_align(ramp, box, 1 / 14, (14, 14), 2)[0, :, :, 0]
    np.testing.assert_allclose(cut[0, [0, -1]], [8.071429, 22.928571], atol=1e-5)
    assert (cut == cut[0]).all()
    reversed_box = jnp.asarray([[336.0, 112.0, 112.0, 336.0]])  # as compat makes them
    backwards = roi_align(ramp, reversed_box, 1 / 14, (14, 14), 2)[0, :, :, 0]
    np.testing.assert_allclose(backwards, cut[:, ::-1], atol=1e-5)
    constant = roi_align(jnp.full((32, 32, 1), 3.0), box, 1 / 14, (14, 14), 2)
    np.testing.assert_allclose(constant, 3.0, rtol=1e-6)


def test_regions_of_a_whole_picture_see_nothing_in_compat_and_all_of_it_corrected(golden, inputs):
    """Groma takes a box's centre for its corner and lies a factor of two outside."""
    levels, boxes, mask = (x[:1] if i else tuple(y[:1] for y in x) for i, x in enumerate(inputs))
    whole = jnp.broadcast_to(jnp.asarray([0.5, 0.5, 1.0, 1.0]), boxes.shape)
    other = tuple(x + 1 for x in levels)
    for compat in (True, False):
        model = golden.model(compat=compat)
        same = np.array_equal(run(model, levels, whole, mask), run(model, other, whole, mask))
        assert same == compat


def test_regions_of_bad_boxes_are_numbers(golden, inputs):
    levels = tuple(x[:1] for x in inputs[0])
    bad = [[np.nan] * 4, [0.5, 0.5, -0.2, -0.3], [0.5, 0.5, 0, 0], [9.0, -9.0, 1.0, 1.0]]
    bad += [[1e30, 0.0, 1e30, 1.0], [np.inf, 0.5, 0.5, 0.5]]
    boxes = jnp.asarray([bad], jnp.float32)
    model = golden.model(compat=False)
    out = np.asarray(run(model, levels, boxes, jnp.ones((1, len(bad)), bool)))
    assert np.isfinite(out).all()
    assert not out[0, [0, 5]].any()  # what is no number counts as absent
    assert out[0, 1:5].any(axis=-1).all()


@pytest.mark.parametrize("number", [0, 300])
def test_regions_take_any_number_of_boxes(golden, inputs, number):
    levels = tuple(x[:1, ::4, ::4] for x in inputs[0])
    boxes = jnp.full((1, number, 4), 0.4)
    out = run(golden.model(strides_compat=None), levels, boxes, jnp.ones((1, number), bool))
    assert out.shape == (1, number, golden.config["out_dim"])
    assert np.isfinite(out).all()


def test_regions_refuse_another_number_of_levels(golden, inputs):
    levels, boxes, mask = inputs
    with pytest.raises(ValueError, match="expected 3 levels, got 2"):
        golden.model()(levels[:2], boxes, mask)


def test_full_size_region_encoder_has_the_published_tensors():
    ours = full_size("region_encoder", {})
    assert ours == published_names("region_encoder")
    assert count(ours) == 288_653_056
