"""The cache of compiled programs: on by default, found by the next process, and the numbers stay."""

from __future__ import annotations

import os
import subprocess
import sys

from resnet_jax.runtime.cache import program_directory
from tests.cli.conftest import last_json
from tests.tools import TINY

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
status = run(sys.argv[1:])
print(len(hits), file=sys.stderr)
sys.exit(status)
"""


def test_the_second_process_finds_what_the_first_compiled(tmp_path):
    def train(name):
        environment = {**os.environ, "RESNET_JAX_CACHE": str(tmp_path / "cache"), "RESNET_JAX_NATIVE": "off"}
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "true"
        for theirs in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
            environment.pop(theirs)  # a directory given to JAX stays; here the command line chooses
        options = [*TINY, "--train.max-steps", "2", "--train.batch-size", "256", "--json"]
        command = [sys.executable, "-c", PROGRAM, "train", "digits", *options, "--run-dir", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return last_json(done.stdout), int(done.stderr.splitlines()[-1])

    def programs():
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "xla").glob("*/jit_*-cache")}

    cold, hits = train("cold")
    kept = programs()
    assert any(name.startswith("jit_train_step-") for name in kept)
    assert hits == 0
    warm, hits = train("warm")
    assert hits >= len(kept)
    assert programs() == kept, "nothing was compiled and nothing written"
    assert cold["params_digest"] == warm["params_digest"]
    assert all(0 < summary["first_step_seconds"] < summary["seconds"] for summary in (cold, warm))


def test_help_says_where(command, monkeypatch, tmp_path):
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path))
    _, out, _ = command("--help")
    assert f"Compiled programs are kept in {program_directory()}; RESNET_JAX_CACHE names another, or off." in out
    assert f"kept in {tmp_path}" in out
    monkeypatch.setenv("RESNET_JAX_CACHE", "off")
    _, out, _ = command("--help")
    assert "kept in no directory" in out
