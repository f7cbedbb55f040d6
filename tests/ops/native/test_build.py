"""Compiling at first use: what is kept, what is shared by processes, and what happens when it fails."""

from __future__ import annotations

import functools
import logging
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest

from resnet_jax.ops import native
from resnet_jax.ops.native import build
from resnet_jax.runtime.cxx import compiler, library as cxx
from resnet_jax.runtime.cxx.compiler import LIMIT, CompilerError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RESNET_JAX_CACHE", str(folder))
    monkeypatch.delenv(cxx.SWITCH, raising=False)
    return folder


def script(path, text):
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo {path.name} 1; exit; fi\n{text}\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def quick_compiler(tmp_path):
    """A compiler that takes no time: it gives the library that the tests use anyway, and notes that it did."""
    if not native.available():
        pytest.skip(f"nothing compiled: {native.status()}")
    compiler = next(found for name in cxx.compilers() if (found := shutil.which(name)))
    library, notes = cxx.compiled(compiler).path, tmp_path / "notes"
    unit = 'for last; do :; done\ncase " $* " in *" -c "*) : > "$last"; exit;; esac'
    copy = f'{unit}\necho run >> {notes}\ncp {shlex.quote(str(library))} "$last"'
    return script(tmp_path / "quick", copy), lambda: notes.read_text().count("run")


def test_compiled_once_and_kept(quick_compiler, cache):
    compiler, runs = quick_compiler
    library = cxx.compiled(compiler).path
    assert library == cxx.compiled(compiler).path
    assert runs() == 1
    assert [library] == list((cache / "native").glob("[!.]*"))  # nothing else is left behind


def test_other_flags_or_another_compiler_is_another_library(quick_compiler, cache, tmp_path, monkeypatch):
    compiler, _ = quick_compiler
    other = script(tmp_path / "other", f'exec {shlex.quote(compiler)} "$@"')
    names = {cxx.compiled(compiler).path, cxx.compiled(other).path}
    monkeypatch.setattr(cxx, "FLAGS", (*cxx.FLAGS, "-g"))
    names.add(cxx.compiled(compiler).path)
    monkeypatch.setattr(cxx, "processor", lambda: "another processor")
    names.add(cxx.compiled(compiler).path)
    assert len(names) == 4


@pytest.mark.slow
def test_three_at_once_compile_once(quick_compiler, cache, tmp_path):
    """The lock is one of open files, so threads take turns as processes do."""
    compiler, runs = quick_compiler
    slow = script(tmp_path / "slow", f'sleep 0.3; exec {shlex.quote(compiler)} "$@"')
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(build._opened, [slow] * 3))
    assert all(library.conv_forward for library, _ in found)
    assert runs() == 1
    assert len(list((cache / "native").glob("*.so"))) == 1


def test_two_threads_load_it_once(monkeypatch):
    calls = []

    def slow():
        calls.append(time.sleep(0.1))

    monkeypatch.setattr(build, "_load", functools.cache(slow))
    with ThreadPoolExecutor(2) as pool:
        assert [future.result() for future in [pool.submit(native.available) for _ in range(2)]] == [True, True]
    assert len(calls) == 1


@pytest.mark.parametrize("damage", [b"", b"not a library"])
def test_a_damaged_library_is_compiled_anew(quick_compiler, cache, damage):
    compiler, runs = quick_compiler
    cxx.compiled(compiler).path.write_bytes(damage)
    assert build._opened(compiler)[0].conv_forward
    assert runs() == 2


@pytest.mark.parametrize("part", [0.03, 0.5, 0.97, 0.9999])
def test_a_library_cut_short_is_compiled_anew_before_it_is_mapped(quick_compiler, cache, caplog, part):
    """To load one would end the process by SIGBUS."""
    compiler, runs = quick_compiler
    library = cxx.compiled(compiler).path
    whole = library.read_bytes()
    library.write_bytes(whole[: int(len(whole) * part)])
    with caplog.at_level(logging.WARNING):
        assert build._opened(compiler)[0].conv_forward
    assert runs() == 2
    assert f"{library} is not what was written there: it is recompiled instead of loaded" in caplog.text
    assert library.read_bytes() == whole


def test_one_flipped_bit_is_noticed(quick_compiler, cache):
    compiler, runs = quick_compiler
    library = cxx.compiled(compiler).path
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    cxx.compiled(compiler)
    assert runs() == 2


@pytest.mark.parametrize("who", ["another user's file", "a file others can write", "a link"])
def test_a_library_that_could_be_anothers_is_not_loaded(quick_compiler, cache, tmp_path, caplog, who):
    compiler, runs = quick_compiler
    library = cxx.compiled(compiler).path
    if who == "another user's file":
        if os.getuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(library, 12345, -1)
    elif who == "a link":
        shutil.move(library, tmp_path / "elsewhere.so")
        library.symlink_to(tmp_path / "elsewhere.so")
    else:
        library.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        found = cxx.compiled(compiler)
    assert runs() == 2
    assert str(library) in caplog.text
    assert os.fstat(found.descriptor).st_uid == os.getuid()
    assert not os.fstat(found.descriptor).st_mode & 0o022


@pytest.mark.parametrize("place", ["native", ".", ".."])
def test_a_folder_that_others_can_write_is_not_used(quick_compiler, tmp_path, monkeypatch, caplog, place):
    compiler, runs = quick_compiler
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "team" / "cache"))
    library = cxx.compiled(compiler).path
    (library.parents[1] / place).chmod(0o777)
    monkeypatch.setattr(cxx, "code_directory", lambda: tmp_path / "private")
    with caplog.at_level(logging.WARNING):
        assert cxx.compiled(compiler).path.parent == tmp_path / "private" / "native"
    assert runs() == 2
    assert "can be written by others (chmod go-w fixes it)" in caplog.text


def test_a_compiler_that_hangs_is_stopped_with_all_it_has_started(cache, tmp_path, monkeypatch, caplog):
    compiler = script(tmp_path / "hanging", f"sleep 60 & echo $! >> {tmp_path}/children; wait")
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv(LIMIT, "0.5")
    began = time.monotonic()
    reason = failing(monkeypatch, caplog)
    assert reason == f"{compiler} did not end within 0.5 s and was stopped; {LIMIT} gives it longer"
    assert time.monotonic() - began < 10
    children = (tmp_path / "children").read_text().split()
    assert len(children) == min(len(os.sched_getaffinity(0)), len(list(Path(build.__file__).parent.glob("*.cc"))))
    until = time.monotonic() + 10  # a busy machine takes its time to end what was killed
    while any(is_alive(child) for child in children):
        assert time.monotonic() < until
        time.sleep(0.02)


def is_alive(process):
    """Whether it is there, and not only waits to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


CHILD = "import sys; from resnet_jax.runtime.cxx import library; print(library.compiled(sys.argv[1]).path)"


@pytest.mark.slow
def test_of_three_processes_one_compiles_and_one_that_is_killed_holds_nobody_up(quick_compiler, cache, tmp_path):
    compiler, runs = quick_compiler
    began = tmp_path / "began"
    slow = script(tmp_path / "slow", f'[ -e {began} ] || {{ touch {began}; sleep 30; }}\nexec {compiler} "$@"')

    def start():
        return subprocess.Popen([sys.executable, "-c", CHILD, slow], stdout=subprocess.PIPE, text=True)

    killed = start()
    while not began.exists():
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    others = [start() for _ in range(3)]
    found = {process.communicate(timeout=120)[0] for process in others}
    assert len(found) == 1
    assert runs() == 1


def test_what_a_killed_process_left_is_removed_after_a_day(quick_compiler, cache):
    compiler, _ = quick_compiler
    for name, age in (("building-old", 100_000), ("building-new", 10)):
        (cache / "native" / name).mkdir(parents=True)
        os.utime(cache / "native" / name, (time.time() - age,) * 2)
    cxx.compiled(compiler)
    assert [path.name for path in (cache / "native").glob("building-*")] == ["building-new"]


def test_who_waited_for_a_compiler_that_failed_does_not_try_too(cache, tmp_path):
    count = f'case "$*" in *{cxx.LONG[0]}*) echo run >> {tmp_path}/runs; esac'
    compiler = script(tmp_path / "broken", f"{count}; sleep 0.3; echo no >&2; exit 1")
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(cxx.compiled, compiler) for _ in range(3)]
        for future in futures:
            with pytest.raises(CompilerError, match="broken failed: no"):
                future.result()
    assert (tmp_path / "runs").read_text().count("run") == 1


def test_a_lock_whose_process_hangs_is_waited_for_no_longer_than_the_limit(quick_compiler, cache, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    compiler, runs = quick_compiler
    library = cxx.compiled(compiler).path
    library.unlink()
    monkeypatch.setenv(LIMIT, "0.3")
    with (cache / "native" / f".{library.stem[:-65]}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cxx.compiled(compiler).path == library
    assert runs() == 2


@pytest.mark.parametrize("limit", ["soon", "0", "nan"])
def test_a_limit_that_is_no_time(cache, monkeypatch, caplog, limit):
    monkeypatch.setenv(LIMIT, limit)
    assert failing(monkeypatch, caplog) == f"{LIMIT} is {limit!r}; need a number of seconds above 0"


def failing(monkeypatch, caplog):
    """Return the reason, after checking that it was said once."""
    with caplog.at_level(logging.WARNING):
        reason = build._load.__wrapped__()
    assert [record.message for record in caplog.records] == [
        f"convolutions and batch norm on the CPU take XLA's own forms, much slower: {reason}"
    ]
    monkeypatch.setattr(build, "_load", lambda: reason)
    assert not native.available()
    assert native.status() == f"xla ({reason})"
    return reason


def begin_anew(monkeypatch, compiler):
    monkeypatch.setattr(cxx, "_begun", [])
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(cxx, "before_the_end", lambda call: None)
    cxx.begin()


def test_what_was_begun_is_waited_for_and_compiled_once(quick_compiler, cache, tmp_path, monkeypatch):
    compiler, runs = quick_compiler
    slow = script(tmp_path / "slow", f'sleep 0.1; exec {shlex.quote(compiler)} "$@"')
    begin_anew(monkeypatch, slow)
    while not cxx.is_compiling():
        time.sleep(0.01)
    assert build._opened(slow)[0].conv_forward
    assert not cxx.is_compiling()
    assert runs() == 1
    assert cxx.library(slow).path == cxx.compiled(slow).path  # and after that as if nothing had been begun
    assert runs() == 1


def test_what_was_begun_fails_with_its_reason(cache, tmp_path, monkeypatch, caplog):
    compiler = script(tmp_path / "broken", "echo no such option >&2; exit 1")
    begin_anew(monkeypatch, compiler)
    assert failing(monkeypatch, caplog) == f"{compiler} failed: no such option"


def test_a_compiler_that_was_begun_is_killed_where_the_process_ends(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "_ending", threading.Event())
    begin_anew(monkeypatch, script(tmp_path / "hanging", "exec sleep 60"))
    while not cxx.is_compiling():
        time.sleep(0.01)
    compiler.stop_compilers()
    with pytest.raises(CompilerError, match="failed: exit -9"):
        cxx.library(os.environ["CXX"])


@pytest.mark.parametrize(
    ("name", "value"), [(cxx.SWITCH, "off"), ("JAX_PLATFORMS", "cuda,cpu"), ("CXX", ""), ("JAX_PLATFORMS", "tpu")]
)
def test_nothing_is_begun_where_nothing_is_needed(cache, monkeypatch, name, value):
    monkeypatch.setattr(cxx, "_begun", [])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv(name, value)
    if name == "CXX":
        monkeypatch.setattr(cxx, "compilers", lambda: [])
    cxx.begin()
    assert cxx._begun == []


def test_the_headers_are_those_that_jax_names():
    assert cxx._headers_of_xla() == jax.ffi.include_dir()


def test_no_compiler(cache, monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "install g++ or clang++, or set CXX" in failing(monkeypatch, caplog)


@pytest.mark.parametrize(
    ("text", "reason"), [("echo one >&2; echo no such option >&2; exit 1", "no such option"), ("exit 3", "exit 3")]
)
def test_a_compiler_that_fails(cache, tmp_path, monkeypatch, caplog, text, reason):
    compiler = script(tmp_path / "broken", text)
    monkeypatch.setenv("CXX", compiler)
    assert failing(monkeypatch, caplog) == f"{compiler} failed: {reason}"
    assert list((cache / "native").glob("[!.]*")) == []


def test_a_library_that_lacks_a_function(quick_compiler, cache, monkeypatch, caplog):
    monkeypatch.setenv("CXX", quick_compiler[0])
    monkeypatch.setattr(build, "FUNCTIONS", ("no_such_function",))
    assert "no_such_function" in failing(monkeypatch, caplog)


def test_a_cache_that_cannot_be_written_is_replaced_by_a_private_one(quick_compiler, tmp_path, monkeypatch):
    compiler, runs = quick_compiler
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cxx, "code_directory", lambda: tmp_path / "private")
    library = cxx.compiled(compiler).path
    assert library.parent == tmp_path / "private" / "native"
    assert cxx.compiled(compiler).path == library
    assert runs() == 1


def test_nowhere_to_write(quick_compiler, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CXX", quick_compiler[0])
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cxx, "code_directory", lambda: tmp_path / "file")
    assert str(tmp_path / "file") in failing(monkeypatch, caplog)


def test_one_unit_that_fails_stops_the_others(cache, tmp_path, monkeypatch, caplog):
    first, second = cxx.LONG[:2]
    text = f'case "$*" in *{first}*) sleep 60;; *{second}*) sleep 0.2; echo no such type >&2; exit 1;; esac'
    compiler = script(tmp_path / "broken", text)
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    began = time.monotonic()
    assert failing(monkeypatch, caplog) == f"{compiler} failed: no such type"
    assert time.monotonic() - began < 10


def test_every_unit_that_is_said_to_take_long_exists():
    assert {Path(build.__file__).parent / unit for unit in cxx.LONG} <= set(Path(build.__file__).parent.glob("*.cc"))


@pytest.mark.parametrize("word", ["off", "0", "False"])
def test_switched_off(monkeypatch, caplog, word):
    monkeypatch.setenv(cxx.SWITCH, word)
    assert build._load.__wrapped__() == f"{cxx.SWITCH} is off"
    assert not caplog.records
