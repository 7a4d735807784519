"""Random weights that depend on a tensor's name alone: two programs can draw the same ones."""

import math
import zlib
from collections.abc import Mapping

import numpy as np


def weight(model, name, shape):
    """Draws a tensor in PyTorch's layout: norm gains near 1, small biases, the rest by fan-in."""
    rng = np.random.default_rng(zlib.crc32(f"{model}/{name}".encode()))
    array = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        array /= math.sqrt(math.prod(shape[1:]))
        return array
    return array * np.float32(0.1) + np.float32("norm" in name and name.endswith("weight"))


class Weights(Mapping):
    """A state dict that draws a tensor when it is asked for."""

    def __init__(self, model, shapes):
        self.model, self.shapes = model, shapes

    def __getitem__(self, name):
        return weight(self.model, name, self.shapes[name])

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)
