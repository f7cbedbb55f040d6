"""The cache of compiled programs: on by default, found by the next process, and the numbers stay."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runtime.cache import program_directory
from tests.cli.conftest import last_json
from tests.tools import write_run

TINY_MODEL = ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(8,))

#: The command line with a network of one block; the last line of standard error counts the programs found.
PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event == "/jax/compilation_cache/cache_hits" else None
)
from resnet_jax.cli.main import run
from resnet_jax.runtime import cache
cache.MIN_COMPILE_SECONDS = 0.0  # a small network compiles faster than what is worth keeping
status = run(sys.argv[1:])
print(len(hits), file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.slow
def test_the_second_process_finds_what_the_first_compiled(tmp_path):
    config = dataclasses.replace(load_recipe("digits"), model=TINY_MODEL)
    write_run(tmp_path / "run", config)

    def evaluate():
        environment = {**os.environ, "RESNET_JAX_CACHE": str(tmp_path / "cache"), "RESNET_JAX_NATIVE": "off"}
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "true"
        for theirs in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
            environment.pop(theirs)  # a directory given to JAX stays; here the command line chooses
        command = [sys.executable, "-c", PROGRAM, "eval", str(tmp_path / "run"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return last_json(done.stdout), int(done.stderr.splitlines()[-1])

    def programs():
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "xla").glob("*/jit_*-cache")}

    cold, hits = evaluate()
    kept = programs()
    assert any(name.startswith("jit_eval_step-") for name in kept), kept
    assert hits == 0
    warm, hits = evaluate()
    assert hits >= len(kept)
    assert programs() == kept, "nothing was compiled and nothing written"
    assert cold == warm


def test_help_says_where(command, monkeypatch, tmp_path):
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path))
    _, out, _ = command("--help")
    assert f"Compiled programs are kept in {program_directory()}; RESNET_JAX_CACHE names another, or off." in out
    assert f"kept in {tmp_path}" in out
    monkeypatch.setenv("RESNET_JAX_CACHE", "off")
    _, out, _ = command("--help")
    assert "kept in no directory" in out
