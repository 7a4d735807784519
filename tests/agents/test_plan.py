"""An edit's plan: checked where it is made, whole on disk."""

import dataclasses
import json

import numpy as np
import pytest

from brushjax.agents import EditPlan

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


@pytest.fixture
def plan():
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 8:20] = 255
    return EditPlan(
        PICTURE,
        "replace the dog with a cat",
        "local",
        "dog",
        "a dog",
        "a cat",
        mask,
        [(8, 4, 20, 12)],
    )


def test_plan_comes_back_from_disk(plan, tmp_path):
    path = plan.save(tmp_path / "plan.json")
    again = EditPlan.load(path, PICTURE)
    for field in dataclasses.fields(EditPlan):
        assert np.array_equal(getattr(again, field.name), getattr(plan, field.name)), field.name
    assert EditPlan.load(path).image is None


def test_plan_that_is_written_again_leaves_no_old_mask(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    changed = dataclasses.replace(plan, mask=255 - plan.mask)
    changed.save(tmp_path / "plan.json")
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert np.array_equal(EditPlan.load(tmp_path / "plan.json").mask, changed.mask)


def test_plan_stays_whole_where_writing_stops_between_its_files(plan, tmp_path, monkeypatch):
    path = plan.save(tmp_path / "plan.json")
    monkeypatch.setattr("brushjax.files.write_json", lambda *_: (_ for _ in ()).throw(OSError()))
    with pytest.raises(OSError):  # noqa: PT011 - of the fixture
        dataclasses.replace(plan, mask=255 - plan.mask).save(path)
    assert np.array_equal(EditPlan.load(path).mask, plan.mask)


def test_plan_refuses_another_picture_and_another_mask(plan, tmp_path):
    path = plan.save(tmp_path / "plan.json")
    with pytest.raises(ValueError, match="made for another picture, of 32x24"):
        EditPlan.load(path, PICTURE[::-1])
    (mask,) = tmp_path.glob("*.png")
    EditPlan(None, "x", "global", mask=plan.mask[::-1]).save(tmp_path / "other.json")
    (other,) = tmp_path.glob("other*.png")
    other.replace(mask)
    with pytest.raises(ValueError, match="is not the mask"):
        EditPlan.load(path)
    mask.unlink()
    with pytest.raises(ValueError, match="no such file"):
        EditPlan.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category": "paint"}, "expected a category of"),
        ({"mask": np.zeros((8, 8), np.uint8)}, "of one size"),
        ({"boxes": [(3, 3, 3, 9)]}, "left < right"),
    ],
)
def test_plan_refuses_what_does_not_fit(plan, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(plan, **changes)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 2}'])
def test_plan_refuses_files_that_are_none(content, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json"):
        EditPlan.load(tmp_path / "plan.json")


def test_plan_reads_no_mask_outside_its_folder(plan, tmp_path):
    path = plan.save(tmp_path / "in/plan.json")
    row = json.loads(path.read_text())
    row["mask"]["file"] = "../secret.png"
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match="leads out of it"):
        EditPlan.load(path)
