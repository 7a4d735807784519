"""The compiled program of an edit by FireEdit: see, understand, denoise, decode."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from brushjax.diffusion.samplers import Sampler, sample
from brushjax.inference.engine.batch import by_groups
from brushjax.inference.engine.cache import savable
from brushjax.inference.engine.edit import as_bytes, decode, finite
from brushjax.models.fireedit.editor import Conditions, FireEdit, Seen, threes
from brushjax.nn import Execution, executing
from brushjax.pipelines.fireedit import Sizes, join, look, propose
from brushjax.typing import Params

NULL = "null_context"
AROUND = 5  # pixels: side of the square in which changes are averaged
NETWORKS = ("the encoders and the language model", "the UNet", "the autoencoder's decoder")


@dataclasses.dataclass(frozen=True)
class FireGraphs:
    """What the parts compute, without their weights: hashable, so part of a program's key.

    Attributes:
        parts: (kind, graph definition) of every part.
        sizes: their configs, and how they are joined.
    """

    parts: tuple[tuple[str, Any], ...]
    sizes: Sizes

    def models(self, params: Mapping[str, Params]) -> dict[str, Any]:
        """Returns the parts on these weights."""
        return {kind: nnx.merge(graph, params[kind]) for kind, graph in self.parts}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FireInputs:
    """All that varies between two edits run by one program.

    Attributes:
        images: uint8 [B, H, W, 3].
        sequence: of the language model, arrays [B, S].
        noise: float32 [B, h, w, 4], standard normal.
        guidance: float32 [n, 2], by the picture and by the instruction, at every step.
        seeds: uint32 [B], for samplers that draw noise at every step.
    """

    images: Any
    sequence: Any
    noise: Any
    guidance: Any
    seeds: Any

    def samples(self) -> dict[str, Any]:
        """The fields with a batch axis, by name."""
        return {name: value for name, value in vars(self).items() if name != "guidance"}

    def per_step(self) -> dict[str, Any]:
        """The fields with a value for each network call."""
        return {"guidance": self.guidance}


@dataclasses.dataclass(frozen=True)
class FireOptions:
    """What a program is compiled for, beside the networks and the sizes.

    Attributes:
        together: samples that a device works on at once; None takes its whole share of the batch.
        tile: side in pixels of the tiles in which the decoder works; None takes pictures whole.
    """

    together: int | None = None
    tile: int | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FireOutputs:
    """What an edit gives; in groups of samples, each with an axis more, while a program runs.

    Attributes:
        latents: final ones, scaled. float32 [B, h, w, 4]
        pictures: decoded. uint8 [B, H, W, 3]
        boxes, boxes_mask: regions that were looked at, shares of the picture. [B, R, 4], [B, R]
        finite: whether what each of NETWORKS gave is free of NaN and infinity. [B, 3]
    """

    latents: Any
    pictures: Any
    boxes: Any
    boxes_mask: Any
    finite: Any


savable(FireOutputs)


@functools.partial(jax.jit, static_argnames=("graphs", "options", "mesh"))
def edit(
    graphs: FireGraphs,
    params: dict[str, Params],
    sampler: Sampler,
    inputs: FireInputs,
    options: FireOptions = FireOptions(),
    mesh: Mesh | None = None,
) -> FireOutputs:
    """Runs a whole edit in one program.

    Encoders, language model, Q-Former and HVCA run once, TATI once a step, and the UNet once a step
    on the three conditions together.
    """
    with executing(Execution(mesh=mesh)):

        def run(inputs: FireInputs) -> FireOutputs:
            return _edit(graphs, params, sampler, inputs, options)

        if options.together is None:
            return run(inputs)
        of_group = lambda samples: run(dataclasses.replace(inputs, **samples))  # noqa: E731
        return by_groups(of_group, inputs.samples(), options.together, mesh)


def _edit(
    graphs: FireGraphs,
    params: dict[str, Params],
    sampler: Sampler,
    inputs: FireInputs,
    options: FireOptions,
) -> FireOutputs:
    sizes, models = graphs.sizes, graphs.models(params)
    model = join(sizes.edit, sizes.sequence, models, params[NULL])
    dtype = model.unet.conv_in.kernel.dtype
    image = (inputs.images.astype(jnp.float32) / 127.5 - 1).astype(dtype)

    sight = look(models["dino"], models["clip_vision"], image, sizes)
    boxes, mask = propose(models["proposer"], sight, sizes)
    known = model.understand(inputs.sequence, *model.see(sight.levels, boxes, mask), mask)
    features = known.features.astype(dtype)  # [B, Q, D]

    vae = models["vae"]
    picture = vae.encode(image.astype(vae.quant_conv.kernel.dtype)).mode().astype(dtype)
    predict = Predictor(model, features, sight.seen, picture)
    guidance = jnp.asarray(inputs.guidance)
    latents = sample(sampler, predict, inputs.noise, guidance, seeds=inputs.seeds)
    pictures = decode(vae, latents, options.tile)
    if sizes.edit.least_change:
        before = decode(vae, picture * vae.config.scaling_factor, options.tile)
        pictures = kept(image, before, pictures, sizes.edit.least_change)
    found = finite(features[..., None], latents, pictures)
    return FireOutputs(latents, as_bytes(pictures), boxes, mask, found)


def kept(
    image: Float[Array, "B H W 3"],
    before: Float[Array, "B H W 3"],
    after: Float[Array, "B H W 3"],
    least: float,
) -> Float[Array, "B H W 3"]:
    """Returns what an edit decodes to, and the picture itself where the edit changed nothing.

    Args:
      image, before: the picture, and what the autoencoder makes of it, in [-1, 1].
      after: the edit, decoded.
      least: `FireEditConfig.least_change`.

    Differs: docs/deviations.md#fireedit-small.
    """
    change = jnp.abs(after - before).mean(axis=-1, keepdims=True) / 2  # [B, H, W, 1], 0..1
    window = (1, AROUND, AROUND, 1)
    around = jax.lax.reduce_window(change, 0.0, jax.lax.add, window, (1,) * 4, "SAME")
    share = jnp.clip((around / AROUND**2 - least) / (2 * least), 0, 1)
    return image.astype(after.dtype) * (1 - share) + after * share


class Predictor:
    """The guided prediction of one edit; what no step changes is computed ahead."""

    def __init__(
        self,
        model: FireEdit,
        features: Float[Array, "B Q D"],
        seen: Seen,
        picture: Float[Array, "B h w 4"],
    ):
        """Args:
        picture: its latents, not scaled.
        """
        self._model, self._features, self._seen = model, features, seen
        self._pictures = threes(jnp.zeros_like(picture), picture, picture)
        null, config, unet = model.null(features), model.config, model.unet
        self._views = self._nulls = None
        if config.hvca_text == "qformer":
            self._views = unet.visual_keys(model.views(seen, null, features))
        if config.null_after_tati:
            self._nulls = unet.text_keys(null)

    def __call__(
        self,
        latents: Float[Array, "B h w 4"],
        timestep: Float[Array, ""],
        guidance: Float[Array, 2],
    ) -> Float[Array, "B h w 4"]:
        x, moment = latents.astype(self._features.dtype), timestep[None]
        model, unet = self._model, self._model.unet
        null, context = model.contexts(self._features, moment)
        nulls, views = self._nulls, self._views
        if nulls is None:
            nulls = unet.text_keys(null)
        if views is None:
            views = unet.visual_keys(model.views(self._seen, null, context))
        keys = jax.tree.map(lambda n, own: threes(n, n, own), nulls, unet.text_keys(context))
        conditions = Conditions(keys, views, self._pictures)
        return model.guided(x, moment, conditions, guidance).astype(latents.dtype)
