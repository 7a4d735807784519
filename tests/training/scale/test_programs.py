"""Comparing a program with what it was: equal texts are equal, and a change is seen."""

import dataclasses

from benchmarks.programs import compare, edit_step, operations
from brushjax.training.objectives.brushnet import branch_config
from tests.training.conftest import UNET

ONE_LEVEL = dataclasses.replace(
    UNET,
    block_out_channels=(8,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("UpBlock2D",),
)


def lowered(unet):
    return edit_step(unet, branch_config(unet), cells=4, tokens=5)


def test_program_is_equal_to_itself_and_not_to_a_changed_one():
    before = lowered(ONE_LEVEL)
    assert compare(before, lowered(ONE_LEVEL)) == []
    assert operations(before)["stablehlo.convolution"] > 10
    found = compare(before, lowered(dataclasses.replace(ONE_LEVEL, layers_per_block=2)))
    assert any(line.startswith("stablehlo.convolution: ") for line in found)
    assert compare(before, before.replace("1.000000e+00", "2.000000e+00", 1))
