"""Progress by step: the same results, and nothing compiled anew."""

import jax
import numpy as np
import pytest

from brushjax.inference.engine import edit, program
from brushjax.inference.engine.approximations import Approximations
from brushjax.inference.inpaint import Inpainter
from brushjax.sharding import MeshShape, make_mesh
from tests.inference.conftest import SD15_SCHEDULER

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
MASK = np.zeros((24, 32), np.uint8)
MASK[8:20, 8:20] = 255


def paint(painter, count=1, **settings):
    return painter(IMAGE, MASK, ["a red cat"] * count, **{"steps": 3, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"scheduler": "euler-a", "count": 2}, marks=pytest.mark.heavy),
        {"scheduler": "pndm"},
        pytest.param({"guidance": 1, "together": 1, "count": 2}, marks=pytest.mark.slow),
        pytest.param({"control_end": 0.5, "scale": 0.3}, marks=pytest.mark.slow),
    ],
)
def test_progress_leaves_results_bit_for_bit(painter, settings):
    told = []
    watched = paint(painter, **settings, progress=lambda *steps: told.append(steps))
    whole = paint(painter, **settings)
    np.testing.assert_array_equal(watched.latents, whole.latents)
    np.testing.assert_array_equal(watched.images, whole.images)
    calls = 4 if settings.get("scheduler") == "pndm" else 3
    assert (told[0], told[-1]) == ((0, calls), (calls, calls))
    assert told == sorted(set(told))


def test_progress_tells_of_every_slow_step_and_of_quick_ones_together(painter, monkeypatch):
    def steps_told(every):
        told = []
        monkeypatch.setattr(program, "TELL_EVERY", every)
        result = paint(painter, steps=9, progress=lambda *steps: told.append(steps))
        return [done for done, _ in told], result

    every, first = steps_told(0.0)
    assert every == list(range(10))
    few, second = steps_told(1e9)
    assert few == [0, 1, 2, 3, 9]  # one ahead while the first are timed
    np.testing.assert_array_equal(first.images, second.images)


def test_progress_compiles_three_programs_for_any_number_of_steps(painter):
    before = [stage._cache_size() for stage in (edit.begin, edit.proceed, edit.end)]
    nothing = lambda *_: None  # noqa: E731
    paint(painter, progress=nothing)
    paint(painter, steps=7, seed=3, scheduler="ddim", progress=nothing)
    paint(painter, guidance=2, scale=0.5, progress=nothing)
    after = [stage._cache_size() for stage in (edit.begin, edit.proceed, edit.end)]
    assert all(b <= a + 1 for a, b in zip(before, after))


@pytest.mark.slow
@pytest.mark.parametrize("together", [None, 1])
def test_progress_over_devices_compiles_once(parts, tokenizer_folder, together):
    mesh = make_mesh(MeshShape(2), jax.devices()[:2])
    many = Inpainter.from_parts(
        **parts, tokenizer=tokenizer_folder, scheduler=SD15_SCHEDULER, mesh=mesh
    )
    before = edit.proceed._cache_size()
    how = {"together": together, "guidance": 1}
    watched = paint(many, 2, **how, progress=lambda *_: None)
    assert edit.proceed._cache_size() == before + 1
    whole = paint(many, 2, **how)
    np.testing.assert_array_equal(watched.images, whole.images)


def test_saved_programs_tell_of_their_steps_too(parts, painter, tokenizer_folder, tmp_path):
    def saved():
        return Inpainter.from_parts(
            **parts, tokenizer=tokenizer_folder, scheduler=SD15_SCHEDULER, programs=tmp_path
        )

    expected = paint(painter)
    for inpainter in (saved(), saved()):  # the second reads what the first wrote
        told = []
        result = paint(inpainter, progress=lambda *steps, told=told: told.append(steps))
        np.testing.assert_array_equal(result.images, expected.images)
        assert told[-1][0] == told[-1][1] > 1
        assert len(list(tmp_path.glob("*.program"))) == 3


def test_progress_is_refused_where_steps_are_one_program(painter):
    with pytest.raises(ValueError, match="expected progress= or approximations with reuse_every"):
        paint(painter, progress=lambda *_: None, approximations=Approximations(reuse_every=2))
