"""The edit command: files in, files out."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from brushjax import cli
from brushjax.agents import EditPlan
from brushjax.inference import fireedit
from brushjax.inference.inpaint import Inpainter
from brushjax.inference.result import read_settings
from brushjax.pipelines import regions
from tests.agents.noise import Noise


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    return tmp_path


def run(files, **changes):
    values = {"image": files / "a.png", "mask": files / "m.png", "out": files / "o.png"}
    values |= {"instruction": "replace the dog with a cat", "steps": 1} | changes
    words = [f"--{name}={value}" for name, value in values.items() if value is not None]
    cli.main(["edit", *words])


@pytest.fixture
def noise(monkeypatch):
    """Paints without networks."""
    monkeypatch.setattr(Inpainter, "load", lambda *_, **__: Noise())


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_edit_command_plans_paints_and_keeps_its_settings(files, noise, capsys):
    run(files, seed=3)
    first, before, hole = (pixels(files / name) for name in ("o.png", "a.png", "m.png"))
    assert np.array_equal(first[hole == 0], before[hole == 0])
    assert not np.array_equal(first, before)
    assert "local 'dog': 'a cat'" in capsys.readouterr().out
    kept = read_settings(files / "o.png")
    assert (kept["category"], kept["object"], kept["seed"], kept["mask"]) == (
        "local",
        "dog",
        3,
        "m.png",
    )
    assert str(files) not in json.dumps(kept)
    run(files, step="plan", out=None, **{"plan-out": files / "plan.json"})
    run(files, instruction=None, mask=None, plan=files / "plan.json", out=files / "p.png", seed=3)
    assert np.array_equal(pixels(files / "p.png"), first)


def test_edit_command_paints_what_a_region_predictor_finds(files, noise, monkeypatch):
    asked = []

    class Finder:
        @classmethod
        def load(cls, folder):
            asked.append(folder.name)
            return cls()

        def find(self, image, instruction):
            asked.append(instruction)
            region = np.zeros(image.shape[:2], bool)
            region[:8] = True
            return regions.Found(region, np.ones((2, 2), np.float32))

    monkeypatch.setattr(regions, "RegionFinder", Finder)
    run(files, method="region", region=files / "predictor", mask=None)
    changed = (pixels(files / "o.png") != pixels(files / "a.png")).any(axis=-1)
    assert asked[0] == "predictor"
    assert "dog" in asked[1]
    assert changed[:8].any()
    assert not changed[8:].any()


def test_edit_command_gives_fireedit_the_instruction_as_it_is(files, monkeypatch):
    asked = []

    class Edits(fireedit.FireEditor):
        def __init__(self):
            pass

        @classmethod
        def load(cls, folder, dtype, *, programs):
            asked.append(folder.name)
            return cls()

        def __call__(self, image, instruction, **settings):
            asked.append((instruction, settings["steps"], settings["scheduler"]))
            return dataclasses.make_dataclass("Result", ["images"])(255 - image[None])

    monkeypatch.setattr(fireedit, "FireEditor", Edits)
    words = {
        "instruction": "the quick brown fox",
        "method": "fireedit",
        "mask": None,
        "steps": None,
    }
    run(files, **words, fireedit=files / "export")
    assert asked == ["export", ("the quick brown fox", 100, "euler-a")]
    asked.clear()
    run(files, **words)  # the small model in the package, and what it is made for
    assert asked == ["fireedit", ("the quick brown fox", 1, "ddim")]
    np.testing.assert_array_equal(pixels(files / "o.png"), 255 - pixels(files / "a.png"))
    run(files, **(words | {"mask": files / "m.png", "steps": 7}), fireedit=files / "export")
    assert asked[-1][1] == 7
    hole = pixels(files / "m.png") > 0
    same = (pixels(files / "o.png") == pixels(files / "a.png")).all(-1)
    assert same[~hole].all()  # a mask that is given is kept to
    assert not same[hole].any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pictures are worked on")
def test_edit_command_paints_with_the_small_base(files):
    run(files, seed=3)
    run(files, seed=3, out=files / "p.png")
    assert np.array_equal(pixels(files / "o.png"), pixels(files / "p.png"))
    hole = pixels(files / "m.png") > 0
    assert (pixels(files / "o.png") != pixels(files / "a.png"))[hole].any()


def test_edit_command_goes_on_with_a_session(files, noise):
    for number in (1, 2):
        run(files, session=files / "s", out=None)
        assert (files / f"s/turns/{number}/picture.png").is_file()


def test_edit_command_plans_a_folder_and_names_what_failed(files, capsys):
    (files / "in").mkdir()
    (files / "a.png").rename(files / "in/a.png")
    (files / "in/b.png").write_bytes(b"no picture")
    wanted = {"image": files / "in", "out": None, "step": "plan", "plan-out": files / "plans"}
    with pytest.raises(SystemExit, match="not edited:"):
        run(files, **wanted)
    assert EditPlan.load(files / "plans/a.json").object == "dog"
    assert not (files / "plans/b.json").exists()


def test_edit_command_shows_a_plan_without_writing(files, capsys):
    words = [f"--image={files / 'a.png'}", "--instruction=make it winter", "--dry-run"]
    cli.main(["edit", *words])
    assert "global '': 'winter'" in capsys.readouterr().out
    assert sorted(path.name for path in files.iterdir()) == ["a.png", "m.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction": None}, "expected --instruction or --plan"),
        ({"out": None}, "expected --out FILE"),
        ({"instruction": "the quick brown fox"}, "expected an edit such as"),
        ({"image": "nowhere.png"}, "no file or folder nowhere.png"),
        ({"step": "plan"}, "expected --plan-out"),
        ({"out": "o.xyz"}, r"expected a picture's name such as o\.png"),
        ({"out": __file__ + "/o.png"}, r"can't write .*o\.png: .*a file is in the way"),
        ({"plan-out": __file__ + "/p.json"}, r"can't write .*p\.json"),
        ({"out": None, "session": __file__}, r"can't write .*session\.json"),
    ],
)
def test_edit_command_says_what_is_wrong_in_one_line(files, changes, message):
    with pytest.raises(SystemExit, match=message) as caught:
        run(files, **changes)
    assert "\n" not in str(caught.value)


def test_edit_command_names_the_order_of_a_masks_sides(files, noise):
    Image.new("L", (16, 8), 255).save(files / "m.png")
    with pytest.raises(SystemExit, match=r"got 32x32 and 8x16 \(height x width\)"):
        run(files)


@pytest.mark.parametrize("given", [None, "folder"])
def test_edit_command_says_that_the_miniature_serves(files, noise, given, capsys):
    run(files, base=given)
    said = capsys.readouterr().err
    assert said.count("note: without --base the miniature in the package serves") == (not given)


def test_edit_command_never_writes_over_its_input(files):
    with pytest.raises(SystemExit, match="would be written over an input"):
        run(files, out=files / "a.png")


def test_edit_command_undoes_and_branches_in_a_session(files, noise, capsys):
    session = files / "session"
    run(files, out=None, session=session, seed=1)
    run(files, out=None, session=session, seed=2)
    run(files, out=None, session=session, seed=3, undo=1)
    run(files, out=None, session=session, seed=4, turn=0)
    row = json.loads((session / "session.json").read_text())
    assert [turn["parent"] for turn in row["turns"]] == [None, 0, 1, 1, 0]
    capsys.readouterr()
    run(files, out=None, session=session, instruction=None, mask=None, turn=3)
    said = capsys.readouterr().out
    assert "stands at turn 3" in said
    assert "4 from 0: replace the dog with a cat (seed 4)" in said
    with pytest.raises(SystemExit, match="expected --session FOLDER with --undo"):
        run(files, undo=1)
    with pytest.raises(SystemExit, match="expected a session in"):
        run(files, out=None, session=files / "other", undo=1)
