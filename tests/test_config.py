"""Config files: loading, overriding, dumping, comparing."""

import dataclasses
import warnings

import pytest

from brushjax import config as configs
from brushjax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    widths: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    steps: int = 10
    parts: tuple[Inner, ...] = ()


def test_override_reaches_nested_fields_with_their_types():
    new = configs.override(
        Outer(parts=(Inner(),)),
        ["--inner.rate", "1e-3", "--inner.widths", "4", "5", "--steps", "3"],
    )
    assert new == Outer(Inner(1e-3, (4, 5)), 3, (Inner(),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inner.rat", "1"], "--inner.rate"),
        (["--step", "1"], "--steps"),
        (["--steps", "many"], "invalid literal"),
    ],
)
def test_override_names_what_is_wrong_and_the_nearest_fields(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        configs.override(Outer(), arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_dump_has_a_line_for_every_field():
    assert configs.dump(Outer(parts=(Inner(), Inner(0.2)))).splitlines() == [
        "class = Outer",
        "inner = Inner",
        "inner.rate = 0.1",
        "inner.widths = (1, 2)",
        "steps = 10",
        "parts.0 = Inner",
        "parts.0.rate = 0.1",
        "parts.0.widths = (1, 2)",
        "parts.1 = Inner",
        "parts.1.rate = 0.2",
        "parts.1.widths = (1, 2)",
    ]


def test_differences_are_listed_except_in_free_fields():
    old, new = configs.dump(Outer()), configs.dump(Outer(Inner(0.5), 11, (Inner(),)))
    assert configs.differences(old, new, free=("parts",)) == [
        "inner.rate: 0.1 -> 0.5",
        "steps: 10 -> 11",
    ]
    assert "parts: () -> (absent)" in configs.differences(old, new)
    assert configs.differences(old, new, free=("parts", "inner", "steps")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"expected a function get_config\(\)"),
        ("def get_config(): return {'steps': 1}", "to return a frozen dataclass; got .*dict"),
    ],
)
def test_load_says_what_a_config_file_must_hold(tmp_path, text, message):
    path = tmp_path / "recipe.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        configs.load(path)
    with pytest.raises(ConfigError, match=r"expected a config file at .*recip.py.*recipe.py"):
        configs.load(tmp_path / "recip.py")


@pytest.mark.parametrize(
    ("path", "wanted", "said"),
    [
        ("configs/quickstart.py", "sweep", "evaluate.py .*got TrainConfig: give it to train.py"),
        ("configs/eval/quickstart.py", "objective", "train.py .*: give it to evaluate.py"),
    ],
)
def test_config_of_another_program_is_refused_by_name(path, wanted, said):
    with pytest.raises(ConfigError, match=said):
        configs.load(path, wanted)


def test_warnings_are_said_once_without_a_line_of_source(capsys):
    with configs.plain_warnings():
        warnings.simplefilter("always")
        for _ in range(2):
            warnings.warn("the mask m.png marks 100 %", stacklevel=1)
    assert capsys.readouterr().err == "warning: the mask m.png marks 100 %\n"


def test_an_interrupt_ends_in_a_line(capsys):
    with pytest.raises(SystemExit) as end, configs.interruptible("stopped"):
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "\nstopped\n"
