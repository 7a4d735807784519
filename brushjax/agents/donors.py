"""The command `python -m brushjax donors`: for each edit of a list, a picture of its result made
everywhere, of which a region predictor's training takes parts.

A donor is a file of its own, there whole or not at all: started again, the command makes those that
are missing, and several processes share the work by `--shard`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from brushjax import config as configs
from brushjax.files import inside, try_places, whole_file, write_text
from brushjax.identity import digest
from brushjax.progress import progress_bar

LIST = "edits.jsonl"
NAMED = ("image", "source_caption", "instruction", "target_caption")


@dataclasses.dataclass(frozen=True)
class DonorArguments:
    """Makes the donors of DIR/edits.jsonl by a base model, and names them in the list.

    Attributes:
        edits: folder with edits.jsonl, as `python -m brushjax instruct` writes it.
        images: folder that its pictures are named from; without it the same folder.
        base: as `python -m brushjax inpaint` takes it; without it the small model in the package.
        size: side of a donor, pixels.
        steps: number of steps.
        guidance: how strongly the caption acts.
        scheduler: as `python -m brushjax inpaint` takes it.
        batch_size: pictures at once.
        shard: I/N, the part of the list that this process works on; without N parts, all.
    """

    edits: Path
    images: Path | None = None
    base: str | None = None
    size: int = 512
    steps: int = 30
    guidance: float | int = 7.5
    scheduler: str = "unipc"
    batch_size: int = 4
    shard: str = "0/1"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax donors ...`, with the process's own arguments by default."""
    options = configs.parsed(DonorArguments, arguments, "brushjax donors")
    try:
        missing = donors(options, lambda: donor_generator(options.base))
    except (OSError, ValueError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error
    left = f"; {missing} are other parts' and not there yet" if missing else ", complete"
    print(f"{options.edits / LIST}{left}")


def donors(options: DonorArguments, load: Callable[[], Any]) -> int:
    """Makes what is missing of this part; once none is missing anywhere, names all in the list.

    Args:
        load: gives the generator that paints, where there is something to paint.
    Returns: how many donors of the whole list are not there.
    Raises: ValueError, OSError: a list or a picture that can't be read, with what was expected.
    """
    index, count = configs.shard_of(options.shard)
    rows = _rows(options.edits / LIST)
    places = [options.edits / "donors" / f"{donor_name(row, options)}.png" for row in rows]
    try_places([options.edits / LIST, *places[:1]])
    own = range(index, len(rows), count)
    todo = [n for n in own if not places[n].is_file()]
    parts = [todo[k : k + options.batch_size] for k in range(0, len(todo), options.batch_size)]
    generator = load() if parts else None
    for numbers in progress_bar(parts, unit="batch"):
        paint_donors([rows[n] for n in numbers], [places[n] for n in numbers], options, generator)
    missing = sum(not place.is_file() for place in places)
    if not missing:
        named = [
            json.dumps({**row, "donor": f"donors/{place.name}"}, ensure_ascii=False)
            for row, place in zip(rows, places, strict=True)
        ]
        write_text(options.edits / LIST, "".join(line + "\n" for line in named))
    return missing


def paint_donors(
    rows: Sequence[dict[str, str]], places: Sequence[Path], options: DonorArguments, generator: Any
) -> None:
    """Writes the donors of some edits to their places, each whole or not at all."""
    import cv2
    import jax
    import numpy as np
    from PIL import Image

    from brushjax.inference.images import read_image
    from brushjax.inference.inpaint_settings import InpaintSettings
    from brushjax.pipelines.generators import generate

    side = (options.size, options.size)
    folder = options.images or options.edits
    images = np.stack(
        [
            cv2.resize(read_image(inside(folder, row["image"])), side, interpolation=cv2.INTER_AREA)
            for row in rows
        ]
    )
    everything = np.ones(images.shape[:3], bool)
    # A donor depends on its edit alone, in whatever batch it is made.
    seeds = [int(donor_name(row, options)[:8], 16) for row in rows]
    keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
    prompts = [row["target_caption"] for row in rows]
    names = ("steps", "guidance", "scheduler")
    settings = InpaintSettings(**{name: getattr(options, name) for name in names})
    made = generate(generator, images, everything, prompts, keys, settings)
    for picture, place in zip(made, places, strict=True):
        with whole_file(place) as unfinished:
            Image.fromarray(picture).save(unfinished, "PNG")


def donor_generator(base: str | None) -> Any:
    """Returns what paints donors: a base alone."""
    import jax.numpy as jnp

    from brushjax.inference.region import LatentGenerator
    from brushjax.pipelines.bases import BaseFiles, base_path, load_base

    return LatentGenerator.from_parts(load_base(BaseFiles(base_path(base)), jnp.float32))


def donor_name(row: dict[str, str], options: DonorArguments) -> str:
    """Returns a digest of all that a donor depends on."""
    settings = (options.base, options.size, options.steps, options.guidance, options.scheduler)
    return digest(*(str(value) for value in settings), *(row[name] for name in NAMED))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {path}, a JSON object a line with {', '.join(NAMED)}; "
            "`python -m brushjax instruct` writes it"
        )
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if missing := [name for name in NAMED if not isinstance(row.get(name), str)]:
            raise ValueError(f"{path}:{number}: expected {', '.join(NAMED)}; no {missing[0]}")
        rows.append(row)
    return rows
