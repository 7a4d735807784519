"""Batches of photographs: determinism, resumption, shards, collages."""

import json
import subprocess
import sys

import numpy as np
import pytest

from brushjax.data.masks.shapes import MaskConfig
from brushjax.data.pipeline import PhotoData
from brushjax.data.schema import Captioned
from brushjax.data.sets.photos import CLASSES, PhotoSource


def tokenize(captions):
    """Characters in place of tokens: enough to tell captions apart."""
    rows = [[ord(letter) for letter in caption[:60]] for caption in captions]
    return np.array([row + [0] * (60 - len(row)) for row in rows], np.int32)


ENCODE = Captioned(tokenize)


def _take(data, n, batch_size=4, **settings):
    iterator = iter(data.batches(batch_size, ENCODE, **settings))
    return [next(iterator) for _ in range(n)]


def _ids(batches):
    return np.concatenate([batch["id"] for batch in batches]).tolist()


def _assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_batches_have_the_agreed_fields():
    (batch,) = _take(PhotoData(size=32), 1)
    shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
    assert shapes == {
        "image": ((4, 32, 32, 3), "uint8"),
        "mask": ((4, 32, 32, 1), "uint8"),
        "token_ids": ((4, 60), "int32"),
        "id": ((4,), "int64"),
        "class_id": ((4,), "int32"),
    }


def test_batches_hold_the_samples_of_their_ids():
    data = PhotoData(size=32, seed=3, collage=0.5, uncaptioned=0.2, jitter=0.1)
    samples = data.source(ENCODE)
    for batch in _take(data, 3, threads=2):
        for row, number in enumerate(batch["id"]):
            _assert_same({k: v[row] for k, v in batch.items()}, samples[int(number)])


def test_batches_resume_where_they_stood():
    data = PhotoData(size=16, pool=10, collage=0.3)
    iterator = iter(data.batches(4, ENCODE))
    for _ in range(3):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))  # as a checkpoint stores it
    expected = [next(iterator) for _ in range(4)]
    resumed = iter(data.batches(4, ENCODE))
    resumed.set_state(state)
    for batch in expected:
        _assert_same(batch, next(resumed))


def test_a_pool_is_seen_whole_in_a_new_order_every_epoch():
    ids = _ids(_take(PhotoData(size=8, pool=12), 6))
    epochs = [ids[:12], ids[12:]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


def test_without_a_pool_samples_never_repeat():
    assert _ids(_take(PhotoData(size=8), 5)) == list(range(20))


@pytest.mark.parametrize("pool", [0, 16])
def test_shards_split_the_samples_between_hosts(pool):
    data = PhotoData(size=8, pool=pool)
    whole = _ids(_take(data, 4, 4))
    halves = [_ids(_take(data, 4, 2, shard=(index, 2))) for index in (0, 1)]
    assert not set(halves[0]) & set(halves[1])
    assert halves[0] == whole[::2]
    assert halves[1] == whole[1::2]


def test_masks_do_not_change_the_crops():
    plain = PhotoData(size=32).source(ENCODE)
    brushed = PhotoData(size=32, masks=MaskConfig.reference()).source(ENCODE)
    crops = PhotoSource(size=32)
    for n in range(20):
        np.testing.assert_array_equal(plain[n]["image"], crops[n].image)
        np.testing.assert_array_equal(brushed[n]["image"], crops[n].image)
    assert any((plain[n]["mask"] != brushed[n]["mask"]).any() for n in range(20))


def test_collages_change_masked_pixels_only_and_are_named_by_them():
    data = PhotoData(size=48, collage=1.0)
    samples, crops = data.source(ENCODE), PhotoSource(size=48)
    for n in range(60):
        sample, around = samples.describe(n), crops[n]
        kept = sample.mask[..., 0] == 0
        np.testing.assert_array_equal(sample.image[kept], around.image[kept])
        assert sample.surroundings == around.class_name != sample.class_name
        assert sample.class_name == CLASSES[sample.class_id]
        assert sample.phrase in sample.caption
    assert len({samples.describe(n).class_name for n in range(200)}) == len(CLASSES)


def test_captions_of_collages_can_name_the_surroundings():
    plain = PhotoData(size=16, collage=0.5).source(ENCODE)
    named = PhotoData(size=16, collage=0.5, name_surroundings=True).source(ENCODE)
    for n in range(60):
        before, after = plain.describe(n), named.describe(n)
        around = PhotoSource(size=16)[n].phrase
        collage = before.class_name != before.surroundings
        assert after.caption == (f"{before.caption} in {around}" if collage else before.caption)


def test_without_a_hole_there_is_no_collage():
    data = PhotoData(size=32, collage=1.0, masks=MaskConfig.reference())
    described = [data.source(ENCODE).describe(n) for n in range(40)]
    empty = [s for s in described if not s.mask.any()]
    assert empty
    assert all(s.class_name == s.surroundings for s in empty)


def test_the_collage_share_is_kept():
    samples = PhotoData(size=16, collage=0.35).source(ENCODE)
    mixed = [s.class_name != s.surroundings for s in map(samples.describe, range(600))]
    assert np.mean(mixed) == pytest.approx(0.35, abs=0.06)


def test_uncaptioned_samples_have_the_empty_prompt():
    samples = PhotoData(size=8, uncaptioned=0.25).source(ENCODE)
    described = [samples.describe(n) for n in range(400)]
    assert np.mean([s.caption == "" for s in described]) == pytest.approx(0.25, abs=0.07)
    n = next(s.id for s in described if s.caption == "")
    np.testing.assert_array_equal(samples[n]["token_ids"], tokenize([""])[0])


def test_jitter_is_for_training_only():
    held_out = [
        PhotoData(size=16, split="held_out", jitter=jitter).source(ENCODE)[2]["image"]
        for jitter in (0.0, 0.3)
    ]
    np.testing.assert_array_equal(*held_out)
    train = [PhotoData(size=16, jitter=jitter).source(ENCODE)[2]["image"] for jitter in (0.0, 0.3)]
    assert (train[0] != train[1]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"collage": 1.5}, "collage within 0 and 1"),
        ({"uncaptioned": -0.1}, "uncaptioned within 0 and 1"),
        ({"pool": -1}, "pool >= 0"),
        ({"collage": 0.5, "classes": ("cat",)}, "two classes"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PhotoData(**settings).source(ENCODE)


@pytest.mark.parametrize(("batch_size", "shard"), [(0, (0, 1)), (4, (2, 2)), (4, (-1, 2))])
def test_wrong_batches_are_refused(batch_size, shard):
    with pytest.raises(ValueError, match="batch_size >= 1"):
        PhotoData(size=8).batches(batch_size, ENCODE, shard=shard)


def test_a_broken_photo_stops_the_run_before_the_first_batch(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"photos\.json"):
        PhotoData(folder=str(tmp_path)).batches(4, ENCODE)


def test_pipeline_imports_neither_torch_nor_tensorflow():
    code = (
        "import sys, numpy as np\n"
        "from brushjax.data.pipeline import PhotoData\n"
        "encode = lambda record: record.arrays()\n"
        "next(iter(PhotoData(size=16).batches(2, encode)))\n"
        "found = {'torch', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
