"""The Inpainter: picture, mask and prompt in, edited picture out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from brushjax.diffusion.samplers import Sampler, make_sampler
from brushjax.diffusion.schedule import read_scheduler_config
from brushjax.inference.conditions import Prompts, condition
from brushjax.inference.engine.batch import as_list, batch_seeds, batch_size, repeated
from brushjax.inference.engine.edit import Graphs, seeded_noise
from brushjax.inference.engine.options import EditInputs
from brushjax.inference.engine.program import EditProgram, Progress
from brushjax.inference.images import DEFAULT_SIDE, Prepared, prepare, size_hint
from brushjax.inference.inpaint_settings import InpaintSettings
from brushjax.inference.result import InpaintResult
from brushjax.models.brushnet import CELL, BrushNet
from brushjax.models.encoders.clip import CLIPText
from brushjax.models.unet import UNet
from brushjax.models.vae import AutoencoderKL, in_working_dtype
from brushjax.pipelines.bases import SHIPPED_BASE, BaseFiles, base_path, learnt_words, load_base
from brushjax.pipelines.parts import check_parts, graphs_and_weights
from brushjax.pipelines.text import Encoder, TextEncoders, TextFeatures, tokenizer_of
from brushjax.sharding import Rule

__all__ = ["SHIPPED_BASE", "InpaintResult", "InpaintSettings", "Inpainter"]


class Inpainter:
    """Edits pictures with a base model and a BrushNet branch.

    A program is compiled for each combination of picture size, batch size, length of the prompts in
    rows of 77 tokens, and guidance on or off; prompts, seeds, masks, schedulers and all other
    numbers reuse it, and so do numbers of steps up to the next power of two.
    """

    def __init__(
        self,
        *,
        unet: UNet,
        brushnet: BrushNet,
        vae: AutoencoderKL,
        text: TextEncoders | None,
        scheduler: Mapping[str, Any],
        side: int | None = None,
        mesh: Mesh | None = None,
        rules: Sequence[Rule] = (),
        programs: str | Path | None = None,
    ):
        parts = {"unet": unet, "brushnet": brushnet, "vae": vae}
        graphs, params = graphs_and_weights(parts)
        params["vae"] = in_working_dtype(params["vae"], vae.config)
        placing = {"mesh": mesh, "rules": rules, "saved": programs}
        self._program = EditProgram(Graphs(**graphs), params, **placing)
        self._prompts = Prompts(text, unet.config)
        self._scheduler, self._side = scheduler, side
        self._hinted = False  # of a size that the base doesn't know
        self._samplers: dict[tuple[str, int], Sampler] = {}

    @classmethod
    def from_parts(
        cls,
        *,
        unet: UNet,
        brushnet: BrushNet,
        vae: AutoencoderKL,
        text_encoder: CLIPText | None = None,
        tokenizer: Any = None,
        text_encoder_2: CLIPText | None = None,
        tokenizer_2: Any = None,
        scheduler: str | Path | Mapping[str, Any],
        embeddings: Mapping[str, Any] | None = None,
        side: int | None = None,
        mesh: Mesh | None = None,
        rules: Sequence[Rule] = (),
        programs: str | Path | None = None,
    ) -> Inpainter:
        """Builds an Inpainter from loaded parts.

        Args:
            text_encoder, tokenizer: needed for prompts; without them pass `context`. The tokenizer
                is a folder, `brushjax.data.text.Tokenizer`, transformers' CLIPTokenizer, or a
                function from strings to int ids [B, L].
            text_encoder_2, tokenizer_2: SDXL's second.
            scheduler: a published scheduler_config.json: its dict, its file or its folder.
            embeddings: files of learnt words (textual inversion), {word: file}; the word then
                stands for the file's vectors in every prompt, also as embedding:word.
            side: of the pictures that the base was trained on, in pixels; None if it's not known.
            mesh: of `brushjax.sharding.make_mesh`; a batch is then cut over its data axes. None
                computes on one device.
            rules: how the weights of "unet", "brushnet" and "vae" are cut over the mesh, as (regex
                of a path such as unet.conv_in.kernel, tactic); see `brushjax.sharding.shardings`.
                Weights that no rule names are whole on every device. A call with `together` brings
                the others together on each device, too, as long as it runs.
            programs: folder of programs compiled ahead of time, read from and added to. None uses
                XLA's own cache on disk.

        Raises:
            ValueError: parts that don't belong together.
        """
        pairs = [(text_encoder, tokenizer), (text_encoder_2, tokenizer_2)]
        models = [model for model, _ in pairs if model is not None]
        check_parts(unet, brushnet, vae, models)
        kinds = ("clip_text", "clip_text_2")
        usable = {
            kind: (model, tokenize)
            for kind, (model, tokenize) in zip(kinds, pairs)
            if model is not None and tokenize is not None
        }
        learnt = learnt_words(embeddings or {}, {kind: usable[kind][0] for kind in usable})
        encoders = [
            Encoder.of(model, tokenizer_of(tokenize, model), learnt[kind])
            for kind, (model, tokenize) in usable.items()
        ]
        return cls(
            unet=unet,
            brushnet=brushnet,
            vae=vae,
            text=TextEncoders(*encoders) if models and len(encoders) == len(models) else None,
            scheduler=read_scheduler_config(scheduler),
            side=side,
            mesh=mesh,
            rules=rules,
            programs=programs,
        )

    @classmethod
    def load(
        cls,
        base: str | Path | None = None,
        brushnet: str | Path | None = None,
        dtype: Any = jnp.float32,
        *,
        vae: str | Path | None = None,
        tokenizer: str | Path | None = None,
        scheduler: str | Path | Mapping[str, Any] | None = None,
        lora: str | Path | Mapping[Any, float | int] | None = None,
        embeddings: Mapping[str, str | Path] | None = None,
        mesh: Mesh | None = None,
        rules: Sequence[Rule] = (),
        programs: str | Path | None = None,
    ) -> Inpainter:
        """Loads a base model and a branch.

        Args:
            base: pipeline folder in diffusers layout, a hub id, or a whole-model file in the
                original code's names (Stable Diffusion 1.x, 2.x, XL); None takes the small one in
                the package.
            brushnet: what `brushjax.load("brushnet", ...)` reads, ComfyUI's files among it; None
                takes the base's folder `brushnet`.
            dtype: of the parameters, and so of the computation; the autoencoder's is float32 where
                its config says force_upcast, and in place of float16, whose range it leaves.
            vae: what `brushjax.load("vae", ...)` reads, instead of the base's.
            tokenizer: folder with vocab.json and merges.txt. For a whole-model file, None takes
                CLIP's from the hub or its cache.
            scheduler: a published scheduler_config.json; for a whole-model file of Stable Diffusion
                1.x or XL, None takes the published one.
            lora: a LoRA file, or several with their weights, {file: weight}; see
                `brushjax.weights.merge_lora`. Embeddings that come along in it are used.
            embeddings: as for `from_parts`.
            mesh, rules, programs: as for `from_parts`.

        Raises:
            FileNotFoundError: no branch was given and the base has none.
            ValueError: parts that are missing, damaged, or don't belong together.
        """
        from brushjax.weights import load

        place = base_path(base)
        branch = place / "brushnet" if brushnet is None else brushnet
        if brushnet is None and not (place / "brushnet").is_dir():
            raise FileNotFoundError(
                f"expected brushnet= (--brushnet), since there is no folder {branch}. Without a "
                "branch the base doesn't see the picture around the hole. "
                "`python train.py configs/quickstart.py --workdir runs/quickstart` trains one for "
                "the small base in the package, on a CPU; then pass runs/quickstart/export"
            )
        files = BaseFiles(place, vae, tokenizer, scheduler, _loras(lora), embeddings or {})
        parts = load_base(files, dtype)
        branch: Any = load("brushnet", branch, dtype=dtype)
        return cls.from_parts(brushnet=branch, mesh=mesh, rules=rules, programs=programs, **parts)

    def __call__(
        self,
        image: Any,
        mask: Any,
        prompt: str | Sequence[str] = "",
        negative_prompt: str | Sequence[str] | None = "",
        *,
        seed: int | Sequence[int] = 0,
        context: Any = None,
        negative_context: Any = None,
        initial_noise: Any = None,
        progress: Progress | None = None,
        settings: InpaintSettings | None = None,
        **changes: Any,
    ) -> InpaintResult:
        """Paints the white part of the mask according to the prompt.

        Image, mask, prompt, negative prompt and seed may each be a list (images and masks also an
        array with four axes); single ones serve the whole batch. A sample's result does not depend
        on the rest of its batch: from one seed s, sample b takes seed s + b.

        Args:
            image, mask: see `brushjax.inference.images.prepare`; white = edit.
            prompt: of any length; beyond a row of 75 tokens it is encoded in several rows.
            negative_prompt: what to stay away from. None is diffusers' default: zeros for SDXL,
                for the others the empty prompt.
            context, negative_context: text features [B, L, D] instead of the prompts.
            initial_noise: [B, h, w, 4] instead of the seed.
            progress: is called with the steps done and the number of steps; the result is the same.
            settings: how to paint; the defaults of `InpaintSettings` without.
            changes: settings by name, which win over `settings`: steps, guidance, scale,
                control_start, control_end, scheduler, blend, crop and all others of
                `InpaintSettings`.

        Raises:
            ValueError, TypeError: arguments that don't fit, with what was expected.
            FloatingPointError: the networks produced NaN or infinity.

        Warns:
            UserWarning: once for each mark of other programs that a prompt has and that is taken
                as words: weights without `weights`, embeddings and LoRA files that are not loaded;
                and once where pictures are far from the size that the base was trained at.

        Source: BrushEdit (arXiv 2412.10316), figure 3: noise, masked picture and mask go into the
            branch, the text into the UNet; the decoded picture is blended into the original.
        """
        start = time.perf_counter()
        how = (settings or InpaintSettings()).changed(**changes)
        sampler = self._sampler(how.scheduler, how.steps)
        negative = (negative_prompt, negative_context) if how.guidance > 1 else None
        texts = self._prompts((prompt, context), negative, how)
        columns = {"image": as_list(image), "mask": as_list(mask), "seed": as_list(seed)}
        noise = None if initial_noise is None else np.asarray(initial_noise)
        size = _batch_size(columns, noise, texts)
        images, masks = (repeated(columns[name], size) for name in ("image", "mask"))
        prepared = self._prepared(images, masks, how)
        seeds = batch_seeds(columns["seed"], size)
        inputs = _inputs(prepared, seeds, noise, texts, how, sampler.steps)
        latents, pictures = self._program(
            sampler, inputs, how.options, how.approximations, progress
        )
        images = prepared.finish(pictures, how.blend)  # [B, H, W, 3]
        seconds = time.perf_counter() - start
        return InpaintResult(images, latents, seconds, prepared.transparent(images))

    def _prepared(self, images: list[Any], masks: list[Any], how: InpaintSettings) -> Prepared:
        """The pictures as the networks see them, and a hint where those don't know such sizes."""
        prepared = prepare(images, masks, side=self._side or DEFAULT_SIDE, **how.reading)
        hint = size_hint(prepared.masks.shape[1:3], self._side)
        if hint and not self._hinted:
            self._hinted = True
            warnings.warn(hint, stacklevel=3)
        return prepared

    def _sampler(self, name: str, steps: int) -> Sampler:
        if (name, steps) not in self._samplers:
            self._samplers[name, steps] = make_sampler(name, self._scheduler, steps)
        return self._samplers[name, steps]


def _inputs(
    prepared: Prepared,
    seeds: Any,
    noise: np.ndarray | None,
    texts: Sequence[TextFeatures],
    how: InpaintSettings,
    steps: int,
) -> EditInputs:
    """What the program of an edit is run on."""
    size, *shape = prepared.masks.shape[:3]
    return EditInputs(
        masked=prepared.masked,  # [B, H8, W8, 3]
        masks=prepared.masks,  # [B, H8, W8, 1]
        noise=_noise(noise, seeds, shape),  # [B, h, w, 4]
        conditions=tuple(condition(text, size, *shape) for text in texts),
        guidance=np.float32(how.guidance),
        scales=how.scales(steps),
        seeds=seeds,
    )


def _batch_size(
    columns: Mapping[str, Any], noise: np.ndarray | None, texts: Sequence[TextFeatures]
) -> int:
    """The size of the batch that these columns and the texts (the prompt is the last) make."""
    lengths = {name: len(column) for name, column in columns.items()}
    if noise is not None:
        lengths["initial_noise"] = len(noise)
    for name, text in zip(("prompt", "negative_prompt"), reversed(texts)):
        lengths[name] = len(text.context)
    return batch_size(lengths)


def _noise(given: np.ndarray | None, seeds: Any, shape: Sequence[int]) -> Any:
    """Initial noise [B, h, w, 4] float32 for pictures of a shape: given, or drawn from seeds."""
    height, width = shape
    cells = (height // CELL, width // CELL, 4)
    if given is None:
        return seeded_noise(seeds, cells)
    if given.shape[1:] != cells:
        raise ValueError(f"expected initial_noise {(len(seeds), *cells)}, got {given.shape}")
    return repeated(given.astype(np.float32), len(seeds))


def _loras(given: Any) -> tuple[tuple[Any, float | int], ...]:
    if given is None:
        return ()
    return tuple(given.items()) if isinstance(given, Mapping) else ((given, 1.0),)
