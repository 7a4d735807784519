"""Segmenters: a given mask, Grounding DINO with SAM, a click, a region predictor."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from brushjax.agents.protocols import Segmenter, Segments
from brushjax.data.text import transformers_class
from brushjax.inference.images import read_mask

GROUNDING_DINO = "IDEA-Research/grounding-dino-tiny"  # SwinT-OGC, the reference's
SAM = "facebook/sam-vit-huge"
THRESHOLDS = (0.3, 0.25, 0.2, 0.15, 0.1, 0.05)  # tried in turn, as the reference does
TEXT_THRESHOLD = 0.25
OVERLAP = 0.5  # intersection over union from which two boxes are one thing


class GivenMask:
    """One mask, whatever is asked for."""

    def __init__(self, mask: Any):
        """Takes what `brushjax.inference.images.read_mask` reads."""
        self._mask = read_mask(mask)

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], phrase: str) -> Segments:
        """Returns the mask as one instance, or nothing where it is black.

        Raises:
            ValueError: a mask of another size than the picture.
        """
        white = self._mask.marked * np.uint8(255)
        if white.shape != image.shape[:2]:
            (height, width), (high, wide) = image.shape[:2], white.shape
            raise ValueError(
                f"expected a mask of the picture's {height}x{width}, got {high}x{wide} (height x "
                "width)"
            )
        return of_masks(white[None], [1.0])


class GroundedSAM:
    """Boxes of a phrase by Grounding DINO, their masks by SAM.

    Differs: docs/deviations.md, agent-boxes.
    """

    def __init__(
        self,
        detector: str | Path = GROUNDING_DINO,
        sam: str | Path = SAM,
        device: str = "cpu",
        thresholds: Sequence[float] = THRESHOLDS,
    ):
        """Loads both through transformers.

        Args:
            detector, sam: folders or hub ids.
            thresholds: of a box's score; the first that leaves a box counts.
        """
        self._read = published("AutoProcessor", detector)
        kind = "AutoModelForZeroShotObjectDetection"
        self._detector = published(kind, detector).to(device).eval()
        self.sam = SAMMasks(sam, device)
        self._device, self._thresholds = device, tuple(thresholds)

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], phrase: str) -> Segments:
        """Returns all instances that the phrase names."""
        return self.batch([image], [phrase])[0]

    def batch(
        self, images: Sequence[UInt8[np.ndarray, "_h _w 3"]], phrases: Sequence[str]
    ) -> list[Segments]:
        """Returns the instances in each of several pictures of any size, detected at once."""
        import torch

        texts = [f"{phrase.lower().strip(' .')}." for phrase in phrases]
        inputs = self._read(images=list(images), text=texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            outputs = self._detector(**inputs.to(self._device))
        sizes = [image.shape[:2] for image in images]
        results: list[Segments | None] = [None] * len(images)
        for threshold in self._thresholds:
            found = self._read.post_process_grounded_object_detection(
                outputs,
                inputs["input_ids"],
                threshold=threshold,
                text_threshold=TEXT_THRESHOLD,
                target_sizes=sizes,
            )
            for i, one in enumerate(found):
                if results[i] is None and len(one["boxes"]):
                    boxes = one["boxes"].cpu().numpy(), one["scores"].cpu().numpy()
                    results[i] = self._masks(images[i], *boxes)
        return [nothing(*size) if one is None else one for one, size in zip(results, sizes)]

    def _masks(self, image: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> Segments:
        kept = without_overlaps(boxes, scores)
        boxes, scores = _within(boxes[kept], image), scores[kept]
        masks = self.sam(image, boxes=boxes)
        return Segments(masks, boxes.tolist(), scores.tolist())


class SAMMasks:
    """SAM's best mask for each box, or for a set of points."""

    def __init__(self, sam: str | Path = SAM, device: str = "cpu"):
        self._read = published("SamProcessor", sam)
        self._model = published("SamModel", sam).to(device).eval()
        self._device = device

    def __call__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        *,
        boxes: Any = None,
        points: Any = None,
        labels: Any = None,
    ) -> UInt8[np.ndarray, "N H W"]:
        """Returns a white mask for each box [N, 4], or one for all points [P, 2] together."""
        import torch

        asked: dict[str, Any] = {}
        if boxes is not None:
            asked["input_boxes"] = [[[float(side) for side in box] for box in boxes]]
        else:
            asked["input_points"] = [[[[float(x), float(y)] for x, y in points]]]
            asked["input_labels"] = [[[int(label) for label in labels]]]
        inputs = self._read(images=image, return_tensors="pt", **asked)
        inputs = inputs.to(torch.float32) if "input_boxes" in asked else inputs
        with torch.no_grad():
            outputs = self._model(**inputs.to(self._device), multimask_output=False)
        (masks,) = self._read.image_processor.post_process_masks(
            outputs.pred_masks.cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
        return masks[:, 0].numpy().astype(np.uint8) * np.uint8(255)


class Click:
    """The thing at a point, by SAM."""

    def __init__(
        self,
        points: Sequence[tuple[float | int, float | int]],
        labels: Sequence[int] | None = None,
        sam: str | Path = SAM,
        device: str = "cpu",
    ):
        """Loads SAM.

        Args:
            points: x, y in pixels.
            labels: 1 for a point of the thing, 0 for one beside it; None is 1 for all.
        """
        self._points, self._labels = points, labels or [1] * len(points)
        if not points or len(points) != len(self._labels):
            raise ValueError(f"expected points with one label each, got {points} and {labels}")
        self._sam = SAMMasks(sam, device)

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], phrase: str) -> Segments:
        """Returns one instance; the phrase is not read."""
        return of_masks(self._sam(image, points=self._points, labels=self._labels), [1.0])


class PredictedRegion:
    """Where a region predictor finds an instruction to be about."""

    def __init__(
        self,
        probability: Callable[[UInt8[np.ndarray, "H W 3"], str], Float[np.ndarray, "h w"]],
        threshold: float = 0.5,
    ):
        """Takes a predictor.

        Args:
            probability: of each patch, from a picture and an instruction.
            threshold: from which a pixel belongs to the region, after linear enlargement.
        """
        self._probability, self._threshold = probability, threshold

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], phrase: str) -> Segments:
        """Returns the region as one instance; none where no pixel reaches the threshold."""
        height, width = image.shape[:2]
        patches = np.asarray(self._probability(image, phrase), np.float32)
        pixels = cv2.resize(patches, (width, height), interpolation=cv2.INTER_LINEAR)
        chosen = pixels >= self._threshold
        score = float(pixels[chosen].mean()) if chosen.any() else 0.0
        return of_masks(chosen[None].astype(np.uint8) * np.uint8(255), [score])


SEGMENTERS: dict[str, Callable[..., Segmenter]] = {
    "given": GivenMask,
    "grounded-sam": GroundedSAM,
    "click": Click,
    "region": PredictedRegion,
}


def segmenter(name: str, **settings: Any) -> Segmenter:
    """Makes a segmenter by its name in SEGMENTERS; raises ValueError for another."""
    if name not in SEGMENTERS:
        raise ValueError(f"expected a segmenter of {', '.join(SEGMENTERS)}; got {name!r}")
    return SEGMENTERS[name](**settings)


def published(kind: str, place: str | Path, **options: Any) -> Any:
    """Loads what a class of transformers reads from a folder or the hub, with PyTorch.

    Raises:
        ImportError: PyTorch is not installed; one line says how it is.
        OSError: it is not there; one line, where transformers has several.
    """
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(f"expected torch for this; {error}: pip install -e '.[torch]'") from error
    try:
        return transformers_class(kind).from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise OSError(
            f"expected {kind} at {place}, a folder or a hub id that can be reached; {said}"
        ) from error


def nothing(height: int, width: int) -> Segments:
    """No instance in a picture of this size."""
    return Segments(np.zeros((0, height, width), np.uint8), [], [])


def of_masks(masks: UInt8[np.ndarray, "N H W"], scores: Sequence[float]) -> Segments:
    """Segments with the boxes around masks; black masks are left out."""
    found = [(mask, score) for mask, score in zip(masks, scores) if mask.any()]
    if not found:
        return nothing(*masks.shape[1:])
    boxes = []
    for mask, _ in found:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        sides = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        boxes.append(tuple(float(side) for side in sides))
    return Segments(np.stack([mask for mask, _ in found]), boxes, [score for _, score in found])


def without_overlaps(boxes: np.ndarray, scores: np.ndarray, most: float = OVERLAP) -> list[int]:
    """Numbers of the boxes that stay, best first: of two that overlap more the better."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(_overlap(boxes[i], boxes[j]) <= most for j in kept):
            kept.append(int(i))
    return kept


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    corner = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    common = float(np.prod(np.maximum(corner, 0)))
    both = sum(float(np.prod(box[2:] - box[:2])) for box in (one, other)) - common
    return common / both if both > 0 else 0.0


def _within(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Boxes cut at the picture's edges, each at least a pixel wide."""
    height, width = image.shape[:2]
    low = np.clip(boxes[:, :2], 0, [width - 1, height - 1])
    high = np.clip(boxes[:, 2:], low + 1, [width, height])
    return np.concatenate([low, high], axis=1)
