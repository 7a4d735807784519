"""The command `python -m brushjax inpaint`: files in, files out."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from brushjax.inference.inpaint import Inpainter, InpaintResult
    from brushjax.inference.jobs import Job

NOT_KEPT = ("out", "strip", "prompts", "batch_size", "settings_from")  # where, not what
FILES = (
    *("image", "mask", "base", "brushnet", "vae", "tokenizer", "scheduler_config", "lora"),
    "embedding",
)
LOADED = (
    "base",
    "brushnet",
    "vae",
    "tokenizer",
    "scheduler_config",
    "lora",
    "lora_weight",
    "embedding",
)


@dataclasses.dataclass(frozen=True)
class InpaintArguments:
    """Paints the white part of a mask in a picture according to a prompt.

    With folders as image and out, all of a folder's pictures. A PNG keeps its settings and seed,
    and the names of its files without their folders: --settings-from it, with these files, makes
    the same picture again; what is given beside them is changed.

    Attributes:
        image: picture file, or folder of pictures.
        mask: mask of the same size; white = edit. For a folder one mask for all pictures, or a
            folder of masks named as the pictures.
        prompt: what the edited part should show.
        out: file to write, its ending chooses the format; for a folder the folder to write to.
        base: pipeline folder in diffusers layout, whole-model .safetensors or .ckpt file, or hub
            id; without it the small model in the package.
        brushnet: folder or file of the branch; without it the folder brushnet of the base.
        vae: folder or file of an autoencoder instead of the base's.
        tokenizer: folder with vocab.json and merges.txt, for whole-model files.
        scheduler_config: published scheduler_config.json, for whole-model files.
        lora: LoRA files to merge into the base.
        lora_weight: how strongly, one number for each file; 1 without.
        embedding: learnt words with their files, as word=file.
        dtype: what the networks compute in.
        negative_prompt: what it should not show.
        weights: read (word:1.2) and the like in the prompts as weights, as web programs do.
        steps: number of steps.
        guidance: how strongly the prompt acts; 1 is off.
        scale: how strongly the branch acts.
        control_start: share of the steps after which the branch starts to act.
        control_end: share of the steps after which the branch stops to act.
        scheduler: ddim, pndm, unipc, unipc-reference, dpm++, dpm++-karras, euler, euler-a or lcm.
        seed: the same seed gives the same picture.
        blend: feather, paste, none, or as the references do: brushnet, brushedit.
        guess_mode: the branch's maps grow from weak to strong with their depth.
        tile: side in pixels of the tiles in which the autoencoder works, for large pictures.
        mask_alpha: which part of a mask with transparent parts is to be edited; auto takes the one
            that the mask's frame is not, and says so.
        resize_mask: scale a mask of another size to its picture's.
        strip: also writes image, mask and result side by side to this file (folder).
        prompts: for a folder a JSON file {"name without ending": "prompt"}; others get the prompt.
        batch_size: pictures of one size to paint at once; it changes results by rounding only.
        settings_from: PNG to take all settings from that are not given; files must be given.
    """

    image: Path
    mask: Path
    prompt: str
    out: Path
    base: str | None = None
    brushnet: str | None = None
    vae: str | None = None
    tokenizer: Path | None = None
    scheduler_config: Path | None = None
    lora: tuple[str, ...] = ()
    lora_weight: tuple[float | int, ...] = ()
    embedding: tuple[str, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    negative_prompt: str = ""
    weights: bool = False
    steps: int = 50
    guidance: float | int = 7.5
    scale: float | int = 1.0
    control_start: float | int = 0.0
    control_end: float | int = 1.0
    scheduler: str = "unipc"
    seed: int = 0
    blend: str = "feather"
    guess_mode: bool = False
    tile: int | None = None
    mask_alpha: Literal["auto", "opaque", "transparent"] = "auto"
    resize_mask: bool = False
    strip: Path | None = None
    prompts: Path | None = None
    batch_size: int = 1
    settings_from: Path | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax inpaint ...`, with the process's own arguments by default."""
    import tyro

    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        words = [*stored_words(words), *words]  # what comes later wins
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    inpaint_command(tyro.cli(InpaintArguments, prog="brushjax inpaint", args=words))


def stored_words(words: Sequence[str]) -> list[str]:
    """Returns the settings of the PNG that --settings-from names, as words of a command line.

    Raises:
        ValueError: the file holds no settings, or some that this version doesn't know; or files
            that it was made from are not given: a picture that came from somewhere must not choose
            what is read or written here.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--settings-from", "--settings_from", type=Path)
    path = parser.parse_known_args(words)[0].settings_from
    if path is None:
        return []
    from brushjax.inference.settings import read_settings

    settings = read_settings(path)
    unknown = settings.keys() - {field.name for field in dataclasses.fields(InpaintArguments)}
    unknown |= settings.keys() & set(NOT_KEPT)
    if unknown - {"version"}:
        raise ValueError(
            f"{path} has settings that this version doesn't know: {', '.join(sorted(unknown))}"
        )
    _expect_files(path, settings, words)
    flags: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if name in ("version", *FILES) or value is None or value is False or value == []:
            continue
        if value is True:
            flags.append(flag)
        elif isinstance(value, list):
            flags += [flag, *map(str, value)]
        else:
            flags.append(f"{flag}={value}")
    return flags


def _expect_files(path: Path, settings: Mapping[str, Any], words: Sequence[str]) -> None:
    """Raises ValueError where a file that the settings name is not given anew."""
    given = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words}
    names = {name: settings.get(name) for name in FILES if name not in given}
    flags = [f"--{name.replace('_', '-')} ({value})" for name, value in names.items() if value]
    if flags:
        raise ValueError(f"{path} keeps the names of its files only; give {', '.join(flags)}, too")


def inpaint_command(arguments: InpaintArguments) -> None:
    """Loads the models, edits the pictures, and writes the results.

    A picture of a folder that can't be painted is named at the end, and the others are painted.

    Raises:
        SystemExit: with a message instead of a traceback, for files and values that don't fit.
    """
    from brushjax.inference import jobs  # here, so that help and wrong flags are answered at once
    from brushjax.inference.settings import picture_format

    names = ("image", "mask", "prompt", "out", "strip", "prompts")
    try:
        with _plain_warnings():
            found = jobs.find_jobs(**{name: getattr(arguments, name) for name in names})
            jobs.check_places(found)
            for job in found:
                picture_format(job.out)
            groups, failed = jobs.batches(found, arguments.batch_size, **_masks(arguments))
            if not groups:
                raise failed[0][1] if len(found) == 1 else ValueError(_listed(failed))
            painter = load_painter(arguments)
            failed += _paint_all(painter, groups, arguments)
    except (ValueError, TypeError, OSError) as error:  # OSError: files that can't be read
        raise SystemExit(f"error: {error}") from error
    if failed:
        raise SystemExit(f"error: {failed[0][1] if len(found) == 1 else _listed(failed)}")


def _masks(arguments: InpaintArguments) -> dict[str, Any]:
    """How masks are read."""
    return {"mask_alpha": arguments.mask_alpha, "resize_mask": arguments.resize_mask}


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Says every warning once, in one line, without the line of source that it comes from."""
    from brushjax.inference.images import TransparencyWarning

    said: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:
            print(f"warning: {message}", file=sys.stderr)
        said.add(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransparencyWarning)  # said where it is written
        warnings.showwarning = show
        yield


def load_painter(arguments: InpaintArguments) -> Inpainter:
    """Loads what the arguments name.

    Raises:
        ValueError, OSError: as `Inpainter.load`; weights for LoRA files of another number.
    """
    import jax.numpy as jnp

    from brushjax.inference.inpaint import Inpainter

    files, weights = arguments.lora, arguments.lora_weight or (1.0,) * len(arguments.lora)
    if len(weights) != len(files):
        raise ValueError(f"expected a --lora-weight for each of {len(files)} files, got {weights}")
    return Inpainter.load(
        arguments.base,
        arguments.brushnet,
        jnp.dtype(arguments.dtype),
        vae=arguments.vae,
        tokenizer=arguments.tokenizer,
        scheduler=arguments.scheduler_config,
        lora=dict(zip(files, weights)),
        embeddings=_embeddings(arguments.embedding),
    )


def _embeddings(given: Sequence[str]) -> dict[str, str]:
    """Reads word=file; a word may hold no =."""
    pairs = [one.partition("=") for one in given]
    for word, equals, file in pairs:
        if not (word and equals and file):
            raise ValueError(f"expected --embedding word=file, got {word + equals + file!r}")
    return {word: file for word, _, file in pairs}


def _paint_all(
    painter: Inpainter, groups: Sequence[Sequence[Job]], arguments: InpaintArguments
) -> list[tuple[Job, Exception]]:
    """Paints batch by batch; returns the jobs that failed with the reason."""
    from tqdm import tqdm

    sampling = dataclasses.asdict(arguments)
    for name in (*NOT_KEPT, *LOADED, "dtype", "image", "mask", "prompt", "seed"):
        del sampling[name]
    failed: list[tuple[Job, Exception]] = []
    count = sum(map(len, groups))
    print(f"compiling and painting {count} picture{'s' * (count > 1)} ...", flush=True)
    with tqdm(total=count, unit="picture", disable=None, leave=False) as bar:
        for group in groups:
            for part, result in _painted(painter, group, arguments.seed, sampling):
                bar.update(len(part))
                if isinstance(result, Exception):
                    failed += [(job, result) for job in part]
                    continue
                for i, job in enumerate(part):
                    bar.write(_write(job, result, i, arguments))
    return failed


def _painted(
    painter: Inpainter, group: Sequence[Job], seed: int, sampling: dict[str, Any]
) -> Iterator[tuple[Sequence[Job], InpaintResult | FloatingPointError]]:
    """A group's result; after NaN or infinity those of its pictures, one by one, to find whose it
    is. Wrong settings raise and end the command."""
    try:
        result = painter(
            [job.image for job in group],
            [job.mask for job in group],
            [job.prompt for job in group],
            seed=[seed] * len(group),
            **sampling,
        )
    except FloatingPointError as error:
        if len(group) == 1:
            yield group, error
            return
        for job in group:
            yield from _painted(painter, [job], seed, sampling)
        return
    yield group, result


def _write(job: Job, result: InpaintResult, i: int, arguments: InpaintArguments) -> str:
    """Writes sample i of a result, and its strip; returns a line that says so."""
    import brushjax
    from brushjax.inference.settings import WITH_ALPHA, keeps_transparency, write_picture

    picture = result.images[i]
    layers = None if result.transparent is None else result.transparent[i]
    if layers is not None and layers[..., 3].min() == 255:
        layers = None
    whole = picture if layers is None or not keeps_transparency(job.out) else layers

    kept = dataclasses.asdict(arguments) | {"prompt": job.prompt}
    kept |= {"image": job.image, "mask": job.mask, "version": brushjax.__version__}
    kept = {name: value for name, value in kept.items() if name not in NOT_KEPT}
    kept |= {name: _names(kept[name]) for name in FILES}
    with_settings = write_picture(job.out, whole, kept)
    line = f"{job.out}: painted in {result.seconds / len(result.images):.1f} s"
    if layers is not None and whole is picture:
        line += f" (its transparency is dropped, over white; {', '.join(WITH_ALPHA)} keep it)"
    if not with_settings:
        line += " (only a PNG keeps the settings)"
    if job.strip is None:
        return line
    _write_strip(job, picture, arguments)
    return f"{line}; {job.strip}: image, mask and result side by side"


def _names(value: Any) -> Any:
    """Names of files without their folders, which are nobody's business who gets the picture."""
    if isinstance(value, (tuple, list)):
        return [_names(one) for one in value]
    word, equals, file = str(value or "").partition("=")  # of --embedding word=file
    if equals and not {"/", "\\"} & {*word}:
        return f"{word}={Path(file).name}"
    return value and Path(value).name


def _write_strip(job: Job, picture: Any, arguments: InpaintArguments) -> None:
    import numpy as np

    from brushjax.inference.images import prepare
    from brushjax.inference.settings import write_picture
    from brushjax.inference.strip import strip

    assert job.strip is not None
    prepared = prepare([job.image], [job.mask], **_masks(arguments))
    columns = {"image": prepared.originals, "mask": prepared.holes, "result": picture[None]}
    write_picture(job.strip, np.asarray(strip(columns, captions=[job.prompt])))


def _listed(failed: Sequence[tuple[Job, Exception]]) -> str:
    lines = "".join(f"\n  {job.image}: {error}" for job, error in failed)
    return f"not painted:{lines}"
