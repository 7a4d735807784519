"""What a method has to beat or can't: fills without a network, the copy, and the autoencoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from brushjax.evaluation.methods.contract import Filling, Made, Method, Recipe, Resources, Task
from brushjax.evaluation.records import Pixels


@dataclasses.dataclass(frozen=True)
class Autoencoder(Recipe):
    """The true picture through the base's autoencoder and back: what a perfect branch could reach.

    Attributes:
        label: its name in the report.
        base: pipeline folder; empty: the sweep's.
    """

    label: str = "autoencoder"
    base: str = ""
    reads = ()
    sees_truth = True

    def method(self, resources: Resources) -> Method:
        """The base's autoencoder, on one device: a small share of any sweep."""
        import jax
        from flax import nnx

        from brushjax.inference.engine.batch import by_groups

        models = resources.models
        own = {"kind": "autoencoder", "vae": models.base_digests(self.base)["vae"]}
        graph, state = nnx.split(models.base(self.base)["vae"])

        @jax.jit
        def there_and_back(params: Any, pixels: jax.Array) -> jax.Array:
            model = nnx.merge(graph, params)
            return by_groups(lambda x: model.to_images(model.to_latents(x)), pixels, 1)

        def fill(tasks: Sequence[Task]) -> Made:
            pictures = np.stack([_truth(task.pixels) for task in tasks])
            pixels = pictures.astype(np.float32) / 127.5 - 1
            decoded = np.asarray(there_and_back(nnx.to_pure_dict(state), pixels))
            if not np.isfinite(decoded).all():
                raise FloatingPointError("the autoencoder produced NaN or infinity")
            return Made(np.round(np.clip(decoded / 2 + 0.5, 0, 1) * 255).astype(np.uint8))

        return Filling(own, fill)


@dataclasses.dataclass(frozen=True)
class Telea(Recipe):
    """OpenCV's fill without a network: Telea's fast marching (2004).

    Attributes:
        label: its name in the report.
        radius: of the neighbourhood that a pixel is made from, in pixels.
    """

    label: str = "telea"
    radius: float = 3.0
    reads = ()

    def method(self, resources: Resources) -> Method:
        """OpenCV's function."""
        import cv2

        del resources

        def fill(tasks: Sequence[Task]) -> Made:
            filled = [
                cv2.inpaint(task.pixels.source, task.hole, self.radius, cv2.INPAINT_TELEA)
                for task in tasks
            ]
            return Made(np.stack(filled).astype(np.uint8))

        return Filling({"kind": "telea", "radius": self.radius, "opencv": cv2.__version__}, fill)


@dataclasses.dataclass(frozen=True)
class Copy(Recipe):
    """The input as it is, which is the truth itself where the source is to be restored.

    Attributes:
        label: its name in the report.
    """

    label: str = "copy"
    reads = ()
    sees_truth = True

    def method(self, resources: Resources) -> Method:
        """The identity."""
        del resources
        return Filling(
            {"kind": "copy"}, lambda tasks: Made(np.stack([task.pixels.source for task in tasks]))
        )


def _truth(pixels: Pixels) -> UInt8[np.ndarray, "H W 3"]:
    same = pixels.truth is not None and pixels.truth.shape == pixels.source.shape
    return pixels.truth if same and pixels.truth is not None else pixels.source
