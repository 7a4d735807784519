"""How each published network wants its pictures: one table, done on the host with Pillow.

Pictures come in as uint8 [H, W, 3] and go out as float32 [h, w, 3], normalised.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from brushjax.metrics.resample import resample

Triple = tuple[float, float, float]

CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Resize, crop, scale, normalise.

    Attributes:
        shorter: what the shorter side is resized to; None keeps the size.
        filter: of the resize.
        resize: "pillow" resizes the uint8 picture, and rounds; "tensor" and "tensor-antialias"
            resize its float values as PyTorch does, without and with antialiasing.
        square: resize both sides to `shorter`, whatever the picture's shape.
        longest: no side is resized to more than this.
        crop: side of the square cut out of the middle; None cuts nothing.
        multiple: rows and columns at the end that fill no multiple of this are dropped, as the
            network's patches would leave them out.
        rounding: of half pixels in the crop's corner: "even" (torchvision) or "down"
            (transformers).
        unit: bring values from 0..255 to 0..1 first.
    """

    shorter: int | None = 224
    filter: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Literal["pillow", "tensor", "tensor-antialias"] = "pillow"
    square: bool = False
    longest: int | None = None
    crop: int | None = 224
    multiple: int = 1
    rounding: Literal["even", "down"] = "even"
    unit: bool = True
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD

    def __call__(self, picture: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "h w 3"]:
        """Prepares one picture."""
        height, width = self._size(*picture.shape[:2])
        if self.resize == "pillow":
            if (height, width) != picture.shape[:2]:
                resized = Image.fromarray(picture).resize((width, height), PILLOW[self.filter])
                picture = np.asarray(resized)
            values = self._scaled(picture)
        else:
            values = self._scaled(picture)
            if (height, width) != picture.shape[:2]:
                antialias = self.resize == "tensor-antialias"
                values = resample(values, height, width, self.filter, antialias)
        values = self._cropped(values)
        return (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.shorter is None:
            return height, width
        if self.square:
            return self.shorter, self.shorter
        short = min(height, width)  # the longer side is rounded down, as every library does
        height, width = int(self.shorter * height / short), int(self.shorter * width / short)
        long = max(height, width)
        if self.longest is not None and long > self.longest:
            height, width = int(self.longest * height / long), int(self.longest * width / long)
        return height, width

    def _scaled(self, picture: np.ndarray) -> np.ndarray:
        values = picture.astype(np.float32)
        return values / np.float32(255) if self.unit else values

    def _cropped(self, values: np.ndarray) -> np.ndarray:
        if self.crop is None:
            height, width = (size // self.multiple * self.multiple for size in values.shape[:2])
            return values[:height, :width]
        spare = [size - self.crop for size in values.shape[:2]]
        if min(spare) < 0:
            raise ValueError(f"expected at least {self.crop} pixels, got {values.shape[:2]}")
        if self.rounding == "even":
            top, left = (round(size / 2) for size in spare)  # Python rounds halves to even
        else:
            top, left = (size // 2 for size in spare)
        return values[top : top + self.crop, left : left + self.crop]


IMAGENET = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD)
SPLICE = dataclasses.replace(
    IMAGENET,
    filter="bilinear",
    resize="tensor-antialias",
    longest=480,
    crop=None,
    multiple=8,  # DINO B/8's patches
)
HALF: Triple = (0.5, 0.5, 0.5)

PREPROCESS: dict[str, Preprocess] = {
    # clip.load and OpenCLIP through torchvision; ImageReward; LAION's aesthetic predictor.
    "openai": Preprocess(),
    # transformers' CLIPImageProcessor, which torchmetrics' CLIPScore calls.
    "hf": Preprocess(rounding="down"),
    # HPSv2: pictures become tensors first. Up to torchvision 0.16 tensors are not antialiased.
    "hps": Preprocess(resize="tensor"),
    "hps-antialias": Preprocess(resize="tensor-antialias"),
    # InstructPix2Pix: straight to 224 x 224 without antialiasing.
    "ip2p": Preprocess(resize="tensor", square=True),
    # DINO's evaluation, as MagicBrush takes it; DINOv2's is the same.
    "dino": dataclasses.replace(IMAGENET, shorter=256),
    # PIE-Bench's structure distance: values of 0..255 under statistics for 0..1, no crop.
    "splice": dataclasses.replace(SPLICE, resize="tensor", unit=False),
    # The same as it was meant.
    "splice-unit": SPLICE,
    # LPIPS: [-1, 1] at the picture's own size.
    "lpips": Preprocess(shorter=None, crop=None, mean=HALF, std=HALF),
}
