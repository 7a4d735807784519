"""The Inpainter: picture, mask and prompt in, edited picture out."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from brushjax.data.text import LENGTH, Tokenizer
from brushjax.diffusion import guidance as blending
from brushjax.diffusion.samplers import Sampler, make_sampler
from brushjax.diffusion.schedule import read_scheduler_config
from brushjax.inference.engine.approximations import Approximations
from brushjax.inference.engine.batch import (
    as_list,
    batch_seeds,
    batch_size,
    control_scales,
    repeated,
)
from brushjax.inference.engine.edit import Graphs, seeded_noise
from brushjax.inference.engine.options import Condition, EditInputs, EditOptions
from brushjax.inference.engine.program import EditProgram
from brushjax.inference.images import Prepared, prepare, resize
from brushjax.models.brushnet import CELL, BrushNet
from brushjax.models.encoders.clip import CLIPText
from brushjax.models.unet import UNet
from brushjax.models.vae import AutoencoderKL, in_working_dtype
from brushjax.pipelines.bases import SHIPPED_BASE, BaseFiles, base_path, learnt_words, load_base
from brushjax.pipelines.parts import check_parts
from brushjax.pipelines.prompts import warn_of_marks
from brushjax.pipelines.text import Encoder, TextEncoders, TextFeatures
from brushjax.typing import AddedCondition, Params

__all__ = ["SHIPPED_BASE", "InpaintResult", "Inpainter"]


@dataclasses.dataclass(frozen=True)
class InpaintResult:
    """What an edit gives.

    Attributes:
        images: RGB 0..255 at the input's own size, blended.
        latents: final scaled latents, of the sides rounded down to multiples of 8.
        seconds: wall time of the whole call.
        transparent: RGBA with the inputs' opacity outside the masks; None where all were opaque.
    """

    images: UInt8[np.ndarray, "B H W 3"]
    latents: Float[np.ndarray, "B h w C"]
    seconds: float
    transparent: UInt8[np.ndarray, "B H W 4"] | None = None


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
        mesh: Mesh | None = None,
        programs: str | Path | None = None,
    ):
        parts = {"unet": unet, "brushnet": brushnet, "vae": vae}
        split = {name: nnx.split(part) for name, part in parts.items()}
        graphs = Graphs(**{name: graph for name, (graph, _) in split.items()})
        params: dict[str, Params] = {
            name: nnx.to_pure_dict(state) for name, (_, state) in split.items()
        }
        params["vae"] = in_working_dtype(params["vae"], vae.config)
        self._program = EditProgram(graphs, params, mesh=mesh, saved=programs)
        self._config: Any = unet.config
        self._text = text
        self._scheduler = scheduler
        self._told: set[str] = set()  # marks in prompts that were warned of
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
        mesh: Mesh | None = None,
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
            mesh: of `brushjax.sharding.make_mesh`; a batch is then cut over its data axes. None
                computes on one device.
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
            Encoder.of(model, _tokenizer(tokenize, model), learnt[kind])
            for kind, (model, tokenize) in usable.items()
        ]
        return cls(
            unet=unet,
            brushnet=brushnet,
            vae=vae,
            text=TextEncoders(*encoders) if models and len(encoders) == len(models) else None,
            scheduler=read_scheduler_config(scheduler),
            mesh=mesh,
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
            mesh, programs: as for `from_parts`.

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
        return cls.from_parts(brushnet=branch, mesh=mesh, programs=programs, **parts)

    def __call__(
        self,
        image: Any,
        mask: Any,
        prompt: str | Sequence[str] = "",
        negative_prompt: str | Sequence[str] | None = "",
        *,
        steps: int = 50,
        guidance: float | int = 7.5,
        scale: float | int = 1.0,
        control_start: float | int = 0.0,
        control_end: float | int = 1.0,
        scheduler: str = "unipc",
        seed: int | Sequence[int] = 0,
        blend: str = "feather",
        guess_mode: bool = False,
        tile: int | None = None,
        together: int | None = None,
        approximations: Approximations | None = None,
        mask_alpha: str = "auto",
        resize_mask: bool = False,
        weights: bool = False,
        context: Any = None,
        negative_context: Any = None,
        initial_noise: Any = None,
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
            guidance: g; at 1 or below the negative prompt is not used at all.
            scale: preservation scale w of the branch.
            control_start, control_end: shares of the steps between which the branch works.
            scheduler: a name in `brushjax.diffusion.samplers.SAMPLERS`.
            blend: a name in `brushjax.diffusion.guidance.BLENDS`.
            guess_mode: the branch's maps grow from weak to strong with their depth.
            tile: side in pixels of the tiles in which the VAE works, for large pictures.
            together: samples that a device works on at once; None takes its whole share. With 1 a
                picture is the same, bit for bit, in any batch and on any number of devices.
            approximations: less work for a slightly different picture.
            mask_alpha, resize_mask: how masks are read, see `brushjax.inference.images.prepare`.
            weights: read (word:1.2), ((word)) and [word] in the prompts as weights, not as words.
            context, negative_context: text features [B, L, D] instead of the prompts.
            initial_noise: [B, h, w, 4] instead of the seed.

        Raises:
            ValueError, TypeError: arguments that don't fit, with what was expected.
            FloatingPointError: the networks produced NaN or infinity.

        Warns:
            UserWarning: once for each mark of other programs that a prompt has and that is taken
                as words: weights without `weights`, embeddings and LoRA files that are not loaded.
        """
        start = time.perf_counter()
        if blend not in blending.BLENDS:
            raise ValueError(f"expected blend in {blending.BLENDS}, got {blend!r}")
        if not math.isfinite(guidance):
            raise ValueError(f"expected a finite guidance, got {guidance}")
        sampler = self._sampler(scheduler, steps)
        scales = control_scales(
            steps=sampler.steps, scale=scale, start=control_start, end=control_end
        )
        negative = (negative_prompt, negative_context) if guidance > 1 else None
        texts = self._texts((prompt, context), negative, weights)
        columns: dict[str, Any] = {"image": as_list(image), "mask": as_list(mask)}
        columns |= {name: features.context for name, features in texts.items()}
        columns["seed"] = as_list(seed)
        if initial_noise is not None:
            columns["initial_noise"] = np.asarray(initial_noise)
        size = batch_size({name: len(column) for name, column in columns.items()})
        prepared = prepare(
            *(repeated(columns[name], size) for name in ("image", "mask")),
            mask_alpha=mask_alpha,
            resize_mask=resize_mask,
        )
        seeds = batch_seeds(columns["seed"], size)
        inputs = EditInputs(
            masked=prepared.masked,
            masks=prepared.masks,
            noise=_noise(columns.get("initial_noise"), seeds, prepared),
            conditions=tuple(
                Condition(repeated(texts[name].context, size), _added(texts[name], prepared))
                for name in ("negative_prompt", "prompt")
                if name in texts
            ),
            guidance=np.float32(guidance),
            scales=scales,
            seeds=seeds,
        )
        options = EditOptions(guess_mode=guess_mode, tile=tile, together=together)
        latents, pictures = self._program(sampler, inputs, options, approximations)
        images = finish(prepared, pictures, blend)
        seconds = time.perf_counter() - start
        return InpaintResult(images, latents, seconds, prepared.transparent(images))

    def _sampler(self, name: str, steps: int) -> Sampler:
        if (name, steps) not in self._samplers:
            self._samplers[name, steps] = make_sampler(name, self._scheduler, steps)
        return self._samplers[name, steps]

    def _texts(
        self, prompt: tuple[Any, Any], negative: tuple[Any, Any] | None, weights: bool
    ) -> dict[str, TextFeatures]:
        """Text features of prompts, or given ones, as (words, context) each; all of one length."""
        asked = {"prompt": prompt}
        if negative is not None:
            asked["negative_prompt"] = ("" if negative[0] is None else negative[0], negative[1])
        words, features = {}, {}
        for name, (text, given) in asked.items():
            if given is None:
                words[name] = _words(name, text)
            else:
                features[name] = self._given(name, text, given)
        if words and self._text is None:
            raise ValueError(
                f"expected the context of {' and of '.join(words)}: this Inpainter has no text "
                "encoder or tokenizer"
            )
        if words and self._text is not None:
            taken = [-(-one.context.shape[1] // LENGTH) for one in features.values()]
            every = [one for text in words.values() for one in text]
            warn_of_marks(every, weights, self._text.learnt, self._told)
            rows = max(taken + [self._text.rows(text, weights) for text in words.values()])
            features |= {name: self._text(text, rows, weights) for name, text in words.items()}
        unset = negative is not None and negative[0] is None
        if unset and features["prompt"].pooled is not None:
            features["negative_prompt"] = jax.tree.map(np.zeros_like, features["prompt"])
        lengths = {name: one.context.shape[1] for name, one in features.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected text features of one length, got {lengths}")
        return features

    def _given(self, name: str, text: Any, context: Any) -> TextFeatures:
        """Checks text features that the caller brings."""
        if text not in ("", [], ()):
            raise ValueError(f"expected {name} or its context, got both")
        if self._config.addition_embed_type is not None:
            raise ValueError(f"expected {name} as words: SDXL needs pooled text beside the context")
        context, width = np.asarray(context), self._config.cross_attention_dim
        if context.ndim != 3 or context.shape[-1] != width:
            raise ValueError(
                f"expected the context of {name} as [B, L, D] with D = {width}, got {context.shape}"
            )
        return TextFeatures(context)


def finish(
    prepared: Prepared, pictures: UInt8[np.ndarray, "B H8 W8 3"], blend: str
) -> UInt8[np.ndarray, "B H W 3"]:
    """Brings decoded pictures back to the originals' size and blends them in."""
    size = prepared.originals.shape[1:3]
    pictures = np.stack([resize(picture, size) for picture in pictures])
    return blending.blend(prepared.originals, pictures, prepared.holes, blend)


def _noise(given: np.ndarray | None, seeds: Any, prepared: Prepared) -> Any:
    """Initial noise [B, h, w, 4] float32: given, or drawn from seeds."""
    size, height, width = prepared.masks.shape[:3]
    shape = (height // CELL, width // CELL, 4)
    if given is None:
        return seeded_noise(seeds, shape)
    if given.shape[1:] != shape:
        raise ValueError(f"expected initial_noise {(size, *shape)}, got {given.shape}")
    return repeated(given.astype(np.float32), size)


def _added(features: TextFeatures, prepared: Prepared) -> AddedCondition | None:
    """SDXL's pooled text and sizes: the picture's, twice, around a crop at its corner."""
    if features.pooled is None:
        return None
    size, height, width = prepared.masks.shape[:3]
    sizes = np.array([[height, width, 0, 0, height, width]], np.float32)
    return AddedCondition(repeated(features.pooled, size), repeated(sizes, size))


def _words(name: str, text: Any) -> list[str]:
    words = as_list(text)
    if not all(isinstance(one, str) for one in words):
        raise TypeError(f"expected {name} as a string or a list of strings, got {text!r}")
    return words


def _tokenizer(given: Any, model: CLIPText) -> Any:
    """Makes what turns prompts into ids of what `from_parts` takes."""
    length = model.config.max_position_embeddings
    if isinstance(given, (str, Path)):
        return Tokenizer.load(given, length)
    if hasattr(given, "model_max_length"):  # transformers' own
        return Tokenizer(given, length)
    return given


def _loras(given: Any) -> tuple[tuple[Any, float | int], ...]:
    if given is None:
        return ()
    return tuple(given.items()) if isinstance(given, Mapping) else ((given, 1.0),)
