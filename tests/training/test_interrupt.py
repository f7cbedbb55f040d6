"""Signals in a process of a command's own, also while its main thread hangs where no handler of Python's can run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import hashlib, sys, time
from resnet_jax.runtime.ending import own_process
from resnet_jax.training.interrupt import StoppedAtOnce, stop_on_signals
own_process()
begun, hangs = (word == "True" for word in sys.argv[1:])
try:
    with stop_on_signals() as stop:
        stop.begun = begun
        print("ready", flush=True)
        if hangs:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # in C, without the interpreter's lock
        while not stop:
            time.sleep(0.01)
        print("saved", flush=True)
except StoppedAtOnce as stopped:
    print(f"at once {stopped.signal.name}")
    sys.exit(128 + stopped.signal)
sys.exit(128 + stop.signal)
"""


class Started:
    """The program, which waits for signals; ended at the end whatever happened."""

    def __init__(self, begun, hangs, *, under=()):
        command = [*under, sys.executable, "-c", PROGRAM, str(begun), str(hangs)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def send(self, *numbers, apart=0.0):
        for number in numbers:
            time.sleep(apart)
            self.process.send_signal(number)

    def ended(self, within=10.0):
        """Return status, output and errors."""
        out, err = self.process.communicate(timeout=within)
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_acknowledged_and_what_is_under_way_is_saved(number):
    with Started(begun=True, hangs=False) as program:
        program.send(number)
        status, out, err = program.ended()
    assert (status, out) == (128 + number, "saved\n")
    assert f"{number.name}: stopping after this step, saving first; Ctrl-C again to exit at once." in err


@pytest.mark.slow
def test_the_second_leaves_at_once_though_the_main_thread_hangs():
    with Started(begun=True, hangs=True) as program:
        program.send(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            program.process.wait(0.8)
        program.send(signal.SIGINT)
        status, out, err = program.ended()
    assert (status, out) == (130, "")
    assert "SIGINT again: exiting at once; everything saved before is kept." in err


@pytest.mark.slow
def test_a_signal_that_is_passed_on_twice_is_one():
    """As of Ctrl-C at `uv run`, or of a service manager."""
    with Started(begun=True, hangs=True) as program:
        program.send(signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, apart=0.02)
        with pytest.raises(subprocess.TimeoutExpired):
            program.process.wait(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("hangs", [False, True])
def test_before_a_step_was_made_the_first_leaves(hangs):
    """Also during a long compilation."""
    with Started(begun=False, hangs=hangs) as program:
        program.send(signal.SIGTERM)
        status, out, err = program.ended()
    assert (status, out) == (143, "" if hangs else "at once SIGTERM\n")
    assert ("SIGTERM: stopped before a step was made; everything saved before is kept." in err) is hangs


@pytest.mark.slow
def test_what_the_process_was_started_to_ignore_it_ignores():
    """As by `nohup`."""
    with Started(begun=True, hangs=False, under=("nohup",)) as program:
        program.send(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            program.process.wait(0.5)
        program.send(signal.SIGTERM)
        assert program.ended()[0] == 143
