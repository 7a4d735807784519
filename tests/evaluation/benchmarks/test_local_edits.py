"""CompBench and ReasonEdit are read as published, and say what is wrong with their files."""

import json

import numpy as np
import pytest
from PIL import Image

from brushjax.evaluation.benchmarks.compbench import TASKS, CompBench
from brushjax.evaluation.benchmarks.reasonedit import ReasonEdit
from brushjax.evaluation.methods.baselines import Copy, Telea
from brushjax.evaluation.records import BenchmarkError
from brushjax.evaluation.results import Shown
from brushjax.evaluation.sweep import Run, Sweep
from tests.evaluation.benchmarks import edit_miniatures as miniatures
from tests.evaluation.miniatures import picture, save


def run(sweep, out):
    return Run(sweep, out, devices=[None], progress=False).all()


def test_compbench_reads_every_task_with_its_own_fields(tmp_path):
    records = {one.id: one for one in CompBench(str(miniatures.compbench(tmp_path))).records()}
    assert {one.group for one in records.values()} == set(TASKS)
    assert len(records) == 3 * 2 + 1 + 4 + 2
    added, turn = records["add/00001"], records["turn2_add/b"]
    assert (added.instruction, added.local_caption) == ("add 1", "thing 1")
    assert (turn.instruction, turn.local_caption) == ("add 2", "part 2")
    assert turn.session == records["turn1_add/b"].session  # drawn together by the intervals
    assert records["turn1_remove/b"].local_caption == ""  # published without one
    pixels = added.read()
    np.testing.assert_array_equal(pixels.hole * 255, miniatures.mask(12))
    np.testing.assert_array_equal(pixels.truth, picture(102, 64, 64))


def test_compbench_of_two_objects_has_two_captions_and_the_first_mask(tmp_path):
    folder = str(miniatures.compbench(tmp_path))
    (record,) = CompBench(folder, tasks=("multi_object_add",)).records()
    assert (record.local_caption, record.second_caption) == ("a yellow fish", "a white fish")
    np.testing.assert_array_equal(record.read().hole * 255, miniatures.mask(15))


def test_compbench_results_are_found_in_the_scripts_folders(tmp_path):
    """MODEL_local/add/NAME.png; two turns of additions in a folder of their own first."""
    folder, theirs = str(miniatures.compbench(tmp_path / "data")), tmp_path / "theirs"
    tasks = ("add", "turn1_add", "implicit")
    names = ("local/add/00000", "multi/turn1_add/b", "implicit/a_0")
    for name in names:
        save(theirs / f"m_{name}.png", picture(1, 64, 64))
    newer = theirs / "m_multi/multi_turn_add_new/turn1_add/b.png"
    save(newer, picture(2, 64, 64))
    sweep = Sweep((CompBench(folder, tasks, "m", limit=1),), ()).for_given([str(theirs)])
    (method,) = sweep.methods
    found = [method.find(record) for record in sweep.benchmarks[0].records()]
    assert found == [theirs / "m_local/add/00000.png", newer, theirs / "m_implicit/a_0.png"]


def test_compbench_and_reasonedit_are_swept_by_their_scripts_and_cleanly(tmp_path):
    benchmarks = (
        CompBench(str(miniatures.compbench(tmp_path / "c")), limit=1),
        ReasonEdit(str(miniatures.reasonedit(tmp_path / "r"))),
    )
    sweep = Sweep(benchmarks, (Telea(), Copy()), batch_size=4, shown=Shown(0, 1))
    report = run(sweep, tmp_path / "out")
    for benchmark, metric in (("compbench", "ssim"), ("reasonedit", "mse")):
        rows = report.scored.of(benchmark, "telea")
        assert all(np.isfinite(row[f"paper:{benchmark}/{metric}@1"]) for row in rows)
        assert all(row["clean/psnr_keep@1"] == 100 for row in rows)
        assert all(
            row["paper:reasonedit/psnr@1"] == np.inf
            for row in report.scored.of("reasonedit", "copy")
        )


def damaged(path):
    path.write_bytes(path.read_bytes()[:-40])


def rewritten(change):
    def fault(path):
        rows = json.loads(path.read_text())
        change(rows)
        path.write_text(json.dumps(rows))

    return fault


@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [
        ("add/metadata.json", lambda path: path.unlink(), "expected .*metadata.json; docs"),
        ("add/metadata.json", damaged, "no complete JSON file"),
        ("add/mask/00001.png", lambda path: path.unlink(), r"add/00001: .*mask/00001.png is miss"),
        ("add/mask/00001.png", damaged, "00001.png is no mask"),
        (
            "add/metadata.json",
            rewritten(lambda rows: rows[1].pop("instruction")),
            "add/00001: lacks 'instruction'",
        ),
        (
            "add/metadata.json",
            rewritten(lambda rows: rows[1].update(image_path="../../x.png")),
            r"1 of 2 entries .*x",
        ),
        (
            "add/metadata.json",
            rewritten(lambda rows: rows.append(rows[0])),
            "every id of compbench once, got again: add/00000",
        ),
        ("multi_turn_editing/multi_turn_add.jsonl", damaged, "no JSON object in line 1"),
    ],
)
def test_compbench_faults_are_named(tmp_path, file, fault, message):
    folder = miniatures.compbench(tmp_path)
    fault(folder / file)
    tasks = ("add",) if file.startswith("add") else ("turn1_add",)
    with pytest.raises(BenchmarkError, match=message):
        CompBench(str(folder), tasks).records()


def test_unknown_tasks_and_scenes_are_refused():
    with pytest.raises(BenchmarkError, match=r"expected tasks of add, .*got \['paint'\]"):
        CompBench(tasks=("paint",))
    with pytest.raises(BenchmarkError, match="expected scenes of left-right"):
        ReasonEdit(scenes=("paint",))


def test_reasonedit_pairs_texts_by_order_and_masks_by_name(tmp_path):
    """The scripts sort 10 before 2; sorted alone, the masks would then be the wrong way round."""
    records = ReasonEdit(str(miniatures.reasonedit(tmp_path))).records()
    assert len(records) == 12
    first, second = records[:2]
    assert (first.id, second.id) == ("left-right/10", "left-right/2")
    assert first.instruction == "Change the 10 on the left."
    assert first.local_caption == "a changed 10"
    pixels = first.read()
    expected = np.pad(miniatures.mask(), ((0, 0), (0, 16))) > 0
    np.testing.assert_array_equal(pixels.hole > 0, expected)
    assert 0 < np.mean((pixels.grey > 0) & (pixels.grey < 255)) < 0.5  # JPEG's rim
    assert second.results[0] == "LeftRight_metrics_1/0002_T7.5_I1.5"


def test_reasonedit_finds_reasoning_under_both_of_its_names(tmp_path):
    folder = miniatures.reasonedit(tmp_path)
    before = ReasonEdit(str(folder), ("reasoning",)).records()
    (folder / "6-Reasoning").rename(folder / "Reasoning-231115")
    after = ReasonEdit(str(folder), ("reasoning",)).records()
    assert [one.fingerprint for one in before] == [one.fingerprint for one in after]


@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [
        ("3-Mirror", lambda path: path.rename(path.with_name("x")), "expected a folder 3-Mirror"),
        ("3-Mirror/Mirror_text.txt", lambda path: path.unlink(), "one text file in .*got 0"),
        (
            "3-Mirror/Mirror_text.txt",
            lambda path: path.write_text("only one. CLIP: a\n"),
            "got 1 lines and 2 pictures",
        ),
        (
            "3-Mirror/Mirror_text.txt",
            lambda path: path.write_text("one. CLIP: a\ntwo\n"),
            "mirror/2: expected 'instruction CLIP: caption', got 'two'",
        ),
        ("3-Mirror/2_mask.jpg", lambda path: path.unlink(), "2_mask.jpg is missing"),
        (
            "3-Mirror/2_mask.jpg",
            lambda path: Image.new("L", (80, 64)).save(path),
            "2_mask.jpg marks nothing",
        ),
        ("3-Mirror/2_mask.jpg", lambda path: path.write_bytes(b"x"), "is no mask"),
    ],
)
def test_reasonedit_faults_are_named(tmp_path, file, fault, message):
    folder = miniatures.reasonedit(tmp_path)
    fault(folder / file)
    with pytest.raises(BenchmarkError, match=message):
        ReasonEdit(str(folder), ("mirror",)).records()
