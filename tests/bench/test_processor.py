"""What is said of the processor that a figure was measured on."""

from __future__ import annotations

import os
import subprocess

import pytest

from resnet_jax.bench import processor
from resnet_jax.bench.processor import describe_processor, held_to, processor_line
from resnet_jax.errors import UsageError

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


def test_processes_that_are_held_to_avx2(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    (tmp_path / "c++").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    held = held_to("avx2")
    assert held["XLA_FLAGS"] == "--xla_dump_to=here --xla_cpu_max_isa=AVX2"
    assert held["RESNET_JAX_CACHE"].startswith(str(tmp_path / "cache"))  # the library there is another one
    assert held["RESNET_JAX_CACHE"] != str(tmp_path / "cache")
    assert describe_processor({**os.environ, **held})["limited"]["ATEN_CPU_CAPABILITY"] == "avx2"
    said = subprocess.run([held["CXX"], "-O3", "-march=native"], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["-O3", "-march=x86-64-v3"]
    assert held_to("native") == {}


def test_a_processor_without_avx2_cannot_be_held_to_it(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "nothing")
    with pytest.raises(UsageError, match="AVX2"):
        held_to("avx2")
