"""Every benchmark is read as it was published, and says what is wrong with its files."""

import json

import numpy as np
import pytest
from PIL import Image

from brushjax.evaluation.benchmarks.brushbench import BrushBench, EditBench
from brushjax.evaluation.benchmarks.folder import Folder
from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.benchmarks.piebench import PieBench
from brushjax.evaluation.benchmarks.tables import EmuEdit, MagicBrushTable
from brushjax.evaluation.records import BenchmarkError
from tests.evaluation import miniatures


def test_brushbench_masks_are_row_major_from_one(tmp_path):
    folder = str(miniatures.brushbench(tmp_path))
    inside = BrushBench(folder).records()
    assert [one.id for one in inside] == ["0000", "0001", "0002"]
    np.testing.assert_array_equal(inside[1].read().hole, miniatures.box(top=101))
    outside = BrushBench(folder, "outside").records()[1].read()
    np.testing.assert_array_equal(outside.hole, 1 - miniatures.box(top=101))
    with Image.open(tmp_path / "images/0001.jpg") as stored:
        np.testing.assert_array_equal(outside.source, np.asarray(stored))
    assert outside.truth is outside.source
    assert inside[0].benchmark == "brushbench-inside"
    assert inside[0].prompt == inside[0].target_caption == "a thing 0"
    assert inside[0].results[0] == "images/0000"


def test_brushbench_resizes_pictures_of_another_size(tmp_path):
    folder = miniatures.brushbench(tmp_path, 1)
    miniatures.save(folder / "images/0000.jpg", miniatures.picture(0, 300, 400))
    assert BrushBench(str(folder)).records()[0].read().source.shape == (512, 512, 3)


def test_editbench_holes_are_black_in_both_layouts(tmp_path):
    natural, generated = EditBench(str(miniatures.editbench(tmp_path / "google"))).records()
    assert natural.prompt == "natural, in full"
    assert (natural.id, generated.group) == ("natural/a-b", "generated")
    np.testing.assert_array_equal(natural.read().hole, miniatures.box(100, 120, 60, 90))
    assert natural.read().source.shape == (512, 512, 3)
    packed = EditBench(str(miniatures.brushbench(tmp_path / "packed"))).records()
    assert len(packed) == 3
    np.testing.assert_array_equal(packed[0].read().hole, miniatures.box())


def test_piebench_masks_start_at_zero_and_have_a_frame(tmp_path):
    first, style = PieBench(str(miniatures.piebench(tmp_path))).records()
    expected = miniatures.box()
    expected[[0, -1]] = 1
    expected[:, [0, -1]] = 1
    np.testing.assert_array_equal(first.read().hole, expected)  # the run beyond the end is cut
    assert style.read().hole.all()
    assert (first.source_caption, first.target_caption) == ("a red hat", "a blue hat")
    assert (first.group, style.group) == ("random", "change style")
    assert [one.id for one in PieBench(str(tmp_path), kinds=(9,)).records()] == ["000000000001"]


def test_magicbrush_protocols_take_their_sources_and_names(tmp_path):
    folder = str(miniatures.magicbrush(tmp_path))
    single = MagicBrush(folder).records()
    names = [one.results[0] for one in single]
    assert names == ["100/100_1", "100/100_inde_2", "100/100_inde_3", "101/101_1"]
    assert all(one.scored and not one.after for one in single)
    with Image.open(tmp_path / "images/100/100-output1.png") as stored:
        np.testing.assert_array_equal(single[1].read().source, np.asarray(stored))
        np.testing.assert_array_equal(single[0].read().truth, np.asarray(stored))
    assert single[1].local_caption == "local scene 100 after 2"
    assert single[1].prompt == "global scene 100 after 2"
    assert single[1].source_caption == "global scene 100 after 1"
    multi = MagicBrush(folder, "multi").records()
    assert [one.after for one in multi] == ["", "100-1", "100-2", ""]
    assert [one.scored for one in multi] == [False, False, True, True]
    assert multi[2].results == ("100/100_iter_3",)
    assert {one.cluster for one in multi} == {"100", "101"}
    hole = single[1].read().hole
    assert hole[20:60, 20:40].all()
    assert hole.sum() == 40 * 20


def test_emu_edit_rows_come_from_all_files(tmp_path):
    folder = str(miniatures.emuedit(tmp_path))
    records = EmuEdit(folder).records()
    assert [one.id for one in records] == ["0", "1", "2", "3"]
    assert [one.group for one in records] == ["local", "style"] * 2
    pixels = records[3].read()
    np.testing.assert_array_equal(pixels.source, miniatures.picture(3, 64, 48))
    assert pixels.hole is None
    assert pixels.truth is None
    filtered = EmuEdit(folder, drop_equal_captions=True)
    assert [one.id for one in filtered.records()] == ["1", "2", "3"]
    assert filtered.name == "emuedit-test-filtered"
    assert EmuEdit().published_count == 3589
    assert EmuEdit(split="validation").published_count == 2022


def test_magicbrush_tables_are_read_turn_by_turn(tmp_path):
    records = MagicBrushTable(str(miniatures.magicbrush_table(tmp_path))).records()
    assert [one.results[0] for one in records] == ["7/7_1", "7/7_inde_2"]
    pixels = records[1].read()
    np.testing.assert_array_equal(pixels.truth, miniatures.picture(3, 64, 48))
    assert pixels.hole.sum() == 22 * 22


def test_folder_takes_any_size_and_any_truth(tmp_path):
    folder = str(miniatures.folder_of_pictures(tmp_path, truths=True))
    records = Folder(folder).records()
    assert records[2].read().source.shape == (48, 64, 3)
    assert records[2].read().truth is not None
    truth = Folder(folder, truth="folder").records()[0].read().truth
    np.testing.assert_array_equal(truth, miniatures.picture(50, 64, 64))
    assert Folder(folder, truth="none").records()[0].read().truth is None
    with pytest.raises(BenchmarkError, match="expected truth"):
        Folder(truth="nothing")


def test_fingerprints_follow_pictures_and_masks(tmp_path):
    folder = miniatures.brushbench(tmp_path, 2)
    before = [one.fingerprint for one in BrushBench(str(folder)).records()]
    assert len(set(before)) == 2
    mapping = json.loads((folder / "mapping_file.json").read_text())
    mapping["0000"]["inpainting_mask"][1] += 1
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    miniatures.save(folder / "images/0001.jpg", miniatures.picture(9))
    after = [one.fingerprint for one in BrushBench(str(folder)).records()]
    assert not set(before) & set(after)


def test_limit_and_skip_choose_records(tmp_path):
    folder = str(miniatures.brushbench(tmp_path))
    assert [one.id for one in BrushBench(folder, limit=2).records()] == ["0000", "0001"]
    assert [one.id for one in BrushBench(folder, skip=("0001",)).records()] == ["0000", "0002"]
    with pytest.raises(BenchmarkError, match=r"`skip`, got 0009"):
        BrushBench(folder, skip=("0009",)).records()


def broken_mapping(folder):
    (folder / "mapping_file.json").write_text('{"0000": {"image"')


def list_for_mapping(folder):
    (folder / "mapping_file.json").write_text("[]")


def missing_image(folder):
    (folder / "images/0001.jpg").unlink()


def run_out_of_range(folder):
    mapping = json.loads((folder / "mapping_file.json").read_text())
    mapping["0002"]["inpainting_mask"] = [512 * 512, 2]
    (folder / "mapping_file.json").write_text(json.dumps(mapping))


def missing_key(folder):
    mapping = json.loads((folder / "mapping_file.json").read_text())
    del mapping["0002"]["caption"]
    (folder / "mapping_file.json").write_text(json.dumps(mapping))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (broken_mapping, "no complete JSON file"),
        (list_for_mapping, "expected a JSON dict"),
        (missing_image, r"1 of 3 entries can't be used: 0001: .*0001.jpg is missing"),
        (run_out_of_range, r"0002: expected runs within the 262144 pixels"),
        (missing_key, r"0002: lacks 'caption'"),
    ],
)
def test_harm_to_a_benchmark_is_one_clear_error(tmp_path, harm, message):
    folder = miniatures.brushbench(tmp_path)
    harm(folder)
    with pytest.raises(BenchmarkError, match=message):
        BrushBench(str(folder)).records()


def test_cut_off_picture_names_its_file(tmp_path):
    folder = miniatures.brushbench(tmp_path, 1)
    path = folder / "images/0000.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(BenchmarkError, match=r"0000.jpg is no complete picture"):
        BrushBench(str(folder)).records()[0].read()


def test_duplicate_ids_are_refused(tmp_path):
    folder = miniatures.editbench(tmp_path)
    with (folder / "annotations_natural.csv").open("a") as file:
        file.write("a-b,again,x,y\n")
    with pytest.raises(BenchmarkError, match=r"every id of editbench once, got again: natural/a-b"):
        EditBench(str(folder)).records()


def test_absent_benchmarks_say_what_was_expected(tmp_path):
    for benchmark in (
        BrushBench(str(tmp_path)),
        EditBench(str(tmp_path)),
        PieBench(str(tmp_path)),
        MagicBrush(str(tmp_path)),
        EmuEdit(str(tmp_path)),
        MagicBrushTable(str(tmp_path)),
        Folder(str(tmp_path)),
    ):
        with pytest.raises(BenchmarkError, match="expected"):
            benchmark.records()


def test_broken_parquet_names_its_file(tmp_path):
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(BenchmarkError, match=r"test-00000-of-00001.parquet is no complete Parquet"):
        EmuEdit(str(tmp_path)).records()


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname"])
def test_mapping_files_name_nothing_outside_their_folder(tmp_path, name):
    for make, benchmark, field in (
        (miniatures.brushbench, BrushBench, "image"),
        (miniatures.piebench, PieBench, "image_path"),
    ):
        folder = make(tmp_path / field)
        mapping = json.loads((folder / "mapping_file.json").read_text())
        next(iter(mapping.values()))[field] = name
        (folder / "mapping_file.json").write_text(json.dumps(mapping))
        with pytest.raises(BenchmarkError, match="expected a name inside"):
            benchmark(folder=str(folder)).records()
