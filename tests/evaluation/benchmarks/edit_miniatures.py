"""Benchmarks of instructed edits in the layouts of their releases, with a few small pictures."""

import json

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
from PIL import Image

from tests.evaluation.miniatures import picture, png, save

SIDE = 64


def mask(top=10, left=12, height=20, width=24, side=SIDE):
    """A grey mask [side, side] with one white box."""
    marked = np.zeros((side, side), np.uint8)
    marked[top : top + height, left : left + width] = 255
    return marked


def lines(path, rows):
    """A file with a JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def compbench(folder):
    """All of its tasks, two edits each; of two objects the masks lie apart."""
    number = 0
    for kind in ("add", "remove", "replace"):
        rows = []
        for n in range(2):
            name, number = f"{n:05d}.png", number + 1
            rows.append({"image_path": name, "instruction": f"{kind} {n}", "caption": f"thing {n}"})
            _edit(folder / kind, ("input_image", "mask", "edited_image"), name, number)
        (folder / kind / "metadata.json").write_text(json.dumps(rows))
    place = folder / "implicit_reasoning"
    rows = [{"image_name": "a_0.png", "instruction": "what melts?", "caption": "ice"}]
    lines(place / "implicit_info.jsonl", rows)
    _edit(place, ("ori_images", "masks", "edited_images"), "a_0.png", 20)
    _turns_and_objects(folder / "multi_turn_editing")
    return folder


def _turns_and_objects(place):
    kinds = ("ori_images", "masks", "edited_images")
    for kind in ("add", "remove"):
        fields = {f"turn{turn}_{kind}_ins": f"{kind} {turn}" for turn in (1, 2)}
        if kind == "add":  # removals carry no captions
            fields |= {f"turn{turn}_caption": f"part {turn}" for turn in (1, 2)}
        lines(place / f"multi_turn_{kind}.jsonl", [{"image_name": "b.png", **fields}])
        for turn in (1, 2):
            _edit(place / f"turn{turn}_{kind}", kinds, "b.png", 30 + turn)
        captions = {"caption1": "a yellow fish", "caption2": "a white fish"}
        row = {"image_name": "c.png", f"{kind}_ins": f"{kind} two", **captions}
        lines(place / f"multi_object_{kind}.jsonl", [row])
        objects = place / f"multi_object_{kind}"
        _edit(objects, kinds, "c.png", 40)
        (objects / "masks/c.png").rename(objects / "masks/c_t1.png")
        save(objects / "masks/c_t2.png", mask(40, 40))


def _edit(place, kinds, name, seed):
    source, marks, truth = kinds
    save(place / source / name, picture(seed, SIDE, SIDE))
    save(place / marks / name, mask(10 + seed % 7))
    save(place / truth / name, picture(seed + 100, SIDE, SIDE))


REASONEDIT = {
    "1-Left-Right": "Left_Right_text.txt",
    "2-Relative-Size": "Size_text.txt",
    "3-Mirror": "Mirror_text.txt",
    "4-Color": "Color_text.txt",
    "5-Multiple-Objects": "MultipleObjects_text.txt",
    "6-Reasoning": "Reason_test.txt",
}


def reasonedit(folder, count=2):
    """Six folders; names without leading zeros, so that 10 comes before 2, as the scripts sort."""
    for place, text in REASONEDIT.items():
        names = sorted(str(n) for n in (2, 10)[:count])
        for seed, name in enumerate(names):
            save(folder / place / f"{name}.png", picture(seed, SIDE, 80))
            path = folder / place / f"{name}_mask.jpg"
            wide = np.pad(mask(), ((0, 0), (0, 16)))
            Image.fromarray(wide).save(path, quality=75)
        told = [f"Change the {name} on the left. CLIP: a changed {name}" for name in names]
        (folder / place / text).write_text("\n".join(told) + "\n")
    return folder


def imgedit(folder):
    """basic_edit.json and the pictures that its ids name."""
    rows = {
        "1082": {"id": "animal/000342021.jpg", "prompt": "Add a hat.", "edit_type": "add"},
        "7": {"id": "style/1.png", "prompt": "Make it a sketch.", "edit_type": "style"},
    }
    for seed, row in enumerate(rows.values()):
        save(folder / row["id"], picture(seed, SIDE, SIDE))
    (folder / "basic_edit.json").write_text(json.dumps(rows))
    return folder


def kris(folder):
    """Two categories; one edit of several pictures."""
    for category in ("color_change", "abstract_reasoning"):
        rows = {
            "1": {"ori_img": "1.jpg", "ins_en": "Do it.", "explain_en": "It is done."},
            "2": {"ori_img": ["1.jpg", "2.jpg"], "ins_en": "Join them.", "explain_en": "Joined."},
        }
        save(folder / category / "1.jpg", picture(1, SIDE, SIDE))
        (folder / category / "annotation.json").write_text(json.dumps(rows))
    return folder


def risebench(folder):
    """A list of edits: with a text, with a picture to compare with, without consistency."""
    common = {"instruction": "What then?", "image": "a.png"}
    rows = [
        {"index": "t_1", "category": "temporal_reasoning", "reference": "A ruin.", **common},
        {"index": "l_1", "category": "logical_reasoning", "reference_img": "r.png", **common},
        {
            "index": "c_1",
            "category": "causal_reasoning",
            "reference": "Broken.",
            "consistency_free": True,
            **common,
        },
    ]
    for seed, name in enumerate(("a.png", "r.png")):
        save(folder / name, picture(seed, SIDE, SIDE))
    (folder / "datav2_total_w_subtask.json").write_text(json.dumps(rows))
    return folder


def i2ebench(folder):
    """A task with questions, one with truths, and the one with masks."""
    expressions = {"image": "0001.jpg", "ori_exp": "Do it", "div_exp": "Get it done"}
    asked = {"Evaluation": "How many cats are there?", "Answer": "2", "type": "animal"}
    tables = {
        "Counting": {"1": {**expressions, **asked}},
        "Deblurring": {"1": {**expressions, "type": "scenery"}},
        "RegionAccuracy": {"0": {**expressions, "mask": "0001.png", "type": "animal"}},
    }
    for task, rows in tables.items():
        save(folder / task / "input/0001.jpg", picture(1, SIDE, SIDE))
        (folder / task / f"{task}.json").write_text(json.dumps(rows))
    save(folder / "Deblurring/gt/0001.jpg", picture(2, SIDE, SIDE))
    save(folder / "RegionAccuracy/mask/0001.png", mask())
    return folder


def gedit(folder):
    """One Parquet file with both languages."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "task_type": "color_alter",
            "key": f"k{n}{language}",
            "instruction": f"{language} {n}",
            "instruction_language": language,
            "input_image": {"bytes": png(picture(n, SIDE, SIDE)), "path": "x.png"},
            "input_image_raw": {"bytes": png(picture(n, 80, 80)), "path": "x.png"},
            "Intersection_exist": n == 0,
        }
        for n in range(2)
        for language in ("en", "cn")
    ]
    table = folder / "train-00000-of-00001.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), table, row_group_size=2)
    return folder
