"""The region editor: where an instruction points, and what is painted there."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from brushjax.inference.inpaint import InpaintResult
from brushjax.inference.region import RegionEditor
from brushjax.models import Threshold
from brushjax.pipelines.regions import RegionFinder
from tests import tiny_region
from tests.support import GOLDEN


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return tiny_region.export(tmp_path_factory.mktemp("region"))


@pytest.fixture(scope="module")
def finder(export):
    return RegionFinder.load(export)


IMAGE = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)


def test_finder_gives_the_predictors_probabilities(finder):
    found = finder.find(IMAGE, "replace the cat with a flower", Threshold("quantile"))
    assert found.probability.shape == (4, 4)
    assert found.region.shape == (40, 60)
    ids = finder.encoders.instructions(["replace the cat with a flower"])
    view = finder.encoders.placement.view(jax.numpy.asarray(IMAGE[None] / 127.5 - 1, "float32"))

    @jax.jit
    def probability(vision, text, region):
        patches = vision.embed(view, -2).patch_embeds
        return region(patches, *finder.encoders.read(text, ids)).probability

    expected = probability(*(finder.models[k] for k in ("clip_vision", "clip_text", "region")))
    np.testing.assert_allclose(found.probability.reshape(-1), expected[0], atol=1e-5)
    other = finder(IMAGE, "replace the flower with a cat")
    assert np.abs(other - found.probability.reshape(-1)).max() > 1e-4


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_region_is_a_cut_of_the_bilinear_map_at_any_shape(finder, fit):
    encoders = dataclasses.replace(finder.encoders, fit=fit)
    finder = dataclasses.replace(finder, encoders=encoders)
    found = finder.find(
        IMAGE, "replace the cat with a flower", Threshold("quantile", quantile=0.75)
    )
    patches = jax.numpy.asarray(found.probability.reshape(1, -1))
    pixels = np.asarray(encoders.placement.pixels(patches, *IMAGE.shape[:2]))[0]
    assert found.region.shape == IMAGE.shape[:2]
    assert found.region.sum() == found.region.size // 4
    assert pixels[found.region].min() >= pixels[~found.region].max()


def test_region_of_whatever_rule_keeps_to_its_bounds_in_pixels(finder):
    for threshold in (Threshold(tau=0.0, max_area=0.31), Threshold(tau=0.999, min_area=0.07)):
        share = finder.find(IMAGE, "replace the cat with a flower", threshold).region.mean()
        assert share == (0.31 if threshold.min_area == 0 else 0.07)


def test_nothing_above_the_threshold_is_one_line_that_says_so(finder):
    with pytest.raises(ValueError, match="expected a region for 'x', but no pixel passes"):
        finder.find(IMAGE, "x", Threshold(tau=1.0))


def test_editor_paints_the_region_by_the_caption_after_the_edit(finder):
    asked = {}

    def painter(image, mask, prompt, **settings):
        asked.update(mask=mask, prompt=prompt, **settings)
        painted = np.where(mask[..., None] > 0, 0, image)[None].astype(np.uint8)
        return InpaintResult(painted, np.zeros((1, 5, 7, 4), np.float32), 0.0)

    edit = RegionEditor(finder, painter, Threshold("quantile"))
    result = edit(IMAGE, "replace the cat", target_caption="a flower", seed=3, steps=7)
    assert (asked["prompt"], asked["seed"], asked["steps"]) == ("a flower", 3, 7)
    np.testing.assert_array_equal(asked["mask"] > 0, result.found.region)
    outside = ~result.found.region
    np.testing.assert_array_equal(result.image[outside], IMAGE[outside])
    assert asked["blend"] == "paste"
    with pytest.raises(ValueError, match="expected target_caption"):
        edit(IMAGE, "replace the cat", target_caption="")


def test_folder_can_be_moved_with_its_encoders(export, finder, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(export, moved)
    relative = dataclasses.replace(finder.encoders, clip=".")
    from brushjax.files import write_json

    write_json(moved / "encoders.json", dataclasses.asdict(relative))
    again = RegionFinder.load(moved)
    assert str(moved) in again.encoders.clip
    np.testing.assert_array_equal(again(IMAGE, "the cat"), finder(IMAGE, "the cat"))
    with pytest.raises(FileNotFoundError, match=r"expected .*encoders\.json beside region"):
        RegionFinder.load(GOLDEN / "region" / "region_literal")
