"""The table of docs/pod_sizes.md is what was compiled, and a run goes on where it was killed."""

import json
import re

import pytest

from benchmarks import pod_table
from benchmarks.pod_table import FOLDER, PAGE, Row, on_page, rows, table

KNOWN = sorted(FOLDER.glob("*.json"))


def test_page_shows_the_table_of_the_stored_rows():
    assert on_page(PAGE.read_text()) == table()
    assert {file.stem for file in KNOWN} <= {row.name for row in rows()}


@pytest.mark.parametrize("file", KNOWN, ids=lambda file: file.stem)
def test_stored_row_is_what_its_mesh_can_hold(file):
    known = json.loads(file.read_text())
    row = next(row for row in rows() if row.name == file.stem)
    assert known["mesh"].get("tensor", 1) == row.tensor
    assert known["held"] < known["fullest"] <= known["held"] + known["within"]
    assert 0.99 <= known["program"] / known["useful"] < 1.5
    assert known["sent"] / (known["parameters"] + known["sums"]) >= 1


def test_rows_that_were_not_compiled_say_so(tmp_path):
    lines = table(tmp_path).splitlines()[2:]
    assert len(lines) == len(rows())
    assert all("| not compiled | - | - | - | - |" in line for line in lines)


def test_only_missing_rows_are_compiled(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        pod_table.subprocess, "run", lambda command, check: asked.append(command[4])
    )
    (tmp_path / "regions-v5e-256-256.json").write_text((KNOWN[0]).read_text())
    monkeypatch.setattr("sys.argv", ["pod_table", "--only", "regions", "--folder", str(tmp_path)])
    pod_table.main()
    assert asked == [f"regions-{name}-256" for name in ("v6e-256", "v5p-128", "v5p-512")]
    assert len(re.findall("not compiled", capsys.readouterr().out)) == len(rows()) - 1


def test_table_is_written_between_its_marks_alone(tmp_path, monkeypatch):
    page, around = tmp_path / "page.md", ("x before\n" + pod_table.START, pod_table.END + " x\n")
    page.write_text("old".join(around))
    monkeypatch.setattr(pod_table, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["pod_table", "--table", "--write"])
    pod_table.main()
    assert page.read_text() == table().join(around)


def test_row_takes_its_recipe_and_mesh():
    config = Row("fireedit", "v5e-256", 128, 4, "layers").config()
    assert (config.batch_size, config.mesh.tensor, config.rematerialise) == (128, 4, "layers")
    assert Row("regions", "v5e-256", 256).config().name == "region_predictor"
