"""Checks brushjax's annotations while tests run: types by beartype, shapes by jaxtyping.

Differs from jaxtyping's own import hook in cost: a function is prepared when it is called first
and not when it is defined, its arguments are checked once and not again with its result, and
functions without annotations are left as they are. A trace calls thousands of functions, many of
them defined anew each time.
"""

import ast
import dataclasses
import functools
import inspect
import sys
import typing
from importlib.machinery import PathFinder, SourceFileLoader

from beartype import BeartypeConf, beartype
from jaxtyping import TypeCheckError, jaxtyped

_CONF = BeartypeConf(violation_type=TypeCheckError)


def check(package: str):
    """Checks whatever is imported of a package while the returned finder is in sys.meta_path."""
    finder = _Finder(package)
    sys.meta_path.insert(0, finder)
    return finder


def checked(made):
    """Returns a function, or a dataclass with a constructor, that checks how it is called."""
    if isinstance(made, type):
        if dataclasses.is_dataclass(made) and not hasattr(made.__init__, "checked"):
            made.__init__ = checked(made.__init__)
        return made
    checks = None

    @functools.wraps(made)
    def call(*args, **kwargs):
        nonlocal checks
        if checks is None:
            checks = _with_checks(made)
        with jaxtyped("context"):  # one length for each letter in one call
            return checks(*args, **kwargs)

    call.checked = True
    return call


def _with_checks(function):
    function.__annotations__ = hints = _hints(function)
    if inspect.isgeneratorfunction(function):
        hints.pop("return", None)  # what it yields lies outside the call
    return beartype(conf=_CONF)(function)


def _hints(function) -> dict:
    """Returns the annotations that can be evaluated; some names exist for type checkers alone."""
    found = {}
    for name, annotation in function.__annotations__.items():
        one = type("", (), {"__annotations__": {name: annotation}})
        try:
            names = function.__globals__
            found |= typing.get_type_hints(one, names, include_extras=True)
        except (NameError, AttributeError):
            continue
    return found


class _Finder:
    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Compiles a module with `checked` around what has annotations; keeps no compiled file."""

    def exec_module(self, module):
        module.__checked__ = checked
        super().exec_module(module)

    def get_code(self, fullname):
        tree = ast.parse(self.get_data(self.path), self.path)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and _annotated(node):
                # The innermost: what jax or contextlib make of a function hides its annotations.
                node.decorator_list.append(_decorator(node))
            elif isinstance(node, ast.ClassDef) and node.decorator_list:
                node.decorator_list.insert(0, _decorator(node))  # what `dataclass` has made
        return compile(tree, self.path, "exec", dont_inherit=True)


def _annotated(node):
    a = node.args
    every = (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg)
    return node.returns or any(one and one.annotation for one in every)


def _decorator(node):
    return ast.copy_location(ast.Name("__checked__", ast.Load()), node)
