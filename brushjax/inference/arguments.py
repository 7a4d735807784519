"""What the command `python -m brushjax inpaint` takes: flags, and the settings that a PNG keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

NOT_KEPT = (  # where and how many, not what
    *("out", "strip", "prompts", "batch_size", "settings_from"),
    *("num_images", "skip_existing"),
)
FILES = (
    *("image", "mask", "base", "brushnet", "vae", "tokenizer", "scheduler_config", "lora"),
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
        prompt: what the edited part should show; not needed where --prompts names all pictures.
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
        num_images: results of each picture, from this seed, the next one and so on, which their
            files' names then end with.
        blend: feather, paste, none, or as the references do: brushnet, brushedit.
        guess_mode: the branch's maps grow from weak to strong with their depth.
        clip_skip: layer of the text encoder to read, counted from the end, as web programs do.
        crop: for large pictures: works on a part around the hole, whose side is this many times
            the hole's, at the size that the base was trained at; 2 is a good start.
        tile: side in pixels of the tiles in which the autoencoder works, for large pictures.
        mask_alpha: which part of a mask with transparent parts is to be edited; auto takes the one
            that the mask's frame is not, and says so.
        resize_mask: scale a mask of another size to its picture's.
        strip: also writes image, mask and result side by side to this file (folder).
        prompts: for a folder a JSON file {"name without ending": "prompt"}; others get the prompt.
        skip_existing: leave out pictures whose results are there already.
        batch_size: pictures of one size to paint at once; it changes results by rounding only.
        settings_from: PNG to take all settings from that are not given; files must be given.
    """

    image: Path
    mask: Path
    out: Path
    prompt: str | None = None
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
    num_images: int = 1
    blend: str = "feather"
    guess_mode: bool = False
    clip_skip: int = 1
    crop: float | int | None = None
    tile: int | None = None
    mask_alpha: Literal["auto", "opaque", "transparent"] = "auto"
    resize_mask: bool = False
    strip: Path | None = None
    prompts: Path | None = None
    skip_existing: bool = False
    batch_size: int = 1
    settings_from: Path | None = None


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Where settings are taken from, before the other words are understood."""

    settings_from: Path | None = None


def stored_words(words: Sequence[str]) -> list[str]:
    """Returns the settings of the PNG that --settings-from names, as words of a command line.

    Raises:
        ValueError: the file holds no settings, or some that this version doesn't know; or files
            that it was made from are not given: a picture that came from somewhere must not choose
            what is read or written here.
    """
    import tyro

    named, _ = tyro.cli(_Stored, args=list(words), add_help=False, return_unknown_args=True)
    path = named.settings_from
    if path is None:
        return []
    from brushjax.inference.result import read_settings

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
