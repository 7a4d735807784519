"""`brushjax convert`: converts weights between programs, compares and lists them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

SCORING = ("clip_vision", "dino", "lpips", "image_reward", "aesthetic")
FIREEDIT = ("proposer", "region_encoder", "bridge", "qformer", "tati", "hvca", "resampler")
KINDS = ("unet", "vae", "clip_text", "clip_text_2", "brushnet", "llama", "t5", "region")
KINDS += (*SCORING, *FIREEDIT)
KINDS += ("clip", "pipeline", "fireedit")  # several kinds at once
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


def parser(program: str | None = None) -> argparse.ArgumentParser:
    """Builds the command line of a program, by default the script that runs."""
    epilog = SOURCES + _layouts(*LAYOUTS) + EXAMPLES
    top = _described(argparse.ArgumentParser, TOP, epilog, prog=program)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, layouts, does, target in (
        ("to-jax", ("orbax",), "write an Orbax checkpoint of ours", "folder to write"),
        (
            "to-torch",
            ("diffusers", "comfyui", "ldm"),
            "write what PyTorch programs load",
            "folder or .safetensors file to write",
        ),
    ):
        sub = _described(commands.add_parser, does, SOURCES + _layouts(*layouts), name, help=does)
        add_common(sub)
        sub.add_argument("dst", metavar="DST", help=target)
        sub.add_argument(
            "--dtype",
            choices=("float32", "float16", "bfloat16"),
            help="of the written floats (default: as they are in SRC)",
        )
        default = "a folder, or for a name ending in .safetensors comfyui / ldm"
        if len(layouts) > 1:
            sub.add_argument("--layout", choices=layouts, help=f"default: {default}")
        sub.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    does = "compare two weights of any layouts"
    sub = _described(commands.add_parser, does, SOURCES, "check", help=does)
    add_common(sub)
    sub.add_argument("dst", metavar="DST", help="what to compare SRC with")
    sub.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="absolute difference up to which values count as equal (default 0)",
    )
    sub.add_argument("--all", action="store_true", help="show equal tensors too")
    does = "print names, shapes and dtypes"
    add_common(_described(commands.add_parser, does, SOURCES, "list", help=does), reads=False)
    return top


def _described(make: Any, description: str, epilog: str, *names: str, **more: Any) -> Any:
    layout = argparse.RawDescriptionHelpFormatter
    return make(*names, description=description, epilog=epilog, formatter_class=layout, **more)


def _layouts(*names: str) -> str:
    return "\nlayouts:\n" + "".join(f"  {name:<11}{LAYOUTS[name]}\n" for name in names)


def add_common(sub: argparse.ArgumentParser, reads: bool = True) -> None:
    """Adds the arguments that the commands share."""
    sub.add_argument("kind", metavar="KIND", choices=KINDS, help=" | ".join(KINDS))
    sub.add_argument("src", metavar="SRC", help="weights to read")
    if reads:
        sub.add_argument("--config", help="config.json to use instead of SRC's own or the inferred")
        sub.add_argument(
            "--without",
            nargs="+",
            default=(),
            metavar="KIND",
            help="parts of a pipeline to leave out, such as brushnet",
        )


def main(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Runs a command and returns its exit code."""
    args = parser(program).parse_args(arguments)
    from brushjax.weights import report  # after parsing: --help needs no JAX

    try:
        if args.command == "list":
            return report.list_command(args.kind, args.src)
        if args.command == "check":
            return report.check_command(
                *(args.kind, args.src, args.dst, args.config, args.tolerance, args.all),
                without=args.without,
            )
        return report.convert_command(
            args.kind,
            args.src,
            args.dst,
            layout="orbax" if args.command == "to-jax" else args.layout,
            dtype=args.dtype,
            config=args.config,
            without=args.without,
            dry_run=args.dry_run,
        )
    except (ValueError, OSError) as error:  # WeightsError; a full disk, a missing file
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs `brushjax convert` and ends the process with its exit code."""
    sys.exit(main(arguments, "brushjax convert"))
