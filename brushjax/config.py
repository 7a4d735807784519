"""Configs are frozen dataclasses: load one from a file, override its fields, write it out as text.

A config file is Python with a function `get_config()` that returns the dataclass; `tyro` turns its
fields, however deep, into typed options, so that `--optimizer.learning_rate 1e-4` needs no code of
ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

C = TypeVar("C")


class ConfigError(ValueError):
    """A config that can't be used; the message says what to change."""


READERS = {"objective": "train.py", "sweep": "evaluate.py"}
"""What a config has that one of the programs reads."""


def load(path: str | Path, wanted: str = "") -> Any:
    """Runs a config file and returns what its `get_config()` returns.

    Args:
      wanted: a key of READERS; a config for another program is refused.
    Raises:
      ConfigError: if there is no such file, it has no `get_config`, or that returns no frozen
        dataclass or one that lacks what is wanted.
    """
    path = Path(path)
    if not path.is_file() or path.suffix != ".py":
        near = sorted(str(other) for other in path.parent.glob("*.py")) or ["(no .py files there)"]
        raise ConfigError(f"expected a config file at {path}; in its folder: {', '.join(near)}")
    name = f"config_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that tyro finds the source of classes that the file defines
    spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise ConfigError(f"expected a function get_config() in {path}; found none")
    config = module.get_config()
    if not _is_config(config) or not config.__dataclass_params__.frozen:
        raise ConfigError(
            f"expected get_config() of {path} to return a frozen dataclass; got {type(config)}"
        )
    if wanted and not hasattr(config, wanted):
        found = next((program for has, program in READERS.items() if hasattr(config, has)), "")
        raise ConfigError(
            f"expected a config of {READERS[wanted]} in {path}, got {type(config).__name__}"
            + (f": give it to {found}" if found else "")
        )
    return config


def override(config: C, arguments: Sequence[str], program: str = "CONFIG.py") -> C:
    """Returns the config with `--any.nested.field VALUE` arguments applied, each parsed by its
    field's type.

    Raises: SystemExit after printing the help (`--help`), or what is wrong: an unknown field with
      its nearest names, or a value that its type refuses.
    """
    import tyro

    return _understood(
        type(config),
        default=config,
        args=list(arguments),
        prog=program,
        use_underscores=True,
        config=(tyro.conf.AvoidSubcommands,),
    )


def shard_of(text: str) -> tuple[int, int]:
    """Reads a share of the work: "3/8" -> (3, 8).

    Raises: ConfigError if it is none.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"expected --shard I/N with I < N, such as 0/8; got {text!r}")
    return int(index), int(count)


def parsed(kind: type[C], arguments: Sequence[str] | None, program: str) -> C:
    """Returns the options of a command, a dataclass whose docstring is the help.

    Args:
      arguments: of the command; None takes the process's.
    Raises: SystemExit after printing the help, or what is wrong.
    """
    import tyro

    words = sys.argv[1:] if arguments is None else list(arguments)
    return _understood(kind, args=words, prog=program, config=(tyro.conf.DisallowNone,))


def own_options(
    kind: type[C], arguments: Sequence[str] | None, program: str, examples: str
) -> tuple[C, list[str]]:
    """Returns the options of a command that takes a config file, and the other words, which
    override the config's fields.

    Args:
      kind: a dataclass of the options, whose docstring is the help.
      arguments: of the command; None takes the process's.
      examples: what the help ends with.
    Raises: SystemExit after printing the help, where no config is named, or what is wrong.
    """
    import tyro

    words = sys.argv[1:] if arguments is None else list(arguments)
    conf = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    if not words or words[0] in ("-h", "--help"):
        with contextlib.suppress(SystemExit):
            _understood(kind, args=["--help"], prog=program, config=conf)
        print(examples)
        raise SystemExit(0)
    return _understood(
        kind,
        args=words,
        prog=program,
        add_help=False,  # behind a config, --help is of its fields
        return_unknown_args=True,
        config=conf,
    )


def _understood(kind: type[C], **settings: Any) -> Any:
    """`tyro.cli`, whose help may be cut short by what reads it, such as `| head`."""
    import tyro

    try:
        return tyro.cli(kind, **settings)
    except BrokenPipeError:
        # What is still buffered is flushed at the end of the process, to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


@contextlib.contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Ends the process with a line instead of a traceback where Ctrl-C asks for it."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{message}", file=sys.stderr)
        raise SystemExit(130) from None  # 128 and the signal's number, as shells have it


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Says every warning once, in one line, without the line of source that it comes from."""
    from tqdm import tqdm

    said: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:
            tqdm.write(f"warning: {message}", file=sys.stderr)  # above a bar, if there is one
        said.add(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def wrong_usage(program: str, message: str) -> NoReturn:
    """Ends the process as for arguments that were not understood."""
    print(f"{program}: error: {message}; {program} --help tells more", file=sys.stderr)
    raise SystemExit(2)


def dump(config: Any) -> str:
    """Returns the config as text: one `path = value` line a field, in the order of their
    declaration."""
    return "".join(f"{path} = {value}\n" for path, value in _lines("", config))


def differences(old: str, new: str, free: Sequence[str] = ()) -> list[str]:
    """Lists the lines in which two dumps differ, apart from the `free` fields (and all below them).

    Args:
      old: dump of the config that stands.
      new: dump of the config that asks.
      free: dotted names of fields that may differ.
    Returns: one `path: old value -> new value` a field.
    """
    before, after = (dict(line.split(" = ", 1) for line in d.splitlines()) for d in (old, new))
    return [
        f"{path}: {before.get(path, '(absent)')} -> {after.get(path, '(absent)')}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
        and not any(path == name or path.startswith(name + ".") for name in free)
    ]


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _lines(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yields (dotted path, text) of a value and all that lies in it."""
    if _is_config(value):
        yield path or "class", type(value).__name__
        for field in dataclasses.fields(value):
            yield from _lines(
                f"{path}.{field.name}" if path else field.name, getattr(value, field.name)
            )
    elif isinstance(value, tuple) and any(_is_config(item) for item in value):
        for index, item in enumerate(value):
            yield from _lines(f"{path}.{index}", item)
    elif isinstance(value, Path):
        yield path, repr(str(value))
    else:
        yield path, repr(value).replace("\n", " ")
