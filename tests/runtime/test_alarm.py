"""XLA's alarm of a slow compilation is not passed on; everything else is, whole and in order."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest

from resnet_jax.runtime import alarm
from resnet_jax.runtime.alarm import let_jax_compile_without, no_alarm, without_alarm

FIRST = b"""E0000 00:00:1764424000.123456  123 slow_operation_alarm.cc:73]\x20
********************************
[Compiling module jit_train_step for CPU] Very slow compile? If you want to file a bug, run with envvar \
XLA_FLAGS=--xla_dump_to=/tmp/foo and attach the results.
********************************
"""
SECOND = FIRST.replace(b":73] \n", b":140] The operation took 2m13.5s\n\n")


@pytest.mark.parametrize("text", [FIRST, SECOND, FIRST + SECOND])
@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_the_alarm_alone_is_left_out(text, size):
    text, passed, rest = b"before\n" + text + b"after\nand a last one", b"", b""
    for begin in range(0, len(text), size):
        more, rest = without_alarm(rest + text[begin : begin + size])
        passed += more
    assert passed + rest == b"before\nafter\nand a last one"


def test_what_only_begins_like_it_is_passed_on():
    text = b"slow_operation_alarm.cc is a file\n" + b"x" * 3000
    assert without_alarm(text) == (text, b"")


def test_only_in_a_compilation_that_takes_long(capfd):
    with no_alarm(patience=30.0):
        os.write(2, FIRST)
    with no_alarm(patience=0.0):
        time.sleep(0.2)
        alarm._watch.begin()  # another one, which ends before
        alarm._watch.takes_long()
        alarm._watch.end()
        os.write(2, b"one\n" + SECOND + b"two\n")
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'three\\n')"], check=True)
    os.write(2, b"four\n")
    assert capfd.readouterr().err.encode() == FIRST + b"one\ntwo\nthree\nfour\n"


@pytest.mark.slow
def test_a_process_that_was_started_meanwhile_holds_nobody_up_and_is_heard(capfd):
    with no_alarm(patience=0.0):
        time.sleep(0.2)
        child = subprocess.Popen([sys.executable, "-c", "import os, time; time.sleep(1.5); os.write(2, b'late\\n')"])
    child.wait()
    time.sleep(0.1)
    assert capfd.readouterr().err == "late\n"


def test_without_standard_error(capfd):
    kept = os.dup(2)
    os.close(2)
    try:
        with no_alarm(patience=0.0):
            time.sleep(0.1)
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_around_every_compilation_of_jax(monkeypatch, capfd):
    from jax._src import compiler

    theirs: Any = compiler.backend_compile_and_load
    if getattr(theirs, "without_alarm", False):  # a command of another test has put it around them
        theirs = theirs.__wrapped__
    monkeypatch.setattr(compiler, "backend_compile_and_load", theirs)
    assert let_jax_compile_without()
    assert let_jax_compile_without()  # once
    assert compiler.backend_compile_and_load.__wrapped__ is theirs
    under_way = []
    monkeypatch.setattr(alarm._watch, "begin", lambda begin=alarm._watch.begin: (under_way.append(1), begin()))
    assert jax.jit(lambda x: x * 3)(np.float32(2)) == 6
    assert under_way
    monkeypatch.delattr(compiler, "backend_compile_and_load")
    assert not let_jax_compile_without()
