"""The status page names tests that exist, with the bounds that they assert."""

import ast
import functools
import re
import shlex
from pathlib import Path

import pytest

from brushjax import config as configs
from brushjax.cli import COMMANDS
from brushjax.evaluation.command import EvaluateOptions
from brushjax.evaluation.report.published import published

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/status.md").read_text()
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
BOUND = re.compile(r"(?:\d+(?:\.\d+)?e-\d+|\d+(?:\.\d+)?)")


def rows(heading):
    """The rows of the table under a heading, as dicts by the head's names."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    head, _, *others = cells
    return [dict(zip(head, row, strict=True)) for row in others]


@functools.cache
def parsed(path):
    return ast.parse((ROOT / path).read_text())


def definitions(path):
    """Functions and constants at the top of a file, and those it imports from other tests."""
    found = {}
    for node in parsed(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {one.id: node.value for one in node.targets if isinstance(one, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
            other = f"{(node.module or '').replace('.', '/')}.py"
            if (ROOT / other).is_file():
                there = definitions(other)
                found |= {one.name: there[one.name] for one in node.names if one.name in there}
    return found


def bounds(path, function):
    """The numbers in a test, in its marks, and in what of this file it calls or names."""
    known, seen, numbers = definitions(path), set(), set()

    def visit(name):
        if name in seen or name not in known:
            return
        seen.add(name)
        for node in ast.walk(known[name]):
            if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                numbers.add(float(node.value))
            if isinstance(node, ast.Name):
                visit(node.id)

    visit(function)
    return numbers


MODELS, BENCHMARKS, NUMBERS = rows("Models"), rows("Benchmarks"), rows("Numbers of the papers")


@pytest.mark.parametrize("row", [*MODELS, *BENCHMARKS], ids=lambda row: next(iter(row.values())))
def test_status_rows_name_tests_with_their_bounds(row):
    named = TEST.findall(row["test"])
    assert named, row
    for path, function in named:
        assert function in definitions(path), (path, function)
    wanted = [float(one) for one in BOUND.findall(row["bound"])]
    assert wanted or row["bound"] in ("exact", "-"), row["bound"]
    allowed = set().union(*(bounds(*one) for one in named))
    assert set(wanted) <= allowed, (wanted, sorted(allowed))


@pytest.mark.parametrize("row", [*MODELS, *BENCHMARKS], ids=lambda row: next(iter(row.values())))
def test_status_says_heavy_or_slow_where_the_test_is(row):
    for path, function in TEST.findall(row["test"]):
        known = definitions(path)
        marks = [*known[function].decorator_list, *filter(None, [known.get("pytestmark")])]
        text = " ".join(map(ast.unparse, marks))
        for kind in ("heavy", "slow"):
            there = f"mark.{kind}" in text
            assert there == (kind in row["where"]), (path, function, row["where"])


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row["table"])
def test_status_commands_name_recipes_and_commands_that_exist(row):
    commands = re.findall(r"`((?:python|huggingface-cli|hf) [^`]+)`", row["commands"])
    assert commands, row
    for command in commands:
        words = shlex.split(command)
        if words[0] != "python":
            continue
        if words[1:3] == ["-m", "brushjax"]:
            assert words[3] in COMMANDS, command
            continue
        assert (ROOT / words[1]).is_file(), command
        config = configs.load(ROOT / words[2])
        if words[1] == "evaluate.py":
            _, overrides = configs.own_options(EvaluateOptions, words[2:], "evaluate.py", "")
            configs.override(config, overrides, command)


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row["table"])
def test_status_prints_the_papers_numbers(row):
    said = row["row of the paper"]
    for name in re.findall(r"`([\w-]+)`", said):
        (table,) = [one for one in published() if one.id == name]
        numbers = {float(one) for one in re.findall(r" (\d+\.\d+)", said)}
        assert numbers
        assert any(numbers <= set(one.values) for one in table.rows if one.method == table.own)


def test_status_bounds_are_looked_for_in_what_a_test_names():
    assert 1e-4 in bounds("tests/models/test_full_size.py", "test_full_size_forward_equals_torch")
    assert 7.0 not in bounds(
        "tests/models/test_full_size.py", "test_full_size_forward_equals_torch"
    )
