"""Crops of photographs: labels, splits, random access, errors."""

import json
import shutil

import cv2
import numpy as np
import pytest

from brushjax.data.sets import photos
from brushjax.data.sets.photos import CLASSES, SHIPPED, PhotoSource, class_crops, class_names

FREE = {"CC0-1.0", "CC-BY-2.0", "public domain"}


def _write(folder, pixels, regions, objects=(), any_orientation=False):
    """A folder with one photograph, stored without loss."""
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "one.png"), pixels[..., ::-1])
    entry = {
        "name": "one",
        "file": "one.png",
        "title": "one",
        "licence": "CC0-1.0",
        "author": "nobody",
        "any_orientation": any_orientation,
        "regions": regions,
        "objects": list(objects),
    }
    (folder / "photos.json").write_text(json.dumps({"photos": [entry]}))
    return folder


def _region(split="train", box=(0, 0, 200, 200), name="thing"):
    return {"class": name, "split": split, "box": list(box), "captions": ["a thing"]}


@pytest.fixture
def poisoned(tmp_path):
    """The shipped photographs with every held-out rectangle painted over."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    entries = json.loads((SHIPPED / "photos.json").read_text())
    for entry, photo in zip(entries["photos"], photos.load_photos()):
        pixels = photo.pixels.copy()
        for region in photo.regions:
            if region.split == "held_out":
                left, top, right, bottom = region.box
                pixels[top:bottom, left:right] = (255, 0, 255)
        entry["file"] = f"{entry['name']}.png"
        cv2.imwrite(str(folder / entry["file"]), pixels[..., ::-1])
    (folder / "photos.json").write_text(json.dumps(entries))
    return folder


def test_shipped_photos_are_free_credited_and_small():
    readme = (SHIPPED / "README.md").read_text()
    files = sorted(path.name for path in SHIPPED.glob("*.jpg"))
    entries = json.loads((SHIPPED / "photos.json").read_text())["photos"]
    assert sorted(entry["file"] for entry in entries) == files
    assert sum((SHIPPED / name).stat().st_size for name in files) < 1.2e6
    for entry in entries:
        assert entry["licence"] in FREE
        assert entry["author"]
        assert entry["source"]
        assert f"| {entry['file']} |" in readme


def test_photos_decode_to_the_recorded_size():
    entries = json.loads((SHIPPED / "photos.json").read_text())["photos"]
    for entry, photo in zip(entries, photos.load_photos()):
        assert [photo.pixels.shape[1], photo.pixels.shape[0]] == entry["size"]


def test_photos_are_rgb():
    suit = class_crops("held_out", "astronaut", 4).reshape(-1, 3).mean(0)
    assert suit[0] > suit[1] > suit[2]  # orange
    sky = class_crops("train", "night sky", 4).reshape(-1, 3).mean(0)
    assert sky[2] > sky[0]


def test_source_depends_on_seed_and_number_alone():
    source = PhotoSource(seed=5, size=64)
    forwards = [source[n].image for n in range(6)]
    again = PhotoSource(seed=5, size=64)
    backwards = [again[n].image for n in reversed(range(6))][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    other = PhotoSource(seed=6, size=64)
    assert any((other[n].image != forwards[n]).any() for n in range(6))


def test_source_has_crops_of_the_asked_size():
    for size in (32, 128):
        crop = PhotoSource(size=size)[3]
        assert crop.image.shape == (size, size, 3)
        assert crop.image.dtype == np.uint8
        assert crop.image.flags.c_contiguous


def test_training_crops_show_no_held_out_pixel(poisoned):
    clean, painted = PhotoSource(seed=1, size=48), PhotoSource(seed=1, size=48, folder=poisoned)
    for n in range(300):
        np.testing.assert_array_equal(clean[n].image, painted[n].image)


def test_held_out_crops_show_held_out_pixels_only(poisoned):
    source = PhotoSource(seed=1, size=48, split="held_out", folder=poisoned)
    for n in range(100):
        assert (source[n].image == (255, 0, 255)).all()


def test_splits_may_not_overlap(tmp_path):
    pixels = np.zeros((200, 300, 3), np.uint8)
    regions = [_region(box=(0, 0, 150, 200)), _region("held_out", (149, 50, 300, 200))]
    with pytest.raises(ValueError, match=r"one: held-out box .* shares pixels"):
        PhotoSource(folder=_write(tmp_path, pixels, regions))
    regions[1]["box"][0] = 150
    again = _write(tmp_path / "touching", pixels, regions)
    assert PhotoSource(folder=again).classes == ("thing",)


def test_classes_are_drawn_evenly():
    source = PhotoSource(size=8, split="held_out")
    counts = np.bincount([source[n].class_id for n in range(1700)], minlength=len(CLASSES))
    held_out = [CLASSES.index(name) for name in class_names(split="held_out")]
    assert counts.sum() == counts[held_out].sum()
    assert counts[held_out].min() > 60
    assert counts[held_out].max() < 140


def test_class_ids_are_the_same_in_both_splits():
    for split in photos.SPLITS:
        source = PhotoSource(size=8, split=split)
        assert all(source[n].class_id == CLASSES.index(source[n].class_name) for n in range(50))


def test_captions_are_all_listed():
    known = photos.all_captions()
    assert len(set(known)) == len(known)
    source = PhotoSource(size=8)
    seen = {source[n].caption for n in range(400)}
    assert seen <= set(known)
    assert len(seen) > 100


def test_shrinking_is_antialiased(tmp_path):
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[::2, ::2] = pixels[1::2, 1::2] = 255
    folder = _write(tmp_path, pixels, [_region(box=(0, 0, 256, 256))])
    image = PhotoSource(size=64, sides=(256, 256), folder=folder)[0].image
    assert np.abs(image.astype(int) - 127).max() <= 1


@pytest.mark.parametrize("any_orientation", [False, True])
def test_outlines_follow_scale_flips_and_turns(tmp_path, any_orientation):
    corners = np.array([(40, 30), (140, 60), (90, 150)])
    pixels = np.zeros((200, 200, 3), np.uint8)
    cv2.fillPoly(pixels, [corners], (255, 255, 255))
    objects = [{"class": "thing", "polygon": corners.tolist()}]
    folder = _write(tmp_path, pixels, [_region()], objects, any_orientation)
    source = PhotoSource(size=96, sides=(140, 200), folder=folder)
    corners_seen = set()
    for n in range(60):
        crop = source[n]
        drawn = np.zeros((96, 96), np.uint8)
        cv2.fillPoly(drawn, [np.rint(crop.outlines[0]).astype(np.int32)], 1)
        seen = crop.image[..., 0] > 127
        assert (drawn.astype(bool) == seen).mean() > 0.97
        corners_seen.add(tuple(np.sign(crop.outlines[0][1] - crop.outlines[0][0])))
    assert len(corners_seen) == (4 if any_orientation else 2)


def test_jitter_changes_colours_and_no_places():
    plain, tinted = PhotoSource(size=64), PhotoSource(size=64, jitter=0.2)
    assert plain[0].box == tinted[0].box
    change = tinted[0].image.mean((0, 1)) / plain[0].image.mean((0, 1))
    assert (np.abs(change - 1) < 0.22).all()
    assert np.ptp(change) > 0.005


def test_a_cut_off_photo_is_one_clear_error(tmp_path):
    shutil.copytree(SHIPPED, tmp_path, dirs_exist_ok=True)
    whole = (tmp_path / "cat.jpg").read_bytes()
    (tmp_path / "cat.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"complete JPEG or PNG picture in .*cat\.jpg"):
        PhotoSource(folder=tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_that_is_no_picture_is_one_clear_error(tmp_path, content):
    folder = _write(tmp_path, np.zeros((200, 200, 3), np.uint8), [_region()])
    (folder / "one.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"one\.png, got \d+ bytes"):
        PhotoSource(folder=folder)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"photos\.json"):
        PhotoSource(folder=tmp_path)
    folder = _write(tmp_path / "a", np.zeros((200, 200, 3), np.uint8), [_region()])
    (folder / "one.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"one\.png"):
        PhotoSource(folder=folder)


def test_a_list_that_is_no_json_is_one_clear_error(tmp_path):
    (tmp_path / "photos.json").write_text("{")
    with pytest.raises(ValueError, match=r"photos\.json: expected"):
        PhotoSource(folder=tmp_path)


@pytest.mark.parametrize(
    ("region", "message"),
    [(_region("test"), "expected a split"), (_region(box=(0, 0, 201, 50)), "box inside 200x200")],
)
def test_wrong_labels_are_refused(tmp_path, region, message):
    folder = _write(tmp_path, np.zeros((200, 200, 3), np.uint8), [region])
    with pytest.raises(ValueError, match=message):
        PhotoSource(folder=folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "expected a split"),
        ({"size": 4}, "size >= 8"),
        ({"sides": (200, 100)}, "sides"),
        ({"classes": ("unicorn",)}, "got .*unicorn"),
        ({"classes": ("coffee",), "split": "held_out"}, "held_out regions .* got .*coffee"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PhotoSource(**settings)


def test_class_crops_are_of_one_class_and_not_all_alike():
    crops = class_crops("train", "leaves", 5, size=32)
    assert crops.shape == (5, 32, 32, 3)
    assert len({crop.tobytes() for crop in crops}) == 5
    means = crops.reshape(-1, 3).mean(0)
    assert means.argmax() == 1  # green


def test_photos_outside_the_folder_are_refused(tmp_path):
    folder = _write(tmp_path / "mine", np.zeros((200, 200, 3), np.uint8), [_region()])
    entries = json.loads((folder / "photos.json").read_text())
    entries["photos"][0]["file"] = "../one.png"
    (folder / "photos.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="expected a name inside"):
        photos.load_photos(folder)
