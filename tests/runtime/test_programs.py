"""Compiled programs that are kept: real entries, damaged and mended, and what is not believed."""

from __future__ import annotations

import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compilation_cache

from resnet_jax.errors import UsageError
from resnet_jax.runtime import cache
from resnet_jax.runtime.programs import LIMIT, Programs, size_limit, told_of_compilations

OPTIONS = {
    "jax_enable_compilation_cache": True,
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """JAX's own compilation with a cache of ours; returns the folder and a function that compiles in a new start."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_COMPILE_SECONDS", 0.0)
    theirs, hits, listening = compilation_cache.get_file_cache, [], [True]

    def heard(event, **_):
        if listening and event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(heard)

    def start():
        """Compile and run as a new process would; return the number of programs that were found."""
        compilation_cache.reset_cache()
        jax.clear_caches()
        hits.clear()
        assert jax.jit(lambda x: jnp.sin(x) * 2)(np.float32(0.5)) == pytest.approx(2 * np.sin(0.5))
        return len(hits)

    try:
        for name, value in OPTIONS.items():
            jax.config.update(name, value)
        folder = cache.keep_compiled_programs()
        assert folder is not None
        yield folder, start
    finally:
        listening.clear()
        compilation_cache.get_file_cache = theirs
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def entries(folder):
    return {path: path.read_bytes() for path in folder.glob("*-cache")}


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "of JAX itself"])
def test_a_damaged_entry_is_compiled_once_more_and_then_found_again(kept, damage):
    folder, start = kept
    assert start() == 0
    whole = entries(folder)
    assert start() == len(whole) > 0
    assert entries(folder) == whole, "nothing was written"
    for path, content in whole.items():
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:-40], "bit": flipped, "empty": b"", "of JAX itself": content[:-51]}[damage])
    assert start() == 0
    assert entries(folder).keys() == whole.keys()
    assert start() == len(whole)


@pytest.mark.parametrize("who", ["another user's", "one that others can write", "a link", "a pipe"])
def test_an_entry_that_could_be_anothers_is_not_run(tmp_path, who):
    programs = Programs(tmp_path, 1 << 20)
    programs.put("jit_f-1", b"program")
    path = tmp_path / "jit_f-1-cache"
    if who == "another user's":
        if os.getuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(path, 12345, -1)
    elif who == "one that others can write":
        path.chmod(0o666)
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere") if who == "a link" else os.mkfifo(path)
    assert programs.get("jit_f-1") is None
    programs.put("jit_f-1", b"another")
    assert programs.get("jit_f-1") == b"another"


def test_a_directory_that_others_can_write_is_not_used(kept, tmp_path, monkeypatch, caplog):
    folder, _ = kept
    folder.parent.chmod(0o777)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(cache, "private_directory", lambda: tmp_path / "private")
    with caplog.at_level(logging.WARNING):
        assert cache.keep_compiled_programs() == tmp_path / "private" / "xla" / folder.name
    assert f"not loaded from the cache: {folder.parent} can be written by others" in caplog.text
    jax.config.update("jax_compilation_cache_dir", str(folder))
    with caplog.at_level(logging.WARNING):
        assert cache.keep_compiled_programs() == folder, "what the user gave JAX stays"
    assert "JAX loads compiled programs, which are code, from a place where others can put them" in caplog.text


def test_the_least_used_go_where_there_are_too_many(tmp_path):
    programs = Programs(tmp_path, 4000)
    for number in range(4):
        programs.put(f"jit_{number}", bytes(900))
        os.utime(tmp_path / f"jit_{number}-cache", (number, number))
    assert programs.get("jit_0") == bytes(900)  # used again
    programs.put("jit_4", bytes(900))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"jit_{n}-cache" for n in (0, 2, 3, 4)]
    programs.put("jit_5", bytes(5000))
    assert programs.get("jit_5") is None


def test_a_full_disk_is_said_once(tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    programs = Programs(tmp_path, 1 << 20)
    monkeypatch.setattr("resnet_jax.runtime.programs.tempfile.mkstemp", full)
    with caplog.at_level(logging.WARNING):
        programs.put("jit_1", b"1")
        programs.put("jit_2", b"2")
    assert caplog.text.count("no longer kept") == 1
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize("given", ["much", "-1", "0", "1.5", "²"])
def test_a_limit_that_is_none(given, monkeypatch):
    monkeypatch.setenv(LIMIT, given)
    with pytest.raises(UsageError, match=f"{LIMIT} is .*; need a number of MiB"):
        size_limit()


def test_what_is_not_found_is_told_before_it_is_compiled(kept):
    _, start = kept
    missed = []
    with told_of_compilations(missed.append):
        start()
        assert missed == ["_lambda"]
        start()
    assert missed == ["_lambda"]  # it was found
    with told_of_compilations(missed.append):
        pass
    start()
    assert missed == ["_lambda"]
