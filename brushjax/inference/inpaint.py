"""The Inpainter: picture, mask and prompt in, edited picture out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from brushjax.data.text import Tokenizer
from brushjax.diffusion import guidance as blending
from brushjax.diffusion.samplers import Sampler, make_sampler
from brushjax.diffusion.schedule import read_scheduler_config
from brushjax.inference.batch import as_list, batch_seeds, batch_size, control_scales, repeated
from brushjax.inference.edit import EditInputs, Graphs, edit, encode_text, seeded_noise
from brushjax.inference.images import Prepared, prepare, resize
from brushjax.models.brushnet import CELL, BrushNet
from brushjax.models.clip import CLIPText
from brushjax.models.unet import UNet
from brushjax.models.vae import AutoencoderKL
from brushjax.sharding import BATCH

SHIPPED_BASE = Path(__file__).parents[1] / "assets/base"


@dataclasses.dataclass(frozen=True)
class InpaintResult:
    """What an edit gives.

    Attributes:
        images: RGB 0..255 at the input's own size, blended.
        latents: final scaled latents, of the sides rounded down to multiples of 8.
        seconds: wall time of the whole call.
    """

    images: UInt8[np.ndarray, "B H W 3"]
    latents: Float[np.ndarray, "B h w C"]
    seconds: float


class Inpainter:
    """Edits pictures with a base model and a BrushNet branch.

    A program is compiled for each combination of picture size, batch size, number of steps, and
    guidance on or off; prompts, seeds, masks and all other numbers reuse it.
    """

    def __init__(
        self,
        *,
        unet: UNet,
        brushnet: BrushNet,
        vae: AutoencoderKL,
        text_encoder: CLIPText | None,
        tokenize: Callable[[Sequence[str]], Any] | None,
        scheduler: Mapping[str, Any],
        mesh: Mesh | None = None,
    ):
        _check_parts(unet, brushnet, vae, text_encoder)
        split = {name: _split(part) for name, part in _named(unet, brushnet, vae)}
        self._graphs = Graphs(**{name: graph for name, (graph, _) in split.items()})
        self._params = {name: params for name, (_, params) in split.items()}
        self._text = None if text_encoder is None else _split(text_encoder)
        self._tokenize = tokenize
        if mesh is not None:
            self._params = jax.device_put(self._params, NamedSharding(mesh, PartitionSpec()))
        self._scheduler = scheduler
        self._mesh = mesh
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
        scheduler: str | Path | Mapping[str, Any],
        mesh: Mesh | None = None,
    ) -> Inpainter:
        """Builds an Inpainter from loaded parts.

        Args:
            text_encoder, tokenizer: needed for prompts; without them pass `context`. The tokenizer
                is a folder, transformers' CLIPTokenizer, or a function from strings to int ids
                [B, L].
            scheduler: a published scheduler_config.json: its dict, its file or its folder.
            mesh: of `brushjax.sharding.make_mesh`; a batch is then cut over its data axes, whose
                sizes must divide the batch size. None computes on one device.

        Raises:
            ValueError: parts that don't belong together.
        """
        if isinstance(tokenizer, (str, Path)):
            tokenizer = Tokenizer.load(tokenizer, _length(text_encoder))
        elif hasattr(tokenizer, "model_max_length"):  # transformers' own
            tokenizer = Tokenizer(tokenizer, _length(text_encoder))
        return cls(
            unet=unet,
            brushnet=brushnet,
            vae=vae,
            text_encoder=text_encoder,
            tokenize=tokenizer,
            scheduler=read_scheduler_config(scheduler),
            mesh=mesh,
        )

    @classmethod
    def load(
        cls,
        base: str | Path | None = None,
        brushnet: str | Path | None = None,
        dtype: Any = jnp.float32,
    ) -> Inpainter:
        """Loads a base model and a branch.

        Args:
            base: pipeline folder in diffusers layout; None takes the small one in the package.
            brushnet: what `brushjax.load("brushnet", ...)` reads; None takes the base's folder
                `brushnet`.
            dtype: of the parameters, and so of the computation.

        Raises:
            FileNotFoundError: no branch was given and the base has none.
        """
        from brushjax.weights import load

        base = SHIPPED_BASE if base is None else Path(base)
        branch = base / "brushnet" if brushnet is None else brushnet
        if brushnet is None and not (base / "brushnet").is_dir():
            raise FileNotFoundError(
                f"expected brushnet=, since there is no folder {branch}; "
                "`python train.py configs/quickstart.py --workdir DIR` trains a branch"
            )
        parts: dict[str, Any] = {
            "unet": load("unet", base, dtype=dtype),
            "brushnet": load("brushnet", branch, dtype=dtype),
            "vae": load("vae", base, dtype=dtype),
            "text_encoder": load("clip_text", base, dtype=dtype),
        }
        return cls.from_parts(**parts, tokenizer=base / "tokenizer", scheduler=base / "scheduler")

    def __call__(
        self,
        image: Any,
        mask: Any,
        prompt: str | Sequence[str] = "",
        negative_prompt: str | Sequence[str] = "",
        *,
        steps: int = 50,
        guidance: float | int = 7.5,
        scale: float | int = 1.0,
        control_start: float | int = 0.0,
        control_end: float | int = 1.0,
        scheduler: str = "unipc",
        seed: int | Sequence[int] = 0,
        blend: str = "feather",
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
            guidance: g; at 1 or below the negative prompt is not used at all.
            scale: preservation scale w of the branch.
            control_start, control_end: shares of the steps between which the branch works.
            scheduler: a name in `brushjax.diffusion.samplers.SAMPLERS`.
            blend: a name in `brushjax.diffusion.guidance.BLENDS`.
            context, negative_context: text features [B, L, D] instead of the prompts.
            initial_noise: [B, h, w, 4] instead of the seed.

        Raises:
            ValueError, TypeError: arguments that don't fit, with what was expected.
            FloatingPointError: the networks produced NaN or infinity.
        """
        start = time.perf_counter()
        if blend not in blending.BLENDS:
            raise ValueError(f"expected blend in {blending.BLENDS}, got {blend!r}")
        sampler = self._sampler(scheduler, steps)
        scales = control_scales(
            steps=sampler.steps, scale=scale, start=control_start, end=control_end
        )
        columns: dict[str, Any] = {"image": as_list(image), "mask": as_list(mask)}
        columns["prompt"] = self._features("prompt", prompt, context)
        if guidance > 1:
            columns["negative_prompt"] = self._features(
                "negative_prompt", negative_prompt, negative_context
            )
        columns["seed"] = as_list(seed) if initial_noise is None else np.asarray(initial_noise)
        size = batch_size({name: len(column) for name, column in columns.items()})
        batch = {name: repeated(column, size) for name, column in columns.items()}
        prepared = prepare(batch["image"], batch["mask"])
        inputs = EditInputs(
            masked=prepared.masked,
            masks=prepared.masks,
            noise=_noise(columns["seed"], prepared),
            context=batch["prompt"],
            negative=batch.get("negative_prompt"),
            guidance=np.float32(guidance),
            scales=scales,
        )
        if self._mesh is not None:
            inputs = over_devices(inputs, self._mesh)
        latents, pictures = jax.device_get(edit(self._graphs, self._params, sampler, inputs))
        if not np.isfinite(latents).all():
            raise FloatingPointError(
                "the networks produced NaN or infinity: use float32 weights, or less guidance"
            )
        images = finish(prepared, pictures, blend)
        return InpaintResult(images, latents, time.perf_counter() - start)

    def _sampler(self, name: str, steps: int) -> Sampler:
        if (name, steps) not in self._samplers:
            self._samplers[name, steps] = make_sampler(name, self._scheduler, steps)
        return self._samplers[name, steps]

    def _features(self, name: str, prompt: str | Sequence[str], context: Any) -> np.ndarray:
        """Text features [B, L, D] of the prompts, or the given ones."""
        if context is not None:
            if prompt not in ("", [], ()):
                raise ValueError(f"expected {name} or its context, got both")
            context = np.asarray(context)
            if context.ndim != 3:
                raise ValueError(
                    f"expected the context of {name} as [B, L, D], got {context.shape}"
                )
            return context
        if self._text is None or self._tokenize is None:
            raise ValueError(
                f"expected the context of {name}: this Inpainter has no text encoder or tokenizer"
            )
        graph, params = self._text
        token_ids = np.asarray(self._tokenize(as_list(prompt)), np.int32)
        return np.asarray(encode_text(graph, params, token_ids))


def over_devices(inputs: EditInputs, mesh: Mesh) -> EditInputs:
    """Cuts what has a batch axis over the mesh's data axes; the rest goes whole to every device.

    Raises:
        ValueError: a batch size that the data axes don't divide.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if len(inputs.masked) % parts:
        raise ValueError(
            f"expected a batch that {parts} devices divide, got {len(inputs.masked)} pictures"
        )
    whole = ("guidance", "scales")
    return EditInputs(
        **{
            field.name: jax.device_put(
                getattr(inputs, field.name),
                NamedSharding(mesh, PartitionSpec() if field.name in whole else BATCH),
            )
            for field in dataclasses.fields(inputs)
        }
    )


def finish(
    prepared: Prepared, pictures: UInt8[np.ndarray, "B H8 W8 3"], blend: str
) -> UInt8[np.ndarray, "B H W 3"]:
    """Brings decoded pictures back to the originals' size and blends them in."""
    size = prepared.originals.shape[1:3]
    pictures = np.stack([resize(picture, size) for picture in pictures])
    return blending.blend(prepared.originals, pictures, prepared.holes, blend)


def _noise(seeds: list[Any] | np.ndarray, prepared: Prepared) -> Any:
    """Initial noise [B, h, w, 4] float32: given, or drawn from seeds."""
    size, height, width = prepared.masks.shape[:3]
    shape = (height // CELL, width // CELL, 4)
    if isinstance(seeds, list):
        return seeded_noise(batch_seeds(seeds, size), shape)
    if seeds.shape[1:] != shape:
        raise ValueError(f"expected initial_noise {(size, *shape)}, got {seeds.shape}")
    return repeated(seeds.astype(np.float32), size)


def _named(unet: UNet, brushnet: BrushNet, vae: AutoencoderKL) -> list[tuple[str, nnx.Module]]:
    return [("unet", unet), ("brushnet", brushnet), ("vae", vae)]


def _split(module: nnx.Module) -> tuple[Any, Any]:
    graph, state = nnx.split(module)
    return graph, nnx.to_pure_dict(state)


def _length(text_encoder: CLIPText | None) -> int:
    if text_encoder is None:
        raise ValueError("expected a text_encoder with the tokenizer, got None")
    return text_encoder.config.max_position_embeddings


def _check_parts(
    unet: UNet, brushnet: BrushNet, vae: AutoencoderKL, text_encoder: CLIPText | None
) -> None:
    """Raises ValueError for parts that don't belong together, or that need what is not here yet."""
    wide: Any = unet.config
    branch: Any = brushnet.config
    checks = [
        ("a UNet with 4 input channels", wide.in_channels, 4),
        ("a UNet without added conditions (SDXL's)", wide.addition_embed_type, None),
        (
            "a branch as wide as the UNet",
            branch.block_out_channels,
            wide.block_out_channels,
        ),
        ("a branch for 5 condition channels", branch.conditioning_channels, 5),
        ("a branch that takes latents", branch.conditioning_encoder, "vae"),
        ("a VAE of 8 pixels a cell", vae.factor, CELL),
    ]
    if text_encoder is not None:
        checks += [
            (
                "a text encoder as wide as the UNet's cross-attention",
                text_encoder.config.hidden_size,
                wide.cross_attention_dim,
            )
        ]
    for what, got, expected in checks:
        if got != expected:
            raise ValueError(f"expected {what} ({expected}), got {got}")
