"""The networks that a sweep's methods share: each loaded once, and known by a digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brushjax import identity
from brushjax.evaluation.records import BenchmarkError

if TYPE_CHECKING:
    from flax import nnx

    from brushjax.models.brushnet import BrushNet
    from brushjax.models.unet import UNet

ZERO = "zero"  # in the place of a checkpoint: the branch that training starts from


class Models:
    """Bases and branches by path.

    Args:
        weights: the branch that a method without a checkpoint of its own takes.
        base: the pipeline folder that a method without one takes; empty: the one in the package.
        parts: loaded arguments of `brushjax.Inpainter.from_parts` besides the branch, for `base`.
        branch: a loaded branch, for `weights`.
    """

    def __init__(
        self,
        weights: str | Path = "",
        base: str = "",
        *,
        parts: Mapping[str, Any] | None = None,
        branch: Any = None,
    ):
        self._weights, self._base = str(weights), base
        self._parts: dict[str, dict[str, Any]] = {base: dict(parts)} if parts else {}
        self._branches: dict[tuple[str, str], Any] = {}
        if branch is not None:
            self._branches[self._weights, ""] = branch
        self._digests: dict[int, str] = {}

    def base(self, path: str = "") -> dict[str, Any]:
        """The parts of a base, as `brushjax.Inpainter.from_parts` takes them.

        Args:
            path: pipeline folder, single file or hub id; empty: the sweep's.

        Raises:
            BenchmarkError: a base that can't be loaded.
        """
        path = path or self._base
        if path not in self._parts:
            from brushjax.pipelines.bases import BaseFiles, base_path, load_base
            from brushjax.weights import WeightsError

            try:
                self._parts[path] = load_base(BaseFiles(base_path(path or None)), np.float32)
            except WeightsError as error:
                raise BenchmarkError(f"the base {path or 'of the package'}: {error}") from error
        return self._parts[path]

    def branch(self, checkpoint: str = "", base: str = "") -> BrushNet:
        """The branch of a checkpoint; `ZERO` starts one from the base.

        Raises:
            BenchmarkError: no checkpoint is named, here or by --weights.
            TypeError: weights of another network.
        """
        from brushjax.models.brushnet import BrushNet
        from brushjax.weights import WeightsError, load

        checkpoint = checkpoint or self._weights
        place = (checkpoint, base if checkpoint == ZERO else "")
        if place not in self._branches:
            if checkpoint == ZERO:
                loaded = zero_branch(self.base(base)["unet"], self._like(base))
            elif not checkpoint:
                raise BenchmarkError("expected --weights DIR, or a checkpoint for every method")
            else:
                try:
                    loaded = load("brushnet", checkpoint)
                except WeightsError as error:
                    raise BenchmarkError(f"{checkpoint} holds no branch: {error}") from error
            if not isinstance(loaded, BrushNet):
                raise TypeError(f"expected a BrushNet at {checkpoint}, got {type(loaded).__name__}")
            self._branches[place] = loaded
        return self._branches[place]

    def _like(self, base: str) -> BrushNet:
        """A branch with the config that a zero-initialised one should have."""
        if self._weights or (self._weights, "") in self._branches:
            return self.branch()
        from flax import nnx

        from brushjax.models.brushnet import BrushNet

        unet = self.base(base)["unet"]
        return nnx.eval_shape(lambda: BrushNet.from_unet(unet))

    def digest(self, model: nnx.Module) -> str:
        """`digest` of a model that this object holds, computed once."""
        if id(model) not in self._digests:
            self._digests[id(model)] = digest(model)
        return self._digests[id(model)]

    def base_digests(self, path: str = "") -> dict[str, str]:
        """The digests of a base's networks."""
        parts = self.base(path)
        names = ("unet", "vae", "text_encoder", "text_encoder_2")
        return {name: self.digest(parts[name]) for name in names if name in parts}


def zero_branch(unet: UNet, like: BrushNet) -> BrushNet:
    """The branch that training starts from.

    It has the other one's config to the letter, so that both run through one compiled program.
    """
    import jax
    from flax import nnx

    from brushjax.models.brushnet import BrushNet

    config = like.config
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    graph, state = nnx.split(unet)

    # Compiled as a whole, the random weights that the UNet's replace are never drawn: thirty times
    # less work than one small program per draw.
    @jax.jit
    def start(params: Any) -> Any:
        return nnx.state(BrushNet.from_unet(nnx.merge(graph, params), **settings))

    return nnx.merge(nnx.split(like)[0], start(state))


def digest(model: nnx.Module) -> str:
    """A digest of a model's config and parameters."""
    from flax import nnx

    config = repr(getattr(model, "config", ""))
    return identity.digest(config, identity.arrays(nnx.to_pure_dict(nnx.state(model))))
