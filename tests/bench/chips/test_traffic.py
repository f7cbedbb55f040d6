"""Bytes of single instructions: what is read in part, written in part, given twice, or started and waited for."""

from __future__ import annotations

import pytest

from resnet_jax.bench.chips.hlo import parse
from resnet_jax.bench.chips.program import read_program
from resnet_jax.bench.chips.traffic import bytes_moved

ROW, TABLE = 16 * 4, 8 * 16 * 4


def moved(entry: str, *computations: str) -> dict[str, int]:
    """Return the bytes of each instruction of a program."""
    text = "\n\n".join(["HloModule m", *computations, f"ENTRY %main (a: f32[8,16]) -> f32[8,16] {{\n{entry}\n}}"])
    module = parse(text)
    return {each.name: bytes_moved(module, module.entry, each) for each in module.entry.instructions}


def update(into: str, root: str) -> str:
    return f"""%update (p: f32[8,16], row: f32[1,16], at: s32[]) -> f32[128] {{
  %p = f32[8,16]{{1,0}} parameter(0)
  %row = f32[1,16]{{1,0}} parameter(1)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  %one = f32[] constant(1)
  %ones = f32[8,16]{{1,0}} broadcast(%one), dimensions={{}}
  %turned = f32[8,16]{{1,0}} bitcast(%p)
  %written = f32[8,16]{{1,0}} dynamic-update-slice({into}, %row, %at, %zero)
  {root}
}}"""


UPDATED = """  %a = f32[8,16]{1,0} parameter(0)
  %row = f32[1,16]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %f = f32[128]{0} fusion(%a, %row, %at), kind=kLoop, calls=%update"""


@pytest.mark.parametrize("into", ["%p", "%turned"])
def test_a_row_replaced_in_its_place_is_read_and_written_alone_whatever_the_result_is_called(into):
    assert moved(UPDATED, update(into, "ROOT %flat = f32[128]{0} bitcast(%written)"))["f"] == ROW + 4 + ROW


@pytest.mark.parametrize("root", ["", "ROOT %flat = f32[128]{0} bitcast(%written)"])
def test_a_row_replaced_in_what_the_kernel_makes_itself_is_the_whole_result(root):
    assert moved(UPDATED, update("%ones", root))["f"] == ROW + 4 + TABLE


def test_what_is_given_twice_is_read_once_and_its_parts_one_by_one():
    halves = """%halves (p: f32[8,16], q: f32[8,16]) -> f32[2,16] {
  %p = f32[8,16]{1,0} parameter(0)
  %q = f32[8,16]{1,0} parameter(1)
  %first = f32[2,16]{1,0} slice(%p), slice={[0:2], [0:16]}
  %last = f32[2,16]{1,0} slice(%q), slice={[6:8], [0:16]}
  ROOT %sum = f32[2,16]{1,0} add(%first, %last)
}"""
    whole = halves.replace("%halves", "%whole").replace("slice(%p), slice={[0:2], [0:16]}", "custom-call(%p)")
    found = moved(
        """  %a = f32[8,16]{1,0} parameter(0)
  %f = f32[2,16]{1,0} fusion(%a, %a), kind=kLoop, calls=%halves
  %g = f32[2,16]{1,0} fusion(%a, %a), kind=kLoop, calls=%whole
  ROOT %r = f32[2,16]{1,0} add(%f, %f)""",
        halves,
        whole,
    )
    assert found["f"] == 2 * ROW + 2 * ROW + 2 * ROW
    assert found["g"] == TABLE + 2 * ROW
    assert found["r"] == 2 * ROW + 2 * ROW


def test_what_is_started_reads_what_it_slices_and_is_counted_once():
    """As a TPU fetches a part of an array into the memory of its core, beside other work."""
    part = """%part (p: f32[8,16]) -> f32[2,16] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %s = f32[2,16]{1,0:S(1)} slice(%p), slice={[0:2], [0:16]}
}"""
    entry = """  %a = f32[8,16]{1,0} parameter(0)
  %slice-start = ((f32[8,16]{1,0}), f32[2,16]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:16]}
  %slice-done = f32[2,16]{1,0:S(1)} slice-done(%slice-start)
  %s = ((f32[8,16]{1,0}), f32[2,16]{1,0:S(1)}, s32[]) async-start(%a), calls=%part
  %u = ((f32[8,16]{1,0}), f32[2,16]{1,0:S(1)}, s32[]) async-update(%s)
  %d = f32[2,16]{1,0:S(1)} async-done(%u)
  %copy-start = (f32[8,16]{1,0:S(1)}, f32[8,16]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = f32[8,16]{1,0} copy-done(%copy-start)"""
    found = moved(entry, part)
    assert (found["slice-start"], found["slice-done"]) == (2 * ROW, 0), "it arrives in the memory of the core"
    assert (found["s"], found["u"], found["d"]) == (2 * ROW, 0, 0)
    assert (found["copy-start"], found["copy-done"]) == (TABLE, TABLE)
    program = read_program(f"HloModule m\n\n{part}\n\nENTRY %main (a: f32[8,16]) -> f32[8,16] {{\n{entry}\n}}")
    assert program.by_op == {"slice-start": 1, "async-start": 1, "copy-start": 1}
