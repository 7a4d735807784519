"""Weights from and to PyTorch programs, and our own checkpoints.

Read: diffusers and transformers folders, ComfyUI's branch files, the original Stable Diffusion
code's files, PyTorch's pickles (nothing of them is run), Flax's msgpack files, Orbax
checkpoints. Written: all of these but pickles and msgpack.
"""

from brushjax.weights.adapters.lora import merge_lora
from brushjax.weights.adapters.peft import load_adapter, save_adapter
from brushjax.weights.convert import check, convert
from brushjax.weights.loading import fill, load
from brushjax.weights.reading import Weights, list_tensors, read
from brushjax.weights.rules import WeightsError
from brushjax.weights.writing import LAYOUTS, save

__all__ = [
    "LAYOUTS",
    "Weights",
    "WeightsError",
    "check",
    "convert",
    "fill",
    "list_tensors",
    "load",
    "load_adapter",
    "merge_lora",
    "read",
    "save",
    "save_adapter",
]
