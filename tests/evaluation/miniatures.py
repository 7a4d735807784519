"""Benchmarks in the layouts of their releases, with a few small pictures."""

import csv
import io
import json

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
from PIL import Image

from brushjax.data.masks import rle

SIDE = 512


def picture(seed, height=SIDE, width=SIDE):
    """A smooth picture, so that JPEG and resizing change it little."""
    small = np.random.default_rng(seed).integers(40, 216, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def box(top=100, left=120, height=60, width=90, side=SIDE):
    """A mask with one white box."""
    mask = np.zeros((side, side), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def brushbench(folder, count=3):
    """images/ and mapping_file.json, runs numbered along the rows from 1."""
    mapping = {}
    for n in range(count):
        name = f"images/{n:04d}.jpg"
        save(folder / name, picture(n))
        runs = rle.encode(box(top=100 + n), first=1, order="row")
        outside = rle.encode(1 - box(top=100 + n), first=1, order="row")
        mapping[f"{n:04d}"] = {
            "image": name,
            "caption": f"a thing {n}",
            "inpainting_mask": runs,
            "outpainting_mask": outside,
        }
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    return folder


def editbench(folder):
    """references_*/, masks_*/ (black = edit) and annotations_*.csv."""
    for kind in ("natural", "generated"):
        save(folder / f"references_{kind}/a-b.png", picture(1, 1024, 1024))
        save(folder / f"masks_{kind}/a-b.png", (1 - box(200, 240, 120, 180, 1024)) * 255)
        with (folder / f"annotations_{kind}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["aos", "prompt_full", "prompt_mask-simple", "prompt_mask-rich"])
            rows.writerow(["a-b", f"{kind}, in full", "simple", "rich"])
    return folder


def piebench(folder):
    """annotation_images/ and mapping_file.json, runs from 0, the last one too long."""
    mapping = {}
    for n, kind in enumerate(("0_random_140", "9_change_style_80")):
        save(folder / f"annotation_images/{kind}/{n}.jpg", picture(n))
        runs = rle.encode(box(), first=0, order="row")
        mapping[f"00000000000{n}"] = {
            "image_path": f"{kind}/{n}.jpg",
            "original_prompt": "a [red] hat",
            "editing_prompt": "a [blue] hat",
            "editing_instruction": "make it blue",
            "editing_type_id": kind[0],
            "blended_word": "hat hat",
            "mask": [*runs, SIDE * SIDE - 3, 10] if n == 0 else [0, SIDE * SIDE],
        }
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    return folder


def magicbrush(folder, turns=(3, 1), height=96, width=80):
    """images/<id>/, edit_sessions.json and the captions; the pictures are not square."""
    sessions, captions = {}, {}
    for n, count in enumerate(turns):
        key = str(100 + n)
        names = [f"{key}-input.png", *(f"{key}-output{k}.png" for k in range(1, count + 1))]
        for k, name in enumerate(names):
            save(folder / "images" / key / name, picture(10 * n + k, height, width))
        sessions[key], captions[key] = [], {names[0]: f"scene {key}"}
        for k in range(1, count + 1):
            mask = np.zeros((height, width), np.uint8)
            mask[20:60, 10 * k : 10 * k + 20] = 255
            save(folder / "images" / key / f"{key}-mask{k}.png", mask)
            turn = {"input": names[k - 1], "mask": f"{key}-mask{k}.png", "output": names[k]}
            sessions[key].append({**turn, "instruction": f"do {k}"})
            captions[key][names[k]] = f"scene {key} after {k}"
    (folder / "edit_sessions.json").write_text(json.dumps(sessions))
    for kind in ("global", "local"):
        named = {
            key: {name: f"{kind} {text}" for name, text in mine.items()}
            for key, mine in captions.items()
        }
        (folder / f"{kind}_descriptions.json").write_text(json.dumps(named))
    return folder


def _cell(pixels, name):
    return {"bytes": png(pixels), "path": name}


def emuedit(folder, split="test"):
    """Two Parquet files, pictures as structs of bytes and path."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        rows = [
            {
                "instruction": f"do {n}",
                "image": _cell(picture(n, 64, 48), f"{n}.png"),
                "task": ("local", "style")[n % 2],
                "split": split,
                "idx": n,
                "hash": f"h{n}",
                "input_caption": "before",
                "output_caption": "after" if n else "Before ",
            }
            for n in (2 * part, 2 * part + 1)
        ]
        path = folder / f"{split}-0000{part}-of-00002.parquet"
        parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=1)
    return folder


def magicbrush_table(folder, split="dev"):
    """One Parquet file with masks and targets."""
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((64, 48), np.uint8)
    mask[8:30, 8:30] = 255
    rows = [
        {
            "img_id": "7",
            "turn_index": turn,
            "source_img": _cell(picture(turn, 64, 48), "s.png"),
            "mask_img": _cell(mask, "m.png"),
            "instruction": f"do {turn}",
            "target_img": _cell(picture(turn + 1, 64, 48), "t.png"),
        }
        for turn in (1, 2)
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    return folder


def folder_of_pictures(folder, sizes=((64, 64), (64, 64), (48, 64)), truths=False):
    """images/, masks/, prompts.json and, if asked for, truths/."""
    prompts = {}
    for n, (height, width) in enumerate(sizes):
        save(folder / f"images/p{n}.png", picture(n, height, width))
        mask = np.zeros((height, width), np.uint8)
        mask[10:30, 10:40] = 255
        save(folder / f"masks/p{n}.png", mask)
        if truths:
            save(folder / f"truths/p{n}.png", picture(n + 50, height, width))
        prompts[f"p{n}"] = f"thing {n}"
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return folder
