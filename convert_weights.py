"""Converts weights between JAX and PyTorch programs, compares and lists them."""

import argparse
import sys

SCORING = ("clip_vision", "dino", "lpips", "image_reward", "aesthetic")
KINDS = ("unet", "vae", "clip_text", "clip_text_2", "brushnet", *SCORING, "clip", "pipeline")
EXAMPLES = """
SRC is a diffusers folder, a pipeline folder, a .safetensors/.ckpt/.bin file in diffusers',
ComfyUI's or the original Stable Diffusion code's names, a folder written by to-jax, or a hub id
(owner/name).

layouts:
  diffusers  a folder: config.json and the weights file that diffusers and transformers load
  comfyui    one .safetensors file that ComfyUI-BrushNet loads (brushnet only)
  ldm        one .safetensors file in the original code's names, as community models are published
  orbax      a folder: config.json and an Orbax checkpoint, which loads fastest into many devices

examples:
  a community model, all parts, for diffusers:
    convert_weights.py to-torch pipeline dreamshaper_8.safetensors dreamshaper/
  a trained branch for ComfyUI, in half precision:
    convert_weights.py to-torch brushnet runs/mine/brushnet mine.safetensors --dtype float16
  a UNet from the hub into our own checkpoint:
    convert_weights.py to-jax unet stable-diffusion-v1-5/stable-diffusion-v1-5 unet-orbax/
  a metric's network, from torchvision's file and from the hub (see docs/evaluating.md):
    convert_weights.py to-jax lpips squeezenet1_1-b8a52dc0.pth weights/lpips_squeeze
    convert_weights.py to-jax clip openai/clip-vit-large-patch14 weights/clip_l14
  is it still the same? (exit code 1 if not):
    convert_weights.py check brushnet runs/mine/brushnet mine.safetensors
"""


def parser() -> argparse.ArgumentParser:
    """Builds the command line."""
    top = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, layouts, does in (
        ("to-jax", ("orbax",), "write an Orbax checkpoint of ours"),
        ("to-torch", ("diffusers", "comfyui", "ldm"), "write what PyTorch programs load"),
    ):
        sub = commands.add_parser(name, help=does, description=does)
        add_common(sub)
        sub.add_argument("dst", metavar="DST", help="folder or .safetensors file to write")
        sub.add_argument(
            "--dtype",
            choices=("float32", "float16", "bfloat16"),
            help="of the written floats (default: as they are in SRC)",
        )
        sub.add_argument(
            "--layout",
            choices=layouts,
            help="default: a folder, or for a name ending in .safetensors comfyui / ldm",
        )
        sub.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    sub = commands.add_parser("check", help="compare two weights of any layouts")
    add_common(sub)
    sub.add_argument("dst", metavar="DST", help="what to compare SRC with")
    sub.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="absolute difference up to which values count as equal (default 0)",
    )
    sub.add_argument("--all", action="store_true", help="show equal tensors too")
    add_common(commands.add_parser("list", help="print names, shapes and dtypes"), config=False)
    return top


def add_common(sub: argparse.ArgumentParser, config: bool = True) -> None:
    """Adds the arguments that the commands share."""
    sub.add_argument("kind", metavar="KIND", choices=KINDS, help=" | ".join(KINDS))
    sub.add_argument("src", metavar="SRC", help="weights to read")
    if config:
        sub.add_argument("--config", help="config.json to use instead of SRC's own or the inferred")


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    args = parser().parse_args(arguments)
    from brushjax.weights import report  # after parsing: --help needs no JAX

    try:
        if args.command == "list":
            return report.list_command(args.kind, args.src)
        if args.command == "check":
            return report.check_command(
                args.kind, args.src, args.dst, args.config, args.tolerance, args.all
            )
        layout = args.layout or ("orbax" if args.command == "to-jax" else None)
        return report.convert_command(
            args.kind, args.src, args.dst, layout, args.dtype, args.config, args.dry_run
        )
    except (ValueError, OSError) as error:  # WeightsError; a full disk, a missing file
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
