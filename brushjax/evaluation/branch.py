"""Does training the branch pay? Trained against zero-initialised branch, on held-out samples.

The zero-initialised branch adds nothing, so it is the base model alone: what is won over it is what
the training taught. Both get the same noise for the same sample, so differences are paired.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from brushjax.evaluation.branch_report import write_report
from brushjax.evaluation.generate import Fill, Pictures, generate
from brushjax.evaluation.held_out import HeldOut, Steering
from brushjax.evaluation.score import Scores, score_fills, score_steering
from brushjax.evaluation.units import Ledger, Sample, Unit
from brushjax.metrics.bootstrap import Bootstrap

if TYPE_CHECKING:
    from flax import nnx

    from brushjax.inference import Inpainter
    from brushjax.models.brushnet import BrushNet
    from brushjax.models.unet import UNet
    from brushjax.models.vae import AutoencoderKL

METHODS = ("trained", "zero", "autoencoder")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How pictures are sampled; see `brushjax.Inpainter`."""

    steps: int = 20
    guidance: float = 7.5
    scheduler: str = "unipc"
    scale: float = 1.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class BranchEvaluation:
    """Inpaints held-out samples with a trained and with a zero-initialised branch, and compares.

    Call it with a branch and a folder, or hand it to a training run as an evaluator. Results are
    the raw, unblended pictures: blending would hide the seam that is measured.

    Attributes:
        base: pipeline folder of the base model; empty takes the one in the package.
        held_out: the samples on which the branches are compared.
        steering: the samples whose prompt is swapped; None leaves that part out.
        sampling: how pictures are sampled.
        batch_size: pictures per call; results don't depend on it.
        strips: how many samples of each part are shown in the picture strips.
        bootstrap: how the intervals are resampled.
    """

    base: str = ""
    held_out: HeldOut = dataclasses.field(default_factory=HeldOut)
    steering: Steering | None = dataclasses.field(default_factory=Steering)
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    batch_size: int = 16
    strips: int = 12
    bootstrap: Bootstrap = dataclasses.field(default_factory=Bootstrap)

    def __call__(self, step: int, export: Path, workdir: Path) -> Mapping[str, float]:
        """As an evaluator of a training run: writes to workdir/samples, returns the means."""
        del step  # the weights' digest tells one export from another
        return self.run(export, workdir / "samples").flat()

    def run(self, weights: str | Path, out: str | Path, progress: bool = True) -> Scores:
        """Evaluate the branch at `weights` (all that `brushjax.load("brushnet", ...)` reads).

        Writes to `out`: pictures/ and rows.jsonl (done units are not done again), scores.jsonl
        (every metric of every sample), summary.json, table.md, and the strips fill.png and
        steering.png.
        """
        from brushjax.inference.inpaint import SHIPPED_BASE
        from brushjax.models.brushnet import BrushNet
        from brushjax.weights import load

        base = Path(self.base) if self.base else SHIPPED_BASE
        parts = {
            "unet": load("unet", base),
            "vae": load("vae", base),
            "text_encoder": load("clip_text", base),
            "tokenizer": base / "tokenizer",
            "scheduler": base / "scheduler",
        }
        branch = load("brushnet", weights)
        if not isinstance(branch, BrushNet):
            raise TypeError(f"expected a BrushNet at {weights}, got {type(branch).__name__}")
        return self.compare(parts, branch, out, progress)

    def describe(self) -> str:
        """What a run would make, in a line."""
        fills = len(METHODS) * self.held_out.count
        swaps = 3 * self.steering.count if self.steering else 0
        return (
            f"{fills + swaps} pictures: {fills} of held-out samples, {swaps} for swapped prompts\n"
        )

    def compare(
        self, parts: Mapping[str, Any], branch: BrushNet, out: str | Path, progress: bool = True
    ) -> Scores:
        """The same with loaded models.

        Args:
            parts: arguments of `brushjax.Inpainter.from_parts` besides the branch.
            branch: the trained branch.
        """
        samples = self.held_out.samples()
        swap = self.steering.plan() if self.steering else None
        units = [Unit("fill", method, one) for method in METHODS for one in samples]
        if swap:
            units += [Unit("swapped", "trained", one) for one in swap.swapped]
            units += [Unit("own", "trained", one) for one in swap.own]
            units += [Unit("own", "autoencoder", one) for one in swap.own]

        ledger = Ledger(out)
        fills, settings = self._fills(parts, branch), self._settings(parts, branch)
        keys = generate(units, fills, settings, ledger, self.batch_size, progress)
        pictures = Pictures(ledger, units, keys)

        results = {method: pictures.of("fill", method) for method in METHODS}
        scores = score_fills(samples, results, self.bootstrap)
        if self.steering and swap:
            steering = score_steering(
                self.steering,
                swap,
                swapped=pictures.of("swapped", "trained"),
                own=pictures.of("own", "trained"),
                decoded=pictures.of("own", "autoencoder"),
                bootstrap=self.bootstrap,
            )
            scores = dataclasses.replace(scores, steering=steering)
        write_report(Path(out), scores, pictures, self.strips, settings)
        return scores

    def _fills(self, parts: Mapping[str, Any], branch: BrushNet) -> dict[str, Fill]:
        """What makes the pictures of every method."""
        from brushjax.inference import Inpainter

        trained = Inpainter.from_parts(brushnet=branch, **parts)
        zero = Inpainter.from_parts(brushnet=zero_branch(parts["unet"], branch), **parts)
        return {
            "trained": self._painted(trained),
            "zero": self._painted(zero),
            "autoencoder": reconstructed(parts["vae"]),
        }

    def _painted(self, painter: Inpainter) -> Fill:
        sampling = dataclasses.asdict(self.sampling)
        seed = sampling.pop("seed")

        def fill(samples: Sequence[Sample]) -> UInt8[np.ndarray, "B H W 3"]:
            return painter(
                [one.image for one in samples],
                [one.mask > 0 for one in samples],
                [one.prompt for one in samples],
                seed=[noise_seed(seed, one.id) for one in samples],
                blend="none",
                **sampling,
            ).images

        return fill

    def _settings(self, parts: Mapping[str, Any], branch: BrushNet) -> dict[str, dict[str, Any]]:
        """What the pictures of every method depend on besides the sample."""
        base = {name: digest(parts[name]) for name in ("unet", "vae", "text_encoder")}
        sampled = {**dataclasses.asdict(self.sampling), "base": base}
        return {
            "trained": {**sampled, "branch": digest(branch)},
            "zero": {**sampled, "branch": "zero"},
            "autoencoder": {"vae": base["vae"]},
        }


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


def reconstructed(vae: AutoencoderKL) -> Fill:
    """The true picture through the autoencoder and back: what a perfect branch could reach."""
    import jax
    from flax import nnx

    graph, state = nnx.split(vae)

    @jax.jit
    def there_and_back(params: Any, pixels: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        return model.to_images(model.to_latents(pixels))

    def fill(samples: Sequence[Sample]) -> UInt8[np.ndarray, "B H W 3"]:
        pixels = np.stack([one.image for one in samples]).astype(np.float32) / 127.5 - 1
        decoded = np.asarray(there_and_back(nnx.to_pure_dict(state), pixels))
        return np.round(np.clip(decoded / 2 + 0.5, 0, 1) * 255).astype(np.uint8)

    return fill


def noise_seed(seed: int, sample: int) -> int:
    """The seed of a sample's noise, from 32 bits of hash: neighbouring seeds share no noise."""
    return zlib.crc32(f"{seed}/{sample}".encode())


def digest(model: nnx.Module) -> str:
    """A digest of a model's parameters, their names and their types."""
    import jax
    from flax import nnx

    hashed = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(model))):
        array = np.asarray(leaf)
        hashed.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).view(np.uint8).data)
    return hashed.hexdigest()[:20]
