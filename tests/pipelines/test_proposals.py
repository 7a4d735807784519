"""Boxes and CLIP's choice among them."""

import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.pipelines.proposals import ChosenBox, boxes, chosen
from brushjax.pipelines.regions import RegionFinder
from tests import tiny_region


def test_boxes_are_the_usual_shares_of_every_grid():
    masks = boxes(8).reshape(-1, 8, 8)
    assert len(masks) == (3 + 3 + 2) ** 2
    assert {mask.sum() for mask in masks} == {9, 12, 16, 18, 24, 36}
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns)  # one box each


def test_choice_is_by_text_first_and_by_both_among_the_three_best():
    text = jnp.array([0.9, 0.5, 0.8, 0.7])
    assert chosen(text, jnp.array([0.0, 9.0, 0.1, 0.5])) == 3  # 2 * 0.7 + 0.5; 1 is no finalist
    assert chosen(text, jnp.zeros(4)) == 0
    both = chosen(jnp.stack([text, text[::-1]], 1), jnp.zeros((4, 2)))
    np.testing.assert_array_equal(both, [0, 3])


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    return RegionFinder.load(tiny_region.export(tmp_path_factory.mktemp("region")))


@pytest.mark.slow
def test_chosen_box_is_the_one_whose_result_clip_likes_best(finder):
    rng = np.random.default_rng(0)
    image, donor = rng.integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    found = ChosenBox.of(finder).find(image, donor, "a flower")
    place, clip = finder.encoders.placement, finder.models["clip_vision"]

    def unit(x):
        return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)

    masks = boxes(4).reshape(-1, 4, 4).repeat(8, 1).repeat(8, 2)[..., None]
    results = np.concatenate([masks * donor + (1 - masks) * image, image[None]]) / 127.5 - 1
    seen = unit(clip.embed(place.view(jnp.asarray(results, jnp.float32)), -2).image_embeds)
    ids = jnp.asarray(finder.encoders.captions(["a flower"]))
    text = unit(finder.models["clip_text"](ids).text_embeds)[0]
    best = int(chosen(jnp.asarray(seen[:-1] @ text), jnp.asarray(seen[:-1] @ seen[-1])))
    np.testing.assert_array_equal(found.region, masks[best, ..., 0] > 0)
    np.testing.assert_array_equal(found.probability.repeat(8, 0).repeat(8, 1), found.region)
