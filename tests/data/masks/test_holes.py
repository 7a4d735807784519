"""Holes of BrushEdit's unified training: kinds, shares, and what they may not touch."""

import numpy as np
import pytest

from brushjax.data.masks.holes import HoleConfig, sample_hole
from brushjax.data.masks.shapes import MaskConfig

SIZE = 64
Y, X = np.mgrid[:SIZE, :SIZE]
DISC = np.hypot(Y - 24, X - 24) < 12
BAR = (Y > 50) & (X > 8) & (X < 40)
ONLY = {"random": 0.0, "background": 0.0, "opened": 0.0, "boxed": 0.0, "dilated": 0.0}
PLAIN = HoleConfig(1.0, **ONLY, stroked=0.0, outside=0.0)


def draw(config, seed=0, objects=(DISC,), donor=list):
    hole = sample_hole(config, SIZE, objects, donor, np.random.default_rng(seed))
    assert hole.shape == (SIZE, SIZE, 1)
    assert set(np.unique(hole)) <= {0, 1}
    return hole[..., 0].astype(bool)


def changed(**settings):
    return HoleConfig(**{**vars(PLAIN), **settings})


def test_segmentation_holes_are_the_object_or_its_surroundings():
    np.testing.assert_array_equal(draw(PLAIN), DISC)
    np.testing.assert_array_equal(draw(changed(outside=1.0)), ~DISC)
    half = [draw(changed(outside=0.5), seed).mean() > 0.5 for seed in range(200)]
    assert np.mean(half) == pytest.approx(0.5, abs=0.12)


def test_boxed_holes_are_bounding_boxes():
    hole = draw(changed(boxed=1.0))
    rows, columns = DISC.any(1), DISC.any(0)
    np.testing.assert_array_equal(hole, rows[:, None] & columns)


def test_dilated_holes_grow_within_their_bounds():
    shares = []
    for seed in range(20):
        hole = draw(changed(dilated=1.0, dilation=(0.05, 0.1)), seed)
        assert hole[DISC].all()
        assert not hole[np.hypot(Y - 24, X - 24) > 12 + 0.1 * SIZE + 1.5].any()
        shares.append(hole.mean())
    assert min(shares) > DISC.mean()
    assert len(set(shares)) > 2


def test_opened_holes_lose_thin_parts():
    thin = DISC | (Y == 50)
    np.testing.assert_array_equal(draw(changed(opened=1.0), objects=[thin])[45:], False)
    assert draw(PLAIN, objects=[thin])[50].all()


def test_stroked_holes_keep_the_object_and_stay_near_it():
    more = 0
    for seed in range(20):
        hole = draw(changed(stroked=1.0), seed)
        assert hole[DISC].all()
        assert not hole[np.hypot(Y - 24, X - 24) > 12 + SIZE / 10 + 1.5].any()
        more += hole.sum() > DISC.sum()
    assert more > 3


def test_every_object_is_chosen():
    chosen = {draw(PLAIN, seed, [DISC, BAR]).tobytes() for seed in range(20)}
    assert chosen == {DISC.tobytes(), BAR.tobytes()}


def test_objects_that_do_not_fit_give_way():
    everything, speck = np.ones_like(DISC), np.zeros_like(DISC)
    speck[3, 3] = True
    for seed in range(10):
        np.testing.assert_array_equal(draw(PLAIN, seed, [everything, speck, DISC]), DISC)
        share = draw(PLAIN, seed, [everything, speck]).mean()  # a random mask instead
        assert PLAIN.shapes.share[0] <= share <= PLAIN.shapes.share[1]


BACKGROUND = HoleConfig(0.0, 0.0, 1.0, donated=0.0)


def test_background_holes_touch_no_object():
    found = 0
    for seed in range(30):
        hole = draw(BACKGROUND, seed)
        if not hole[DISC].any():
            found += 1
    assert found >= 24  # the others had no room, and are random masks


def test_donated_holes_have_another_objects_shape():
    taken = np.hypot(Y - 10, X - 10) < 6
    config = HoleConfig(0.0, 0.0, 1.0, donated=1.0)
    hole = draw(config, 1, [taken], lambda: [BAR])
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    assert hole.sum() == len(rows) * len(columns) > 0  # a bar, perhaps cut off at the border
    assert not hole[taken].any()


def test_crowded_or_unknown_pictures_get_random_holes():
    crowded = np.ones_like(DISC)
    for objects in ([crowded], []):
        share = draw(BACKGROUND, 3, objects).mean()
        assert BACKGROUND.shapes.share[0] <= share <= BACKGROUND.shapes.share[1]


def test_kinds_come_in_the_configs_shares():
    config = HoleConfig(
        0.5,
        0.0,
        0.5,
        **{k: v for k, v in ONLY.items() if k not in ("random", "background")},
        stroked=0.0,
        outside=0.0,
        donated=0.0,
    )
    holes = [draw(config, seed) for seed in range(300)]
    assert np.mean([(hole == DISC).all() for hole in holes]) == pytest.approx(0.5, abs=0.09)


def test_brushnets_own_recipes():
    objects = HoleConfig.of_objects()
    assert objects.only_objects
    assert np.mean([draw(objects, s).mean() > 0.5 for s in range(200)]) == pytest.approx(
        0.5, abs=0.1
    )
    strokes = HoleConfig.of_strokes()
    assert not strokes.needs_objects
    shares = [draw(strokes, seed, []).mean() for seed in range(60)]
    assert min(shares) > 0
    assert max(shares) < 1


@pytest.mark.parametrize(
    "settings",
    [
        {"segmentation": -1.0},
        {"segmentation": 0.0, "random": 0.0, "background": 0.0},
        {"boxed": 1.2},
        {"dilation": (0.2, 0.1)},
        {"share": (0.1, 1.1)},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        HoleConfig(**settings)


def test_masks_of_the_unified_recipe_are_not_outlines():
    assert HoleConfig().shapes == MaskConfig(outline=0.0)
