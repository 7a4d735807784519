"""CompBench's and SmartEdit's scorers, restated from what is known of them, against ours."""

import math

import numpy as np
import pytest
from PIL import Image

from brushjax.metrics.registry import METRICS, score, select
from brushjax.metrics.views import RESULT, Resize, Views, cut_box, cut_script_box

SCRIPTS = {"compbench": 512, "reasonedit": 256}


@pytest.fixture(scope="module")
def edited():
    """Pictures and a mask whose box is small, with a grey rim as JPEG leaves it."""
    rng = np.random.default_rng(3)
    source = rng.integers(0, 256, (80, 96, 3), np.uint8)
    result = np.clip(source + rng.integers(-30, 31, source.shape), 0, 255).astype(np.uint8)
    truth = rng.integers(0, 256, source.shape, np.uint8)
    grey = np.zeros((80, 96), np.uint8)
    grey[20:50, 30:70] = 255
    grey[19, 30:70] = 9
    return Views(
        result,
        source,
        truth,
        mask=grey >= 128,
        grey=grey,
        local_caption="a",
        second_caption="b",
    )


def restated(views, side):
    """The scripts: resized, multiplied by 1 - mask / 255, and averaged over every pixel."""

    def at(picture, how=Image.Resampling.BICUBIC):
        return np.asarray(Image.fromarray(picture).resize((side, side), how))

    grey = at(views.grey, Image.Resampling.NEAREST)
    kept = 1 - grey.astype(np.float64)[..., None] / 255
    result, source = (at(picture) / 255 * kept for picture in (views.result, views.source))
    rows, columns = np.where(grey > 0)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    crop = at(views.result)[top:bottom, left:right]  # PIL's crop leaves its last corner out
    mse = np.mean((result - source) ** 2)
    return {
        "mse": mse,
        "psnr": 10 * math.log10(1 / mse),
        "crop": crop,
        "pictures": (result, source),
    }


@pytest.mark.parametrize(("script", "side"), SCRIPTS.items())
def test_background_and_crop_equal_the_scripts_restated(edited, script, side):
    expected = restated(edited, side)
    found = score(select([f"paper:{script}"], networks=()), edited, {})
    assert found[f"paper:{script}/psnr@1"] == pytest.approx(expected["psnr"], abs=1e-5)
    if script == "reasonedit":
        assert found["paper:reasonedit/mse@1"] == pytest.approx(expected["mse"], abs=1e-5)
    np.testing.assert_array_equal(
        edited.picture(RESULT.then(Resize(side), cut_script_box)), expected["crop"]
    )


@pytest.mark.torch
@pytest.mark.parametrize(("script", "side"), SCRIPTS.items())
def test_background_equals_torchmetrics(edited, script, side):
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    pair = [
        torch.tensor(one.astype(np.float32).transpose(2, 0, 1)[None])
        for one in restated(edited, side)["pictures"]
    ]
    found = score(select([f"paper:{script}"], ["psnr", "ssim"], ()), edited, {})
    assert found[f"paper:{script}/psnr@1"] == pytest.approx(psnr(*pair, 1.0).item(), abs=1e-4)
    whole = ssim(*pair, data_range=1.0, return_full_image=True)
    values = whole[0].item() if script == "compbench" else _cropped(whole[1])
    assert found[f"paper:{script}/ssim@1"] == pytest.approx(values, abs=1e-5)


def _cropped(full):
    """Up to 1.4 torchmetrics left out the five pixels along the frame."""
    return full[..., 5:-5, 5:-5].mean().item()


def test_scripts_count_the_blackened_pixels_and_clean_metrics_do_not(edited):
    """An error over the kept part alone is larger by the share of the picture that is kept."""
    square = (512, 512)
    same_size = Views(
        np.asarray(Image.fromarray(edited.result).resize(square)),
        np.asarray(Image.fromarray(edited.source).resize(square)),
        mask=np.asarray(Image.fromarray(edited.mask).resize(square, Image.Resampling.NEAREST)),
    )
    found = METRICS["paper:compbench/psnr@1"](same_size, {})["paper:compbench/psnr@1"]
    clean = METRICS["clean/psnr_keep@1"](same_size, {})["clean/psnr_keep@1"]
    kept = 1 - same_size.mask.mean()
    assert found - clean == pytest.approx(-10 * math.log10(kept), abs=1e-9)


def test_script_boxes_lose_the_last_row_and_column_and_begin_at_the_grey_rim(edited):
    whole = edited.picture(RESULT.then(cut_box))
    np.testing.assert_array_equal(whole, edited.result[20:50, 30:70])
    own = Views(edited.result, edited.source, mask=edited.mask, grey=edited.grey)
    cut = own.picture(RESULT.then(cut_script_box))
    np.testing.assert_array_equal(cut, edited.result[19:49, 30:69])


def features(metric, rng):
    return {need: rng.normal(size=8) for need in metric.needs}


def test_local_clip_is_the_mean_over_the_captions_of_both_objects(edited):
    metric = next(one for one in METRICS.values() if one.name == "lc_t")
    given = features(metric, np.random.default_rng(1))
    picture, *captions = (given[need] for need in metric.needs)
    cosines = [
        max(0, 100 * c @ picture / np.linalg.norm(c) / np.linalg.norm(picture)) for c in captions
    ]
    assert metric(edited, given)[metric.id] == pytest.approx(np.mean(cosines), abs=1e-9)


def test_mask_without_a_box_is_0_in_the_scripts_and_undefined_cleanly(edited):
    line = np.zeros_like(edited.grey)
    empty = Views(edited.result, edited.source, edited.truth, mask=line > 0, grey=line)
    line = line.copy()
    line[30, 10:40] = 255
    flat = Views(edited.result, edited.source, edited.truth, mask=line > 0, grey=line)
    for name, sample, value in (("lc_i", empty, 0), ("clip_image_box", empty, np.nan)):
        metric = next(one for one in METRICS.values() if one.name == name)
        given = features(metric, np.random.default_rng(2))
        np.testing.assert_equal(metric(sample, given)[metric.id], value)
    box = next(one for one in METRICS.values() if one.name == "clip_image_box")
    assert np.isfinite(box(flat, features(box, np.random.default_rng(2)))[box.id])
