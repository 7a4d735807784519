"""Random masks: polarity, shares, kinds."""

import numpy as np
import pytest

from brushjax.data.masks import shapes as masks
from brushjax.data.masks.shapes import KINDS, MaskConfig, sample_mask

SQUARE = np.float32([(10, 10), (40, 10), (40, 40), (10, 40)])


def _only(kind, **settings):
    weights = {name: float(name == kind) for name in KINDS}
    if kind == "outline":
        weights["box"] = 1e-9
    return MaskConfig(**weights, **{"invert": 0.0, **settings})


def test_masks_are_binary_and_1_is_the_edit():
    mask = sample_mask(_only("box", share=(0.1, 0.1)), 64, np.random.default_rng(0))
    assert mask.shape == (64, 64, 1)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert mask.mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("size", [48, 128])
@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_masks_keep_to_the_bounds(kind, size):
    config = MaskConfig() if kind == "mixed" else _only(kind)
    rng = np.random.default_rng(1)
    shares = [sample_mask(config, size, rng, [SQUARE]).mean() for _ in range(80)]
    assert min(shares) >= config.share[0]
    assert max(shares) <= config.share[1]


def test_impossible_shapes_give_way_to_a_box():
    everything = np.float32([(-9, -9), (99, -9), (99, 99), (-9, 99)])
    rng = np.random.default_rng(2)
    for _ in range(10):
        mask = sample_mask(_only("outline"), 64, rng, [everything])[..., 0]
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
        assert 0.05 <= mask.mean() <= 0.6


def test_masks_depend_on_the_generator_alone():
    draws = [
        [sample_mask(MaskConfig(), 64, np.random.default_rng(seed)).tobytes() for seed in range(9)]
        for _ in range(2)
    ]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == 9


def test_every_kind_is_drawn(monkeypatch):
    drawn = []
    inner = masks._draw
    monkeypatch.setattr(
        masks, "_draw", lambda kind, *rest: drawn.append(kind) or inner(kind, *rest)
    )
    rng = np.random.default_rng(0)
    for _ in range(60):
        sample_mask(MaskConfig(), 32, rng, [SQUARE])
    assert set(drawn) == set(KINDS)
    drawn.clear()
    for _ in range(60):
        sample_mask(MaskConfig(), 32, rng)  # nothing is annotated
    assert set(drawn) == set(KINDS) - {"outline"}


def test_brush_masks_have_no_empty_holes_by_default():
    rng = np.random.default_rng(3)
    assert min(masks.brush(96, rng).sum() for _ in range(200)) > 0


def test_reference_brush_has_the_published_statistics():
    # 512 pixels in the reference gave a mean hole of 15.7 % and a quarter of draws without any.
    rng = np.random.default_rng(4)
    shares = np.array([sample_mask(MaskConfig.reference(), 64, rng).mean() for _ in range(1500)])
    assert shares.mean() == pytest.approx(0.157, abs=0.02)
    assert (shares == 0).mean() == pytest.approx(0.25, abs=0.04)


def test_brush_goes_both_ways():
    rng = np.random.default_rng(5)
    mean = np.mean([masks.brush(32, rng) for _ in range(400)], axis=0)
    assert mean.mean(0) == pytest.approx(mean.mean(0)[::-1], abs=0.06)
    assert mean.mean(1) == pytest.approx(mean.mean(1)[::-1], abs=0.06)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_blob_and_box_cover_what_was_asked(share):
    rng = np.random.default_rng(6)
    for _ in range(20):
        assert masks.blob(64, rng, share).mean() == pytest.approx(share, abs=0.001)
        assert masks.box(64, rng, share).mean() == pytest.approx(share, abs=0.02)


def test_outline_covers_the_object():
    rng = np.random.default_rng(7)
    for _ in range(20):
        mask = masks.outline(64, rng, [SQUARE])
        assert mask[10:41, 10:41].all()
        assert mask.sum() <= 35 * 35
        assert not mask[50:].any()


def test_inversion_edits_the_surroundings():
    rng = np.random.default_rng(8)
    mask = sample_mask(_only("outline", invert=1.0, share=(0.0, 1.0)), 64, rng, [SQUARE])
    assert not mask[12:38, 12:38].any()
    assert mask[50:].all()


@pytest.mark.parametrize(
    "settings",
    [
        {"brush": -1.0},
        {"brush": 0.0, "blob": 0.0, "ellipse": 0.0, "box": 0.0},
        {"share": (0.5, 0.2)},
        {"share": (0.5, 1.2)},
        {"strokes": (3, 1)},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        MaskConfig(**settings)
