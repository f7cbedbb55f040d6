"""One process in a directory: real processes that die in every way, with flock and where files cannot be locked."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from resnet_jax.errors import RunError
from resnet_jax.runtime import lock
from resnet_jax.runtime.lock import Holder, locked

#: A process that takes the lock of a directory, says so, and holds it until it is told to end.
HOLDER = """
import errno, fcntl, sys
from pathlib import Path
from resnet_jax.runtime import lock
if sys.argv[2] == "lease":
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
lock.BEAT_SECONDS = 0.1
with lock.locked(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(folder: Path, kind: str):
    """A process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(folder), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(params=["flock", "lease"])
def kind(request, monkeypatch) -> str:
    """Both ways to hold a directory, with short beats."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    if request.param == "lease":
        no_locks(monkeypatch)
    return request.param


def no_locks(patch, number: int = errno.ENOLCK) -> None:
    def flock(*_):
        raise OSError(number, "No locks available")

    patch.setattr(fcntl, "flock", flock)


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path, kind):
    with (
        locked(tmp_path, "training"),
        pytest.raises(RunError, match=rf"another process is training in .* \(process {os.getpid()} on ") as refused,
        locked(tmp_path, "training"),
    ):
        pass
    assert f"on {socket.gethostname()}, since 2" in str(refused.value)
    with locked(tmp_path, "training"):  # given back
        pass
    assert not (tmp_path / ".lease").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks_takes_the_lease(tmp_path, monkeypatch, number):
    no_locks(monkeypatch, number)
    with locked(tmp_path, "training") as held:
        assert Holder.read(tmp_path / ".lease").process == os.getpid()
        held.require(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_any_death_lets_go_at_once(tmp_path, kind, how):
    with holder(tmp_path, kind) as process:
        with pytest.raises(RunError, match=f"process {process.pid} on "), locked(tmp_path, "training"):
            pass
        if how is None:
            process.communicate("\n")
        else:
            process.send_signal(how)
            process.wait()
        began = time.monotonic()
        with locked(tmp_path, "training"):
            assert time.monotonic() - began < 2


@pytest.mark.slow
def test_of_many_processes_at_a_lease_left_behind_one_gets_it(tmp_path, monkeypatch):
    no_locks(monkeypatch)
    with holder(tmp_path, "lease") as process:
        process.kill()
        process.wait()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), "lease"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    try:
        held = []
        for racer in racers:
            assert racer.stdout is not None
            held.append(racer.stdout.readline() == "held\n")
        assert sum(held) == 1
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def elsewhere(path: Path, **changes) -> Holder:
    """Write a lease of a process on another machine."""
    made = Holder(**{**vars(Holder.here()), "host": "elsewhere", "process": 7, **changes})
    path.write_bytes(made.line())
    return made


def test_a_lease_of_another_machine_that_is_refreshed_is_respected_and_one_that_is_not_is_taken(tmp_path, monkeypatch):
    """Whatever the clocks say: the files are from 1970 and from 2099."""
    no_locks(monkeypatch)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    path, said, over = tmp_path / ".lease", [], threading.Event()
    elsewhere(path)

    def refresh():
        beats = 0
        while not over.wait(0.1):
            beats += 1
            os.utime(path, (beats, beats) if beats % 2 else (4e9 + beats, 4e9 + beats))

    thread = threading.Thread(target=refresh)
    thread.start()
    try:
        with pytest.raises(RunError, match="process 7 on elsewhere"), locked(tmp_path, "training", said.append):
            pass
    finally:
        over.set()
        thread.join()
    for when in (1, 4e9):
        elsewhere(path)
        os.utime(path, (when, when))
        with locked(tmp_path, "training", said.append):
            assert Holder.read(path).process == os.getpid()
    assert len(said) == 3
    assert "was last held by process 7 on elsewhere" in said[0]


def test_another_process_with_the_number_of_the_dead_one_is_not_taken_for_it(tmp_path, monkeypatch):
    no_locks(monkeypatch)
    elsewhere(tmp_path / ".lease", host=socket.gethostname(), process=os.getpid(), started="1")
    with locked(tmp_path, "training"):
        pass


@pytest.mark.parametrize("content", [b"", b"\0\0", b"[]", b'{"host": 1}', json.dumps({"host": "x"}).encode()])
def test_a_lease_that_says_nothing_locks_nobody_out_for_ever(tmp_path, monkeypatch, content):
    no_locks(monkeypatch)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    (tmp_path / ".lease").write_bytes(content)
    with locked(tmp_path, "training", lambda line: None):
        pass


def test_who_was_suspended_for_too_long_stops(tmp_path, monkeypatch):
    no_locks(monkeypatch)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    with locked(tmp_path, "training") as held:
        other = elsewhere(tmp_path / ".lease")
        deadline = time.monotonic() + 5
        while held.lost is None and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(RunError, match=r"the run was taken over by process 7 on elsewhere"):
            held.require("the run")
    assert Holder.read(tmp_path / ".lease") == other, "what is another's stays"


def test_an_error_inside_is_not_taken_for_one_of_the_lock(tmp_path, kind):
    with pytest.raises(OSError, match="mine"), locked(tmp_path, "training"):
        raise OSError(errno.EAGAIN, "mine")


def test_a_directory_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(RunError, match="cannot write the run directory"), locked(tmp_path / "no", "training"):
        pass
