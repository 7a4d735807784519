"""The registry: ids, what a sample needs, and views of pictures."""

import numpy as np
import pytest
from PIL import Image

from brushjax.metrics.registry import METRICS, PROFILES, needs_of, score, select
from brushjax.metrics.views import (
    RESULT,
    SOURCE,
    Like,
    Resize,
    Views,
    as_jpeg,
    hole,
    jpeg,
    keep,
    last_panel,
)

RNG = np.random.default_rng(0)


def picture(height=64, width=64):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def full_sample(**changes):
    mask = np.zeros((64, 64), bool)
    mask[8:40, 8:40] = True
    texts = {"caption": "a cat", "source_caption": "a dog", "local_caption": "cat"}
    fields = {"source": picture(), "truth": picture(), "mask": mask, "region": ~mask} | texts
    return Views(picture(), **fields | changes)


def test_ids_are_unique_and_carry_networks_and_preprocessing():
    assert all(name == metric.id for name, metric in METRICS.items())
    assert set(PROFILES) == {
        "clean",
        *(
            f"paper:{n}"
            for n in (
                "brushedit",
                "pie",
                "magicbrush",
                "ultraedit",
                "ip2p",
                "fireedit",
                "compbench",
                "reasonedit",
            )
        ),
    }
    for metric in METRICS.values():
        for need in metric.needs:
            assert need.preprocess == "tokens" or f"{need.network}/{need.preprocess}" in metric.id


def test_select_by_profile_name_and_networks():
    pixels = select(["clean"], networks=())
    assert pixels
    assert not needs_of(pixels)
    clip = select(["clean"], networks=("clip_l14",))
    assert {m.name for m in clip} - {m.name for m in pixels} == {
        "clip_text",
        "clip_text_edited_part",
        "clip_image",
        "clip_image_truth",
        "clip_direction",
        "clip_text_box",
        "clip_image_box",
    }
    with pytest.raises(ValueError, match="unknown profiles"):
        select(["papers"])
    with pytest.raises(ValueError, match="no metric"):
        select(["clean"], ["pnsr_keep"])


def test_every_metric_gives_a_number_of_a_full_sample():
    sample = full_sample()
    needs = needs_of(METRICS.values())
    shapes = {"keys": (5, 8), "map": (64, 64), "score": ()}
    features = {
        need: RNG.uniform(0.1, 1, shapes.get(need.feature.split(".")[1], (8,))) for need in needs
    }
    values = score(METRICS.values(), sample, features)
    assert values.keys() == METRICS.keys()
    assert all(np.isfinite(value) for value in values.values())


def test_metrics_that_do_not_apply_are_left_out_and_undefined_ones_are_nan():
    alone = score(select(PROFILES, networks=()), Views(picture()), {})
    assert alone == {}
    nothing_kept = full_sample(mask=np.ones((64, 64), bool))
    found = score(select(PROFILES, networks=()), nothing_kept, {})
    undefined = {name for name, value in found.items() if np.isnan(value)}
    assert {
        "clean/psnr_keep@1",
        "paper:brushedit/psnr@1",
        "paper:pie/ssim_unedit_part@1",
    } <= undefined
    assert "paper:pie/ssim_edit_part@1" not in undefined


def test_missing_feature_and_missing_field_are_named():
    with pytest.raises(KeyError, match="clip_l14"):
        METRICS["clean/clip_image[clip_l14/openai]@1"](full_sample(), {})
    with pytest.raises(ValueError, match="no truth"):
        METRICS["clean/mae_truth@1"](full_sample(truth=None), {})


def test_clean_refuses_a_result_of_another_size_and_magicbrush_resizes_it():
    sample = Views(picture(32, 48), truth=picture(64, 64))
    with pytest.raises(ValueError, match="size"):
        METRICS["clean/mae_truth@1"](sample, {})
    resized = np.asarray(Image.fromarray(sample.result).resize((64, 64), Image.Resampling.BICUBIC))
    expected = np.abs(resized / 255 - sample.truth / 255).mean()
    found = METRICS["paper:magicbrush/l1@1"](sample, {})["paper:magicbrush/l1@1"]
    assert found == pytest.approx(expected)


def test_views_follow_their_steps(tmp_path):
    sample = full_sample()
    Image.fromarray(sample.result).save(tmp_path / "x.jpg")
    stored = np.asarray(Image.open(tmp_path / "x.jpg"))
    assert np.array_equal(sample.picture(RESULT.then(as_jpeg)), stored)
    assert np.array_equal(sample.picture(SOURCE.then(as_jpeg)), jpeg(sample.source))
    kept = sample.picture(RESULT.then(as_jpeg, keep))
    assert np.array_equal(kept, np.where(sample.mask[..., None], 0, stored))
    assert sample.picture(RESULT.then(Resize(32), hole)).shape == (32, 32, 3)
    assert sample.picture(RESULT.then(Resize(32), hole))[0, 0].sum() == 0
    wide = Views(picture(64, 128), picture(64, 64))
    assert np.array_equal(wide.picture(RESULT.then(last_panel)), wide.result[:, 64:])


def test_views_of_a_jpeg_file_are_not_compressed_again():
    sample = full_sample(from_jpeg=True)
    assert sample.picture(RESULT.then(as_jpeg)) is sample.picture(RESULT)


def test_views_name_what_is_wrong():
    view = RESULT.then(as_jpeg, Like(SOURCE), Resize(8), keep)
    assert view.fields == {"result", "source", "mask"}
    assert (
        str(view)
        == "result as_jpeg Like(other=View(picture='source', steps=())) Resize(side=8) keep"
    )
    with pytest.raises(ValueError, match="uint8 RGB"):
        Views(np.zeros((4, 4))).picture(RESULT)
    with pytest.raises(ValueError, match="mask"):
        full_sample(mask=np.ones((32, 32), bool)).picture(RESULT.then(keep))
