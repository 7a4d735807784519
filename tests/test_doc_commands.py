"""Every command of the pages and recipes is understood by the program that it calls."""

import importlib.util
import re
import shlex
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from brushjax import cli
from brushjax.weights import command as convert

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "configs").rglob("*.py"))
FOREIGN = {  # programs that are not ours, whose options we can't look up here
    *("cd", "git", "mkdir", "mv", "export", "alias", "gcloud", "gcsfuse", "xpk", "tail", "sleep"),
    *("tensorboard", "pytest", "pre-commit", ".ci/run", ".", "done"),
}
WRAPPERS = {"sudo", "nohup", "srun", "until", "do"}
EXTRAS = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
)


def commands_of(path):
    """The commands of a page's shell blocks, or of a recipe's docstring, as words."""
    text = path.read_text()
    if path.suffix == ".py":
        text = text.split('"""')[1]
        blocks = re.findall(r"(?:^    .*\n)+", text.replace("\\\\\n", "\\\n"), flags=re.MULTILINE)
        blocks = [block for block in blocks if "python " in block]
    else:
        blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines for words in simple(line)]


def simple(line):
    """The simple commands of a line, also those that it hands to other machines."""
    words, found = shlex.split(line, comments=True), [[]]
    for word in words:
        if word.endswith(";") or word in ("&&", "&", "|", ">", "2>&1"):
            found[-1] += [word[:-1]] if len(word) > 1 and word.endswith(";") else []
            found.append([])
        else:
            found[-1].append(word)
    for words in found:
        while words and (words[0] in WRAPPERS or words[0].startswith("--export=")):
            words = words[1:]
        if words[:1] == ["everywhere"]:
            yield from simple(words[1])
        elif words and not words[0].endswith(".log"):
            yield words
            if "--command" in words[:-1]:
                yield from simple(words[words.index("--command") + 1])


@pytest.fixture
def no_data_made(monkeypatch):
    """Commands that make training data parse their words, and only note that they were called."""
    from brushjax.agents import donors, instruct, prepare
    from brushjax.evaluation.judging import ask
    from brushjax.training import propose

    called = []
    for module, name, result in (
        (ask, "judge", Counter()),
        (instruct, "instruct", Counter()),
        (donors, "donor_generator", None),
        (donors, "donors", 0),
        (prepare, "prepare", [1]),
        (propose, "propose", None),
    ):

        def call(*arguments, name=name, result=result):
            called.append((name, arguments))
            return result

        monkeypatch.setattr(module, name, call)
    return called


@pytest.fixture
def understood(tmp_path, monkeypatch, no_data_made):
    """Calls a command of ours with its real parser, in the place of what it would do."""
    from brushjax.agents import command as edit
    from brushjax.app import command as app
    from brushjax.evaluation import command as evaluate
    from brushjax.inference import command as inpaint
    from brushjax.training import plan, precompute
    from brushjax.training.scale import ahead, ahead_report

    for name in ("configs", "docs", "brushjax"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    called = no_data_made

    def instead(module, name, result=None):
        def call(*arguments, **options):
            called.append((name, arguments))
            return result

        monkeypatch.setattr(module, name, call)

    instead(cli, "_run")
    instead(plan, "make_plan")
    instead(plan, "describe", "")
    instead(ahead, "compile_for")
    instead(ahead_report, "describe", "")
    instead(evaluate, "_run")
    instead(precompute, "precompute", {})
    instead(inpaint, "inpaint_command")
    instead(edit, "edit_command")
    instead(app, "app_command")
    kept = ["--prompt", "of the picture"]  # what --settings-from finds in it
    monkeypatch.setattr(inpaint, "stored_words", lambda w: kept if "--settings-from" in w else [])

    def check(words):
        called.clear()
        program, *rest = [word for word in words if word != "--distributed"]
        if Path(program).name.startswith("python"):
            ours(rest)
        elif program == "hf":
            hub(rest)
        elif Path(program).name == "pip":
            installs(rest)
        else:
            assert program in FOREIGN, f"unknown program in {words}"

    def ours(words):
        script, *rest = words
        if script == "-m" and rest[0] in ("venv", "uv"):
            return
        if script == "-m" and rest[0] != "brushjax":
            assert importlib.util.find_spec(rest[0]), rest[0]
            place = Path(ROOT, *rest[0].split("."))
            source = (
                place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
            ).read_text()
            assert [w for w in rest if w.startswith("--") and f'"{w}"' not in source] == []
            return
        if script == "convert_weights.py":
            convert.parsed(rest)
            return
        entries = {"train.py": cli.train, "evaluate.py": evaluate.main, "-m": cli.main}
        entries[script](rest[1:] if script == "-m" else rest)
        assert called or rest[1:2] == ["tokenizer"], words

    return check


def hub(words):
    """By its help; a second pattern behind one --include would be the name of a file."""
    from click.testing import CliRunner
    from huggingface_hub.cli.hf import app

    known = CliRunner().invoke(app, [words[0], "--help"]).output
    rest, files = list(words[1:]), []
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            assert word in known, f"no option {word} in {words}"
            rest.pop(0)  # every option that we use has one value
        else:
            files.append(word)
    assert len(files) == 1, words


def installs(words):
    """Nothing of ours is on a package index: only a checkout can be installed."""
    assert not any(word.startswith("brushjax") for word in words), words
    for word in words:
        if match := re.fullmatch(r"\.\[([\w,]+)\]", word):
            assert set(match[1].split(",")) <= EXTRAS, words
            assert words[words.index(word) - 1] == "-e"


@pytest.mark.parametrize("path", [*PAGES, *RECIPES], ids=lambda path: path.stem)
def test_commands_are_understood(path, understood, capsys):
    for words in commands_of(path):
        understood(words)
    capsys.readouterr()


@pytest.mark.parametrize(
    "line",
    [
        "python train.py configs/quickstart.py --workdir runs/a --steppes 3",
        "cd a && python evaluate.py configs/eval/nothing.py --out runs/a",
        "python convert_weights.py to-jax nothing a b",
        'everywhere "python -m brushjax inpaint --imagge a.png"',
        "hf download a/b --include '*.json' '*.txt'",
        "huggingface-cli download a/b",
        "pip install 'brushjax[tpu]'",
        'pip install -e ".[nothing]"',
    ],
)
def test_wrong_commands_are_noticed(line, understood):
    def all_of_them():
        for words in simple(line):
            understood(words)

    with pytest.raises((SystemExit, AssertionError)):
        all_of_them()


def test_pages_and_recipes_hold_commands():
    assert sum(len(commands_of(path)) for path in PAGES) > 50
    assert len(commands_of(ROOT / "configs" / "own_photos.py")) == 2


def test_no_text_asks_for_a_package_that_is_on_no_index():
    texts = {
        path: path.read_text() for path in [*PAGES, *sorted((ROOT / "brushjax").rglob("*.py"))]
    }
    assert [
        str(path) for path, text in texts.items() if re.search(r"install.*brushjax\[", text)
    ] == []


@pytest.mark.usefixtures("understood")
def test_commands_of_the_readme_that_take_seconds_run(capsys):
    """On the package's own branch in the place of the quickstart's."""
    export = Path("runs/quickstart/export")
    export.parent.mkdir(parents=True)
    export.symlink_to(ROOT / "brushjax/assets/base")
    run = 0
    for words in commands_of(ROOT / "README.md"):
        if words[:2] == ["python", "convert_weights.py"] and str(export) in words:
            assert convert.main(words[2:]) == 0, words
            run += 1
    assert run == 3
    assert "equal" in capsys.readouterr().out
