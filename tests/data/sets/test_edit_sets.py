"""Sets of edits, segmentation and conversations, each in a miniature of its published layout."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from brushjax.data.faults import Fault
from brushjax.data.mixture import Mixture, Part
from brushjax.data.schema import EditPair
from brushjax.data.sets.captions import Captions
from brushjax.data.sets.conversations import Conversations
from brushjax.data.sets.edit_pairs import FORMS, SIDED, EditPairs
from brushjax.data.sets.segmentation import COLOURS, UNCHANGED, Segmentation, plain_pickle
from brushjax.data.sources.tables import GroupOrder

ROWS, SIDE = 24, 16


def as_record(record):
    """The record itself, beside what a batch needs."""
    words = record.instruction if isinstance(record, EditPair) else record.question
    target = record.target if isinstance(record, EditPair) else record.image
    text = np.frombuffer(words.encode()[:96].ljust(96), np.uint8)
    return {"image": record.image, "target": target, "text": text, "id": np.int64(record.id)}


def text_of(sample):
    return bytes(sample["text"]).decode().strip()


def encoded(array, form="PNG"):
    out = io.BytesIO()
    Image.fromarray(array).save(out, form)
    return out.getvalue()


def gradient(n, height=20, width=SIDE):
    """A picture that is not its own mirror image and tells its number."""
    x = np.broadcast_to(np.linspace(0, 200, width), (height, width))
    return np.stack([x, x * 0 + n * 7, 255 - x], axis=-1).astype(np.uint8)


def write_table(file, form, rows, groups=5):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    source, said, target = FORMS[form]
    picture = lambda data: None if data is None else {"bytes": data, "path": None}  # noqa: E731
    columns = {
        source: [picture(row[0]) for row in rows],
        said: [row[1] for row in rows],
        target: [picture(row[2]) for row in rows],
    }
    parquet.write_table(arrow.table(columns), file, row_group_size=groups)


def good_row(n):
    image = encoded(gradient(n))
    return image, f"edit number {n}", image


FAULTY = {
    0: (b"", "empty", encoded(gradient(0))),
    1: (b"no picture", "broken", encoded(gradient(1))),
    2: (encoded(gradient(2))[:50], "cut off", encoded(gradient(2))),
    3: (encoded(gradient(3)), "", encoded(gradient(3))),
    4: (encoded(gradient(4)), "   ", encoded(gradient(4))),
    5: (encoded(gradient(5)), "no result", None),
    6: (None, "no picture", encoded(gradient(6))),
    7: (encoded(gradient(7)), "broken result", b"no picture"),
}
CAUSES = {"empty image": 1, "broken image": 3, "bad caption": 2, "missing member": 2}


def one_epoch(data, count, hosts=1):
    """The samples of an epoch, over several hosts."""
    rows = []
    per = 2
    feeds = [iter(data.batches(per, as_record, shard=(host, hosts))) for host in range(hosts)]
    while len(rows) < count:
        for feed in feeds:
            batch = next(feed)
            rows += [{k: v[i] for k, v in batch.items()} for i in range(per)]
    for feed in feeds:
        feed.close()
    return rows


@pytest.mark.parametrize("form", FORMS)
def test_tables_give_every_row_once_an_epoch_on_any_number_of_hosts(tmp_path, form):
    write_table(tmp_path / "train-0.parquet", form, [good_row(n) for n in range(ROWS // 2)])
    write_table(
        tmp_path / "train-1.parquet", form, [good_row(n) for n in range(ROWS // 2, ROWS)], groups=7
    )
    data = EditPairs(str(tmp_path / "*.parquet"), form, size=SIDE)
    alone = one_epoch(data, ROWS)
    assert sorted(int(row["id"]) for row in alone) == list(range(ROWS))
    for row in alone:
        assert text_of(row) == f"edit number {row['id']}"
    for hosts in (2, 3):
        other = one_epoch(data, ROWS, hosts)
        for one, same in zip(alone, other):
            np.testing.assert_array_equal(one["image"], same["image"])
    second = [int(data.source(as_record)[ROWS + n]["id"]) for n in range(ROWS)]
    assert sorted(second) == list(range(ROWS))
    assert second != [int(row["id"]) for row in alone]


def test_table_goes_on_where_it_was(tmp_path):
    write_table(tmp_path / "a.parquet", "magicbrush", [good_row(n) for n in range(ROWS)])
    data = EditPairs(str(tmp_path / "a.parquet"), "magicbrush", size=SIDE)
    feed = iter(data.batches(3, as_record, shard=(0, 1)))
    seen = [next(feed)["id"].tolist() for _ in range(3)]
    state = feed.get_state()
    rest = [next(feed)["id"].tolist() for _ in range(5)]
    feed.close()
    again = iter(data.batches(3, as_record, shard=(0, 1)))
    again.set_state(state)
    assert [next(again)["id"].tolist() for _ in range(5)] == rest
    again.close()
    assert sorted(n for row in seen + rest for n in row) == list(range(ROWS))


def test_faults_of_tables_are_counted_by_cause_and_replaced(tmp_path):
    rows = [FAULTY.get(n) or good_row(n) for n in range(ROWS)]
    write_table(tmp_path / "a.parquet", "ultraedit", rows)
    data = EditPairs(str(tmp_path / "a.parquet"), "ultraedit", size=SIDE, faulty_share=1, seed=4)
    stored = data.source(as_record)._stored
    found = {}
    for n in range(ROWS):
        try:
            stored.record(n, np.random.default_rng(0), [])
        except Fault as fault:
            found[fault.cause] = found.get(fault.cause, 0) + 1
    assert found == CAUSES
    samples = one_epoch(data, ROWS)
    assert not {int(row["id"]) for row in samples} & set(FAULTY)
    assert sum(data.source(as_record).faults.values()) >= len(FAULTY)


def test_table_of_another_layout_is_refused(tmp_path):
    write_table(tmp_path / "a.parquet", "ultraedit", [good_row(0)])
    with pytest.raises(ValueError, match=r"expected columns \['instruction', 'source_img'"):
        EditPairs(str(tmp_path / "a.parquet"), "magicbrush").source(as_record)


@pytest.mark.parametrize(
    ("instruction", "sided"),
    [
        ("put a dog on the left", True),
        ("Move it to the right-hand side", True),
        ('add a sign that says "STOP"', True),
        ("write hello on the wall", True),
        ("turn the wheel clockwise", True),
        ("make it brighter", False),
        ("add a bright sun", False),
    ],
)
def test_instructions_that_name_a_side_are_never_mirrored(tmp_path, instruction, sided):
    assert bool(SIDED.search(instruction)) == sided
    image = encoded(gradient(1))
    write_table(tmp_path / "a.parquet", "magicbrush", [(image, instruction, image)] * 4)
    data = EditPairs(str(tmp_path / "a.parquet"), "magicbrush", size=SIDE, mirrored=1.0)
    sample = data.source(as_record)[0]
    rising = sample["image"][0, -1, 0] > sample["image"][0, 0, 0]
    assert rising == sided
    np.testing.assert_array_equal(sample["image"], sample["target"])


def test_groups_of_rows_are_read_once_an_epoch():
    sizes = np.array([3, 5, 2, 4, 6, 1])
    order = GroupOrder(sizes, seed=0, together=2)
    rows = [order[n] for n in range(21)]
    assert sorted(rows) == list(range(21))
    group = np.repeat(np.arange(6), sizes)[rows]
    spans = [np.flatnonzero(group == g) for g in range(6)]
    assert all(np.ptp(span) < 11 for span in spans)
    assert rows != [order[21 + n] for n in range(21)]


def reason_folder(folder, faults=False):
    (folder / "pictures").mkdir()
    rows = {}
    for n in range(6):
        (folder / f"pictures/{n}.png").write_bytes(encoded(gradient(n)))
        name = f"pictures/{n}.png"
        row = {
            "origin_img_path": name,
            "target_img_path": name,
            "instruction": [f"a {n}", f"b {n}"],
        }
        rows[f"{n:04}"] = row
    if faults:
        rows["0000"]["instruction"] = []
        rows["0001"]["origin_img_path"] = "pictures/99.png"
        rows["0002"]["target_img_path"] = "../secret.png"
        del rows["0003"]["instruction"]
        (folder / "pictures/4.png").write_bytes(b"x")
    (folder / "reason.json").write_text(json.dumps(rows))
    return EditPairs(str(folder / "reason.json"), "reasonedit", size=SIDE, faulty_share=1)


def causes(data, count):
    stored, found = data.source(as_record)._stored, {}
    for n in range(count):
        try:
            stored.record(n, np.random.default_rng(n), [])
        except Fault as fault:
            found[fault.cause] = found.get(fault.cause, 0) + 1
    return found


def test_reasonedit_draws_one_of_the_wordings_and_counts_its_faults(tmp_path):
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    data = reason_folder(tmp_path / "good")
    texts = {text_of(data.source(as_record)[n]) for n in range(60)}
    assert texts == {f"{word} {n}" for word in "ab" for n in range(6)}
    bad = reason_folder(tmp_path / "bad", faults=True)
    expected = {"bad caption": 1, "missing member": 3, "broken image": 1}
    assert causes(bad, 6) == expected


def test_stuff_is_painted_in_the_colour_that_is_asked_for(tmp_path):
    maps, images = tmp_path / "maps", tmp_path / "images"
    maps.mkdir()
    images.mkdir()
    for n in range(4):
        classes = np.full((SIDE, SIDE), 255, np.uint8)
        classes[:8] = 0
        classes[12:] = 2
        (maps / f"{n}.png").write_bytes(encoded(classes))
        (images / f"{n}.jpg").write_bytes(encoded(gradient(n, SIDE), "JPEG"))
    (maps / "3.png").write_bytes(encoded(np.full((SIDE, SIDE), 255, np.uint8)))
    (tmp_path / "labels.txt").write_text("0: unlabeled\n1: person\n2: Bicycle\n3: car\n")
    settings = {"images": str(images), "labels": str(tmp_path / "labels.txt"), "size": SIDE}
    data = Segmentation(str(maps), absent=0.0, **settings)
    for n in range(40):
        sample = data.source(as_record)[n]
        text, changed = text_of(sample), np.any(sample["image"] != sample["target"], axis=-1)
        if sample["id"] == 3:
            assert text == UNCHANGED
            assert not changed.any()
            continue
        rows = slice(0, 8) if "person" in text else slice(12, 16)
        assert "person" in text or "car" in text
        outside = np.ones((SIDE, SIDE), bool)
        outside[rows] = False
        assert not changed[outside].any()
        (colour,) = [rgb for name, rgb in COLOURS.items() if f" {name}" in text]
        expected = 0.5 * sample["image"][rows] + 0.5 * np.array(colour)
        assert np.abs(sample["target"][rows] - expected).max() <= 0.5
    absent = Segmentation(str(maps), absent=1.0, **settings).source(as_record)
    for n in range(12):
        sample = absent[n]
        np.testing.assert_array_equal(sample["image"], sample["target"])
        if sample["id"] != 3:
            assert "bicycle" in text_of(sample)


def refer_folder(folder, form):
    images = folder / "images"
    images.mkdir(parents=True)
    (images / "0.png").write_bytes(encoded(gradient(0, SIDE)))
    about = [{"id": 5, "file_name": "0.png", "height": SIDE, "width": SIDE}]
    about += [{"id": 6, "file_name": "none.png"}, {"id": 7, "file_name": "0.png", "height": 9}]
    shapes = {1: [[2, 2, 9, 2, 9, 9, 2, 9]], 2: [], 3: {"counts": [0, SIDE, 240], "size": [16, 16]}}
    annotations = [{"id": key, "segmentation": value} for key, value in shapes.items()]
    (folder / "instances.json").write_text(
        json.dumps({"images": about, "annotations": annotations})
    )
    several = form == "grefcoco"
    rows = [(5, 1), (5, 3), (6, 1), (7, 1), (5, 2), (5, 99), (8, 1), (5, 1)]
    refs = [
        {
            "split": "train",
            "image_id": i,
            "ann_id": [a] if several else a,
            "sentences": [{"sent": "IT"}],
        }
        for i, a in rows
    ]
    refs[7]["sentences"] = []
    if several:
        refs.append({**refs[0], "ann_id": [-1]})
        refs.append({**refs[0], "ann_id": [1, 3]})
    refs.append({**refs[0], "split": "val"})
    content = json.dumps(refs).encode() if several else pickle.dumps(refs)
    (folder / "refs").write_bytes(content)
    return Segmentation(
        str(folder / "refs"), str(images), str(folder / "instances.json"), form, size=SIDE
    )


@pytest.mark.parametrize("form", ["refcoco", "grefcoco"])
def test_referred_things_are_painted_and_faults_counted(tmp_path, form):
    data = refer_folder(tmp_path, form)
    stored = data.source(as_record)._stored
    assert len(stored) == 10 if form == "grefcoco" else 8
    expected = {"missing member": 2, "wrong size": 1, "bad segmentation": 2, "bad caption": 1}
    assert causes(data, 8) == expected
    record = stored.record(0, np.random.default_rng(0), [])
    changed = np.any(record.image != record.target, axis=-1)
    assert changed[3:9, 3:9].mean() > 0.9
    assert not changed[:2].any()
    assert " it" in record.instruction
    column = stored.record(1, np.random.default_rng(0), [])
    assert not np.any(column.image[:, 1:] != column.target[:, 1:])
    assert np.any(column.image[:, 0] != column.target[:, 0])
    if form == "grefcoco":
        nothing = stored.record(8, np.random.default_rng(0), [])
        np.testing.assert_array_equal(nothing.image, nothing.target)
        both = stored.record(9, np.random.default_rng(0), [])
        assert (both.image != both.target).any(-1).sum() > changed.sum()


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "content", [pickle.dumps([Evil()]), pickle.dumps(np.zeros(2)), b"\x80\x04.", b"plain"]
)
def test_pickles_that_name_anything_are_refused(content, capsys):
    with pytest.raises(ValueError, match="expected a pickle of plain values"):
        plain_pickle(content, "refs.p")
    assert "run" not in capsys.readouterr().out


def test_conversations_draw_a_turn_and_count_their_faults(tmp_path):
    (tmp_path / "0.jpg").write_bytes(encoded(gradient(0), "JPEG"))
    turns = [
        {"from": "human", "value": "<image>\nwhat is it"},
        {"from": "gpt", "value": "a slope"},
        {"from": "human", "value": "which colour"},
        {"from": "gpt", "value": "blue"},
    ]
    rows = [{"id": f"{n}", "image": "0.jpg", "conversations": turns} for n in range(9)]
    rows[1] = {"id": "1", "conversations": turns}
    rows[2]["image"] = "9.jpg"
    rows[3]["image"] = "../0.jpg"
    rows[4]["conversations"] = []
    rows[5]["conversations"] = turns[1:2]
    rows[6]["conversations"] = [{"from": "human", "value": " <image> "}, turns[1]]
    rows[7]["conversations"] = [turns[0], {"from": "gpt", "value": None}]
    rows[8] = "nothing"
    rows += [{**rows[0], "id": f"{n}"} for n in range(9, 40)]
    (tmp_path / "talks.json").write_text(json.dumps(rows))
    data = Conversations(str(tmp_path / "talks.json"), str(tmp_path), size=SIDE, faulty_share=1)
    assert causes(data, 9) == {"missing member": 4, "bad caption": 4}
    assert sum(data.source(as_record)[n]["id"] < 9 for n in range(40)) < 9
    drawn = {text_of(data.source(as_record)[n]) for n in range(40)}
    assert drawn == {"what is it", "which colour"}


def test_captions_are_lines_with_or_without_an_address(tmp_path):
    (tmp_path / "a.tsv").write_bytes("https://x/1.jpg\ta dog\nhttp://x/2\t\nzwei Bären".encode())
    (tmp_path / "b.tsv").write_bytes(b"plain\twords\n\nlast\n\xff\n")
    data = Captions(str(tmp_path / "*.tsv"), faulty_share=1)
    plain = lambda record: {  # noqa: E731
        "text": np.array(record.caption),
        "id": np.int64(record.id),
    }
    source = data.source(plain)
    assert len(source._stored) == 7
    found = {str(source[n]["text"]) for n in range(40)}
    assert found == {"a dog", "zwei Bären", "plain\twords", "last"}


def test_mixture_of_these_sets_keeps_its_shares_and_goes_on_over_hosts(tmp_path):
    write_table(tmp_path / "a.parquet", "magicbrush", [good_row(n) for n in range(ROWS)])
    (tmp_path / "b").mkdir()
    edits = EditPairs(str(tmp_path / "a.parquet"), "magicbrush", size=SIDE)
    data = Mixture((Part(edits, 0.75), Part(reason_folder(tmp_path / "b"), 0.25)))
    alone = [int(row["id"]) for row in one_epoch(data, 60)]
    assert 5 <= sum(number % 2 for number in alone) <= 25
    assert [int(row["id"]) for row in one_epoch(data, 60, 5)] == alone
    assert data.shapes().keys() == {"image", "target", "id"}
