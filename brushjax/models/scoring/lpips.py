"""LPIPS: a learned perceptual distance, on AlexNet, SqueezeNet 1.1 or VGG-16.

The networks are torchvision's (`features.<number>`); the heads that weigh their channels ship with
this package.
"""

import dataclasses
import functools
from importlib import resources
from typing import Any, ClassVar, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from safetensors.numpy import load

from brushjax.metrics.resample import resample_matrix
from brushjax.models.published import PublishedConfig
from brushjax.nn import Rngs, conv

Net = Literal["alex", "squeeze", "vgg"]

# ImageNet's mean and deviation, moved from [0, 1] to [-1, 1]; the digits are the lpips package's.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to a feature's length before dividing by it


@dataclasses.dataclass(frozen=True)
class Pool:
    """Max pooling, 3 or 2 wide; `ceil` keeps a last window that reaches over the frame."""

    side: int = 3
    ceil: bool = False


# What stands at a number of torchvision's `features`; every convolution is followed by a ReLU.
# (channels in, channels out, kernel, stride, padding), or (channels in, squeezed, expanded).
Conv = tuple[int, int, int, int, int]
Fire = tuple[int, int, int]

ALEX: dict[int, Conv | Pool] = {
    0: (3, 64, 11, 4, 2),
    2: Pool(),
    3: (64, 192, 5, 1, 2),
    5: Pool(),
    6: (192, 384, 3, 1, 1),
    8: (384, 256, 3, 1, 1),
    10: (256, 256, 3, 1, 1),
}
SQUEEZE: dict[int, Conv | Fire | Pool] = {
    0: (3, 64, 3, 2, 0),
    2: Pool(ceil=True),
    3: (64, 16, 64),
    4: (128, 16, 64),
    5: Pool(ceil=True),
    6: (128, 32, 128),
    7: (256, 32, 128),
    8: Pool(ceil=True),
    9: (256, 48, 192),
    10: (384, 48, 192),
    11: (384, 64, 256),
    12: (512, 64, 256),
}


def _vgg() -> dict[int, Conv | Pool]:
    """VGG-16: 3x3 convolutions, the channels doubled after each pooling."""
    layers: dict[int, Conv | Pool] = {}
    number, before = 0, 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            layers[number] = (before, width, 3, 1, 1)
            number, before = number + 2, width
        layers[number] = Pool(2)
        number += 1
    del layers[30]  # nothing is read behind the last pooling
    return layers


LAYERS: dict[str, dict[int, Any]] = {"alex": ALEX, "squeeze": SQUEEZE, "vgg": _vgg()}
# The layers whose outputs are compared.
TAPS = {
    "alex": (0, 3, 6, 8, 10),
    "squeeze": (0, 4, 7, 9, 10, 11, 12),
    "vgg": (2, 7, 14, 21, 28),
}


@dataclasses.dataclass(frozen=True)
class LPIPSConfig(PublishedConfig):
    """Which network the distance stands on."""

    net: Net = "squeeze"

    CLASS_NAME: ClassVar[str] = "LPIPS"

    def __post_init__(self) -> None:
        if self.net not in LAYERS:
            raise ValueError(f"expected net {' or '.join(LAYERS)}, got {self.net!r}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LPIPSOutput:
    """How different pictures look.

    Attributes:
      score: sum over layers of the layer's mean distance. [B]
      map: sum over layers of the layer's distances, resized to the pictures. [B, H, W]
    """

    score: Float[Array, " B"]
    map: Float[Array, "B H W"]


class FireModule(nnx.Module):
    """SqueezeNet's block: few channels, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, width: int, squeezed: int, expanded: int, *, rngs: Rngs):
        self.squeeze = conv(width, squeezed, 1, rngs=rngs)
        self.expand1x1 = conv(squeezed, expanded, 1, rngs=rngs)
        self.expand3x3 = conv(squeezed, expanded, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w D"]:
        x = jax.nn.relu(self.squeeze(x))
        return jax.nn.relu(jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=-1))


class LPIPS(nnx.Module):
    """The perceptual distance of two pictures.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
    (arXiv 1801.03924), eq. 1; the lpips package 0.1.4, version "0.1".
    """

    def __init__(self, config: LPIPSConfig, *, rngs: Rngs):
        self.config = config
        modules: dict[str, nnx.Module] = {}
        for number, layer in LAYERS[config.net].items():
            if isinstance(layer, Pool):
                continue
            if len(layer) == 3:
                modules[str(number)] = FireModule(*layer, rngs=rngs)
            else:
                width_in, width, kernel, stride, padding = layer
                modules[str(number)] = conv(
                    width_in, width, kernel, stride=stride, padding=padding, rngs=rngs
                )
        self.features = nnx.Dict(modules)

    def __call__(self, a: Float[Array, "B H W 3"], b: Float[Array, "B H W 3"]) -> LPIPSOutput:
        """Compares pictures in [-1, 1], of one size."""
        count, height, width, _ = a.shape
        layers = self.layers(jnp.concatenate([a, b]))  # both at once: [2 B, h, w, C] each
        score, total = 0, 0
        for x, head in zip(layers, heads(self.config.net), strict=True):
            x = x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + EPSILON)
            squared = (x[:count] - x[count:]) ** 2
            distances = squared @ jnp.asarray(head, x.dtype)  # [B, h, w]
            score += distances.mean(axis=(1, 2))
            total += _resized(distances, height, width)
        return LPIPSOutput(cast(Array, score), cast(Array, total))

    def layers(self, images: Float[Array, "B H W 3"]) -> list[Float[Array, "B h w C"]]:
        """Returns the compared layers' outputs."""
        x = (images - jnp.asarray(SHIFT, images.dtype)) / jnp.asarray(SCALE, images.dtype)
        taps, outputs = TAPS[self.config.net], []
        for number, layer in LAYERS[self.config.net].items():
            if isinstance(layer, Pool):
                x = max_pool(x, layer)
                continue
            x = self.features[str(number)](x)
            x = x if len(layer) == 3 else jax.nn.relu(x)
            if number in taps:
                outputs.append(x)
        return outputs


def max_pool(x: Float[Array, "B h w C"], pool: Pool) -> Float[Array, "B _h _w C"]:
    """Max pooling with stride 2, as PyTorch counts its windows.

    Raises:
      ValueError: the map is smaller than a window.
    """
    if min(x.shape[1:3]) < pool.side:
        raise ValueError(
            f"expected a feature map of at least {pool.side} x {pool.side}, got {x.shape[1:3]}; "
            f"LPIPS needs pictures of 32 pixels or more"
        )
    # A window more where one was begun; it starts within the map as the stride is below the side.
    over = [-(size - pool.side) % 2 if pool.ceil else 0 for size in x.shape[1:3]]
    padding = ((0, 0), (0, over[0]), (0, over[1]), (0, 0))
    window, strides = (1, pool.side, pool.side, 1), (1, 2, 2, 1)
    lowest = jnp.asarray(-jnp.inf, x.dtype)
    return jax.lax.reduce_window(x, lowest, jax.lax.max, window, strides, padding)


@functools.cache
def heads(net: Net) -> tuple[Float[np.ndarray, " C"], ...]:
    """Returns the published weights of every compared layer's channels."""
    file = resources.files("brushjax") / "assets" / "lpips" / f"{net}.safetensors"
    tensors = load(file.read_bytes())
    return tuple(tensors[f"lin{i}.model.1.weight"] for i in range(len(TAPS[net])))


def _resized(maps: Float[Array, "B h w"], height: int, width: int) -> Float[Array, "B H W"]:
    rows, columns = (
        jnp.asarray(resample_matrix(size, goal, "bilinear"), maps.dtype)
        for size, goal in zip(maps.shape[1:], (height, width))
    )
    return jnp.einsum("hi,wj,bij->bhw", rows, columns, maps, precision="highest")
