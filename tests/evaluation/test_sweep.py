"""Plan, generate, score and report on small benchmarks and methods without networks."""

import dataclasses
import json
import random
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brushjax import files
from brushjax.evaluation import store
from brushjax.evaluation import sweep as sweep_module
from brushjax.evaluation.benchmarks.brushbench import BrushBench
from brushjax.evaluation.benchmarks.folder import Folder
from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.benchmarks.piebench import PieBench
from brushjax.evaluation.methods import contract
from brushjax.evaluation.methods.baselines import Copy, Telea
from brushjax.evaluation.methods.contract import Filling, Made, Recipe
from brushjax.evaluation.methods.inpainting import Grid
from brushjax.evaluation.models import Models
from brushjax.evaluation.records import BenchmarkError
from brushjax.evaluation.results import Shown
from brushjax.evaluation.score import metrics_of, row_key
from brushjax.evaluation.store import read_table
from brushjax.evaluation.sweep import Run, Sweep
from brushjax.metrics.metric import Metric, Need
from brushjax.metrics.views import RESULT
from tests.evaluation import miniatures


@dataclasses.dataclass(frozen=True)
class Noisy(Recipe):
    """A method with noise and without networks; it refuses sources brighter than `limit`."""

    label: str = "noisy"
    amplitude: int = 8
    limit: int = 256
    dark: bool = False
    seeded = True

    def method(self, resources):
        def fill(tasks):
            if any(task.pixels.source.max() >= self.limit for task in tasks):
                raise FloatingPointError("the networks produced NaN or infinity")
            return Made(np.stack([self.one(task) for task in tasks]))

        return Filling({"kind": "noisy", "amplitude": self.amplitude, "dark": self.dark}, fill)

    def one(self, task):
        noise = np.random.default_rng(task.seed).integers(
            0, self.amplitude, task.pixels.source.shape
        )
        picture = task.pixels.source // 2 + noise if not self.dark else 0 * noise
        return picture.astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    return str(miniatures.folder_of_pictures(tmp_path / "data"))


class Idle(Copy):
    """Gives the source back, and does not see the truth."""

    sees_truth = False


METHODS = (Noisy(), Telea(), Copy())


def sweep_of(*benchmarks, methods=METHODS, **fields):
    compared = "copy" if Copy() in methods else ""
    defaults = {"seeds": (0, 1), "baseline": compared, "batch_size": 2, "shown": Shown(2, 1)}
    return Sweep(benchmarks, methods, **{**defaults, **fields})


def run(sweep, out, **options):
    return Run(sweep, out, devices=[None], progress=False, **options)  # nothing runs on them


def table(out):
    """The scores without what may differ between two runs: the time that was taken."""
    rows = read_table(out / "scores.parquet")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            equal = a[name] == b[name] or (a[name] != a[name] and b[name] != b[name])
            assert equal, (name, a[name], b[name])


def test_rows_are_the_plan_exactly(folder, tmp_path):
    report = run(sweep_of(Folder(folder)), tmp_path / "out").all()
    planned = read_table(tmp_path / "out/plan.parquet")
    assert len(planned) == 3 * (2 + 1 + 1)  # methods without noise run once
    rows = table(tmp_path / "out")
    assert [row["key"] for row in rows] == [row["key"] for row in planned]
    assert len({row["key"] for row in rows}) == 12
    assert {row["sample"] for row in rows} == {"p0", "p1", "p2"}
    assert report.scored.methods("folder") == ["noisy", "telea", "copy"]


def test_batch_size_shares_and_order_change_nothing(folder, tmp_path, monkeypatch):
    sweep = sweep_of(Folder(folder))
    run(sweep, tmp_path / "a").all()
    run(dataclasses.replace(sweep, batch_size=5), tmp_path / "b").all()
    for index in (2, 0):
        assert run(sweep, tmp_path / "c", share=(index, 3)).all() is None
    assert run(sweep, tmp_path / "c", share=(1, 3)).all() is not None  # the last one reports
    shuffled = Run.units.fget

    def units(self):
        return random.Random(3).sample(shuffled(self), len(shuffled(self)))

    monkeypatch.setattr(Run, "units", property(units))
    run(sweep, tmp_path / "d").all()
    for name in "bcd":
        same(table(tmp_path / "a"), table(tmp_path / name))


def test_shares_are_the_units_once_and_keep_sessions_together(tmp_path):
    data = str(miniatures.magicbrush(tmp_path / "data", turns=(3, 1, 2, 2, 1)))
    plan = run(sweep_of(MagicBrush(data, "multi")), tmp_path / "out").plan
    shares = [plan.share(index, 3) for index in range(3)]
    keys = [unit.key for share in shares for unit in share]
    assert sorted(keys) == sorted(unit.key for unit in plan.units)
    for share in shares:
        turns = {(u.record.session, u.method, u.seed) for u in share if u.record.turn > 1}
        assert turns <= {(u.record.session, u.method, u.seed) for u in share if u.record.turn == 1}


def test_turns_start_from_ones_own_results(tmp_path):
    data = str(miniatures.magicbrush(tmp_path / "data", turns=(3, 1)))
    method = Noisy(amplitude=1)  # halves the picture, without noise
    out = tmp_path / "out"
    report = run(sweep_of(MagicBrush(data, "multi"), methods=(method,), seeds=(0,)), out).all()
    assert [row["sample"] for row in report.scored.rows] == ["100-3", "101-1"]  # final turns only
    source = miniatures.picture(0, 96, 80)
    last = np.asarray(Image.open(out / report.scored.rows[0]["picture"]))
    np.testing.assert_array_equal(last, source // 2 // 2 // 2)
    truth = miniatures.picture(3, 96, 80)
    expected = np.abs(last / 255 - truth / 255).mean()
    assert report.scored.rows[0]["paper:magicbrush/l1@1"] == pytest.approx(expected, abs=1e-12)


def test_faults_black_and_unchanged_pictures_are_counted(folder, tmp_path):
    brightest = [miniatures.picture(n, *size).max() for n, size in enumerate([(64, 64)] * 2)]
    limit = int(max(brightest))
    methods = (Noisy(limit=limit), Noisy("dark", dark=True), Idle("idle"))
    report = run(sweep_of(Folder(folder, limit=2), methods=methods), tmp_path / "out").all()
    text = "\n".join(map(str, report.findings))
    assert "2 of 4 pictures are missing: the networks gave NaN" in text
    assert "error: folder, dark: 4 of 4 pictures are black" in text
    assert "folder, idle: 2 of 2 results are their sources, unchanged" in text
    assert "clean/psnr_keep@1: 2 of 2 pictures have 100" in text
    assert "the same pictures throughout: dark with seed 0, dark with seed 1" in text
    lost = [row for row in report.scored.rows if row["fault"]]
    assert len(lost) == 2
    assert all(np.isnan(row["clean/psnr_keep@1"]) for row in lost)


def test_changed_config_never_mixes_with_old_rows(folder, tmp_path):
    out = tmp_path / "out"
    run(sweep_of(Folder(folder)), out).all()
    before = table(out)
    changed = sweep_of(Folder(folder), methods=(Noisy(amplitude=90), Telea(), Copy()))
    run(changed, out).all()
    run(changed, tmp_path / "fresh").all()
    same(table(out), table(tmp_path / "fresh"))
    keys = {row["key"] for row in before if row["method"] == "noisy"}
    assert not keys & {row["key"] for row in table(out)}


def test_stages_run_alone_and_say_what_is_missing(folder, tmp_path):
    sweep, out = sweep_of(Folder(folder)), tmp_path / "out"
    with pytest.raises(BenchmarkError, match="run the stage generate first"):
        run(sweep, out).all(("score",))
    with pytest.raises(BenchmarkError, match="12 are missing"):
        run(sweep, out).all(("report",))
    for stage in ("plan", "generate", "score"):
        assert run(sweep, out).all((stage,)) is None
    assert run(sweep, out).all(("report",)) is not None
    with pytest.raises(BenchmarkError, match="expected stages"):
        run(sweep, out).all(("draw",))


def test_full_disk_keeps_what_is_done(folder, tmp_path, monkeypatch):
    sweep, out = sweep_of(Folder(folder)), tmp_path / "out"
    write, left = files.os.fsync, [5]

    def fsync(number):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        write(number)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OSError, match="make room and start again"):
        run(sweep, out).all()
    assert not list(out.rglob("*.part"))
    done = len(list((out / "pictures").rglob("*.png")))
    assert done
    monkeypatch.setattr(files.os, "fsync", write)
    run(sweep, out).all()
    run(sweep, tmp_path / "fresh").all()
    same(table(out), table(tmp_path / "fresh"))


def test_results_of_another_size_are_scored_by_the_papers_and_counted(tmp_path):
    data = str(miniatures.brushbench(tmp_path / "data", 2))
    theirs = tmp_path / "theirs"
    for n in range(2):
        miniatures.save(theirs / f"images/{n:04d}.png", miniatures.picture(n + 5, 300, 400))
    sweep = sweep_of(BrushBench(data)).for_given([str(theirs)])
    report = run(sweep, tmp_path / "out").all()
    rows = report.scored.rows
    assert all(row["other_size"] and row["paper:brushedit/psnr@1"] > 0 for row in rows)
    assert all(np.isnan(row["clean/psnr_keep@1"]) for row in rows)
    text = "\n".join(map(str, report.findings))
    assert "2 of 2 results have another size" in text
    assert "2 records where 600 were published" in text


def test_missing_results_are_one_error(tmp_path):
    data = str(miniatures.brushbench(tmp_path / "data", 3))
    miniatures.save(tmp_path / "theirs/0001.png", miniatures.picture(0))
    sweep = sweep_of(BrushBench(data)).for_given([str(tmp_path / "theirs")])
    with pytest.raises(BenchmarkError, match=r"each of 3 records; 2 are missing: .*images/0000"):
        run(sweep, tmp_path / "out").all()


def test_report_has_paper_rows_ours_and_a_delta(tmp_path):
    data = str(miniatures.brushbench(tmp_path / "data", 2))
    benchmarks = BrushBench(data), BrushBench(data, "outside")
    out = tmp_path / "out"
    report = run(sweep_of(*benchmarks, methods=(Telea(), Copy()), baseline="telea"), out).all()
    text = (out / "table.md").read_text()
    assert "BrushEdit, arXiv 2412.10316, Table IV" in text
    assert "ours: telea, less BrushEdit*" in text
    assert "brushbench: BrushEdit, arXiv 2412.10316, Table VI" in text  # the mean of both splits
    psnr = report.flat()["telea/paper:brushedit/psnr"]
    row = next(line for line in text.splitlines() if line.startswith("| ours: telea  "))
    assert f"{psnr:.2f}" in row
    assert (out / "table.csv").read_text().startswith("benchmark,group,method,metric,mean")
    summary = json.loads((out / "summary.json").read_text())
    change = next(c for c in summary["changes"] if c["metric"] == "clean/psnr_hole@1")
    assert change["difference"]["value"] > 0
    assert change["baseline"] == "telea"


def test_lossless_copies_meet_the_jpeg_floor_in_the_papers_profile(tmp_path):
    """The papers' 31.9 dB for pasted results are what JPEG leaves, by the script's formula."""
    data = miniatures.brushbench(tmp_path / "data", 2)
    for n in range(2):  # as cameras store them: finer than what JPEG keeps at Pillow's default
        rough = np.random.default_rng(n).integers(0, 256, (512, 512, 3), np.uint8)
        Image.fromarray(rough).save(data / f"images/{n:04d}.jpg", quality=98)
    report = run(sweep_of(BrushBench(str(data)), methods=(Copy(),)), tmp_path / "out").all()
    for row in report.scored.rows:
        assert row["clean/psnr_keep@1"] == 100
        assert row["paper:brushedit/psnr@1"] < 60


def test_undefined_values_are_left_out_and_counted(tmp_path):
    """An edit of style has no unedited part."""
    data = str(miniatures.piebench(tmp_path / "data"))
    report = run(sweep_of(PieBench(data), methods=(Noisy(),), seeds=(0,)), tmp_path / "out").all()
    name = "paper:pie/psnr_unedit_part@1"
    values = {row["group"]: row[name] for row in report.scored.rows}
    assert np.isnan(values["change style"])
    mean = next(one for one in report.means if one.metric.id == name)
    assert mean.mean.value == values["random"]
    assert (mean.mean.count, mean.undefined) == (1, 1)
    assert f"{name} is undefined for 1 of 2 pictures" in "\n".join(map(str, report.findings))
    assert "(n 1)" in (tmp_path / "out/table.md").read_text()


def test_weights_of_another_network_are_one_error(tmp_path):
    base = Path(sweep_module.__file__).parents[1] / "assets/base"
    with pytest.raises(BenchmarkError, match=r"unet holds no branch: .* expected BrushNetModel"):
        Models(base / "unet").branch()
    data = str(miniatures.folder_of_pictures(tmp_path / "data"))
    sweep = sweep_of(Folder(data), networks=(("clip_x", "somewhere"),), methods=(Copy(),))
    with pytest.raises(BenchmarkError, match="unknown networks"):
        run(sweep, tmp_path / "out").all()
    assert not (tmp_path / "out/pictures").exists()  # before anything is made


def test_plan_refuses_doubles_and_nothing(folder, tmp_path):
    for sweep, message in (
        (sweep_of(Folder(folder), methods=(Copy(), Copy())), "labels of methods"),
        (sweep_of(Folder(folder), methods=(Copy(), Copy("again"))), "same settings"),
        (sweep_of(Folder(folder), Folder(folder)), "names of benchmarks"),
        (sweep_of(Folder(folder), seeds=(1, 1)), "different seeds"),
        (sweep_of(Folder(folder), methods=()), "expected benchmarks, methods"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            run(sweep, tmp_path / "out").all()
    with pytest.raises(BenchmarkError, match="unknown metrics"):
        run(sweep_of(Folder(folder), metrics=("psnr_everywhere",)), tmp_path / "out")
    with pytest.raises(BenchmarkError, match="share"):
        run(sweep_of(Folder(folder)), tmp_path / "out", share=(2, 2))


def test_grid_unfolds_into_labelled_branches():
    grid = Grid(checkpoints=("a", "zero"), guidance=(1.0, 7.5), scales=(1.0,))
    labels = [one.label for one in grid.methods()]
    assert labels == ["branch a g 1.0", "branch a g 7.5", "branch zero g 1.0", "branch zero g 7.5"]
    assert {one.sampling.steps for one in grid.methods()} == {50}


def test_methods_without_masks_say_so(tmp_path):
    data = str(miniatures.emuedit(tmp_path / "data"))
    from brushjax.evaluation.benchmarks.tables import EmuEdit

    with pytest.raises(BenchmarkError, match="emuedit-test has no masks"):
        run(sweep_of(EmuEdit(data), methods=(Telea(),)), tmp_path / "out").all()
    report = run(sweep_of(EmuEdit(data), methods=(Copy(),)), tmp_path / "copy").all()
    assert report.flat()["copy/paper:ultraedit/l1"] == 0


def test_two_different_rows_of_a_picture_are_refused(folder, tmp_path):
    sweep, out = sweep_of(Folder(folder)), tmp_path / "out"
    run(sweep, out).all()
    part = next(iter((out / "scores").glob("*.parquet")))
    rows = read_table(part)
    schema = {name: store.TEXT if name == "key" else store.NUMBER for name in rows[0]}
    changed = [{**row, "mask_area": 0.5, "clean/mse_all@1": 0.5} for row in rows]
    kept = {name: kind for name, kind in schema.items() if name in ("key", "mask_area")}
    store.write_table(out / "scores/part-zz.parquet", changed, kept)
    with pytest.raises(BenchmarkError, match="another row"):
        run(sweep, out).all(("report",))


class Edged(Folder):
    """A folder whose own metric has a setting that no record carries."""

    edge = 1.0

    def metrics(self):
        return (Metric("clean", "edged", (), lambda views: self.edge),)


@dataclasses.dataclass(frozen=True)
class Wider(Edged):
    edge: float = 2.0


def test_scores_follow_what_they_read(folder, tmp_path, monkeypatch):
    """Captions, the benchmark's own settings, a metric's network and the code; not the number of
    records."""
    plan = run(sweep_of(Folder(folder), methods=(Copy(),), seeds=(0,)), tmp_path / "out").plan
    unit, benchmark = plan.units[0], Wider(folder)

    def key(unit=unit, benchmark=benchmark, network="a"):
        need = Need("clip_l14.image", "clip", (RESULT,))
        own = metrics_of(benchmark, ("clean",), ("edged", "psnr_all"))
        networks = types.SimpleNamespace(hashes={"clip_l14": network}, names=(), features=len)
        return row_key(unit, (*own, Metric("clean", "sim", (), float, (need,))), networks)

    before = key()
    assert key(benchmark=dataclasses.replace(benchmark, limit=2)) == before
    others = [key(network="b"), key(benchmark=dataclasses.replace(benchmark, edge=3.0))]
    for name in ("source_caption", "target_caption", "local_caption"):
        record = dataclasses.replace(unit.record, **{name: "something else"})
        others.append(key(dataclasses.replace(unit, record=record)))
    monkeypatch.setattr("brushjax.evaluation.score.code", lambda without: "of another version")
    others.append(key())
    assert len({before, *others}) == 1 + len(others)


def test_edited_prompts_and_code_make_pictures_anew(folder, tmp_path, monkeypatch):
    sweep, out = sweep_of(Folder(folder), methods=(Noisy(), Telea()), seeds=(0,)), tmp_path / "out"
    before = run(sweep, out).plan.units
    prompts = Path(folder) / "prompts.json"
    prompts.write_text(json.dumps({**json.loads(prompts.read_text()), "p1": "edited"}))
    after = run(sweep, out).plan.units
    changed = [(b.method, b.record.id) for a, b in zip(before, after) if a.key != b.key]
    assert changed == [("noisy", "p1")]  # Telea's fill reads no prompt
    monkeypatch.setattr(contract, "code", lambda without: "of another version")
    assert not {unit.key for unit in run(sweep, out).plan.units} & {unit.key for unit in after}
