"""The papers' tables, and the checks of what numbers can be."""

import dataclasses

import pytest

from brushjax.evaluation.report import tables
from brushjax.evaluation.report.aggregate import Summary
from brushjax.evaluation.report.published import impossible, published, suspicious_rows, tables_of
from brushjax.metrics.bootstrap import Interval
from brushjax.metrics.metric import Metric

TABLES = {table.id: table for table in published()}


def test_every_table_is_here_with_its_source():
    counts = {name: len(table.rows) for name, table in TABLES.items()}
    assert counts == {
        "brushedit-2": 9,
        "brushedit-3": 7,
        "brushedit-4": 16,
        "brushedit-5": 8,
        "brushedit-6": 3,
        "brushedit-7": 10,
        "regions-2": 11,
        "regions-3": 10,
        "regions-4": 5,
        "fireedit-1": 7,
        "fireedit-2": 20,
        "fireedit-3": 4,
    }
    for table in published():
        assert table.paper
        assert table.source
        assert all(len(row.values) == len(table.columns) for row in table.rows)
        assert all(column.scale > 0 for column in table.columns)


def test_own_row_is_named_and_not_the_last_one():
    for table in published():
        assert table.own in {row.method for row in table.rows}, table.id
    table = TABLES["brushedit-4"]
    turned = dataclasses.replace(table, rows=table.rows[::-1])
    wanted = table.columns[0].metric
    mean = Interval(30.0, 29.0, 31.0, 5)
    profile, _, name = wanted.partition("/")
    metric = Metric(profile, name, (), lambda views: 0.0)
    means = [Summary("brushbench-inside", None, "m", metric, mean, 5, 0, 0, (30.0,))]
    for one in (table, turned):
        rows = [row for row in one.rows if row.benchmark == "brushbench-inside"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "tables_of", lambda benchmark, one=one, rows=rows: [(one, rows)])
            (made,) = tables.paper_tables(means, "brushbench-inside")
        gap = made.rows[-1]
        assert gap[0].text == "ours: m, less BrushEdit*"
        assert gap[1].value == pytest.approx(30 - 31.98)


def test_values_are_in_the_metrics_units():
    row = next(r for r in TABLES["brushedit-4"].rows if r.method == "BrushEdit*")
    values = TABLES["brushedit-4"].values(row)
    assert values["paper:brushedit/psnr"] == 31.98
    assert values["paper:brushedit/mse"] == pytest.approx(0.79e-3)
    assert values["paper:brushedit/ssim"] == pytest.approx(0.9668)
    assert values["paper:brushedit/lpips"] == pytest.approx(0.01892)


def test_impossible_rows_are_exactly_the_known_misprints():
    assert suspicious_rows() == [
        ("regions-3", "magicbrush-single", "RF-Solver"),
        ("fireedit-2", "magicbrush-single", "GLIDE"),
        ("fireedit-2", "magicbrush-single", "BleDiff"),
        ("fireedit-2", "magicbrush-multi", "GLIDE"),
        ("fireedit-2", "magicbrush-multi", "BleDiff"),
    ]
    marked = [
        (table.id, row.benchmark, row.method)
        for table in published()
        for row in table.rows
        if row.misprints
    ]
    assert marked == suspicious_rows()


def test_mse_under_the_other_papers_header_would_be_impossible():
    """BrushNet's paper prints the headers of MSE and LPIPS the other way round."""
    table = TABLES["brushedit-4"]
    psnr, mse, lpips, *others = table.columns
    swapped = (psnr, dataclasses.replace(lpips), dataclasses.replace(mse), *others)
    wrong = suspicious_rows([dataclasses.replace(table, columns=swapped)])
    assert sum(split == "brushbench-outside" for _, split, _ in wrong) == 5


def test_ablations_repeat_the_mean_of_both_splits():
    rows = {
        r.benchmark: TABLES["brushedit-4"].values(r)
        for r in TABLES["brushedit-4"].rows
        if r.method == "SDI"
    }
    row = TABLES["brushedit-6"].rows[0]
    for name in ("paper:brushedit/mse", "paper:brushedit/lpips"):
        mean = (rows["brushbench-inside"][name] + rows["brushbench-outside"][name]) / 2
        assert TABLES["brushedit-6"].values(row)[name] == pytest.approx(mean, rel=1e-3)


def test_impossible_numbers_are_named():
    assert not impossible({"p/psnr": 20.0, "p/mse": 0.01, "p/l1": 0.1, "p/l2": 0.02})
    assert "needs an MSE of 0.01" in impossible({"p/psnr": 20.0, "p/mse": 0.009})[0]
    assert not impossible({"p/psnr": 20.0, "other/mse": 0.009})
    assert "above l1" in impossible({"p/l1": 0.1, "p/l2": 0.2})[0]
    assert "above 1" in impossible({"p/l1": 3.5})[0]
    assert "above mae_keep" in impossible({"c/mse_keep": 0.2, "c/mae_keep": 0.1})[0]


def test_tables_of_a_benchmark_are_found():
    found = {table.id: len(rows) for table, rows in tables_of("magicbrush-multi")}
    assert found == {"regions-3": 5, "fireedit-2": 10}
    assert not tables_of("fill")
