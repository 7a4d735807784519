"""The command `python -m brushjax propose`: regions of a recipe's pictures, found beforehand.

FireEdit's training reads a picture's regions from there where its objective says boxes="given", and
then neither loads nor runs the detector. Boxes are of whole pictures; the readers of the sets
mirror and cut them with the picture. A chunk of records is there whole or not at all: started
again, the command finds what is missing, and several processes share the work by `--shard`.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, UInt8
from tyro.conf import Positional, arg

from brushjax import config as configs
from brushjax import identity
from brushjax.config import ConfigError
from brushjax.data.boxes import ABOUT, Boxes
from brushjax.data.faults import Fault, as_fault
from brushjax.data.mixture import Mixture
from brushjax.data.sets.shuffled import Pictured, PicturedData, stretched
from brushjax.files import try_places
from brushjax.models.fireedit.editor import detector_features
from brushjax.models.fireedit.proposals import IOU_THRESHOLD, SCORE_THRESHOLD, select, selected
from brushjax.pipelines.fireedit import Sizes, states
from brushjax.progress import progress_bar
from brushjax.training.objectives.contract import build, dtype_of, placed_in, to_unit_range
from brushjax.training.objectives.fireedit import FireEditObjective
from brushjax.training.objectives.fireedit_parts import Sources, load_parts, part_shapes
from brushjax.typing import Params

log = logging.getLogger(__name__)
SEES = ("dino", "proposer")
HELP = """\
examples:
  python -m brushjax propose configs/fireedit/stage2.py
  python -m brushjax propose configs/fireedit/stage2.py --shard 3/8 --batch-size 64

The recipe's data name the folders (BOXES in configs/fireedit/stage2.py).
"""


@dataclasses.dataclass(frozen=True)
class ProposeOptions:
    """Finds the regions of a FireEdit recipe's pictures, into the folders that its data name.

    Attributes:
        config: recipe with a FireEdit objective and data with `boxes`.
        batch_size: pictures at once, on all devices together.
        shard: I/N, the part of the chunks that this process works on.
        dtype: the networks compute in.
    """

    config: Positional[Annotated[Path, arg(metavar="CONFIG.py")]]
    batch_size: int = 16
    shard: str = "0/1"
    dtype: str = "bfloat16"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax propose CONFIG.py`, with the process's own arguments by default."""
    options, overrides = configs.own_options(ProposeOptions, arguments, "brushjax propose", HELP)
    logging.getLogger("brushjax").setLevel(logging.INFO)
    try:
        recipe = configs.load(options.config, "objective")
        recipe = configs.override(recipe, overrides, f"brushjax propose {options.config}")
        propose(recipe, options)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def propose(recipe: Any, options: ProposeOptions) -> None:
    """Finds what is missing of this shard, set by set.

    Raises: ConfigError for a recipe without such data or objective; what opening the data and
        loading the networks raises.
    """
    objective, sets = recipe.objective, sets_of(recipe.data)
    if not isinstance(objective, FireEditObjective):
        raise ConfigError(f"expected a FireEdit objective, got {type(objective).__name__}")
    shard = configs.shard_of(options.shard)
    try_places(Path(data.boxes).expanduser() / ABOUT for data in sets)
    detector = Detector(objective.sizes, objective.sources, options)
    for data in sets:
        stored = dataclasses.replace(data, boxes="").stored()
        made_of = identity.digest(repr(_location(data)), str(data.size), detector.made_of)
        boxes = Boxes.begun(Path(data.boxes).expanduser(), len(stored), detector.slots, made_of)
        faults = Counter[str]()
        for chunk in progress_bar(boxes.missing(shard), data.boxes, unit="chunk"):
            names = [stored.name(number) for number in boxes.numbers(chunk)]
            found = list(_found(stored, boxes.numbers(chunk), data.size, detector, faults))
            boxes.write(chunk, names, *map(list, zip(*found, strict=True)))
        noted = ", ".join(f"{count} {cause}" for cause, count in faults.items())
        log.info("%s: %d chunks left%s", data.boxes, len(boxes.missing()), noted and f"; {noted}")


def sets_of(data: Any) -> list[Any]:
    """Returns the sets of a recipe's data that name a folder for their boxes.

    Raises: ConfigError if none does, or two name one folder.
    """
    parts = [part.data for part in data.parts] if isinstance(data, Mixture) else [data]
    sets = [part for part in parts if isinstance(part, PicturedData) and part.boxes]
    if not sets:
        raise ConfigError(
            "expected data with `boxes`, the folder to write; none of the sets names one"
        )
    folders = Counter(part.boxes for part in sets)
    twice = [folder for folder, count in folders.items() if count > 1]
    if twice:
        raise ConfigError(f"expected a folder of boxes for each set, got {twice[0]} twice")
    return sets


def _location(data: PicturedData) -> dict[str, Any]:
    """The settings of a set that say which pictures it has."""
    names = ("path", "images", "labels", "form", "split")
    return {name: getattr(data, name) for name in names if hasattr(data, name)}


class Detector:
    """DINOv2 and the proposer, a batch of pictures at a time, divided over this host's devices.

    Attributes:
      slots: boxes that a picture gets at most.
      made_of: digest of weights and settings.
    """

    def __init__(self, sizes: Sizes, sources: Sources, options: ProposeOptions):
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        self.batch = -(-options.batch_size // mesh.size) * mesh.size
        self.slots = sizes.sequence.region_slots
        whole = NamedSharding(mesh, PartitionSpec())
        self._cut = NamedSharding(mesh, PartitionSpec("data"))
        wanted = placed_in(whole, part_shapes(sizes, SEES), jnp.dtype(options.dtype))
        self._params = load_parts(sizes, sources, jax.random.key(0), wanted)
        self.made_of = identity.digest(
            identity.arrays(self._params), repr(sizes.edit), options.dtype
        )
        self._find = jax.jit(lambda params, images: _boxes(params, images, sizes))

    def __call__(self, images: UInt8[np.ndarray, "n S S 3"]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns (boxes float32 [n, 4], scores float32 [n]) of each picture."""
        filled = np.concatenate([images, images[:1].repeat(self.batch - len(images), axis=0)])
        boxes, scores, mask = map(
            np.asarray, self._find(self._params, jax.device_put(filled, self._cut))
        )
        return [(boxes[n][mask[n]], scores[n][mask[n]]) for n in range(len(images))]


def _boxes(
    params: Params, images: Array, sizes: Sizes
) -> tuple[Float[Array, "B R 4"], Float[Array, "B R"], Bool[Array, "B R"]]:
    """As `brushjax.pipelines.fireedit.propose`, with the scores."""
    dino, proposer = (build(*sizes.of(kind), params[kind]) for kind in SEES)
    hidden = states(dino, to_unit_range(images, dtype_of(params["dino"])), sizes)
    proposals = proposer(detector_features(hidden, sizes.edit.detector_layers))
    count = sizes.sequence.region_slots
    boxes, mask = select(proposals, count)
    chosen, _ = selected(proposals, count, iou=IOU_THRESHOLD, threshold=SCORE_THRESHOLD)
    scores = jnp.take_along_axis(jnp.pad(proposals.scores, ((0, 0), (0, 1))), chosen, axis=1)
    return boxes.astype(jnp.float32), scores.astype(jnp.float32), mask


def _found(
    stored: Pictured, numbers: range, size: int, detector: Detector, faults: Counter[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Boxes and scores of records; of a picture that can't be used none, and it is counted."""

    def read(number: int) -> np.ndarray | str:
        try:
            with as_fault("failed sample"):
                return stretched(stored.picture(number).pixels, size)
        except Fault as fault:
            return fault.cause

    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    with ThreadPoolExecutor(2) as readers:  # the next pictures are read while these are seen
        read_ahead = readers.map(read, numbers)
        for start in range(0, len(numbers), detector.batch):
            count = min(detector.batch, len(numbers) - start)
            pictures = [next(read_ahead) for _ in range(count)]
            good = [picture for picture in pictures if isinstance(picture, np.ndarray)]
            faults.update(picture for picture in pictures if isinstance(picture, str))
            found = iter(detector(np.stack(good)) if good else ())
            for picture in pictures:
                yield next(found) if isinstance(picture, np.ndarray) else nothing
