"""Tables, numbers, the HTML page, and what the linters find in rows."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from brushjax.evaluation.benchmarks.held_out import Steered
from brushjax.evaluation.generate import Gallery
from brushjax.evaluation.methods.contract import Recipe
from brushjax.evaluation.plan import Plan
from brushjax.evaluation.records import Pixels, Record, Unit
from brushjax.evaluation.report.aggregate import by_group as grouped
from brushjax.evaluation.report.aggregate import changes, macro_mean, summaries
from brushjax.evaluation.report.formats import markdown_table, number, percent, write_json
from brushjax.evaluation.report.grids import chosen
from brushjax.evaluation.report.html import Head, Section, page
from brushjax.evaluation.report.lint import Finding
from brushjax.evaluation.report.names import meaning, title
from brushjax.evaluation.report.samples import Samples
from brushjax.evaluation.report.tables import (
    Cell,
    Table,
    changes_table,
    means_table,
    overview_table,
)
from brushjax.evaluation.score import Scored
from brushjax.metrics.bootstrap import Bootstrap, Interval
from brushjax.metrics.metric import Metric
from brushjax.metrics.profiles.seams import SEAM_METRICS
from brushjax.metrics.registry import METRICS, select
from brushjax.metrics.views import Views

PSNR = Metric("clean", "psnr_keep", (), lambda views: 0.0, sentinel=100.0, scale="dB")
ERROR = Metric("clean", "ring_error", (), lambda views: 0.0, higher_is_better=False)
SSIM = Metric("clean", "ssim_keep", (), lambda views: 0.0)
AREA = Metric("clean", "region_area", (), lambda views: 0.0, higher_is_better=None)
FAST = Bootstrap(resamples=200)


class Seeded(Recipe):
    """A method of which only the seed matters."""

    seeded = True


def scored(values):
    """Rows of one benchmark from {(method, seed): [value of every sample]} of both metrics."""
    rows = [
        {
            "benchmark": "b",
            "method": method,
            "seed": seed,
            "sample": str(n),
            "turn": 1,
            "session": f"s{n // 2}",
            "group": ("even", "odd")[n % 2],
            PSNR.id: 100.0 if value == 0 else 20.0,
            ERROR.id: value,
        }
        for (method, seed), column in values.items()
        for n, value in enumerate(column)
    ]
    return Scored(rows, {"b": (PSNR, ERROR)})


def test_markdown_table_aligns_its_columns():
    table = markdown_table(["name", "a"], [["x", "1.5"], ["longer", "-"]])
    assert table == "| name   |   a |\n| ------ | --: |\n| x      | 1.5 |\n| longer |   - |\n"


def test_numbers_carry_their_intervals():
    assert number(Interval(0.5, 0.25, 0.75, 9), 2) == "0.50 [0.25, 0.75]"
    assert percent(Interval(0.413, 0.35, 0.4721, 9)) == "41.3 % [35.0, 47.2]"
    assert number(math.nan) == percent(math.nan) == "-"
    assert (number(-1e-9), percent(-1e-9)) == ("0.0000", "0.0 %")
    assert number(Interval(math.inf, math.nan, math.nan, 3)) == "inf"


def test_json_writes_undefined_as_null(tmp_path):
    write_json(tmp_path / "a.json", {"x": Interval(math.nan, 0.0, 1.0, 3), "y": (1, 2)})
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "x": {"value": None, "low": 0.0, "high": 1.0, "count": 3},
        "y": [1, 2],
    }


def test_means_are_over_records_and_their_seeds():
    rows = scored({("m", 0): [0.1, 0.2, 0.3, math.nan], ("m", 1): [0.3, 0.2, 0.3, math.nan]})
    psnr, error = summaries(rows, FAST)
    assert psnr.mean.value == 20
    assert error.mean.value == pytest.approx((0.2 + 0.2 + 0.3) / 3)
    assert (error.mean.count, error.rows, error.undefined) == (3, 8, 2)
    assert error.seeds == pytest.approx((0.2, 0.8 / 3))
    assert error.seed_spread == pytest.approx(np.std([0.2, 0.8 / 3], ddof=1))


def test_intervals_draw_sessions_whole():
    """Sessions of two alike records each: records drawn apart would promise too much."""
    rows = scored({("m", 0): [0.1, 0.1, 0.5, 0.5, 0.2, 0.2, 0.4, 0.4, 0.3, 0.3]})
    alike = summaries(rows, FAST)[1].mean
    for number_, row in enumerate(rows.rows):
        row["session"] = str(number_)
    apart = summaries(rows, FAST)[1].mean
    assert alike.high - alike.low > apart.high - apart.low


def test_changes_are_paired_and_say_what_is_better():
    column = [0.2, 0.4, 0.6, 0.8]
    rows = scored({("zero", 0): column, ("m", 0): [0.9 * value for value in column]})
    psnr, error = changes(rows, "zero", FAST)
    assert psnr.improvement is None  # a percentage of decibels means nothing
    assert (error.method, error.baseline) == ("m", "zero")
    assert error.difference.high < 0  # unpaired, the spread of the samples would hide it
    assert error.better
    assert error.improvement.value == pytest.approx(0.1)
    assert error.by_group is not None
    assert psnr.better is None
    assert not changes(rows, "absent", FAST)


def test_groups_have_means_and_a_mean_of_means():
    rows = scored({("m", 0): [0.1, 0.3, 0.1, 0.3, 0.1]})
    groups = grouped(rows, FAST)
    found = {(one.group, one.metric.name): one.mean.value for one in groups}
    assert found["even", "ring_error"] == pytest.approx(0.1)
    assert found["odd", "ring_error"] == pytest.approx(0.3)
    assert macro_mean(groups, "b", "m", ERROR) == pytest.approx(0.2)  # the mean of rows is 0.18


def test_infinite_numbers_have_a_mean_without_an_interval():
    rows = scored({("m", 0): [0.1, math.inf, 0.3]})
    mean = summaries(rows, FAST)[1].mean
    assert mean.value == math.inf
    assert math.isnan(mean.low)


def test_mean_with_infinities_of_both_signs_is_undefined_and_never_the_largest():
    rows = scored({("m", 0): [0.1, math.inf, -math.inf], ("n", 0): [0.1, -math.inf, 0.3]})
    means = {one.method: one for one in summaries(rows, FAST) if one.metric is ERROR}
    assert math.isnan(means["m"].mean.value)
    assert means["n"].mean.value == -math.inf
    assert means["n"].seeds == (-math.inf,)


def test_records_without_a_group_are_not_all_records():
    rows = scored({("m", 0): [0.1, 0.3, 0.1, 0.3, 0.1]})
    for row in rows.rows:
        row["group"] = "" if row["group"] == "even" else "odd"
    groups = grouped(rows, FAST)
    everything = means_table(summaries(rows, FAST) + groups, "b")
    assert everything.title == "b: 5 records"
    assert everything.rows[1][1].value == pytest.approx(0.18)
    assert means_table(groups, "b", "").title == "b, (no group): 3 records"


def test_gains_are_above_zero_where_a_method_is_better():
    column = [0.2, 0.4, 0.6, 0.8]
    better = scored({("zero", 0): column, ("m", 0): [0.9 * value for value in column]})
    for row in better.rows:
        row[SSIM.id] = 1 - row[ERROR.id]
        row[PSNR.id] = 20 - 10 * row[ERROR.id]
    found = changes(Scored(better.rows, {"b": (PSNR, ERROR, SSIM, AREA)}), "zero", FAST)
    assert [one.metric.name for one in found] == ["psnr_keep", "ring_error", "ssim_keep"]
    assert all(one.better and one.gain.low > 0 for one in found)
    psnr, error, ssim = found
    assert psnr.improvement is None
    assert error.improvement.value == pytest.approx(0.1)
    assert ssim.improvement.value == pytest.approx(0.05 / 0.5)
    assert changes_table(found, "b", oracles=("m",)) is None  # it sees the truth
    table = changes_table(found, "b")
    for row in table.rows:
        assert "-" not in row[2].text
        assert row[2].text.endswith(" better")
    assert [row[3].text.partition(" [")[0] for row in table.rows] == ["-", "10.0 %", "10.0 %"]


def test_gains_on_all_benchmarks_stand_in_one_table():
    column = [0.2, 0.4, 0.6, 0.8]
    rows = scored({("zero", 0): column, ("m", 0): [0.9 * value for value in column]})
    found = changes(rows, "zero", FAST)
    assert overview_table(found) is None  # there is one benchmark
    other = [dataclasses.replace(one, benchmark="c", method="n") for one in found]
    table = overview_table([*found, *other], ("ring_error",))
    assert table.head == ["gain over zero [95 % interval]", "m", "n"]
    first, second = table.rows
    assert [cell.text for cell in first][::2] == ["b: ring_error ↓", "-"]
    assert first[1].text.endswith(" better")
    assert second[1].text == "-"
    assert second[2].text == first[1].text
    assert overview_table([*found, *other], oracles=("n",)) is None


def test_percentages_need_a_baseline_above_zero():
    column = [-0.2, -0.4, 0.1, 0.1]
    rows = scored({("zero", 0): column, ("m", 0): [value - 1 for value in column]})
    (_, error) = changes(rows, "zero", FAST)
    assert error.better
    assert math.isnan(error.improvement.value)


def test_every_metric_has_one_name_an_arrow_and_a_meaning():
    found = [*METRICS.values(), *SEAM_METRICS, *Steered().metrics()]
    assert sorted(one.id for one in found if not meaning(one)) == []
    assert title(PSNR) == "psnr_keep ↑"
    assert title(ERROR) == "ring_error ↓"
    assert title(AREA) == "region_area"
    titles = [title(one) for one in found]
    assert len(set(titles)) == len(titles)
    same = Views(np.full((8, 8, 3), 9, np.uint8), np.zeros((8, 8, 3), np.uint8))
    same = dataclasses.replace(same, truth=same.source)
    values = {one.name: one(same, {})[one.id] for one in select(networks=()) if one.applies(same)}
    assert math.isnan(values["mae_truth"])  # it would repeat mae_all
    assert values["mae_all"] > 0


def test_best_and_worst_do_not_overlap(tmp_path):
    for count, expected in ((3, [3, 3, 3]), (5, [5, 5, 1]), (6, [11])):
        plan, rows, _ = few_records(tmp_path, 11)
        found = chosen(plan, rows, "b", count)
        assert [len(panel.places) for panel in found] == expected
        places = [place for panel in found for place in panel.places]
        assert len(set(places)) == len(places)
    assert found[0].places[0] == ("r0", 1)  # the least error


def few_records(folder, count):
    """A plan, its rows and its gallery, without files."""
    pixels = Pixels(np.zeros((4, 4, 3), np.uint8))
    units = [
        Unit(Record("b", f"r{n}", "p", lambda: pixels, ""), "m", 0, f"k{n}") for n in range(count)
    ]
    rows = scored({("m", 0): [0.1 + 0.01 * n for n in range(count)]})
    for row in rows.rows:
        row["sample"] = f"r{row['sample']}"
    method = Seeded()
    gallery = Gallery(folder)
    gallery.rows.update({unit.key: {"fault": "x"} for unit in units})
    return Plan(units, {}, {"m": method}, {}), rows, gallery


def test_sentinels_are_counted():
    rows = scored({("m", 0): [0.0, 0.0, 0.3]})
    assert summaries(rows, FAST)[0].sentinels == 2


def test_table_turns_and_writes_latex():
    table = Table("t", ["metric", "a_1", "b"], [[Cell("x"), Cell("1 %", 1.0, True), Cell("-")]])
    turned = table.turned()
    assert turned.head == ["metric", "x"]
    assert [[cell.text for cell in row] for row in turned.rows] == [["a_1", "1 %"], ["b", "-"]]
    latex = turned.latex()
    assert r"a\_1 & \textbf{1 \%} \\" in latex
    assert latex.count(r"\begin{tabular}") == 1


def test_page_is_one_file_that_escapes_and_sorts():
    cells = [[Cell("<b>m</b>"), Cell("0.10 [0.05, 0.15]", 0.1, True)], [Cell("n"), Cell("-")]]
    finding = Finding("error", "b, m", "impossible: x < y")
    section = Section([Table("t", ["m", "x"], cells)], note="a note")
    head = Head("<t>", {"made": "today"}, {"n": "a <method>", "x": "a metric"})
    text = page(head, {"b": section}, [finding], {"a": 1, "settings": {"n": {"steps": 2}}})
    assert "<title>&lt;t&gt;</title>" in text
    assert 'title="a &lt;method&gt;"' in text
    assert "<b>m</b>" not in text
    assert "&lt;b&gt;m&lt;/b&gt;" in text
    assert 'data-value="0.1"' in text
    assert 'class="error"' in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)  # nothing is fetched from anywhere
    assert "aria-sort" in text
    assert 'id="settings-0"' in text
    assert 'id="data"' not in text  # there are no samples


def test_records_cannot_end_the_scripts_element():
    row = {"benchmark": "b", "prompt": "</script><b>", "results": []}
    samples = Samples({"b": {"metrics": [], "methods": []}}, [row])
    text = page(Head("t"), {}, [], {}, samples)
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert json.loads(found)["rows"] == [row]
