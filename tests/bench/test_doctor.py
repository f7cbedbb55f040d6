"""doctor: what it says of an installation that works, and of one whose JAX is broken, hangs or is not there."""

from __future__ import annotations

import functools
import itertools
import json
import os
import py_compile
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import resnet_jax
from resnet_jax.bench import doctor
from resnet_jax.bench.doctor import Diagnosis, Finding, diagnose


def with_jax(folder, text):
    """Return an environment in which ``jax`` is this text."""
    (folder / "jax.py").write_text(text)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_the_command_works_where_jax_does_not(tmp_path):
    environment = with_jax(tmp_path, "raise ImportError('libfoo.so: no such file')")
    ran = subprocess.run(
        [sys.executable, "-m", "resnet_jax", "doctor", "--json"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "broken  JAX does not work here: ImportError: libfoo.so: no such file" in ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["ok"], found["findings"][0]["severity"]) == (False, "broken")
    assert found["versions"]["numpy"][0].isdigit()
    assert {"versions", "machine", "devices", "caches", "data", "extras", "environment"} <= set(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import time; time.sleep(60)", "did not answer within 0.5 s"),
        ("import os; os._exit(7)", "status 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "status -11"),
    ],
    ids=["hangs", "ends", "crashes"],
)
def test_a_jax_that_hangs_or_crashes_is_told_of(tmp_path, text, says):
    found = diagnose(with_jax(tmp_path, text), patience=0.5 if "sleep" in text else 30)
    assert says in found.broken[0]


def answers(**more):
    said = {"jax": "1", "jaxlib": "1", "import_seconds": 1.0, "backend": "cpu", "devices": ["cpu"],
            "operations": "native", "operations_seconds": 0.1}  # fmt: skip
    return lambda environment, patience: ({**said, **more}, "")


def test_what_is_slow_is_said_with_its_reason(monkeypatch):
    monkeypatch.setattr(doctor, "_ask_jax", answers(operations="xla (no C++ compiler was found)", devices=["cpu"] * 4))
    monkeypatch.setenv("RESNET_JAX_CACHE", "off")
    found = diagnose({**os.environ, "JAX_DISABLE_JIT": "1"})
    said = {finding.severity: [] for finding in found.findings}
    for finding in found.findings:
        said[finding.severity].append(finding.says)
    assert found.broken == []
    assert any("no C++ compiler was found" in each for each in said["slow"])
    assert any("every start compiles" in each for each in said["slow"])
    assert any("JAX_DISABLE_JIT" in each for each in said["slow"])
    assert any("4 devices" in each for each in said["note"])
    assert found.sections["devices"]["devices"] == ["4 x cpu"]


def test_sources_that_every_start_compiles_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_ask_jax", answers())
    for name in ("with_bytecode", "without_bytecode"):
        (tmp_path / f"{name}.py").write_text("")
    py_compile.compile(str(tmp_path / "with_bytecode.py"), doraise=True)
    monkeypatch.syspath_prepend(tmp_path)
    look = doctor._without_bytecode
    assert look(("with_bytecode", "absent_package", "without_bytecode")) == "without_bytecode"
    for off, package in itertools.product((True, False), ("with_bytecode", "without_bytecode")):
        monkeypatch.setattr(sys, "dont_write_bytecode", off)
        monkeypatch.setattr(doctor, "_without_bytecode", functools.partial(look, (package,)))
        said = any("PYTHONDONTWRITEBYTECODE" in finding.says for finding in diagnose().findings)
        assert said is (off and package == "without_bytecode")


def test_a_package_that_is_missing_or_too_old_is_broken(monkeypatch):
    monkeypatch.setattr(doctor, "_ask_jax", answers())
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: {"optax": None, "rich": "1.0"}.get(name, version(name)))
    said = " | ".join(diagnose().broken)
    assert "optax is not installed: pip install 'optax" in said
    assert "rich 1.0 is installed, and >=" in said


def test_every_extra_of_the_package_says_what_it_enables():
    project = tomllib.loads((Path(resnet_jax.__path__[0]).parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["project"]["optional-dependencies"]) == set(doctor.EXTRAS)


def test_the_report_is_whole_lines_and_names_no_home(monkeypatch):
    monkeypatch.setattr(doctor, "_ask_jax", answers())
    lines = diagnose().lines()
    assert os.path.expanduser("~") + "/.cache" not in "\n".join(lines)
    assert lines[-1] == "  nothing is amiss" or lines[-1].split()[0] in ("note", "slow", "broken")
    assert Diagnosis({}, (Finding("note", "x"),)).lines() == ["findings", "  note    x"]
