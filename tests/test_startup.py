"""Starting is cheap, and pulls in neither PyTorch nor TensorFlow.

Times are the CPU time of a fresh process, the least of up to three, because the wall clock of a
busy machine says nothing about us. SLACK covers slower cores than those the targets were set on.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT_SECONDS = 1.5
HELP_SECONDS = 4.0
SLACK = 1.5
FOREIGN = ("torch", "tensorflow", "diffusers")


def run_python(*arguments: str) -> str:
    """Standard output of a fresh interpreter in the checkout, without this process's JAX flags."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_within(seconds: float, *arguments: str) -> str:
    """Standard output of a process that took no longer in one of three runs."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    while len(times) < 3:
        before = spent()
        output = run_python(*arguments)
        times.append(spent() - before)
        if times[-1] <= seconds:
            return output
    raise AssertionError(f"expected at most {seconds} s of {arguments}, got {times}")


def foreign_modules_after(code: str) -> list[str]:
    report = f"import sys; print('FOREIGN', *(m for m in {FOREIGN} if m in sys.modules))"
    return run_python("-c", f"{code}\n{report}").splitlines()[-1].split()[1:]


def test_import_is_fast():
    run_within(IMPORT_SECONDS * SLACK, "-c", "import brushjax")
    with pytest.raises(AssertionError, match="expected at most"):
        run_within(0.001, "-c", "")


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "convert_weights.py"])
def test_help_is_fast_and_names_its_arguments(script):
    assert "usage" in run_within(HELP_SECONDS * SLACK, script, "--help").lower()


def test_public_names_all_resolve_without_foreign_frameworks():
    code = "import brushjax\nfor name in brushjax.__all__: getattr(brushjax, name)"
    assert foreign_modules_after(code) == []


@pytest.mark.parametrize(
    "command", [("train.py", "configs/quickstart.py", "--workdir", "unused", "--dry-run")]
)
def test_command_runs_without_foreign_frameworks(command):
    code = (
        f"import runpy, sys\nsys.argv = {list(command)}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as done: assert not done.code, done"
    )
    assert foreign_modules_after(code) == []


def test_foreign_modules_are_noticed():
    assert foreign_modules_after("import sys, types; sys.modules['torch'] = types") == ["torch"]
