"""README's first picture: edits by the shipped base and branch, of photographs in the package.

    python -m benchmarks.examples

Writes docs/edits.png, and the first photograph and its hole as docs/rocket.png and
docs/rocket_mask.png. Scenes and seeds were chosen by eye, among thirty scenes and four seeds: this
is the best that a base this small paints. Things before plain ground go well, most others do not.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import brushjax
from brushjax.data.sets.photos import load_photos
from brushjax.inference.strip import strip

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZE = 128
# photograph, crop (left, top, right, bottom), the hole's box (an ellipse in the crop's 128 pixels),
# words, seed
SCENES = (
    ("rocket", (380, 100, 640, 360), (72, -5, 124, 145), "a night sky", 0),
    ("rocket", (180, 80, 440, 340), (54, 15, 90, 165), "a night sky", 0),
    ("flower", (130, 40, 480, 390), (9, 9, 119, 119), "dark foliage", 1),
    ("flower", (400, 100, 640, 340), (26, 26, 102, 102), "a flower", 1),
)


def main():
    """Paints each scene and lays them out."""
    photos = {photo.name: photo.pixels for photo in load_photos()}
    pictures, holes = [], []
    for name, crop, ellipse, _, _ in SCENES:
        picture = (
            Image.fromarray(photos[name]).crop(crop).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        )
        hole = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(hole).ellipse(ellipse, fill=255)
        pictures.append(np.asarray(picture))
        holes.append(np.asarray(hole))
    Image.fromarray(pictures[0]).save(DOCS / "rocket.png", optimize=True)
    Image.fromarray(holes[0]).save(DOCS / "rocket_mask.png", optimize=True)
    painter = brushjax.Inpainter.load()
    words = [scene[-2] for scene in SCENES]
    edits = [
        painter(picture, hole, prompt=prompt, steps=20, guidance=3, seed=seed).images[0]
        for picture, hole, (*_, prompt, seed) in zip(pictures, holes, SCENES, strict=True)
    ]
    columns = {
        "photograph": np.stack(pictures),
        "hole": np.stack(holes)[..., None] // 255,
        "edit": np.stack(edits),
    }
    captions = [f'"{prompt}"' for prompt in words]
    strip(columns, captions).save(DOCS / "edits.png", optimize=True)


if __name__ == "__main__":
    main()
