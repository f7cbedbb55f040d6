"""Compiling at first use: what is kept, what is shared by processes, and what happens when it fails."""

from __future__ import annotations

import functools
import logging
import shlex
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from resnet_jax.ops import native
from resnet_jax.ops.native import build


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RESNET_JAX_CACHE", str(folder))
    monkeypatch.delenv(build.SWITCH, raising=False)
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
    compiler = next(found for name in build._compilers() if (found := shutil.which(name)))
    library, notes = build._compiled(compiler), tmp_path / "notes"
    copy = f'echo run >> {notes}\nfor last; do :; done\ncp {shlex.quote(str(library))} "$last"'
    return script(tmp_path / "quick", copy), lambda: notes.read_text().count("run")


def test_compiled_once_and_kept(quick_compiler, cache):
    compiler, runs = quick_compiler
    library = build._compiled(compiler)
    assert library == build._compiled(compiler)
    assert runs() == 1
    assert [library] == list((cache / "native").iterdir())  # nothing else is left behind


def test_other_flags_or_another_compiler_is_another_library(quick_compiler, cache, tmp_path, monkeypatch):
    compiler, _ = quick_compiler
    other = script(tmp_path / "other", f'exec {shlex.quote(compiler)} "$@"')
    names = {build._compiled(compiler), build._compiled(other)}
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    names.add(build._compiled(compiler))
    monkeypatch.setattr(build, "processor", lambda: "another processor")
    names.add(build._compiled(compiler))
    assert len(names) == 4


def test_two_at_once_get_one_whole_library(quick_compiler, cache):
    """Each compiles in a folder of its own and renames what is whole, as two processes would."""
    compiler, _ = quick_compiler
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(build._opened, [compiler, compiler])
    assert first._name == second._name
    assert len(list((cache / "native").iterdir())) == 1


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
    build._compiled(compiler).write_bytes(damage)
    assert build._opened(compiler).conv_forward
    assert runs() == 2


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
    assert list((cache / "native").iterdir()) == []


def test_a_library_that_lacks_a_function(quick_compiler, cache, monkeypatch, caplog):
    monkeypatch.setenv("CXX", quick_compiler[0])
    monkeypatch.setattr(build, "FUNCTIONS", ("no_such_function",))
    assert "no_such_function" in failing(monkeypatch, caplog)


def test_a_cache_that_cannot_be_written_is_replaced_by_a_private_one(quick_compiler, tmp_path, monkeypatch):
    compiler, runs = quick_compiler
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(build, "private_directory", lambda: tmp_path / "private")
    library = build._compiled(compiler)
    assert library.parent == tmp_path / "private" / "native"
    assert build._compiled(compiler) == library
    assert runs() == 1


def test_nowhere_to_write(quick_compiler, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CXX", quick_compiler[0])
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(build, "private_directory", lambda: tmp_path / "file")
    assert str(tmp_path / "file") in failing(monkeypatch, caplog)


@pytest.mark.parametrize("word", ["off", "0", "False"])
def test_switched_off(monkeypatch, caplog, word):
    monkeypatch.setenv(build.SWITCH, word)
    assert build._load.__wrapped__() == f"{build.SWITCH} is off"
    assert not caplog.records
