"""BrushData's samples: order, hosts, workers, resuming, faults."""

import gzip
import io
import itertools
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from brushjax.data.faults import MENDED, SKIPPED, TooManyFaults
from brushjax.data.masks.holes import HoleConfig
from brushjax.data.sets.brushdata import BrushData
from tests.data import tiny
from tests.data.tiny import encode, members, tokenize, write_tar, write_tars

COUNT = 23


def collection(folder, **settings):
    settings = {"size": 16, "index_cache": str(folder / "cache"), **settings}
    return BrushData(path=str(folder), **settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return collection(write_tars(tmp_path_factory.mktemp("tars"), [10, 8, 5]))


def run(data, hosts, batches, batch_size=10, states=None):
    """The batches of all hosts, put together; and where each host then stands."""
    feeds = [
        iter(data.batches(batch_size // hosts, encode, shard=(h, hosts))) for h in range(hosts)
    ]
    for feed in feeds:
        if states:
            feed.set_state(states[0])
    made = []
    for _ in range(batches):
        parts = [next(feed) for feed in feeds]
        made.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    states = [feed.get_state() for feed in feeds]
    for feed in feeds:
        feed.close()
    return made, states


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def assert_each_once(ids, count=COUNT):
    epochs = [ids[start : start + count] for start in range(0, len(ids) - count + 1, count)]
    assert len(epochs) >= 3
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert epochs[0] != epochs[1] != epochs[2]


def ids_of(batches):
    return [int(n) for batch in batches for n in batch["id"]]


def test_batches_are_the_same_for_any_number_of_hosts_and_lose_nothing(data):
    alone, _ = run(data, 1, 7)
    assert_each_once(ids_of(alone))
    for hosts in (2, 5):
        assert_same(run(data, hosts, 7)[0], alone)


def test_a_run_goes_on_where_it_stood_on_other_hosts(data):
    alone, _ = run(data, 1, 7)
    for before, after in ((5, 2), (1, 5), (2, 1)):
        first, states = run(data, before, 3)
        assert all(state == {"samples": 30} for state in states)
        assert json.loads(json.dumps(states[0])) == states[0]
        second, _ = run(data, after, 4, states=states)
        assert_same(first + second, alone)


def with_workers(data, workers):
    return BrushData(**{**vars(data), "workers": workers, "ahead": 2})


def test_two_workers_change_nothing_also_across_a_resume(data):
    alone, _ = run(data, 1, 7)
    first, states = run(with_workers(data, 2), 1, 3)
    assert_same(first, alone[:3])
    assert_same(run(data, 1, 4, states=states)[0], alone[3:])


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 2, 5])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_on_any_number_of_hosts(data, hosts, workers):
    alone, _ = run(data, 1, 7)
    first, states = run(with_workers(data, workers), hosts, 3)
    second, _ = run(with_workers(data, 3 - workers), hosts, 4, states=states)
    assert_same(first + second, alone)


def test_epochs_bring_other_crops_and_holes(data):
    samples = data.source(encode)
    images, masks = set(), set()
    for epoch in range(4):
        (made,), _ = samples.sample(3, epoch)
        images.add(made["image"].tobytes())
        masks.add(made["mask"].tobytes())
    assert len(images) > 1
    assert len(masks) > 2


def test_holes_of_one_crop_share_the_picture(data):
    made, _ = data.source(encode).sample(3, 0, range(4))
    assert len({m["image"].tobytes() for m in made}) == 1
    assert len({m["mask"].tobytes() for m in made}) > 1


def test_the_seed_changes_order_and_samples(data):
    other = collection_with(data, seed=1)
    assert ids_of(run(data, 1, 2)[0]) != ids_of(run(other, 1, 2)[0])
    a, b = (d.source(encode).sample(0, 0)[0][0] for d in (data, other))
    assert (
        a["mask"].tobytes() != b["mask"].tobytes() or a["image"].tobytes() != b["image"].tobytes()
    )


def collection_with(data, **changes):
    return BrushData(**{**vars(data), **changes})


def test_a_pool_keeps_its_samples(data):
    pool = collection_with(data, pool=7)
    samples = pool.source(encode)
    assert len(samples) == 7
    rounds = [[samples[7 * r + n] for n in range(7)] for r in range(3)]
    kept = [{s["id"].item(): s["mask"].tobytes() + s["image"].tobytes() for s in r} for r in rounds]
    assert kept[0] == kept[1] == kept[2]
    assert [s["id"] for s in rounds[0]] != [s["id"] for s in rounds[1]]


def test_crops_and_captions_belong_together(data):
    batch = run(data, 1, 1)[0][0]
    for n, image, ids, time_ids in zip(
        batch["id"], batch["image"], batch["token_ids"], batch["time_ids"]
    ):
        assert abs(image[..., 0].astype(int).mean() - n * 7) < 4  # as tiny.picture paints it
        np.testing.assert_array_equal(ids, tokenize([f"picture {n}"])[0])
        assert time_ids[:2].tolist() == [40, 56]
        assert time_ids[2] == 0  # the shorter side is not cut
        assert 0 <= time_ids[3] <= 16 * 16 / 40
        assert time_ids[4:].tolist() == [16, 16]
    assert batch["image"].dtype == batch["mask"].dtype == np.uint8


@pytest.mark.parametrize("profile", ["reference_segmentation", "reference_random"])
def test_reference_profiles_make_batches_with_their_masked_image(data, profile):
    batches, _ = run(collection_with(data, profile=profile), 2, 4)
    masks = np.concatenate([batch["mask"] for batch in batches])
    assert masks.dtype == np.float32
    assert batches[0]["masked_image"].dtype == np.float32
    for batch in batches:
        hole = batch["mask"] == 1
        assert np.abs(batch["masked_image"][hole[..., 0]]).mean() < 30  # black but for the ringing
    if profile == "reference_random":
        assert masks.min() < 0  # strokes are resized as floats, which overshoot


# --- faults


def encoded(mode, kind="PNG"):
    picture = Image.fromarray(tiny.picture(0))
    out = io.BytesIO()
    picture.convert(mode).save(out, kind)
    return out.getvalue()


def planted():
    """{cause: members of a sample that has it}."""
    sixteen = cv2.imencode(".png", tiny.picture(0).astype(np.uint16) * 256)[1].tobytes()
    outside = json.dumps({"mask": [[40 * 56 - 3, 9]]}).encode()
    return {
        "missing member": members(0, image=None),
        "empty image": members(0, image=b""),
        "broken image": members(0, image=tiny.jpeg(tiny.picture(0))[:-200]),
        "bad caption": members(0, caption=b"\xff\xfe\xfa"),
        "bad size": members(0, height=b"forty"),
        "wrong size": members(0, height=b"41"),
        "bad segmentation": members(0, segmentation=b'{"mask": [[1, 2]'),
        "bad run lengths": members(0, segmentation=outside),
        "16-bit image": members(0, image=sixteen),
        "greyscale image": members(0, image=encoded("L")),
        "CMYK image": members(0, image=encoded("CMYK", "JPEG")),
        "alpha image": members(0, image=encoded("RGBA")),
        "empty caption": members(0, caption=b" "),
    }


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Twelve whole samples, and one of each fault; two of the tars are faulty themselves."""
    folder = tmp_path_factory.mktemp("faulty")
    write_tars(folder, [8])
    write_tar(folder / "1.tar", planted())
    whole = write_tar(folder / "2.tar", {f"t{n}": members(n) for n in range(5)}).read_bytes()
    (folder / "2.tar").write_bytes(whole[: whole.rfind(b"t4.image") + 600])
    (folder / "3.tar").write_bytes(gzip.compress(whole))
    return folder


def test_planted_faults_are_each_counted_under_their_cause(faulty):
    data = collection(faulty, holes=HoleConfig.of_objects(), faulty_share=0.6)
    samples = data.source(encode)
    met, whole = [], []
    for number in samples.numbers:
        if samples.tried(int(number), 0, met):
            whole.append(samples.name(int(number)))
    expected = dict.fromkeys(planted(), 1) | {"truncated tar": 1, "unreadable tar": 1}
    assert {c: met.count(c) + samples.faults.get(c, 0) for c in expected} == expected
    assert len(met) + sum(samples.faults.values()) == len(expected)
    converted = {f"1.tar/{cause}" for cause in planted() if cause in MENDED}
    assert set(whole) == converted | {f"00000.tar/{n:06d}" for n in range(8)} | {
        f"2.tar/t{n}" for n in range(4)
    }


def test_training_goes_on_past_faults_with_full_batches(faulty, caplog):
    data = collection(faulty, holes=HoleConfig.of_objects(), faulty_share=0.6)
    batches, _ = run(data, 2, 6)
    assert all(len(batch["id"]) == 10 for batch in batches)
    samples = data.source(encode)
    usable = {n for n in samples.numbers if samples.tried(int(n), 0, [])}
    assert set(ids_of(batches[:3])) == usable  # in one epoch all of them came
    assert set(samples.faults) >= {*planted(), "truncated tar", "unreadable tar"}
    assert any("1.tar/bad caption" in record.getMessage() for record in caplog.records)


def test_what_a_config_does_not_need_can_be_broken(faulty):
    data = collection(faulty, holes=HoleConfig.of_strokes(), faulty_share=0.6)
    samples, met = data.source(encode), []
    for number in samples.numbers:
        samples.tried(int(number), 0, met)
    assert not {"bad size", "wrong size", "bad segmentation", "bad run lengths"} & set(met)
    assert {"broken image", "bad caption"} <= set(met)


def test_too_many_faults_stop_a_run(faulty):
    with pytest.raises(TooManyFaults, match=r"4 of 28 samples.*allowed share of 0.05"):
        collection(faulty, faulty_share=0.05).source(encode)
    data = collection(faulty, holes=HoleConfig.of_objects(), faulty_share=0.2)
    feed = iter(data.batches(25, encode, shard=(0, 1)))
    with pytest.raises(TooManyFaults, match="raise faulty_share"):
        list(itertools.islice(feed, 40))
    feed.close()


def test_a_collection_without_a_whole_sample_is_refused(tmp_path):
    write_tar(tmp_path / "0.tar", {"a": members(0, image=None)})
    with pytest.raises(TooManyFaults, match="none of 1"):
        collection(tmp_path, faulty_share=1.0).source(encode)


def test_causes_are_named_once():
    assert len({*SKIPPED, *MENDED}) == len(SKIPPED) + len(MENDED)


@pytest.mark.parametrize(
    "settings", [{"size": 8}, {"pool": -1}, {"faulty_share": 1.5}, {"workers": -1}, {"threads": 0}]
)
def test_wrong_settings_are_refused(data, settings):
    with pytest.raises(ValueError, match="expected"):
        collection_with(data, **settings).batches(4, encode, shard=(0, 1))


@pytest.mark.parametrize("state", [{}, {"samples": "3"}, {"samples": -1}, {"samples": 1, "x": 2}])
def test_states_of_another_kind_are_refused(data, state):
    with pytest.raises(ValueError, match="expected a state"):
        iter(data.batches(4, encode, shard=(0, 1))).set_state(state)


def test_the_pipeline_imports_neither_torch_nor_tensorflow(data):
    code = (
        "import sys\n"
        "from brushjax.data.sets.brushdata import BrushData\n"
        "from tests.data.tiny import encode\n"
        f"data = BrushData({data.path!r}, 16, index_cache={data.index_cache!r})\n"
        "next(iter(data.batches(2, encode, shard=(0, 1))))\n"
        "found = {'torch', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
