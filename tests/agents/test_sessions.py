"""Sessions of several turns: kept, undone, branched, and exact outside the masks."""

import dataclasses

import numpy as np
import pytest

from brushjax.agents import Editor, EditPlan, instructor
from brushjax.agents.editors import InpaintingEditor, editor
from brushjax.agents.sessions import Session
from brushjax.inference.inpaint import Inpainter
from tests.agents.noise import Noise

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (24, 32, 3), np.uint8)


@pytest.fixture
def painter():
    return InpaintingEditor(Noise())


def planned(image, random=RANDOM, text="replace the dog with a cat"):
    top, left = random.integers(0, 12, 2)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[top : top + 10, left : left + 14] = 255
    return dataclasses.replace(instructor("patterns")(text, image), mask=mask)


def exact_turns(edit, folder, turns=4, seed=0):
    """Runs a session and returns its pictures, each checked outside its mask."""
    session = Session.start(
        folder, np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    )
    for turn in range(turns):
        before, plan = session.image, planned(session.image, np.random.default_rng((seed, turn)))
        session.edit(plan, edit, seed=turn)
        keep = plan.mask == 0
        assert np.array_equal(session.image[keep], before[keep])
        assert not np.array_equal(session.image, before)
    return session


def test_session_keeps_every_pixel_outside_the_masks_over_thirty_sessions(painter, tmp_path):
    for number in range(30):
        session = exact_turns(painter, tmp_path / str(number), seed=number)
        assert [turn.number for turn in session.path()] == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pictures are worked on")
def test_session_keeps_every_pixel_outside_the_masks_with_real_networks(tmp_path):
    edit = InpaintingEditor(Inpainter.load(), steps=2)
    for number in range(30):
        exact_turns(edit, tmp_path / str(number), seed=number)


def test_session_is_made_again_from_its_plans_and_seeds(painter, tmp_path):
    first = exact_turns(painter, tmp_path / "a")
    again = Session.start(tmp_path / "b", first.folder / "turns/0/picture.png")
    for turn in first.path()[1:]:
        again.edit(first.plan(turn.number), painter, turn.seed)
    assert np.array_equal(again.image, first.image)


def test_session_undoes_and_branches(painter, tmp_path):
    session = exact_turns(painter, tmp_path / "s", turns=2)
    kept = session.image
    assert session.undo() == 1
    session.edit(planned(session.image), painter, 9)
    assert [turn.number for turn in session.path()] == [0, 1, 3]
    assert session.branches() == [2, 3]
    again = Session.open(tmp_path / "s")
    assert again.at == 3
    again.go(2)
    assert np.array_equal(again.image, kept)
    again.go(0)
    with pytest.raises(ValueError, match="nothing to undo"):
        again.undo()


def test_session_refuses_what_does_not_belong_to_it(painter, tmp_path):
    session = Session.start(tmp_path / "s", PICTURE)
    with pytest.raises(ValueError, match="a plan for the picture"):
        session.edit(planned(PICTURE[::-1]), painter)
    with pytest.raises(ValueError, match="holds a session already"):
        Session.start(tmp_path / "s", PICTURE)
    with pytest.raises(ValueError, match="expected a session in"):
        Session.open(tmp_path)
    with pytest.raises(ValueError, match="began with another picture"):
        session.expect(PICTURE[::-1])
    with pytest.raises(ValueError, match="a turn of 0 to 0, got 7"):
        session.go(7)


def test_session_that_is_stopped_while_painting_stays_as_it_was(painter, tmp_path, monkeypatch):
    session = exact_turns(painter, tmp_path / "s", turns=1)
    monkeypatch.setattr("brushjax.agents.sessions.write_picture", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.edit(planned(session.image), painter)
    again = Session.open(tmp_path / "s")
    assert (again.at, len(again.turns)) == (1, 2)


def test_editor_tells_a_removal_to_stay_away_from_the_thing():
    painter = InpaintingEditor(Noise(), negative_prompt="ugly")
    painter(planned(PICTURE, text="remove the dog"))
    ((prompt, negative),) = painter.painter.told
    assert "dog" not in prompt
    assert negative == "dog, ugly"
    assert isinstance(painter, Editor)


def test_editor_needs_a_mask_and_a_known_method():
    with pytest.raises(ValueError, match="make the mask first"):
        InpaintingEditor(Noise())(EditPlan(PICTURE, "x", "global"))
    with pytest.raises(ValueError, match="expected a method of agent"):
        editor("magic", Noise)
