"""The older benchmarks: six and more faults of the published files each, all named.

Those of the others stand beside what is said of them, in test_local_edits.py and test_judged.py.
"""

import json
from collections import Counter

import pytest

from brushjax.evaluation.benchmarks.brushbench import EditBench
from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.benchmarks.piebench import PieBench
from brushjax.evaluation.benchmarks.tables import EmuEdit, MagicBrushTable
from brushjax.evaluation.records import BenchmarkError
from tests.evaluation import miniatures
from tests.evaluation.benchmarks.faults import cell, changed, cut, gone

BENCHMARKS = {
    "editbench": EditBench,
    "piebench": PieBench,
    "magicbrush": MagicBrush,
    "emuedit": EmuEdit,
    "magicbrush_table": MagicBrushTable,
}


def replaced(old, new):
    """A fault of a text file."""
    return lambda path: path.write_text(path.read_text().replace(old, new))


def twice(path):
    """The last line of a text file again."""
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def without_turns(path):
    rows = json.loads(path.read_text())
    path.write_text(json.dumps({**rows, "100": []}))


def outside(path):
    rows = json.loads(path.read_text())
    rows["100"][0]["output"] = "../../x.png"
    path.write_text(json.dumps(rows))


ANNOTATIONS, REFERENCE = "annotations_natural.csv", "references_natural/a-b.png"
MAPPING, FIRST = "mapping_file.json", "000000000000"
IMAGE = "annotation_images/0_random_140/0.jpg"
SESSIONS, AFTER = "edit_sessions.json", "images/100/100-output1.png"
EMU, DEV = "test-00000-of-00002.parquet", "dev-00000-of-00001.parquet"
FAULTS = [
    ("editbench", ANNOTATIONS, gone, "expected .*annotations_natural.csv or mapping_file"),
    ("editbench", ANNOTATIONS, replaced("prompt_full", "prompt"), "a-b: lacks 'prompt_full'"),
    ("editbench", ANNOTATIONS, replaced("a-b", "../../x"), "natural/../../x: expected a name insi"),
    ("editbench", ANNOTATIONS, twice, "every id of editbench once, got again: natural/a-b"),
    ("editbench", REFERENCE, gone, "natural/a-b: .*a-b.png is missing"),
    ("editbench", REFERENCE, cut, "a-b.png is no complete picture"),
    ("editbench", "masks_natural/a-b.png", cut, "a-b.png is no complete picture"),
    ("piebench", MAPPING, gone, "expected .*mapping_file.json; docs"),
    ("piebench", MAPPING, cut, "no complete JSON"),
    ("piebench", MAPPING, changed(FIRST, image_path=None), f"{FIRST}: lacks 'image_path'"),
    ("piebench", MAPPING, changed(FIRST, mask=[5]), f"{FIRST}: expected"),
    ("piebench", MAPPING, changed(FIRST, mask=[512 * 512 + 5, 1]), f"{FIRST}: expected"),
    ("piebench", MAPPING, changed(FIRST, editing_type_id="12"), f"{FIRST}: expected a kind"),
    ("piebench", IMAGE, gone, f"{FIRST}: .*0.jpg is missing"),
    ("piebench", IMAGE, cut, "0.jpg is no complete picture"),
    ("magicbrush", SESSIONS, gone, "expected .*edit_sessions.json; docs"),
    ("magicbrush", SESSIONS, cut, "no complete JSON"),
    ("magicbrush", SESSIONS, without_turns, "100: the session has no turn"),
    ("magicbrush", SESSIONS, outside, "100: expected a name inside"),
    (
        "magicbrush",
        "global_descriptions.json",
        changed("100", **{"100-output1.png": None}),
        "100: lacks '100-output1.png'",
    ),
    ("magicbrush", AFTER, gone, "100: .*100-output1.png is missing"),
    ("magicbrush", AFTER, cut, "100-output1.png is no complete picture"),
    ("emuedit", EMU, cut, "no complete Parquet file"),
    ("emuedit", EMU, cell(instruction=None), "lacks the columns"),
    ("emuedit", EMU, cell(image={"bytes": None, "path": "x"}), "0: the picture's bytes are miss"),
    ("emuedit", EMU, cell(image={"bytes": b"x", "path": "x"}), "0 is no complete picture"),
    ("emuedit", EMU, cell(idx=1), "every id of emuedit-test once, got again: 1"),
    ("emuedit", EMU, cell(idx=3), "every id of emuedit-test once, got again: 3"),
    ("magicbrush_table", DEV, gone, "expected dev-"),
    ("magicbrush_table", DEV, cut, "no complete Parquet file"),
    ("magicbrush_table", DEV, cell(mask_img=None), "lacks the columns"),
    ("magicbrush_table", DEV, cell(source_img={"bytes": None, "path": "x"}), "7-1: the picture's"),
    ("magicbrush_table", DEV, cell(target_img={"bytes": b"x", "path": "x"}), "7-1 is no complete"),
    ("magicbrush_table", DEV, cell(turn_index=2), "every id of magicbrush-dev once, got again"),
]


@pytest.mark.parametrize(("name", "file", "fault", "message"), FAULTS)
def test_faults_of_older_benchmarks_are_named(tmp_path, name, file, fault, message):
    folder = getattr(miniatures, name)(tmp_path)
    benchmark = BENCHMARKS[name](str(folder))
    assert [record.read() for record in benchmark.records()]
    fault(folder / file)
    with pytest.raises(BenchmarkError, match=message):
        assert [record.read() for record in benchmark.records()]


def test_every_older_benchmark_has_six_faults():
    counts = Counter(name for name, *_ in FAULTS)
    assert counts.keys() == BENCHMARKS.keys()
    assert min(counts.values()) >= 6
