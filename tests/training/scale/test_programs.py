"""Comparing a program with what it was: equal texts are equal, and a change is seen."""

import dataclasses

from benchmarks.programs import compare, edit_step, operations
from brushjax.training.objectives.brushnet import branch_config
from tests.training.conftest import UNET


def lowered(unet):
    return edit_step(unet, branch_config(unet), cells=4, tokens=5)


def test_program_is_equal_to_itself_and_not_to_a_changed_one():
    before = lowered(UNET)
    assert compare(before, lowered(UNET)) == []
    assert operations(before)["stablehlo.convolution"] > 10
    found = compare(before, lowered(dataclasses.replace(UNET, layers_per_block=2)))
    assert any(line.startswith("stablehlo.convolution: ") for line in found)
    assert compare(before, before.replace("1.000000e+00", "2.000000e+00", 1))
