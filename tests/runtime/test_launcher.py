"""Several processes here, by a launcher whose processes are small scripts: output, signals, ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from resnet_jax.errors import UsageError
from resnet_jax.runtime.launcher import devices_of, launch

RANK = "import os, signal, sys, time; rank = int(os.environ['RESNET_JAX_PROCESS'])\n"


def start(script: str, count: int = 2, **options) -> int:
    return launch([], count, command=(sys.executable, "-c", RANK + textwrap.dedent(script)), **options)


def test_every_process_has_its_number_and_prints_once(capfd):
    script = """
        print(f"out {rank}" if rank == 0 else "", end="")
        print(f"line of {rank} of {os.environ['RESNET_JAX_PROCESSES']}", file=sys.stderr)
        print("F1129 10:33:25.6 8919 client.h:80] Terminating process because", file=sys.stderr) if rank else None
        print("*** Check failure stack trace: ***", file=sys.stderr) if rank else None
    """
    assert start(script, devices=3, environ={**os.environ, "JAX_PLATFORMS": "cpu"}) == 0
    out, err = capfd.readouterr()
    assert out == "out 0"
    assert sorted(err.splitlines()) == [
        "[1] ended because the first process was gone",
        "[1] line of 1 of 2",
        "line of 0 of 2",
    ]


@pytest.mark.parametrize(("rank", "how", "status"), [(1, "was killed by SIGKILL", 137), (0, "ended with status 3", 3)])
def test_the_others_end_in_bounded_time_when_one_dies(capfd, rank, how, status):
    script = f"""
        if rank == {rank}:
            os.kill(os.getpid(), signal.SIGKILL) if rank else sys.exit(3)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    """
    began = time.monotonic()
    assert start(script, grace=0.3) == status
    assert time.monotonic() - began < 10
    err = capfd.readouterr().err
    assert f"process {rank} of 2 {how}; the others end too" in err
    assert f"killed because they did not end within 0 s: process {1 - rank}" in err


def test_a_signal_goes_to_all_and_all_may_save():
    """Of a launcher in a process of its own, as a terminal or a batch system signals it."""
    script = RANK + textwrap.dedent("""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
    """)
    started = f"launch([], 2, command=(sys.executable, '-c', {script!r}))"
    program = f"import sys; from resnet_jax.runtime.launcher import launch; sys.exit({started})"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        ready = [process.stderr.readline() for _ in range(2)]
        assert sorted(ready) == ["[1] ready\n", "ready\n"]
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == ""
        assert process.wait(10) == 143


def test_gpus_are_shared_equally(tmp_path):
    for number in range(4):
        (tmp_path / f"nvidia{number}").touch()
    (tmp_path / "nvidiactl").touch()
    assert [one["CUDA_VISIBLE_DEVICES"] for one in devices_of(2, None, {}, tmp_path)] == ["0,1", "2,3"]
    assert devices_of(2, 2, {"JAX_PLATFORMS": "cpu"}, tmp_path) == [{"JAX_NUM_CPU_DEVICES": "2"}] * 2
    with pytest.raises(UsageError, match="3 processes of 2 GPUs need 6, and there are 4"):
        devices_of(3, 2, {}, tmp_path)
