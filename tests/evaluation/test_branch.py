"""A whole evaluation of a branch with tiny random networks, and what a restart does."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from brushjax.evaluation import generate
from brushjax.evaluation.branch import BranchEvaluation
from brushjax.evaluation.methods.contract import Resources
from brushjax.evaluation.methods.inpainting import Branch, Sampling
from brushjax.evaluation.models import Models, network_digest, zero_branch
from brushjax.evaluation.records import unit_key
from brushjax.evaluation.report.grids import strip_of
from brushjax.evaluation.store import read_table
from brushjax.evaluation.sweep import Run
from brushjax.inference.engine.edit import edit
from brushjax.pipelines import bases
from tests.evaluation import tiny
from tests.evaluation.tiny import CONFIG

ONE = jax.local_devices()[:1]


@pytest.fixture(scope="module")
def models():
    return tiny.models()


def run(models, out, config=CONFIG, **options):
    return Run(config.sweep(), out, models, progress=False, devices=ONE, **options)


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """The folder of a finished evaluation, and its report."""
    out = tmp_path_factory.mktemp("evaluation")
    programs = edit._cache_size()
    report = run(models, out).all()
    assert edit._cache_size() <= programs + 1  # one for both branches and both kinds of mask
    return out, report


def rows_of(report, benchmark, method):
    return report.scored.of(benchmark, method)


def test_report_holds_every_metric_of_every_picture(finished):
    out, report = finished
    rows = read_table(out / "scores.parquet")
    # Four methods on the held-out samples; the steering ones swapped, own and decoded.
    assert len(rows) == 4 * 3 + 3 * 3
    table = (out / "table.md").read_text()
    for title in ("outer 4 pixels", "discontinuity", "in percent", "swapped prompt", "chance"):
        assert title in table
    mine = [row["clean/ring_error@1"] for row in rows if row["method"] == "zero"][:3]
    expected = [row["clean/ring_error@1"] for row in rows_of(report, "fill", "zero")]
    np.testing.assert_array_equal(mine, expected)
    summary = json.loads((out / "summary.json").read_text())
    assert "chance is 50.0 %" in summary["notes"]["swapped"]
    assert summary["environment"]["jax"] == jax.__version__
    assert summary["means"]["fill"]["trained"]["clean/ring_error@1"]["count"] == 3
    assert summary["settings"]["zero"]["branch"] != summary["settings"]["trained"]["branch"]


def test_every_kind_of_report_is_written(finished):
    out, _ = finished
    for name in ("table.csv", "table.tex", "changes.csv", "report.html", "plan.parquet"):
        assert (out / name).stat().st_size > 200, name
    for name in ("fill.png", "swapped.png", "own.png"):
        with Image.open(out / name) as sheet:
            assert sheet.size[0] >= 4 * 64
            assert sheet.size[1] >= 2 * 64
    assert not list(out.rglob("*.part"))


def test_metrics_are_of_the_raw_pictures(finished):
    out, report = finished
    row = rows_of(report, "fill", "trained")[0]
    raw = np.asarray(Image.open(out / row["picture"]))
    sample = CONFIG.held_out.samples()[int(row["sample"])]
    kept = sample.mask == 0
    error = np.mean((raw[kept] / 255 - sample.image[kept] / 255) ** 2)
    assert error > 0  # a blended picture would repeat the kept pixels
    assert row["clean/mse_keep@1"] == pytest.approx(error)


def test_strip_and_legend_say_what_is_not_put_back(finished, models, monkeypatch):
    out, report = finished
    told = "not put back into the source, so that seams show"
    notes = []
    monkeypatch.setattr("brushjax.inference.strip.strip", lambda *_, note: notes.append(note))
    strip_of(report.plan, run(models, out).gallery, "fill", 1)
    assert notes == [f"trained, zero: {told}"]
    assert (out / "table.md").read_text().count(f"blend none: {told}") == 2


def test_copy_has_no_error_and_the_truth_has_its_own_edge(finished):
    rows = rows_of(finished[1], "fill", "copy")
    assert not any(row["clean/ring_error@1"] for row in rows)
    assert all(row["clean/edge_step@1"] > 0 for row in rows)


def counted(monkeypatch):
    """The units that are made from now on."""
    made = []
    add = generate.Gallery.add

    def counting(self, units, pictures, seconds):
        made.extend(units)
        add(self, units, pictures, seconds)

    monkeypatch.setattr(generate.Gallery, "add", counting)
    return made


def test_restart_makes_only_what_is_missing(finished, models, monkeypatch):
    out, report = finished
    made = counted(monkeypatch)
    lost = sorted((out / "generated").glob("*.parquet"))[0]
    keys = {row["key"] for row in read_table(lost)}
    lost.unlink()
    again = run(models, out).all()
    assert {unit.key for unit in made} == keys
    assert again.flat() == report.flat()
    made.clear()
    run(models, out).all()
    assert made == []


def test_a_lost_picture_is_made_again_and_a_changed_one_is_refused(finished, models, monkeypatch):
    out, report = finished
    row = rows_of(report, "fill", "copy")[1]
    path = out / row["picture"]
    data = path.read_bytes()
    path.unlink()
    made = counted(monkeypatch)
    run(models, out).all()
    assert [unit.key for unit in made] == [row["key"]]
    assert path.read_bytes() == data
    path.write_bytes(data[:-1])
    for part in (out / "scores").glob("*.parquet"):
        part.unlink()
    with pytest.raises(ValueError, match="has changed since it was made"):
        run(models, out).all()
    path.write_bytes(data)
    assert run(models, out).all().flat() == report.flat()


def test_other_weights_or_settings_never_reuse_rows(finished, models):
    _, report = finished
    record = CONFIG.held_out.records()[0]
    trained, on = Branch(sampling=CONFIG.sampling), Resources(models)
    settings = trained.method(on).settings
    known = {unit.key for unit in report.plan.units}
    key = functools.partial(unit_key, texts=Branch.reads)
    assert key(record, 0, settings) in known
    more = dataclasses.replace(trained, sampling=Sampling(steps=3)).method(on).settings
    zero = dataclasses.replace(trained, checkpoint="zero").method(on).settings
    other = dataclasses.replace(record, prompt="something else")
    pixels = dataclasses.replace(record, fingerprint="0")
    for changed in (
        key(record, 0, more),
        key(record, 7, zero),
        key(record, 1, settings),
        key(other, 0, settings),
        key(pixels, 0, settings),
        key(record, 0, {**settings, "code": "of another version"}),
        key(record, 0, {**settings, "jax": {"jax_default_matmul_precision": "highest"}}),
    ):
        assert changed not in known


def test_zero_branch_adds_nothing_and_shares_the_program(models):
    branch = models.branch()
    zero = zero_branch(models.base()["unet"], branch)
    assert nnx.split(zero)[0] == nnx.split(branch)[0]
    inputs = jnp.ones((1, 4, 4, 4)), jnp.zeros(1), jnp.ones((1, 4, 4, 5))
    residuals = jax.jit(lambda model: model(*inputs))  # one program, for both as well
    assert not any(leaf.any() for leaf in jax.tree.leaves(residuals(zero)))
    assert all(leaf.any() for leaf in jax.tree.leaves(residuals(branch)))


@pytest.mark.slow
def test_evaluator_returns_numbers_for_the_log(finished, models, tmp_path, monkeypatch):
    asked = []

    def given(weights, base):
        asked.append((weights, base))
        return models

    monkeypatch.setattr("brushjax.evaluation.sweep.Models", given)
    few = dataclasses.replace(
        CONFIG, held_out=dataclasses.replace(CONFIG.held_out, count=2), steering=None
    )
    numbers = few(7, tmp_path / "export", tmp_path)
    assert asked == [(tmp_path / "export", "")]
    assert (tmp_path / "samples/table.md").is_file()
    assert {"trained/improvement/ring_error", "trained/edge_discontinuity"} <= set(numbers)
    assert all(np.isfinite(value) for value in numbers.values())
    assert "swapped/trained/nearest_named" in finished[1].flat()


def test_seeds_and_digests_differ_where_they_must(models):
    record = CONFIG.held_out.records()[0]
    records = [dataclasses.replace(record, id=str(n)) for n in range(50)]
    assert len({one.noise_seed(seed) for seed in range(10) for one in records}) == 500
    # As evaluations were first seeded, so that stored numbers can be made again.
    assert record.noise_seed(0) == 4025431107
    branch = models.branch()
    assert network_digest(branch) == network_digest(branch)
    other = nnx.clone(branch)
    other.conv_in_condition.bias.set_value(other.conv_in_condition.bias[...] + 1e-7)
    assert network_digest(other) != network_digest(branch)


def test_branch_of_the_base_is_taken_where_none_is_named(tmp_path):
    shipped = Path(bases.__file__).parents[1] / "assets/base"
    assert Models().source() == str(shipped / "brushnet")
    (tmp_path / "unet").mkdir()
    with pytest.raises(ValueError, match=r"expected --weights DIR.*no brushnet/"):
        Models(base=str(tmp_path)).branch()


def test_zero_branch_of_the_package_has_the_shipped_ones_config():
    models = Models()
    assert models.branch("zero").config == models.branch().config


def test_branch_evaluation_is_a_sweep():
    sweep = BranchEvaluation(baselines=True, seeds=(0, 1)).sweep()
    labels = [method.label for method in sweep.methods]
    assert labels == ["trained", "zero", "blended", "telea", "autoencoder", "copy"]
    assert sweep.seeds == (0, 1)
    assert [one.name for one in sweep.benchmarks] == ["fill", "swapped", "own"]


def test_evaluator_takes_the_base_of_the_run_and_names_what_is_not_there(tmp_path):
    from types import SimpleNamespace

    from brushjax.config import ConfigError
    from brushjax.data.pipeline import PhotoData
    from brushjax.evaluation.benchmarks.held_out import HeldOut

    small = HeldOut(1, PhotoData(size=32, split="held_out"))
    evaluation = BranchEvaluation(held_out=small, steering=None)
    run = SimpleNamespace(objective=SimpleNamespace(base=str(tmp_path)))
    assert evaluation.for_run(run).base == str(tmp_path)
    run.objective.base = "nosuch"
    with pytest.raises(ConfigError, match=r"an evaluator lacks what it needs: .*nosuch"):
        evaluation.for_run(run)
    own = dataclasses.replace(evaluation, base=str(tmp_path))
    assert own.for_run(run).base == str(tmp_path)
