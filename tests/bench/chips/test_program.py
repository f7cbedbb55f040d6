"""Programs in small: what is read from their text, against what was counted by hand."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from resnet_jax.bench.chips.hlo import Array, arrays_of, parse
from resnet_jax.bench.chips.program import _is_kernel, read_program
from resnet_jax.errors import UsageError

#: As XLA writes it for four v5e chips: a convolution with the sum of its outputs, the sum over chips, what waits for
#: it, and an all-gather that runs beside a second convolution.
TPU = Path(__file__).with_name("tpu.hlo").read_text()

#: As XLA writes it for an H100: a convolution by cuDNN in a loop of five, another that is not, and a gradient.
GPU = Path(__file__).with_name("gpu.hlo").read_text()
#: Pairs of positions of a 3x3 convolution of an 8x8 image with padding of 1, each way.
PAIRS = (3 * 8 - 2) ** 2


def test_a_tpu_program():
    program = read_program(TPU)
    assert program.platform == "tpu"
    assert program.by_op == {
        "all-reduce": 2,
        "fusion:kOutput": 1,
        "all-gather-start": 1,
        "fusion:kLoop": 1,
        "copy": 1,
    }
    assert program.kernels == 6
    first, second, gathered = program.collectives
    assert (first.kind, first.bytes, first.group, first.source) == ("all-reduce", 64, 4, "jit(step)/norm/mean")
    assert (second.group, second.overlapped) == (4, False)
    assert (gathered.kind, gathered.bytes, gathered.group, gathered.overlapped) == ("all-gather", 64 * 64 * 4, 4, True)
    assert program.serial_collectives == 2
    assert program.blocking == 2
    [convolution] = program.convolutions
    assert (convolution.target, convolution.on_unit) == ("EmitInputBatchInLanes", True)
    assert program.operations == {"bf16": 2 * 128 * PAIRS * 16 * 16}
    assert [(each.what, each.name, each.alone) for each in program.moved] == [("transposed", "fusion.2", True)]
    assert program.estimated_cycles == 1020
    channels, kernel, image = 128 * 4, 9 * 16 * 128 * 2, 8 * 8 * 16 * 128 * 2
    turned = 128 * 8 * 8 * 128 * 2  # its 16 channels are padded to 128
    gather = (16 + 64) * 128 * 4
    expected = (kernel + image + channels + image) + 4 * channels + (image + turned) + gather
    expected += channels  # copied into the core's own memory, where it does not count
    assert program.bytes_moved == expected


def test_a_gpu_program_with_a_loop():
    program = read_program(GPU)
    assert program.platform == "gpu"
    assert program.loops == {"while.5": 5}
    assert program.by_op == {"fusion:kLoop": 5, "custom-call": 6, "convolution": 1, "fusion:kInput": 1}
    one = 2 * 32 * PAIRS * 4 * 4
    assert program.operations == {"bf16": (5 + 1 + 1) * one}, "a gradient of a kernel costs what the convolution does"
    assert [(each.target, each.times) for each in program.off_unit] == [("convolution in convolution", 1)]
    assert [(each.what, each.dims) for each in program.moved] == []
    assert [each.dims for each in read_program(GPU, smallest=1).moved] == [(32, 4, 8, 8)]
    kernel, image = 9 * 4 * 4 * 2, 32 * 8 * 8 * 4 * 2
    loop = 5 * ((2 * kernel + 4) + (2 * image + kernel))
    assert program.bytes_moved == loop + 3 * (2 * image + kernel) - kernel, "of stacked kernels one a turn is read"


def test_what_the_cpu_compiles():
    def f(x, k):
        return lax.scan(lambda carry, one: (jnp.tanh(carry @ one), None), x, k)[0]

    text = jax.jit(f).lower(jnp.ones((8, 16)), jnp.ones((3, 16, 16))).compile().as_text() or ""
    program = read_program(text)
    assert program.platform == "cpu"
    assert set(program.loops.values()) == {3}
    assert program.operations == {"f32": 3 * 2 * 8 * 16 * 16}
    assert program.summary()["collectives"] == {}


LOOP = """HloModule m

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8]{0} get-tuple-element(%s), index=1
  %y = f32[8]{0} negate(%x)
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %y)
}

%condition (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] constant(7)
  ROOT %go = pred[] compare(SIDES), direction=LT
}

ENTRY %main (a: s32[], x: f32[8]) -> f32[8] {
  %a = s32[] parameter(0)
  %x = f32[8]{0} parameter(1)
  %t = (s32[], f32[8]{0}) tuple(%a, %x)
  ROOT %w = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body
}"""


@pytest.mark.parametrize(("sides", "turns"), [("%i, %n", 7), ("%n, %i", None)])
def test_a_loop_that_counts_down_to_a_constant_is_not_taken_for_one_that_counts_up_to_it(sides, turns):
    program = read_program(LOOP.replace("SIDES", sides))
    assert program.loops == {"w": turns}
    assert program.by_op == {"negate": turns or 1}


def test_a_product_that_cudnn_fuses_is_on_the_unit_for_it():
    text = """HloModule m

%product (p: bf16[8,16], q: bf16[16,8]) -> bf16[8,8] {
  %p = bf16[8,16]{1,0} parameter(0)
  %q = bf16[16,8]{1,0} parameter(1)
  ROOT %d = bf16[8,8]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: bf16[8,16], b: bf16[16,8]) -> bf16[8,8] {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,8]{1,0} parameter(1)
  ROOT %f = bf16[8,8]{1,0} fusion(%a, %b), kind=kCustom, calls=%product, backend_config={"kind":"KIND"}
}"""
    for kind, target in (("__cudnn$fusion", "cuDNN fusion"), ("__triton_nested_gemm_fusion", "triton gemm")):
        program = read_program(text.replace("KIND", kind), platform="gpu")
        assert [(each.target, each.on_unit) for each in program.convolutions] == [(target, True)]
    [other] = read_program(text.replace("KIND", "__custom"), platform="gpu").convolutions
    assert (other.target, other.on_unit) == ("dot in kCustom", False)


def test_types_with_tiles_tuples_and_spaces():
    arrays = arrays_of("(f32[16]{0:T(128)}, bf16[128,8,8,3]{0,3,2,1:T(4,128)(2,1)S(1)}, pred[], token[])")
    assert [array.dims for array in arrays] == [(16,), (128, 8, 8, 3), (), ()]
    assert [array.bytes for array in arrays] == [512, 128 * 8 * 8 * 4 * 2, 1, 0]
    assert [array.space for array in arrays] == [0, 1, 0, 0]
    with pytest.raises(UsageError, match="no ENTRY computation"):
        parse("HloModule nothing")


@pytest.mark.parametrize(
    ("dims", "kernel"),
    [
        ((64, 3, 3, 32), True),
        ((3, 3, 32, 16), True),
        ((2, 3, 3, 32, 64), True),
        ((3, 3, 8, 16, 4, 8), False),
        ((3, 3, 8, 4, 8, 8), True),
        ((1, 64, 128), True),
        ((128, 8, 8, 64), False),
        ((32, 7, 7, 64), False),
    ],
)
def test_kernels_are_told_from_activations(dims, kernel):
    """In another order, cut over devices, stacked, with the groups of their channels apart; and activations."""
    known = {(3, 3, 32, 64), (6, 3, 3, 32, 64), (1, 1, 64, 128)}
    assert _is_kernel(Array("bf16", dims), known) == kernel
