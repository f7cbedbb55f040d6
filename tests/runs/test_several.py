"""Runs of several real processes: the same numbers, one that dies, going on in another number of them. All slow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.runs.evaluate import load_run
from resnet_jax.runtime.launcher import free_port

pytestmark = pytest.mark.slow

STEPS = 30
#: Sums of gradients in another order differ by rounding, until that moves a number over the edge of a ReLU.
EDGE = 1e-3
OPTIONS = [
    "--model.stage-sizes",
    "1",
    "--model.widths",
    "4",
    "--train.log-every",
    "1 steps",
    "--train.save-every",
    "5 steps",
]


@pytest.fixture(scope="module")
def environ(tmp_path_factory) -> dict[str, str]:
    """Programs are compiled once for all tests here, by whichever process comes first."""
    programs = str(tmp_path_factory.mktemp("programs"))
    more = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": programs, "JAX_PLATFORMS": "cpu"}
    return {**os.environ, **more, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05"}


def words(processes: int, run: Path, *more: str, devices: int = 4, steps: int = STEPS) -> list[str]:
    launch = ["launch", "--local", str(processes), "--devices-per-process", str(devices // processes), "--"]
    train = ["train", "digits", "--run-dir", str(run), "--train.length", f"{steps} steps", *OPTIONS, *more]
    return [sys.executable, "-m", "resnet_jax", *launch, *train]


def train(environ, processes: int, run: Path, *more: str, **options: int) -> dict:
    done = subprocess.run(
        [*words(processes, run, *more, **options), "--json"], env=environ, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def parameters(run: Path) -> list[np.ndarray]:
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_run(run, "last").variables)]


def rows(run: Path) -> list[int]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in found if row["kind"] == "train"]


def losses(run: Path) -> list[float]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in found if row["kind"] == "train"]


@pytest.fixture(scope="module")
def whole(environ, tmp_path_factory) -> dict[int, tuple[Path, dict]]:
    """Runs without a break in 1, 2 and 4 processes: directory and summary."""
    runs = {count: tmp_path_factory.mktemp("runs") / f"whole-{count}" for count in (1, 2, 4)}
    return {count: (run, train(environ, count, run)) for count, run in runs.items()}


def test_the_same_devices_in_other_processes_give_the_same_numbers(whole):
    one, two, four = (whole[count] for count in (1, 2, 4))
    assert two[1]["params_digest"] == four[1]["params_digest"]
    for a, b in zip(parameters(one[0]), parameters(two[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=EDGE)
    np.testing.assert_allclose(losses(one[0])[:20], losses(two[0])[:20], rtol=1e-5)
    for run, summary in (one, two, four):
        assert rows(run) == list(range(1, STEPS + 1))
        assert summary["test_examples"] == 359  # in batches of 64: the padding of no process counts
        assert abs(summary["test_correct"] - one[1]["test_correct"]) <= 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others_and_the_run_goes_on(environ, whole, tmp_path, rank):
    run = tmp_path / "run"
    with subprocess.Popen(
        words(2, run), env=environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as started:
        until = time.monotonic() + 300
        while started.poll() is None and time.monotonic() < until and not (run / "checkpoints/last/10").is_dir():
            time.sleep(0.02)
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        os.kill(sorted(map(int, children))[rank], signal.SIGKILL)
        killed = time.monotonic()
        assert started.stderr is not None
        said = started.stderr.read()
        assert started.wait() == 137
    assert time.monotonic() - killed < 15
    assert f"process {rank} of 2 was killed by SIGKILL" in said
    assert not (run / "summary.json").exists()
    summary = train(environ, 2, run)
    assert summary["params_digest"] == whole[2][1]["params_digest"]  # to the last bit, in as many processes
    assert rows(run) == list(range(1, STEPS + 1))


def test_a_run_of_four_processes_goes_on_in_one_and_of_one_in_four(environ, whole, tmp_path):
    for before, after in ((4, 1), (1, 4)):
        run = tmp_path / f"{before}-{after}"
        with subprocess.Popen(
            words(before, run), env=environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as started:
            while started.poll() is None and not (run / "checkpoints/last/10").is_dir():
                time.sleep(0.02)
            started.send_signal(signal.SIGTERM)
            assert started.stderr is not None
            said = started.stderr.read().decode()
            assert started.wait() == 143, said
        assert "the state is saved" in said
        summary = train(environ, after, run)
        assert rows(run) == list(range(1, STEPS + 1))
        assert summary["steps"] == STEPS
        for a, b in zip(parameters(whole[2][0]), parameters(run), strict=True):
            np.testing.assert_allclose(a, b, atol=EDGE)


FAILS = """
import os
from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.errors import DataError

if os.environ.get("RESNET_JAX_PROCESS") == "1":
    read = TrainBatches.batch

    def batch(self, step):
        if step == 12:
            raise DataError("photos/3.jpg: the file is gone")
        return read(self, step)

    TrainBatches.batch = batch
"""


def test_what_one_process_fails_with_all_end_with(environ, tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    more = ["--imports", str(tmp_path / "fails.py")]
    began = time.monotonic()
    done = subprocess.run(words(2, tmp_path / "run", *more), env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "[1] error: photos/3.jpg: the file is gone" in done.stderr
    assert "error: process 1 has failed, and so all end: photos/3.jpg: the file is gone" in done.stderr
    assert time.monotonic() - began < 200


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_never_come_are_said_with_the_address(environ, tmp_path, rank):
    address = f"127.0.0.1:{free_port()}"
    variables = {"COORDINATOR": address, "PROCESSES": "2", "PROCESS": str(rank), "CONNECT_TIMEOUT": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "resnet_jax", "train", "digits", "--run-dir", str(tmp_path / "run")],
        env={**environ, **{f"RESNET_JAX_{name}": value for name, value in variables.items()}},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert (
        f"process {rank} of 2 (launched by RESNET_JAX_COORDINATOR) did not find the others at {address}" in done.stderr
    )
    assert not (tmp_path / "run").exists()


def test_other_verbs_have_one_output(environ, whole, tmp_path):
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        launch = [sys.executable, "-m", "resnet_jax", "launch", "--local", "2", "--"]
        return subprocess.run([*launch, *argv], env=environ, capture_output=True, text=True, timeout=600)

    where, summary = whole[2]
    logits = tmp_path / "logits.npy"
    evaluated = run("eval", str(where), "--logits", str(logits), "--json")
    found = json.loads(evaluated.stdout)
    assert (found["examples"], found["correct"]) == (359, summary["test_correct"])
    assert np.load(logits).shape == (359, 10)
    listed = run("models", "--json")
    assert listed.returncode == 0
    json.loads(listed.stdout)
    assert "[1] models runs in one process: number 1 of 2 has nothing to do" in listed.stderr
    cells = [*OPTIONS[:4], "--train.length", "4 steps", "--seeds", "2", "--optim.learning-rate", "0.1,0.2"]
    ablated = run("ablate", "digits", *cells, "--out", str(tmp_path / "ablation"), "--json")
    assert ablated.returncode == 0, ablated.stderr
    assert [cell["status"] for cell in json.loads(ablated.stdout)["cells"]] == ["done", "done"]
    refused = run("train", "digits", "--run-dir", str(where), "--seed", "5")
    assert refused.returncode == 1
    assert refused.stderr.count("holds a run of another configuration") == 1
