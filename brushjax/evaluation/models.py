"""The networks that a sweep's methods share: each loaded once, and known by a digest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brushjax import identity
from brushjax.evaluation.records import BenchmarkError

if TYPE_CHECKING:
    from flax import nnx

    from brushjax.models.brushnet import BrushNet
    from brushjax.models.unet import UNet

GENERIC = ("export", "brushnet", "checkpoints", "params")  # folders that many branches lie in
ENDINGS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
DEFAULT = "default"  # the name of a method's branch or base that it does not name itself
ZERO = "zero"  # in the place of a checkpoint: the branch that training starts from


class Models:
    """Bases and branches by path.

    Args:
        weights: the branch that a method without a checkpoint of its own takes; empty: the one in
            its base's folder, as in the package's.
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
        self._parts_given = frozenset(self._parts)
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
            BenchmarkError: no checkpoint is named, here or by --weights, and none lies in the base.
            TypeError: weights of another network.
        """
        from brushjax.models.brushnet import BrushNet
        from brushjax.weights import WeightsError, load

        given = (self._weights, "") if not checkpoint else (checkpoint, "")
        place = (ZERO, base) if checkpoint == ZERO else given
        if place not in self._branches and checkpoint != ZERO:
            place = (self.source(checkpoint, base), "")
        if place not in self._branches:
            checkpoint = place[0]
            if checkpoint == ZERO:
                loaded = zero_branch(self.base(base)["unet"], self._like(base))
            else:
                try:
                    loaded = load("brushnet", checkpoint)
                except WeightsError as error:
                    raise BenchmarkError(f"{checkpoint} holds no branch: {error}") from error
            if not isinstance(loaded, BrushNet):
                raise TypeError(f"expected a BrushNet at {checkpoint}, got {type(loaded).__name__}")
            self._branches[place] = loaded
        return self._branches[place]

    def source(self, checkpoint: str = "", base: str = "") -> str:
        """Where the branch of a method comes from: its checkpoint, --weights, or its base's folder.

        Raises:
            BenchmarkError: none of them names one.
        """
        named = checkpoint or self._weights or self._shipped(base)
        if not named:
            raise BenchmarkError(
                "expected --weights DIR, or a checkpoint for every method: the base"
                f" {base or self._base} holds no brushnet/"
            )
        return named

    def _shipped(self, base: str) -> str:
        """The branch in a base's folder; empty where there is none, or the base has no folder."""
        from brushjax.pipelines.bases import base_path
        from brushjax.weights import WeightsError

        path = base or self._base
        if path in self._parts_given:
            return ""
        try:
            folder = base_path(path or None) / "brushnet"
        except WeightsError as error:
            raise BenchmarkError(f"the base {path}: {error}") from error
        return str(folder) if folder.is_dir() else ""

    def _like(self, base: str) -> BrushNet:
        """A branch with the config that a zero-initialised one should have."""
        if (self._weights, "") in self._branches or self._weights or self._shipped(base):
            return self.branch(base=base)
        from flax import nnx

        from brushjax.models.brushnet import BrushNet

        unet = self.base(base)["unet"]
        return nnx.eval_shape(lambda: BrushNet.from_unet(unet))

    def digest(self, model: nnx.Module) -> str:
        """`network_digest` of a model that this object holds, computed once."""
        if id(model) not in self._digests:
            self._digests[id(model)] = network_digest(model)
        return self._digests[id(model)]

    def base_digests(self, path: str = "") -> dict[str, str]:
        """The digests of a base's networks and of its noise."""
        from brushjax.diffusion.schedule import read_scheduler_config

        parts = self.base(path)
        names = ("unet", "vae", "text_encoder", "text_encoder_2")
        found = {name: self.digest(parts[name]) for name in names if name in parts}
        if parts.get("scheduler") is not None:
            noise = json.dumps(read_scheduler_config(parts["scheduler"]), sort_keys=True)
            found["scheduler"] = identity.digest(noise)
        return found


def named_paths(arguments: Sequence[str]) -> dict[str, str]:
    """Paths by name, from arguments such as "PATH" and "NAME=PATH", in their order.

    No path at all is called "default", `ZERO` by its own name. Another path without a name gets the
    shortest end of it that tells it from the others: of runs/a/export and runs/b/export that is a
    and b.

    Raises:
        BenchmarkError: two of one name.
    """
    pairs = [_split(argument) for argument in arguments]
    unnamed = [path for name, path in pairs if not name]
    short = dict(zip(unnamed, _short_names(unnamed)))
    names = [name or short[path] for name, path in pairs]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise BenchmarkError(
            f"expected different names, got {', '.join(doubles)} again; write NAME=PATH"
        )
    return dict(zip(names, (path for _, path in pairs)))


def _split(argument: str) -> tuple[str, str]:
    if argument in ("", ZERO):
        return argument or DEFAULT, argument
    name, _, path = argument.partition("=")
    named = path and "/" not in name and not Path(argument).expanduser().exists()
    return (name, path) if named else ("", argument)


def _short_names(paths: Sequence[str]) -> list[str]:
    """The shortest ends of paths, without folders and endings that say nothing, that differ."""
    whole = [[part for part in Path(path).parts if part != "/"] for path in paths]
    for one in whole:
        end = Path(one[-1]) if one else Path("weights")
        one[-1:] = [end.stem if end.suffix in ENDINGS else end.name]
    telling = [[part for part in one if part not in GENERIC] or one for one in whole]
    for parts in (telling, whole):
        for length in range(1, max(map(len, parts), default=0) + 1):
            names = ["/".join(one[-length:]) for one in parts]
            if len(set(names)) == len(names):
                return names
    return list(paths)


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


def network_digest(model: nnx.Module) -> str:
    """A digest of a model's config and parameters."""
    from flax import nnx

    config = repr(getattr(model, "config", ""))
    return identity.digest(config, identity.arrays(nnx.to_pure_dict(nnx.state(model))))
