"""Regions of pictures that no network here saw: cut-outs of Tux Paint's stamps on photographs.

    apt-get download tuxpaint-stamps-default mate-backgrounds   # and dpkg-deb -x each into a folder
    python -m benchmarks.region_unseen --stamps .../tuxpaint/stamps --photos .../backgrounds \\
        --predictor runs/region_export --out runs/region_unseen

256 composites: a stamp, named by the first line of its text, on a photograph; "replace the
NAME with a flower" (a cat, where it is a flower). Half of the stamps have a name that the training
captions of the tiny CLIP hold, half have one that they lack. Writes table.md and two strips, of the
best and of the worst: picture, mask, region.
"""

import argparse
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from brushjax.data.sets.collages import bare
from brushjax.data.sets.photos import class_crops
from brushjax.metrics import region as metrics
from brushjax.metrics.bootstrap import Bootstrap
from brushjax.pipelines.proposals import ChosenBox
from brushjax.pipelines.regions import RegionFinder

COUNT, SIDE = 256, 96
KNOWN = ("cat", "rocket", "flower", "coffee", "astronaut", "tower", "helmet")


def stamps(folder):
    """Cut-outs with the name of what they show: [(name, RGBA)], drawings and photographs."""
    found = []
    for text in sorted(Path(folder).rglob("*.txt")):
        picture = text.with_suffix(".png")
        words = text.read_text(encoding="utf-8", errors="replace").splitlines()
        if not picture.is_file() or not words or len(words[0].split()) > 6:
            continue
        pixels = np.asarray(Image.open(picture).convert("RGBA"))
        share = (pixels[..., 3] > 127).mean()
        if 0.3 < share < 0.98 and min(pixels.shape[:2]) >= 60:
            found.append((bare(words[0].strip().strip(".!").lower()), pixels))
    return found


def photographs(folder):
    """Photographs of a folder, RGB."""
    found = sorted(Path(folder).rglob("*.jp*g"))
    files = [path for path in found if "flower" not in path.name.lower()]
    return [np.asarray(Image.open(path).convert("RGB").resize((640, 480))) for path in files]


def is_known(name):
    """The classes of the training captions that a name holds."""
    return [word for word in KNOWN if re.search(rf"\b{word}s?\b", name)]


def composite(stamp, photo, rng):
    """A stamp on a crop of a photograph, with the mask of the stamp."""
    side = int(rng.integers(200, 480))
    top, left = (int(rng.integers(0, size - side + 1)) for size in photo.shape[:2])
    ground = Image.fromarray(photo[top : top + side, left : left + side]).resize((SIDE, SIDE))
    share = rng.uniform(0.4, 0.75)
    height, width = stamp.shape[:2]
    scale = share * SIDE / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    cut = np.asarray(Image.fromarray(stamp).resize(size), np.float32)
    y, x = (int(rng.integers(0, SIDE - n + 1)) for n in (size[1], size[0]))
    image = np.asarray(ground, np.float32).copy()
    alpha = cut[..., 3:] / 255
    window = image[y : y + size[1], x : x + size[0]]
    window[:] = alpha * cut[..., :3] + (1 - alpha) * window
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y : y + size[1], x : x + size[0]] = alpha[..., 0] > 0.5
    return image.round().astype(np.uint8), mask


def composites(options):
    """256 composites, every second one of a known name: [(name, known, image, mask)]."""
    rng, photos = np.random.default_rng(0), photographs(options.photos)
    groups = {True: [], False: []}
    for name, pixels in stamps(options.stamps):
        groups[bool(is_known(name))].append((name, pixels))
    print({known: len(group) for known, group in groups.items()}, f"stamps, {len(photos)} photos")
    made = []
    for n in range(COUNT):
        known = n % 2 == 0
        name, pixels = groups[known][rng.integers(len(groups[known]))]
        made.append((name, known, *composite(pixels, photos[rng.integers(len(photos))], rng)))
    return made


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("stamps", "photos", "predictor", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    finder = RegionFinder.load(options.predictor)
    place, box = finder.encoders.placement, ChosenBox.of(finder)
    donors = {name: class_crops("held_out", name, 1, SIDE)[0] for name in ("flower", "cat")}
    rng, rows, shown = np.random.default_rng(1), {}, []
    for name, known, image, mask in composites(options):
        new = "cat" if "flower" in name else "flower"
        probability = jnp.asarray(finder(image, f"replace the {name} with a {new}"))
        map_ = np.asarray(place.pixels(probability[None], SIDE, SIDE))[0]
        found = map_ > 0.5
        answers = {
            "predictor, p > 0.5": found,
            "predictor, Otsu": finder.find(image, f"replace the {name} with a {new}").region,
            "boxes + CLIP's choice": box.find(image, donors[new], f"a {new}").region,
            "everything": np.ones_like(mask),
            "random pixels, the mask's area": rng.random(mask.shape) < mask.mean(),
        }
        for answer, region in answers.items():
            rows.setdefault((answer, known), []).append(metrics.iou(region, mask))
        rows.setdefault(("AUC of the probabilities", known), []).append(metrics.auc(map_, mask))
        shown.append((rows["predictor, p > 0.5", known][-1], name, image, mask, found))
    lines = ["| | known names | unknown names |", "|---|---|---|"]
    for answer in dict.fromkeys(answer for answer, _ in rows):
        intervals = [Bootstrap().mean(rows[answer, known]) for known in (True, False)]
        cells = (f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in intervals)
        lines.append(f"| {answer} | {' | '.join(cells)} |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    shown.sort(key=lambda one: one[0])
    for kind, some in (("worst", shown[:12]), ("best", shown[-12:])):
        tiles = [
            np.concatenate([image, grey(mask), grey(found)], axis=1)
            for _, _, image, mask, found in some
        ]
        sheet = np.concatenate([np.concatenate(tiles[k : k + 4], axis=1) for k in (0, 4, 8)])
        Image.fromarray(sheet).save(options.out / f"{kind}.png")


def grey(mask):
    return np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)


if __name__ == "__main__":
    main()
