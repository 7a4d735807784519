"""The FireEditor: picture and instruction in, edited picture out."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from brushjax.diffusion.samplers import SAMPLERS, Sampler, make_sampler
from brushjax.diffusion.schedule import read_scheduler_config
from brushjax.inference.engine.batch import as_list, batch_seeds, batch_size, repeated
from brushjax.inference.engine.edit import seeded_noise
from brushjax.inference.engine.fireedit import (
    NETWORKS,
    NULL,
    FireGraphs,
    FireInputs,
    FireOptions,
    FireOutputs,
    edit,
)
from brushjax.inference.engine.program import Program
from brushjax.inference.images import carried, read_image, resize
from brushjax.inference.result import InpaintResult
from brushjax.models.fireedit.proposals import corners
from brushjax.models.fireedit.vlm import stacked
from brushjax.models.vae import in_working_dtype
from brushjax.pipelines.fireedit import SHIPPED_FIREEDIT, sizes_of
from brushjax.pipelines.instructions import Prompt, Words, Writer
from brushjax.pipelines.parts import graphs_and_weights
from brushjax.pipelines.published import NOISE
from brushjax.sharding import Rule
from brushjax.weights.fireedit import Parts, load_fireedit

PROMPT = "prompt.json"
SAMPLING = {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}  # as SD 1's
COARSE = 64  # pixels: what the worked-on sides are multiples of
LONGEST = 8192  # pixels: no side is worked on at more
SIDE = 512  # of a base that does not say what it was trained at


@dataclasses.dataclass(frozen=True, repr=False)
class FireEditResult(InpaintResult):
    """What an edit gives, with the regions that the language model was shown.

    Attributes:
        boxes: of each picture, best first: left, top, right, bottom as shares of the picture.
    """

    boxes: tuple[Float[np.ndarray, "_ 4"], ...] = ()

    def drawn(self, i: int = 0, width: int = 2) -> UInt8[np.ndarray, "H W 3"]:
        """Returns image i with the outlines of its regions, the best of them the brightest."""
        picture = Image.fromarray(self.images[i])
        pen, size = ImageDraw.Draw(picture), np.array(picture.size * 2)
        for number, box in reversed(list(enumerate(self.boxes[i]))):
            shade = 255 - 160 * number // max(len(self.boxes[i]), 1)
            pen.rectangle([float(x) for x in box * (size - 1)], outline=(shade, 0, 0), width=width)
        return np.asarray(picture)


class FireEditor:
    """Edits pictures as an instruction says.

    A program is compiled for each combination of picture size and batch size; instructions, seeds,
    guidance, schedulers, and numbers of steps up to the next power of two reuse it.
    """

    def __init__(
        self,
        parts: Parts,
        words: Words,
        *,
        prompt: Prompt | None = None,
        scheduler: Mapping[str, Any] | None = None,
        mesh: Mesh | None = None,
        rules: Sequence[Rule] = (),
        programs: str | Path | None = None,
    ):
        """Args:
        parts: all of them.
        words: the language model's tokenizer.
        prompt: the words around an instruction, as in training.
        scheduler: a published scheduler_config.json; None is Stable Diffusion 1's.
        mesh, rules, programs: as for `Inpainter.from_parts`, by the parts' kinds.
        """
        sizes = sizes_of(parts)
        networks, weights = graphs_and_weights(parts.models)
        params: dict[str, Any] = {**weights}
        params["vae"] = in_working_dtype(params["vae"], sizes.vae)
        params[NULL] = jnp.asarray(parts.null_context)
        graphs = FireGraphs(tuple(networks.items()), sizes)
        run = functools.partial(edit, graphs)
        self._program = Program(run, params, key=graphs, mesh=mesh, rules=rules, saved=programs)
        self._writer = Writer(sizes.sequence, words, prompt or Prompt())
        self._scheduler = NOISE | SAMPLING if scheduler is None else scheduler
        cells = json.loads(sizes.unet.extra).get("sample_size")
        self._cell = 2 ** (len(sizes.vae.block_out_channels) - 1)
        self._side = cells * self._cell if isinstance(cells, int) else SIDE
        self._carries = sizes.edit.least_change > 0
        self._samplers: dict[tuple[str, int], Sampler] = {}

    @classmethod
    def load(
        cls,
        folder: str | Path = SHIPPED_FIREEDIT,
        dtype: Any = jnp.float32,
        *,
        mesh: Mesh | None = None,
        rules: Sequence[Rule] = (),
        programs: str | Path | None = None,
    ) -> FireEditor:
        """Loads a FireEdit folder, which `python train.py configs/fireedit/...` exports; without
        one the small model that ships, which is made for steps=1, scheduler="ddim" and guidance 1.

        Args:
            dtype: of the parameters, and so of the computation.
            mesh, rules, programs: as for `Inpainter.from_parts`.

        Raises:
            WeightsError: the folder is none, or lacks a part or its tokenizer.
        """
        place = Path(folder).expanduser()
        parts = load_fireedit(place, dtype=dtype)
        prompt = None
        if (place / PROMPT).is_file():
            prompt = Prompt(**json.loads((place / PROMPT).read_text(encoding="utf-8")))
        scheduler = None
        if (place / "scheduler").is_dir():
            scheduler = read_scheduler_config(place)
        return cls(
            parts,
            Words(place),
            prompt=prompt,
            scheduler=scheduler,
            mesh=mesh,
            rules=rules,
            programs=programs,
        )

    def __call__(
        self,
        image: Any,
        instruction: str | Sequence[str],
        *,
        steps: int = 100,
        text_guidance: float | int = 7.5,
        image_guidance: float | int = 1.5,
        seed: int | Sequence[int] = 0,
        scheduler: str = "euler-a",
        side: int | None = None,
        together: int | None = None,
        tile: int | None = None,
    ) -> FireEditResult:
        """Edits pictures.

        Image, instruction and seed may each be a list (images also an array with four axes); single
        ones serve the whole batch; from one seed s, sample b takes seed s + b.

        Args:
            image: what `brushjax.inference.images.read_image` takes, all of one size.
            instruction: what is to be done; of a long one what the sequence has room for is read.
            text_guidance, image_guidance: s_T and s_I of the paper's eq. 2.
            scheduler: a name in `brushjax.diffusion.samplers.SAMPLERS`.
            side: pixels of the longer side that is worked on; None is what the UNet was trained at.
            together: samples that a device works on at once; None takes its whole share.
            tile: side of the tiles in which the decoder works, for large pictures.

        Returns:
            Pictures of the input's own size, outside the regions too as the networks made them;
            of a model with `least_change` the picture itself where the edit changes nothing.

        Raises:
            ValueError, TypeError: arguments that don't fit, with what was expected.
            FloatingPointError: the networks produced NaN or infinity.

        Source: FireEdit (arXiv 2503.19839), figure 2; sampling as instruct-pix2pix's edit_cli.py.
        Differs: docs/deviations.md#fireedit-picture.
        """
        start = time.perf_counter()
        if scheduler not in SAMPLERS:
            raise ValueError(f"expected scheduler in {sorted(SAMPLERS)}, got {scheduler!r}")
        columns = {"image": as_list(image), "instruction": as_list(instruction)}
        columns["seed"] = as_list(seed)
        size = batch_size({name: len(column) for name, column in columns.items()})
        originals = [read_image(one) for one in columns["image"]]
        shapes = sorted({one.shape for one in originals})
        if len(shapes) != 1:
            raise ValueError(f"expected pictures of one size in a batch, got {shapes}")
        sampler = self._sampler(scheduler, steps)
        scales = np.array([image_guidance, text_guidance], np.float32)
        guidance = np.broadcast_to(scales, (sampler.steps, 2))
        inputs = self._inputs(originals, columns, size, guidance, side or self._side)
        out = self._program(sampler, inputs, FireOptions(together, tile))
        _check_finite(out.finite)

        images = self._at_size(repeated(originals, size), inputs.images, out.pictures)
        seconds = time.perf_counter() - start
        return FireEditResult(images, out.latents, seconds, boxes=_kept(out))

    def _inputs(
        self,
        originals: Sequence[np.ndarray],
        columns: Mapping[str, Sequence[Any]],
        size: int,
        guidance: Float[np.ndarray, "steps 2"],
        side: int,
    ) -> FireInputs:
        """What the program reads, of `size` samples; one picture or instruction serves them all."""
        tall, wide = originals[0].shape[:2]
        height, width = worked_at(tall, wide, side)
        pictures = np.stack([resize(one, (height, width)) for one in originals])
        plans: Any = stacked([self._writer.edit(text) for text in columns["instruction"]])
        seeds = batch_seeds(columns["seed"], size)
        return FireInputs(
            images=repeated(pictures, size),
            sequence=dataclasses.replace(
                plans, **{name: repeated(x, size) for name, x in vars(plans).items()}
            ),
            noise=seeded_noise(seeds, (height // self._cell, width // self._cell, 4)),
            guidance=guidance,
            seeds=seeds,
        )

    def _at_size(
        self, originals: Sequence[np.ndarray], before: np.ndarray, after: np.ndarray
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """The edited pictures at the originals' size; before and after are as worked on."""
        if self._carries:
            return np.stack([carried(*three) for three in zip(originals, before, after)])
        return np.stack([resize(one, originals[0].shape[:2]) for one in after])

    def _sampler(self, name: str, steps: int) -> Sampler:
        if (name, steps) not in self._samplers:
            self._samplers[name, steps] = make_sampler(name, self._scheduler, steps)
        return self._samplers[name, steps]


def worked_at(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns the size that a picture is worked on at: its longer side near `side`, both multiples
    of 64, and at least one of those.

    Raises:
        ValueError: where that is more than `LONGEST`, as for a picture of one line.

    Source: instruct-pix2pix's edit_cli.py.
    """
    factor = side / max(height, width)
    factor = -(-min(height, width) * factor // COARSE) * COARSE / min(height, width)
    tall, wide = (max(int(x * factor + 1e-6) // COARSE, 1) for x in (height, width))
    tall, wide = tall * COARSE, wide * COARSE
    if max(tall, wide) > LONGEST:
        raise ValueError(
            f"expected sides of at most {LONGEST} pixels to work on, got {tall} x {wide} for a "
            f"picture of {height} x {width}; crop it, or lower side"
        )
    return tall, wide


def _kept(out: FireOutputs) -> tuple[np.ndarray, ...]:
    edges = np.clip(np.asarray(corners(jnp.asarray(out.boxes)), np.float32), 0, 1)
    return tuple(one[mask] for one, mask in zip(edges, np.asarray(out.boxes_mask)))


def _check_finite(found: np.ndarray) -> None:
    wrong = ~np.asarray(found)
    if not wrong.any():
        return
    network = int(wrong.any(axis=0).argmax())
    samples = ", ".join(str(i) for i in np.flatnonzero(wrong[:, network]))
    raise FloatingPointError(
        f"the networks produced NaN or infinity, first {NETWORKS[network]}, in sample {samples}: "
        "use float32 (dtype, --dtype), or less guidance"
    )
