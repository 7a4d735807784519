"""What each part of FireEdit is worth on edits whose truth is known: the paper's table 3, in small.

    python -m benchmarks.fireedit_study --out runs/fireedit_study
    python -m benchmarks.fireedit_study --out runs/small --variants whole --export RUN --store DIR

Trains the recipe configs/fireedit/tiny.py and its variants, one after the other, and edits the
same 128 held-out pictures with each. All that learns does so at one rate (the recipe's transformers
learn at half of it), so "whole" is the recipe itself only with --export. L1 is the mean distance to
the truth in 0..1, in the first row of the picture that is edited itself; the change outside is that
of the pixels which the truth leaves as they are. Intervals are 95 % over the pictures, those of the
differences paired. Ended and started again, it goes on where it was. Writes table.md and strip.png.
The second line edits with the export of a run, once it is stored as the package has it.
"""

import argparse
import dataclasses
import logging
import os
import shutil
from pathlib import Path

import numpy as np

import brushjax
from brushjax import config as configs
from brushjax.data.sets.told_edits import ToldEdits
from brushjax.files import whole_file
from brushjax.inference.fireedit import PROMPT
from brushjax.inference.strip import strip
from brushjax.metrics.bootstrap import Bootstrap
from brushjax.pipelines.bases import SHIPPED_BASE
from brushjax.training.loop import run
from brushjax.training.optimizers import Group
from brushjax.weights.fireedit import load_fireedit, save_fireedit

RECIPE = Path(__file__).parents[1] / "configs/fireedit/tiny.py"
HELD_OUT = ToldEdits(split="held_out", seed=1)
COUNT, SHOWN = 128, 10

WHOLE = "whole"
VARIANTS = {
    WHOLE: (),
    "no region tokens": ("regions",),
    "no TATI": ("tati",),
    "no HVCA": ("hvca",),
    "untrained language model": ("regions", "tati", "hvca", "llama"),
    "untrained": ("learning",),
}
"""What each goes without. TATI and the language model stay as they start: TATI then gives the
Q-Former's features as they are. With an untrained language model it is what instruct-pix2pix is: a
UNet that learns to read what never learnt to look. The last is all of it as training finds it."""
STILL = {"tati": r"tati\..*", "llama": r"llama\..*", "learning": ".*"}
"""Paths of what then does not learn."""


def variant(config, without):
    """The recipe without some parts."""
    edit = dataclasses.replace(
        config.objective.sizes.edit,
        shows_regions="regions" not in without,
        visual_scale=0.0 if "hvca" in without else 1.0,
    )
    sizes = dataclasses.replace(config.objective.sizes, edit=edit)
    still = [STILL[part] for part in STILL if part in without]
    groups = tuple(Group(paths, learning_rate=0.0, weight_decay=0.0) for paths in still)
    config = dataclasses.replace(
        config,
        objective=dataclasses.replace(config.objective, sizes=sizes),
        optimizer=dataclasses.replace(config.optimizer, groups=groups),
        validation=None,
    )
    if "learning" not in without:
        return config
    once = dataclasses.replace(config.optimizer, warmup_steps=0)
    few = dataclasses.replace(config.data, pool=config.batch_size)
    return dataclasses.replace(config, steps=1, optimizer=once, data=few)


def stored(export, folder):
    """An export in float16, without the autoencoder that the package has already."""
    parts = load_fireedit(export)
    base = os.path.relpath(SHIPPED_BASE.resolve(), folder.resolve())
    save_fireedit(parts, folder, dtype=np.float16, elsewhere={"vae": base})
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(export / name, folder / name, dirs_exist_ok=True)
    shutil.copyfile(export / PROMPT, folder / PROMPT)
    return folder


def edited(folder, records, options):
    """The pictures that an exported editor makes. uint8 [n, H, W, 3]"""
    editor = brushjax.FireEditor.load(folder)
    result = editor(
        np.stack([record.image for record in records]),
        [record.instruction for record in records],
        steps=options.sampling,
        text_guidance=options.text_guidance,
        image_guidance=options.image_guidance,
        scheduler="ddim",
    )
    return result.images


def scores(records, pictures):
    """L1 to the truth and change where the truth has none, of each picture, in 0..1."""
    pairs = list(zip(records, pictures, strict=True))
    kept = [(record.region == 0) & np.ones(3, bool) for record in records]
    outside = [
        apart(picture[keep], record.image[keep]) if keep.any() else np.nan
        for (record, picture), keep in zip(pairs, kept, strict=True)
    ]
    return {
        "l1": np.array([apart(picture, record.target) for record, picture in pairs]),
        "outside": np.array(outside),
    }


def apart(one, other):
    return np.abs(one.astype(np.float32) - other).mean() / 255


def table(records, pictures):
    """A line for each variant, beside the picture as it was."""
    draws = Bootstrap()
    before = np.stack([record.image for record in records])
    found = {name: scores(records, images) for name, images in pictures.items()}
    copy = scores(records, before)
    lines = [
        "| variant | L1 to the truth | below the picture as it was | L1 less the whole's "
        "| change outside | outside less the whole's |",
        "|---|---|---|---|---|---|",
        f"| the picture as it was | {draws.mean(copy['l1'])} | | | 0 | |",
    ]
    for name, own in found.items():
        whole = found.get(WHOLE, own)
        row = [
            draws.mean(own["l1"]),
            draws.reduction(copy["l1"], own["l1"]),
            "" if name == WHOLE else draws.difference(whole["l1"], own["l1"]),
            draws.mean(own["outside"]),
            "" if name == WHOLE else draws.difference(whole["outside"], own["outside"]),
        ]
        lines.append(f"| {name} | {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=0, help="of training; 0: the recipe's")
    parser.add_argument("--export", type=Path, help="of a run of the recipe: not trained again")
    parser.add_argument("--store", type=Path, help="as the package has it, in this folder")
    parser.add_argument("--sampling", type=int, default=1, help="steps of an edit")
    parser.add_argument("--text-guidance", type=float, default=1.0)
    parser.add_argument("--image-guidance", type=float, default=1.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    config = configs.load(RECIPE)
    config = dataclasses.replace(config, steps=options.steps or config.steps)
    source = HELD_OUT.source(lambda record: record.arrays())
    records, pictures = [source.record(n) for n in range(COUNT)], {}
    for name in options.variants:
        folder = options.out / name.replace(" ", "_")
        file = folder / "pictures.npy"
        if not file.is_file():
            given = options.export if name == WHOLE else None
            export = given or run(variant(config, VARIANTS[name]), folder)
            if export is None:  # interrupted
                return
            if options.store and name == WHOLE:
                export = stored(export, options.store)
            made = edited(export, records, options)
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as part, open(part, "wb") as target:
                np.save(target, made)
        pictures[name] = np.load(file)
        (options.out / "table.md").write_text(table(records, pictures))
    columns = {"picture": [r.image for r in records], "truth": [r.target for r in records]}
    columns |= pictures
    shown = {name: np.stack(images[:SHOWN]) for name, images in columns.items()}
    sheet = strip(shown, [record.instruction for record in records[:SHOWN]], zoom=2)
    sheet.save(options.out / "strip.png")
    print(table(records, pictures))


if __name__ == "__main__":
    main()
