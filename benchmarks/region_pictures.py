"""Shows what a region predictor finds on held-out collages: both instructions on one picture.

    python -m benchmarks.region_pictures --out docs/regions.png

A row is two pictures; a picture is itself, its first thing's true region, what is found for it, and
the same for its second thing. What is outside a region is darkened. The first collages are
taken, not chosen.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from brushjax.data.sets.collages import PlantedRegions
from brushjax.pipelines.regions import SHIPPED_REGION, RegionFinder

SIDE, LINE = 96, 4


def lit(image, region):
    """The picture with what is outside a region darkened."""
    return np.where(region[..., None], image, image // 5)


def tiles(finder, source, n):
    """One picture, and truth and answer for either thing, side by side; prints the instructions."""
    row = []
    for record in (source.record(2 * n), source.record(2 * n + 1)):
        found = finder.find(record.image, record.instruction).region
        row += [] if row else [record.image]
        row += [lit(record.image, record.region[..., 0] > 0), lit(record.image, found)]
        print(n, record.instruction)
    return row


def sheet(rows):
    """Rows of tiles with white lines between."""
    made = []
    for row in rows:
        wide = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), 0)) for one in row]
        made.append(np.concatenate([np.pad(one, LINES, constant_values=255) for one in wide], 1))
    return np.concatenate(made)


LINES = ((0, LINE), (0, LINE), (0, 0))


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--predictor", type=Path, default=SHIPPED_REGION)
    parser.add_argument("--pictures", type=int, default=8)
    options = parser.parse_args()
    finder = RegionFinder.load(options.predictor)
    data = PlantedRegions(split="held_out", pool=512, seed=1)
    source = data.source(lambda record: {"record": record})
    shown = [tiles(finder, source, n) for n in range(options.pictures)]
    pairs = [a + b for a, b in zip(shown[::2], shown[1::2], strict=True)]
    Image.fromarray(sheet(pairs)).save(options.out)


if __name__ == "__main__":
    main()
