"""What a compiled program costs, by its text: against XLA's own count, and by hand."""

import types

import jax
import jax.numpy as jnp
import pytest

from brushjax.training.scale.hlo import Module, shapes_of
from brushjax.training.scale.roofline import forecast


def shape(*sides, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sides, dtype)


def conv(x, kernel, stride=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=layout
    )


def conv_gradients(kernel, x):
    return jax.grad(lambda *given: jnp.square(conv(*given, stride=2)).sum(), (0, 1))(x, kernel)


def mlp(x, w, b):
    return jax.nn.gelu(x @ w + b) * 2


def norm(x):
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def part(x, at):
    return jax.lax.dynamic_slice_in_dim(x, at, 32, 0) * 3 + 1


PROGRAMS = {
    "product": (jnp.matmul, shape(256, 512), shape(512, 384)),
    "half": (jnp.matmul, shape(256, 512, dtype=jnp.bfloat16), shape(512, 384, dtype=jnp.bfloat16)),
    "mlp": (mlp, shape(256, 512), shape(512, 384), shape(384)),
    "convolution": (conv, shape(2, 32, 32, 64), shape(3, 3, 64, 96)),
    "gradients": (conv_gradients, shape(3, 3, 64, 96), shape(2, 32, 32, 64)),
    "norm": (norm, shape(512, 640)),
    "attention": (jax.nn.dot_product_attention, *[shape(2, 256, 8, 40)] * 3),
    "slice": (part, shape(1024, 640), shape(dtype=jnp.int32)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_operations_and_bytes_are_those_of_the_compiler(name):
    function, *given = PROGRAMS[name]
    compiled = jax.jit(function).lower(*given).compile()
    module, expected = Module(compiled.as_text()), compiled.cost_analysis()
    cost = module.total(module.entry)
    assert cost.flops == pytest.approx(expected["flops"], rel=0.02)
    assert cost.bytes == pytest.approx(expected["bytes accessed"], rel=0.02)


CHIP = types.SimpleNamespace(peak=1.0, bandwidth=1.0, links=1.0, unit=128)
TEXT = """\
%body (p: (s32[], f32[256,256])) -> (s32[], f32[256,256]) {
  %p = (s32[], f32[256,256]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%p), index=0
  %x = f32[256,256]{1,0} get-tuple-element(%p), index=1
  %y = f32[256,256]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[256,256]{1,0}) tuple(%n, %y)
}

%test (p: (s32[], f32[256,256])) -> pred[] {
  %p = (s32[], f32[256,256]{1,0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (a: f32[256,40], b: (s32[], f32[256,256])) -> f32[256,256] {
  %a = f32[256,40]{1,0:T(8,128)} parameter(0)
  %b = (s32[], f32[256,256]{1,0}) parameter(1)
  %s = (f32[256,40]{1,0:T(8,128)S(1)}, f32[256,40]{1,0:T(8,128)}, u32[]) copy-start(%a)
  %g = (f32[64,256]{1,0}, f32[256,256]{1,0}) all-gather-start(%a), replica_groups=[1,4]
  %w = (s32[], f32[256,256]{1,0}) while(%b), body=%body, "known_trip_count":{"n":"3"}
  %d = f32[256,40]{1,0:T(8,128)S(1)} copy-done(%s)
  %r = f32[256,256]{1,0} all-gather-done(%g)
  ROOT %o = f32[256,256]{1,0} dot(%d, %d), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}
"""


def test_loops_run_as_often_as_they_say_and_hide_what_runs_beside_them():
    best = forecast(TEXT, CHIP, devices=4)
    loop = 3 * max(2 * 256**3 / 1e12, 3 * 256 * 256 * 4 / 1e9)
    last = 256 * 256 * 4 / 1e9  # its operands lie on the chip: the result alone moves
    assert best.memory == pytest.approx(loop + last)
    assert best.products == 0
    assert best.waiting == 0  # the copy is shorter than the loop
    assert best.exposed == 0
    slow = types.SimpleNamespace(**{**vars(CHIP), "links": 1e-3})
    sent = 256 * 256 * 4 * 3 / 4 / 1e6
    assert forecast(TEXT, slow, devices=4).exposed == pytest.approx(sent - loop)


def test_channels_are_filled_up_to_the_unit_and_tiles_to_their_sides():
    module = Module(TEXT, unit=128)
    last = next(one for one in module.computations["main"] if one.root)
    assert module.cost(last, "main").padded == pytest.approx(2 * 256 * 256 * 128)
    (tiled,) = shapes_of("f32[256,40]{1,0:T(8,128)}")
    assert (tiled.bytes, tiled.traffic) == (256 * 40 * 4, 256 * 128 * 4)


def test_kernels_take_what_they_compute():
    assert forecast(TEXT, CHIP, 4, kernel_flops=5e12).kernels == 5


def test_tables_of_source_lines_are_no_computations():
    text = """HloModule jit_f

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=4 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

ENTRY %main.2 (x.1: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0} parameter(0)
  ROOT %negate.1 = f32[4]{0} negate(%x.1), metadata={op_name="neg" stack_frame_id=1}
}
"""
    module = Module(text)
    assert {name: len(body) for name, body in module.computations.items()} == {"main.2": 2}
