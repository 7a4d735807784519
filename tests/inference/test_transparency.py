"""Transparent pictures: networks see them over white, results keep the source's opacity."""

import numpy as np
import pytest
from PIL import Image

from brushjax.data.sources import pictures
from brushjax.inference import command
from brushjax.inference.images import TransparencyWarning, prepare

SIZE = (24, 32)


def sticker():
    """Opaque in the middle, half opaque around it, and clear at the border over hidden black."""
    colours = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    alpha = np.zeros(SIZE, np.uint8)
    alpha[2:-2, 2:-2], alpha[6:-6, 6:-6] = 128, 255
    colours[alpha == 0] = 0
    return np.dstack([colours, alpha])


def hole():
    mask = np.zeros(SIZE, np.uint8)
    mask[8:16, 8:16] = 255
    return mask


def prepared():
    with pytest.warns(TransparencyWarning, match="networks see them over white"):
        return prepare([Image.fromarray(sticker())], [hole()])


def test_networks_see_transparent_pictures_over_white():
    found = prepared()
    assert (found.originals[0, 0] == 255).all()
    assert (found.masked[0, 0] == 255).all()
    np.testing.assert_array_equal(found.stored[0], sticker())


def test_a_result_keeps_colours_and_opacity_outside_the_hole():
    found = prepared()
    images = found.originals.copy()
    images[:, 8:16, 8:16] = 77
    result = found.transparent(images)[0]
    outside = hole() == 0
    np.testing.assert_array_equal(result[outside], sticker()[outside])
    assert (result[~outside] == (77, 77, 77, 255)).all()


def test_what_changed_outside_the_hole_lies_over_white_as_it_was_painted():
    found = prepared()
    images = np.maximum(found.originals, 140)  # a blend that reaches beyond the hole
    result = found.transparent(images)[0]
    np.testing.assert_array_equal(result[hole() == 0][:, 3], sticker()[hole() == 0][:, 3])
    over = pictures.over_white(result[..., :3], np.ascontiguousarray(result[..., 3]))
    assert np.abs(over.astype(int) - images[0]).max() <= 1


def test_opaque_pictures_have_no_transparent_result():
    assert prepare([sticker()[..., :3]], [hole()]).stored is None


@pytest.fixture
def files(tmp_path):
    profile = b"not read, so left out"
    Image.fromarray(sticker()).save(tmp_path / "a.png", icc_profile=profile)
    Image.fromarray(hole()).save(tmp_path / "m.png")
    return tmp_path


def painted(files, pipeline, out, *more):
    names = {"image": "a.png", "mask": "m.png", "out": out}
    words = [f"--{name}={files / file}" for name, file in names.items()]
    words += ["--prompt=a", f"--base={pipeline}", "--steps=1", "--blend=paste"]
    command.main([*words, *more])
    with Image.open(files / out) as result:
        result.load()
        return result


@pytest.mark.parametrize("out", ["o.png", "o.tiff"])
def test_the_command_writes_opacity_and_no_profile_where_the_format_can(files, pipeline, out):
    result = painted(files, pipeline, out)
    assert result.mode == "RGBA"
    outside = hole() == 0
    np.testing.assert_array_equal(np.asarray(result)[outside], sticker()[outside])
    assert (np.asarray(result)[~outside][:, 3] == 255).all()
    assert "icc_profile" not in result.info


def test_the_command_says_where_opacity_is_dropped(files, pipeline, capsys):
    assert painted(files, pipeline, "o.jpg").mode == "RGB"
    assert "its transparency is dropped" in capsys.readouterr().out


def test_the_command_reads_masks_as_told_and_warns_in_one_line(files, pipeline, capsys):
    eraser = np.dstack([sticker()[..., :3], 255 - hole()])
    Image.fromarray(eraser[:12, :16]).save(files / "m.png")
    with pytest.raises(SystemExit, match=r"one size.*m\.png\); resize_mask \(--resize-mask\)"):
        painted(files, pipeline, "o.png", "--mask-alpha=transparent")
    painted(files, pipeline, "o.png", "--mask-alpha=transparent", "--resize-mask")
    assert "warning" not in capsys.readouterr().err
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(files / "m.png")
    with pytest.raises(UserWarning, match=r"m\.png marks 100%"):  # an error in tests alone
        painted(files, pipeline, "o.png")


@pytest.mark.parametrize("kind", ["heic", "ppm"])
def test_pictures_of_a_folder_that_are_not_read_are_named(files, kind):
    from brushjax.inference.jobs import find_jobs

    (files / "in").mkdir()
    (files / "a.png").rename(files / "in/a.png")
    (files / f"in/b.{kind}").write_bytes(b"")
    with pytest.warns(UserWarning, match=rf"left out of .*b\.{kind}; only PNG"):
        jobs = find_jobs(files / "in", files / "m.png", "a", files / "out", None, None)
    assert [job.image.name for job in jobs] == ["a.png"]


def test_one_bad_picture_never_ends_a_folder(files, pipeline):
    (files / "in").mkdir()
    (files / "a.png").rename(files / "in/a.png")
    (files / "in/cut.png").write_bytes((files / "in/a.png").read_bytes()[:99])
    (files / "in/none.webp").write_bytes(b"RIFF" + bytes(20))
    (files / "in/script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    words = [f"--image={files / 'in'}", f"--mask={files / 'm.png'}", f"--out={files / 'out'}"]
    words += ["--prompt=a", f"--base={pipeline}", "--steps=1"]
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    text = str(ended.value.code)
    assert text.count("expected a picture file, got") == 3
    assert all(name in text for name in ("cut.png", "none.webp", "script.jpg"))
    assert [path.name for path in (files / "out").iterdir()] == ["a.png"]
