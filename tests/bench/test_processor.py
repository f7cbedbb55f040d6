"""What is said of the processor that a figure was measured on."""

from __future__ import annotations

import os

import pytest

from resnet_jax.bench import processor
from resnet_jax.bench.processor import describe_processor, processor_line

CPUINFO = """processor\t: 0
model name\t: AMD EPYC 9654
flags\t\t: fpu sse4_2 avx2 fma avx512f avx512_vnni avx512_bf16
"""


def test_name_instructions_and_cores(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = describe_processor()
    assert found["name"] == "AMD EPYC 9654"
    assert found["instructions"] == ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16"]
    assert found["limited"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    line = processor_line(found)
    assert line.startswith("AMD EPYC 9654 with avx2 fma avx512f avx512_vnni avx512_bf16")
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in line


def test_a_system_that_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "nothing")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    found = describe_processor()
    assert found["instructions"] is None
    assert found["affinity"] is None
    assert "with" not in processor_line(found)


@pytest.mark.parametrize(("cores", "text"), [([0], "cores 0"), ([0, 1, 2, 5, 7, 8], "cores 0-2, 5, 7-8")])
def test_cores_in_ranges(cores, text):
    found = {"name": "a CPU", "instructions": [], "affinity": cores, "limited": {}}
    assert processor_line(found).endswith(text)
