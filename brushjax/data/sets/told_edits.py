"""Edits of the photographs that are made by program and told in words.

A picture shows one thing around one or two others, left and right. An edit changes the tone of all
of it, of a side or of one named thing, removes or replaces a thing, or adds one on a side. So the
true result is known, and of most edits where it may differ from the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from brushjax.data.masks.collage import seam
from brushjax.data.schema import Conversation, EditPair, Record
from brushjax.data.sets.collages import Collages, distinct
from brushjax.data.sets.photos import Crop, PhotoSource

KINDS = {"all": 0.12, "side": 0.13, "thing": 0.25, "remove": 0.17, "replace": 0.2, "add": 0.13}
"""How often each kind of edit is drawn, by default."""
SIDES = ("left", "right", "top", "bottom")
COLOURS = {"red": (215, 45, 40), "green": (45, 175, 60), "blue": (50, 80, 215)}
TONES = {
    "darker": ("make {} darker", "darken {}"),
    "brighter": ("make {} brighter", "brighten {}"),
    "black and white": ("make {} black and white", "turn {} black and white"),
    **{name: (f"make {{}} {name}", f"turn {{}} {name}") for name in COLOURS},
}
EVERYTHING = ("the picture", "everything", "the whole picture")
REMOVING = ("remove the {}", "erase the {}", "take the {} away")
REPLACING = ("replace the {} with {}", "turn the {} into {}", "swap the {} for {}")
ADDING = ("add {} on the {}", "put {} on the {}")
LEAST = 0.03  # mean change in 0..1: of gray things black and white is none
TRIES = 16


@dataclass(frozen=True)
class Thing:
    """A crop and where it shows.

    Attributes:
      shown: float32 [H, W, 1] in 0..1.
      side: "left" or "right".
    """

    crop: Crop
    shown: np.ndarray
    side: str

    @property
    def box(self) -> np.ndarray:
        """Centre x, centre y, width and height as shares of the picture."""
        rows, columns = (np.flatnonzero(self.shown[..., 0].max(axis)) for axis in (1, 0))
        edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
        low, high = edges[:2] / len(self.shown), edges[2:] / len(self.shown)
        return np.concatenate([(low + high) / 2, high - low])


@dataclass(frozen=True)
class Scene:
    """A picture of several things, the last of them in front."""

    around: Crop
    things: tuple[Thing, ...]

    def drawn(self) -> np.ndarray:
        """float32 [H, W, 3], 0..255."""
        image = self.around.image.astype(np.float32)
        for thing in self.things:
            image = image + thing.shown * (thing.crop.image - image)
        return image

    def without(self, thing: Thing) -> Scene:
        return Scene(self.around, tuple(one for one in self.things if one is not thing))


@dataclass(frozen=True)
class ToldEdits(Collages):
    """Edits, and on request questions about the same pictures.

    Attributes:
      questions: share of the samples that ask what or where something is.
      shares: how often each kind of edit is drawn, in `KINDS`' order; they sum to 1.
    """

    questions: float = 0.0
    shares: tuple[float, ...] = tuple(KINDS.values())

    def record(self, n: int, photos: PhotoSource) -> Record:
        rng = np.random.default_rng((self.seed, n, 4))
        if rng.random() < self.questions:
            return self._question(n, photos, rng)
        for _ in range(TRIES):
            edit = self._edit(n, photos, rng)
            if np.abs(edit.target.astype(int) - edit.image).mean() >= 255 * LEAST:
                break
        return edit

    def _edit(self, n: int, photos: PhotoSource, rng: np.random.Generator) -> EditPair:
        kind = list(KINDS)[rng.choice(len(KINDS), p=self.shares)]
        around, first, second, new = distinct(photos, n, rng, 4)
        scene = self._scene(around, (first, second), rng)
        if kind in ("all", "side", "thing"):
            before = after = scene.drawn()
            name, where = _place(kind, scene, rng)
            tone = _one(tuple(TONES), rng)
            after = before + where * (toned(before, tone) - before)
            said = _one(TONES[tone], rng).format(name)
        else:
            before, after, where, said = self._moved(kind, scene, new, rng)
        boxes = [thing.box for thing in scene.things]
        if kind == "add":
            boxes = boxes[:-1]
        return EditPair(
            n,
            _bytes(before),
            _bytes(after),
            said,
            np.array(boxes, np.float32).reshape(-1, 4),
            (where > 0).astype(np.uint8),
        )

    def _moved(self, kind: str, scene: Scene, new: Crop, rng: np.random.Generator):
        """Before, after, where and words of an edit that removes, replaces or adds a thing; what is
        added is the scene's last thing."""
        if kind == "add":
            thing = scene.things[-1]
            before, after = scene.without(thing).drawn(), scene.drawn()
            said = _one(ADDING, rng).format(_called(thing.crop), thing.side)
            return before, after, thing.shown, said
        thing = _one(scene.things, rng)
        old, rest = thing.crop.class_name, scene.without(thing)
        if kind == "remove":
            return scene.drawn(), rest.drawn(), thing.shown, _one(REMOVING, rng).format(old)
        put = Scene(rest.around, (*rest.things, Thing(new, thing.shown, thing.side)))
        said = _one(REPLACING, rng).format(old, _called(new))
        return scene.drawn(), put.drawn(), thing.shown, said

    def _scene(self, around: Crop, crops: tuple[Crop, ...], rng: np.random.Generator) -> Scene:
        sides = list(rng.permutation(SIDES[:2]))[: int(rng.integers(1, 3))]
        things = []
        for crop, side in zip(crops, sides):
            mask = shape(self.size, str(side), rng)
            things.append(Thing(crop, seam(mask, rng), str(side)))
        return Scene(around, tuple(things))

    def _question(self, n: int, photos: PhotoSource, rng: np.random.Generator) -> Conversation:
        around, *others = distinct(photos, n, rng, 3)
        scene = self._scene(around, tuple(others), rng)
        thing = _one(scene.things, rng)
        name, side = thing.crop.class_name, f"on the {thing.side}"
        question, answer = _one(((f"what is {side}?", name), (f"where is the {name}?", side)), rng)
        boxes = np.array([thing.box for thing in scene.things], np.float32)
        return Conversation(n, _bytes(scene.drawn()), question, answer, boxes)


def shape(size: int, side: str, rng: np.random.Generator) -> np.ndarray:
    """Draws an upright ellipse or box on a side. uint8 [size, size, 1]"""
    centre = 0.26 + rng.uniform(-0.02, 0.02), 0.5 + rng.uniform(-0.08, 0.08)
    half = rng.uniform(0.2, 0.25), rng.uniform(0.3, 0.42)
    x = 1 - centre[0] if side == "right" else centre[0]
    mask = np.zeros((size, size), np.uint8)
    place = [round(size * value) for value in (x, centre[1], *half)]
    if rng.random() < 0.5:
        cv2.ellipse(mask, place[:2], place[2:], 0, 0, 360, 1, -1)
    else:
        left, top = max(place[0] - place[2], 0), max(place[1] - place[3], 0)
        mask[top : place[1] + place[3], left : place[0] + place[2]] = 1
    return mask[..., None]


def toned(image: np.ndarray, tone: str) -> np.ndarray:
    """Returns a picture, float32 [H, W, 3] of 0..255, in another tone."""
    if tone == "darker":
        return image * 0.35
    if tone == "brighter":
        return 255 - (255 - image) * 0.35
    gray = image @ np.array([0.299, 0.587, 0.114], np.float32)[:, None]
    if tone == "black and white":
        return gray.repeat(3, axis=-1)
    share = 0.4 + 0.6 * gray / 255
    return share * np.array(COLOURS[tone], np.float32)


def _place(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Words for what a tone is of, and how much of it shows where."""
    size = scene.around.image.shape[0]
    everywhere = np.ones((size, size, 1), np.float32)
    if kind == "all":
        return _one(EVERYTHING, rng), everywhere
    if kind == "side":
        side = _one(SIDES, rng)
        ramp = np.clip((size / 2 - np.arange(size) - 0.5) / 2 + 0.5, 0, 1).astype(np.float32)
        ramp = ramp[::-1] if side in ("right", "bottom") else ramp
        where = ramp[None, :, None] if side in SIDES[:2] else ramp[:, None, None]
        return f"the {side} {_one(('half', 'side'), rng)}", everywhere * where
    chosen = rng.integers(len(scene.things) + 1)
    if chosen < len(scene.things):
        # What lies in front of nothing shows as it is; things don't overlap.
        return f"the {scene.things[chosen].crop.class_name}", scene.things[chosen].shown
    hidden = sum((thing.shown for thing in scene.things), np.zeros_like(everywhere))
    return f"the {scene.around.class_name}", np.clip(1 - hidden, 0, 1)


def _called(crop: Crop) -> str:
    """A caption, or the name with an article."""
    return f"the {crop.phrase}" if crop.phrase == crop.class_name else crop.phrase


def _one(choices: tuple, rng: np.random.Generator):
    return choices[int(rng.integers(len(choices)))]


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
