"""What the documentation names exists: symbols, tests, configs, files and the anchors of links."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "brushjax").rglob("*.py"))]
SOURCES += sorted((ROOT / "configs").rglob("*.py"))


def missing_names(text: str, root: Path = ROOT) -> list[str]:
    """Names in backticks or links of a page that lead nowhere."""
    symbols = re.findall(r"`(brushjax(?:\.\w+)+)`", text)
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    files = re.findall(r"(?<![\w/])((?:configs|tests|brushjax|docs)/[\w./]+\.[a-z]+)\b", text)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    return [
        *(name for name in symbols if not resolves(name)),
        *(f"{file}::{name}" for file, name in tests if name not in functions(root / file)),
        *(file for file in [*files, *links] if not (root / file).exists()),
    ]


def resolves(dotted: str) -> bool:
    """True if the name can be imported, as a module or as an attribute path below one."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if not hasattr(found, part) and part not in fields:
                return False
            found = getattr(found, part, None)
        return True
    return False


def functions(path: Path) -> set[str]:
    if not path.exists():
        return set()
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def anchors(page: Path) -> set[str]:
    """The ids of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_name_only_what_exists(page):
    text = page.read_text()
    if page.parent != ROOT:  # links in docs/ are relative to docs/
        text = re.sub(r"\]\((?!https?:|\.\./)", "](docs/", text).replace("](../", "](")
    assert missing_names(text) == []


def test_docs_notice_names_that_do_not_exist():
    page = """`brushjax.models.BrushNett` `tests/test_docs.py::test_nothing` `configs/none.py`
    [a link](nowhere.md) `brushjax.typing.Residuals` `tests/test_docs.py::anchors`"""
    expected = ["brushjax.models.BrushNett", "tests/test_docs.py::test_nothing"]
    assert missing_names(page) == [*expected, "configs/none.py", "nowhere.md"]


def test_deviations_that_code_and_papers_cite_are_described():
    known = anchors(ROOT / "docs/deviations.md")
    texts = {file: file.read_text() for file in [*SOURCES, *PAGES]}
    cited = {
        (file.name, anchor)
        for file, text in texts.items()
        for anchor in re.findall(r"deviations\.md#([\w-]+)", text)
    }
    assert cited
    assert sorted(name for name in cited if name[1] not in known) == []
