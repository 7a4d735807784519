"""Removal with and without its rules: is the thing gone, and how far is the fill from the truth?

    python -m benchmarks.removal [--base BASE] [--brushnet BRUSHNET] [--count 64] [--steps 20]

Held-out crops get a round patch of another class, which the instruction asks to remove. With the
rules the mask is widened, the prompt is the caption without the patch and the patch is the negative
prompt; without them the mask is the patch, the caption names both, as a caption of the picture
does, and there is no negative prompt; between them stands the reference: the patch's own mask and
the caption without it. Gone is a patch whose nearest class of real crops is another than the one
removed; the check's own accuracy on held-out crops stands beside it.
"""

import argparse
import dataclasses

import cv2
import numpy as np

from brushjax import Inpainter
from brushjax.agents import instructor
from brushjax.agents.editors import InpaintingEditor
from brushjax.agents.masks import dilated, prompts
from brushjax.data.sets.photos import PhotoSource
from brushjax.evaluation.benchmarks.held_out import Steering
from brushjax.metrics.bootstrap import Bootstrap
from brushjax.metrics.nearest_class import NearestClass

WIDENED = 20  # pixels, as the removal rules do


def collages(steering: Steering):
    """(truth, picture with a patch, mask of it, caption of the truth, class of the patch)."""
    plan = steering.plan()
    disc = np.zeros((steering.size, steering.size), np.uint8)
    cv2.circle(disc, (steering.size // 2,) * 2, steering.hole // 2, 255, -1)
    for sample, target in zip(plan.own, plan.targets):
        photos = PhotoSource(steering.size, steering.seed, "held_out", classes=steering.classes)
        other = photos.crop(sample.id, np.random.default_rng((9, sample.id)), target).image
        picture = np.where(disc[..., None] > 0, other, sample.image)
        yield sample.image, picture, disc, sample.prompt, target


def planned(picture, disc, caption, target, rules):
    """The plan of a removal, by the rules, as the reference does, or with neither."""
    source = f"{caption} with {target}"
    plan = instructor("patterns")(f"remove the {target}", picture, source)
    mask = dilated(disc, WIDENED) if rules == "rules" else disc
    if rules == "nothing":
        plan = dataclasses.replace(plan, target_caption=source, category="local")
    if rules == "reference":
        plan = dataclasses.replace(plan, category="local")  # prompted by its caption alone
    return dataclasses.replace(plan, mask=mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base")
    parser.add_argument("--brushnet")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    steering = Steering(count=options.count, hole=48)
    check = NearestClass.fit(*steering.real_crops("train"))
    crops, names = steering.real_crops("held_out")
    accuracy = np.mean([one == name for one, name in zip(check.predict(crops), names)])
    edit = InpaintingEditor(Inpainter.load(options.base, options.brushnet), steps=options.steps)
    kept = list(collages(steering))
    found = {"untouched": [row[1] for row in kept]}
    for rules in ("nothing", "reference", "rules"):
        plans = [planned(picture, *row, rules) for _, picture, *row in kept]
        told = [prompts(plan) for plan in plans]
        found[rules] = []
        for start in range(0, len(plans), 16):
            part = slice(start, start + 16)
            result = edit.painter(
                [plan.image for plan in plans[part]],
                [plan.mask for plan in plans[part]],
                [prompt for prompt, _ in told[part]],
                [negative for _, negative in told[part]],
                steps=options.steps,
                seed=list(range(start, start + len(plans[part]))),
                blend="paste",
            )
            found[rules] += list(result.images)
            print(rules, start, f"{result.seconds:.0f} s", flush=True)
    print(f"check right on {accuracy:.0%} of held-out crops; {len(kept)} collages")
    inside = kept[0][2] > 0
    for rules, pictures in found.items():
        classes = check.predict(steering.cut(np.stack(pictures)))
        gone = [one != row[4] for one, row in zip(classes, kept)]
        errors = [
            np.mean(np.square((picture.astype(float) - row[0])[inside] / 255))
            for picture, row in zip(pictures, kept)
        ]
        print(f"{rules:<10} gone {Bootstrap().mean(gone)}  error {Bootstrap().mean(errors)}")


if __name__ == "__main__":
    main()
