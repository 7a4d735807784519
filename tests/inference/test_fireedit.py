"""The FireEditor at tiny width: sizes, one program, three conditions with their work shared."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import brushjax
from brushjax.inference.engine import fireedit as engine
from brushjax.inference.fireedit import FireEditResult, worked_at
from brushjax.inference.images import carried, resize
from brushjax.models.fireedit.editor import Seen
from brushjax.pipelines.fireedit import join, look, sizes_of
from brushjax.pipelines.instructions import Words
from brushjax.weights import WeightsError
from brushjax.weights.fireedit import load_fireedit
from tests import tiny_fireedit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editor") / "fireedit"
    tiny_fireedit.write_whole(folder)
    return folder


@pytest.fixture(scope="module")
def editor(folder):
    return brushjax.FireEditor.load(folder)


def picture(height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [
        (512, 512, 512, (512, 512)),
        (1000, 600, 512, (512, 320)),  # instruct-pix2pix's edit_cli.py gives these
        (480, 640, 512, (384, 512)),
        (333, 500, 256, (192, 256)),
        (40, 4000, 512, (64, 6400)),
    ],
)
def test_editor_works_on_sides_that_are_multiples_of_64(height, width, side, expected):
    assert worked_at(height, width, side) == expected


def test_picture_of_one_line_is_refused_by_the_editor_and_seen_by_its_encoders(editor, folder):
    """The encoders stretch it to their squares, of which they make numbers."""
    line = picture(1, 4000)
    with pytest.raises(ValueError, match="64 x 256000 for a picture of 1 x 4000; crop it"):
        editor(line, "make it red", steps=1, side=512)
    sizes = tiny_fireedit.sizes()
    dino, clip = (load_fireedit(folder).models[kind] for kind in ("dino", "clip_vision"))
    image = jnp.asarray(line[None] / 127.5 - 1, jnp.float32)
    sight = jax.jit(lambda dino, clip, image: look(dino, clip, image, sizes))(dino, clip, image)
    assert sight.seen.dino.shape == (1, 16, 8)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(sight))


def test_folder_without_a_tokenizer_or_a_part_is_refused(folder, tmp_path):
    with pytest.raises(WeightsError, match=r"expected tokenizer\.json in"):
        Words(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Other"}))
    with pytest.raises(WeightsError, match="is no FireEdit folder"):
        brushjax.FireEditor.load(tmp_path)


def test_loaded_parts_have_the_sizes_they_were_made_with(folder):
    parts, ours = load_fireedit(folder), tiny_fireedit.sizes()
    found = sizes_of(parts)
    assert found.language.llama == parts.models["llama"].config
    assert (found.sequence, found.edit, found.dino) == (ours.sequence, ours.edit, ours.dino)


def test_picture_stays_where_the_edit_changes_nothing_and_fades_into_it():
    """What the autoencoder does to all of the picture is no change."""
    image, before = np.zeros((2, 1, 24, 24, 3), np.float32)
    before += 0.3
    after = before.copy()
    after[:, :, 12:] += 0.5  # of 2
    result = np.asarray(engine.kept(*map(jnp.asarray, (image, before, after)), 0.05))
    np.testing.assert_array_equal(result[:, 3:-3, :8], 0)
    np.testing.assert_allclose(result[:, 3:-3, 14:-3], 0.8, rtol=1e-6)
    fading = result[0, 12, 8:12, 0]
    assert (np.diff(fading) >= 0).all()
    assert fading[-1] < 0.3


def test_change_is_carried_to_a_picture_of_another_size_and_leaves_the_rest():
    large = picture(128, 96)
    before = resize(large, (64, 48))
    after = before.copy()
    after[:, :24] //= 2
    result = carried(large, before, after)
    np.testing.assert_array_equal(result[:, 50:], large[:, 50:])
    change = result[:, :46].astype(int) - large[:, :46]
    assert change.mean() < -40
    np.testing.assert_array_equal(carried(before, before, after), after)


def test_regions_are_drawn_over_the_picture():
    box = np.array([[0.25, 0.25, 0.75, 0.75]], np.float32)
    black = np.zeros((1, 41, 41, 3), np.uint8)
    result = FireEditResult(black, np.zeros((1, 1, 1, 4), np.float32), 0.0, boxes=(box,))
    drawn = result.drawn(width=1)
    assert (drawn[10, 10:31, 0] == 255).all()
    assert not drawn[11:30, 11:30].any()
    assert not result.images.any()


@pytest.mark.slow  # a minute of compiling
def test_edits_of_one_size_share_one_program_and_depend_on_what_they_should(editor):
    before = engine.edit._cache_size()
    run = lambda **changes: editor(  # noqa: E731
        picture(), **({"instruction": "make it red", "steps": 3, "side": 64} | changes)
    )
    result = run()
    assert result.images.shape == (1, 40, 56, 3)
    np.testing.assert_array_equal(run().images, result.images)
    varied = [
        {"instruction": "turn the sky into a sea of gold"},
        {"seed": 5},
        {"text_guidance": 2.0},
        {"image_guidance": 1.1},
        {"steps": 4},
        {"scheduler": "ddim"},
    ]
    for changes in varied:
        assert (run(**changes).latents != result.latents).any(), changes
    for n in range(3, 26):  # with those above, 30 edits
        other = editor(picture(seed=n), f"make it {n} times as red", steps=3, side=64, seed=n)
        assert (other.latents != result.latents).any()
    assert engine.edit._cache_size() == before + 1
    assert all((box >= 0).all() and (box <= 1).all() for box in result.boxes)


@pytest.mark.slow  # half a minute of compiling
def test_shared_work_changes_no_prediction(folder):
    parts = load_fireedit(folder)
    model = join(parts.edit, parts.sequence, parts.models, parts.null_context)
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    seen, time = Seen(normal(1, 5, 8), normal(1, 16, 8)), jnp.float32(749.25)
    features, image, x = normal(1, 5, 8), normal(1, 8, 8, 4), normal(1, 8, 8, 4)
    scales = jnp.asarray([1.5, 7.5])

    @jax.jit
    def both(features, seen, image, x):
        once = engine.Predictor(model, features, seen, image)(x, time, scales)
        branches = model.branches(features, time[None], seen, image)
        return once, model.guided(x, time[None], branches, scales)

    once, plain = both(features, seen, image, x)
    np.testing.assert_allclose(once, plain, atol=1e-5 * float(plain.std()))
