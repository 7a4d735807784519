"""What is checked while tests run: types, and shapes that agree within one call."""

import dataclasses
import sys

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from brushjax.diffusion import guidance
from tests import annotations

MODULE = """
from __future__ import annotations
import contextlib, dataclasses, functools
from collections.abc import Iterator
from typing import TYPE_CHECKING
import jax
from jaxtyping import Array, Float, UInt8
import numpy as np
if TYPE_CHECKING:
    from nowhere import Unknown

def pair(a: Float[np.ndarray, "n m"], b: Float[np.ndarray, "m"]) -> Float[np.ndarray, "n"]:
    return a @ b if len(a) < 9 else b

def partly(known: int, unknown: Unknown) -> int:
    return known

def later(one: Data) -> Data:
    return one

@functools.partial(jax.jit, static_argnames="times")
def traced(a: Float[Array, "n n"], *, times: int) -> Float[Array, "n n"]:
    return a * times

@contextlib.contextmanager
def held(n: int) -> Iterator[int]:
    yield n

@dataclasses.dataclass(frozen=True)
class Data:
    n: int
    names: tuple[str, ...] = ()

    @property
    def wrong(self) -> str:
        return self.n

    @classmethod
    def of(cls, n: int) -> Data:
        def inner(m: int) -> Data:
            return cls(m)

        return inner(n if n < 9 else str(n))

class Plain:
    def __init__(self, n: int):
        self.n = n

    @staticmethod
    def twice(n: int) -> int:
        return 2 * n
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checked")
    (folder / "checked_here.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    finder = annotations.check("checked_here")
    yield __import__("checked_here")
    sys.path.remove(str(folder))
    sys.meta_path.remove(finder)
    del sys.modules["checked_here"]


def test_right_calls_pass(module):
    np.testing.assert_array_equal(module.pair(np.ones((2, 3)), np.ones(3)), [3, 3])
    assert module.partly(1, "of any type") == 1
    assert module.traced(np.ones((2, 2), np.float32), times=3).shape == (2, 2)
    assert module.later(module.Data.of(3)) == module.Data(3, ())
    assert module.Plain(2).twice(3) == 6
    with module.held(3) as n:
        assert n == 3
    assert dataclasses.replace(module.Data(1), names=("a",)).names == ("a",)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: m.pair(np.ones((2, 3)), np.ones(2)),  # two lengths for one letter
        lambda m: m.pair(np.ones((9, 3)), np.ones(3)),  # in the result
        lambda m: m.pair(np.ones((2, 3), int), np.ones(3)),
        lambda m: m.partly("1", None),
        lambda m: m.later(3),
        lambda m: m.traced(np.ones((2, 3), np.float32), times=3),
        lambda m: m.traced(np.ones((2, 2), np.float32), times="3"),
        lambda m: m.held("3").__enter__(),
        lambda m: m.Data("3"),
        lambda m: m.Data(3, (4,)),
        lambda m: m.Data.of(10),
        lambda m: m.Data(3).wrong,
        lambda m: m.Plain("3"),
        lambda m: m.Plain.twice("3"),
    ],
)
def test_wrong_calls_are_refused(module, wrong):
    with pytest.raises(TypeCheckError, match="violates type hint"):
        wrong(module)


def test_brushjax_is_checked():
    with pytest.raises(TypeCheckError, match="violates type hint"):
        guidance.blurred(np.zeros((4, 4, 1), np.uint8))
