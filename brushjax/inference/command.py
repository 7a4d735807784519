"""The command `python -m brushjax inpaint`: files in, files out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class InpaintArguments:
    """Paints the white part of a mask in a picture according to a prompt.

    Attributes:
        image: picture file.
        mask: mask file of the same size; white = edit.
        prompt: what the edited part should show.
        out: file to write; its ending chooses the format.
        base: pipeline folder in diffusers layout; without it the small model in the package.
        brushnet: folder or file of the branch; without it the folder brushnet of the base.
        negative_prompt: what it should not show.
        steps: number of network calls.
        guidance: how strongly the prompt acts; 1 is off.
        scale: how strongly the branch acts.
        control_start: share of the steps after which the branch starts to act.
        control_end: share of the steps after which the branch stops to act.
        scheduler: ddim, unipc, or unipc-reference.
        seed: the same seed gives the same picture.
        blend: feather, paste or none.
        strip: also writes image, mask and result side by side to this file.
    """

    image: Path
    mask: Path
    prompt: str
    out: Path
    base: Path | None = None
    brushnet: Path | None = None
    negative_prompt: str = ""
    steps: int = 50
    guidance: float = 7.5
    scale: float = 1.0
    control_start: float = 0.0
    control_end: float = 1.0
    scheduler: str = "unipc"
    seed: int = 0
    blend: str = "feather"
    strip: Path | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax inpaint ...`, with the process's own arguments by default."""
    import tyro

    inpaint_command(tyro.cli(InpaintArguments, prog="brushjax inpaint", args=arguments))


def inpaint_command(arguments: InpaintArguments) -> None:
    """Loads the models, edits the picture, and writes the result.

    Raises:
        SystemExit: with a message instead of a traceback, for files and values that don't fit.
    """
    from PIL import Image  # here, so that help and wrong flags are answered at once

    from brushjax.inference.inpaint import Inpainter

    settings = dataclasses.asdict(arguments)
    files = {name: settings.pop(name) for name in ("out", "base", "brushnet", "strip")}
    try:
        painter = Inpainter.load(base=files["base"], brushnet=files["brushnet"])
        print("compiling and painting ...", flush=True)
        result = painter(**settings)
    except (ValueError, TypeError, OSError) as error:  # OSError: files that can't be read
        raise SystemExit(f"error: {error}") from error
    files["out"].parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(result.images[0]).save(files["out"])
    print(f"{files['out']}: painted in {result.seconds:.1f} s, compilation included")
    if files["strip"] is not None:
        _write_strip(arguments, result.images, files["strip"])


def _write_strip(arguments: InpaintArguments, images, path: Path) -> None:
    from brushjax.inference.images import prepare
    from brushjax.inference.strip import strip

    prepared = prepare([arguments.image], [arguments.mask])
    columns = {"image": prepared.originals, "mask": prepared.holes, "result": images}
    path.parent.mkdir(parents=True, exist_ok=True)
    strip(columns, captions=[arguments.prompt]).save(path)
    print(f"{path}: image, mask and result side by side")
