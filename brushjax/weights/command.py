"""`brushjax convert`: converts weights between programs, compares and lists them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Positional, arg

Kind = Literal[
    "unet",
    "vae",
    "clip_text",
    "clip_text_2",
    "brushnet",
    "llama",
    "t5",
    "region",
    "clip_vision",
    "dino",
    "lpips",
    "image_reward",
    "aesthetic",
    "proposer",
    "region_encoder",
    "bridge",
    "qformer",
    "tati",
    "hvca",
    "resampler",
    "clip",  # several kinds at once
    "pipeline",  # several kinds at once
    "fireedit",  # several kinds at once
]
KINDS: tuple[str, ...] = get_args(Kind)
TOP = "Converts weights between JAX and PyTorch programs, compares and lists them."
SOURCES = """
SRC is a diffusers folder, a pipeline folder, a .safetensors/.ckpt/.bin file in diffusers',
ComfyUI's or the original Stable Diffusion code's names, a .msgpack file of diffusers' former Flax
classes, a folder written by to-jax, or a hub id (owner/name).
"""
LAYOUTS = {
    "diffusers": "a folder: config.json and the weights file that diffusers and transformers load",
    "comfyui": "one .safetensors file that ComfyUI-BrushNet loads (brushnet only)",
    "ldm": "one .safetensors file in the original code's names, as community models are published",
    "orbax": "a folder: config.json and an Orbax checkpoint, which loads fastest into many devices",
}
EXAMPLES = """
examples:
  a community model, all parts, for diffusers:
    convert_weights.py to-torch pipeline dreamshaper_8.safetensors dreamshaper/
  a trained branch for ComfyUI, in half precision:
    convert_weights.py to-torch brushnet runs/mine/brushnet mine.safetensors --dtype float16
  a base with its branch as one file, which has no names for a branch:
    convert_weights.py to-torch pipeline base/ base.safetensors --without brushnet
  a UNet from the hub into our own checkpoint:
    convert_weights.py to-jax unet stable-diffusion-v1-5/stable-diffusion-v1-5 unet-orbax/
  a metric's network, from torchvision's file and from the hub (see docs/evaluating.md):
    convert_weights.py to-jax lpips squeezenet1_1-b8a52dc0.pth weights/lpips_squeeze
    convert_weights.py to-jax clip openai/clip-vit-large-patch14 weights/clip_l14
  every part of a trained FireEdit, in the names of the programs they come from:
    convert_weights.py to-torch fireedit runs/mine/fireedit fireedit/ --dtype bfloat16
  is it still the same? (exit code 1 if not):
    convert_weights.py check brushnet runs/mine/brushnet mine.safetensors
"""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What every command reads.

    Attributes:
        src: weights to read.
    """

    kind: Positional[Annotated[Kind, arg(metavar="KIND", help=" | ".join(KINDS))]]
    src: Positional[Annotated[str, arg(metavar="SRC")]]


@dataclasses.dataclass(frozen=True)
class Converting(Reading):
    """What the commands that understand the weights take besides.

    Attributes:
        dst: see below.
        config: config.json to use instead of SRC's own or the inferred.
        without: parts of a pipeline to leave out, such as brushnet.
    """

    dst: Positional[Annotated[str, arg(metavar="DST")]]
    config: str | None = None
    without: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ToJax(Converting):
    """Write an Orbax checkpoint of ours.

    Attributes:
        dst: folder to write.
        dtype: of the written floats; by default as they are in SRC.
        dry_run: check everything, write nothing.
    """

    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    dry_run: bool = False


@dataclasses.dataclass(frozen=True)
class ToTorch(ToJax):
    """Write what PyTorch programs load.

    Attributes:
        dst: folder or .safetensors file to write.
        layout: by default a folder, or for a name ending in .safetensors comfyui / ldm.
    """

    layout: Literal["diffusers", "comfyui", "ldm"] | None = None


@dataclasses.dataclass(frozen=True)
class Check(Converting):
    """Compare two weights of any layouts.

    Attributes:
        dst: what to compare SRC with.
        tolerance: absolute difference up to which values count as equal.
        all: show equal tensors too.
    """

    tolerance: float = 0.0
    all: bool = False


@dataclasses.dataclass(frozen=True)
class List(Reading):
    """Print names, shapes and dtypes."""


def _layouts(*names: str) -> str:
    return "\nlayouts:\n" + "".join(f"  {name:<11}{LAYOUTS[name]}\n" for name in names)


COMMANDS: dict[str, tuple[Any, str]] = {
    "to-jax": (ToJax, SOURCES + _layouts("orbax")),
    "to-torch": (ToTorch, SOURCES + _layouts("diffusers", "comfyui", "ldm")),
    "check": (Check, SOURCES),
    "list": (List, SOURCES),
}
"""Each command's options, and what its help ends with."""


def parsed(arguments: Sequence[str] | None = None, program: str | None = None) -> Any:
    """Returns the options of a command: a dataclass of COMMANDS.

    Raises: SystemExit after the help, or what is wrong.
    """
    import tyro

    words = sys.argv[1:] if arguments is None else list(arguments)
    kinds = {name: kind for name, (kind, _) in COMMANDS.items()}
    try:
        return tyro.extras.subcommand_cli_from_dict(
            kinds,
            prog=program,
            description=TOP,
            args=words,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )
    except SystemExit as end:
        if not end.code:
            ends = {name: text for name, (_, text) in COMMANDS.items()}
            print(ends.get(words[0], SOURCES + _layouts(*LAYOUTS) + EXAMPLES))
        raise


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Runs a command and returns its exit code."""
    given = parsed(arguments, program)
    from brushjax.weights import report  # after parsing: --help needs no JAX

    try:
        if isinstance(given, List):
            return report.list_command(given.kind, given.src)
        if isinstance(given, Check):
            return report.check_command(
                *(given.kind, given.src, given.dst, given.config, given.tolerance, given.all),
                without=given.without,
            )
        return report.convert_command(
            given.kind,
            given.src,
            given.dst,
            layout=given.layout if isinstance(given, ToTorch) else "orbax",
            dtype=given.dtype,
            config=given.config,
            without=given.without,
            dry_run=given.dry_run,
        )
    except (ValueError, OSError) as error:  # WeightsError; a full disk, a missing file
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs `brushjax convert` and ends the process with its exit code."""
    sys.exit(main(arguments, "brushjax convert"))
