"""Tables, numbers, the HTML page, and what the linters find in rows."""

import json
import math
import re

import numpy as np
import pytest

from brushjax.evaluation.report.aggregate import by_group as grouped
from brushjax.evaluation.report.aggregate import changes, macro_mean, summaries
from brushjax.evaluation.report.formats import markdown_table, number, percent, write_json
from brushjax.evaluation.report.grids import Grid, Shown
from brushjax.evaluation.report.html import Section, page
from brushjax.evaluation.report.lint import Finding
from brushjax.evaluation.report.tables import Cell, Table
from brushjax.evaluation.score import Scored
from brushjax.metrics.bootstrap import Bootstrap, Interval
from brushjax.metrics.metric import Metric

PSNR = Metric("clean", "psnr_keep", (), lambda views: 0.0, sentinel=100.0)
ERROR = Metric("clean", "ring_error", (), lambda views: 0.0, higher_is_better=False)
FAST = Bootstrap(resamples=200)


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
    assert (error.method, error.baseline) == ("m", "zero")
    assert error.difference.high < 0  # unpaired, the spread of the samples would hide it
    assert error.better
    assert error.reduction.value == pytest.approx(0.1)
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
    picture = np.zeros((400, 200, 3), np.uint8)
    grid = Grid("best", [Shown("caption & more", {"source": picture})])
    finding = Finding("error", "b, m", "impossible: x < y")
    section = Section([Table("t", ["m", "x"], cells)], [grid], note="a note")
    text = page("t", {"b": section}, [finding], {"a": 1})
    assert "<b>m</b>" not in text
    assert "&lt;b&gt;m&lt;/b&gt;" in text
    assert 'data-value="0.1"' in text
    assert 'class="error"' in text
    assert "caption &amp; more" in text
    assert len(re.findall(r'src="data:image/jpeg;base64,', text)) == 1
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing is fetched from anywhere
    assert "aria-sort" in text
