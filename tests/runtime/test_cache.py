"""Where the cache is, and when there is none."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import pytest

from resnet_jax.runtime import cache


@pytest.fixture(autouse=True)
def no_directory(monkeypatch):
    """JAX without a cache directory, and as it was afterwards."""
    options = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in options}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"RESNET_JAX_CACHE": "/some/where"}, "/some/where"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/resnet_jax"),
        ("linux", {"XDG_CACHE_HOME": "/xdg", "RESNET_JAX_CACHE": "OFF"}, "/xdg/resnet_jax"),
        ("linux", {}, "/home/me/.cache/resnet_jax"),
        ("darwin", {}, "/home/me/Library/Caches/resnet_jax"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/resnet_jax"),
    ],
)
def test_the_directory_follows_the_platform(platform, environment, expected, monkeypatch):
    for name in ("RESNET_JAX_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    monkeypatch.setattr("sys.platform", platform)
    assert cache.cache_directory() == Path(expected)


def test_programs_are_kept_below_it(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "new"))
    directory = cache.keep_compiled_programs()
    assert directory is not None
    assert directory.is_dir()
    assert directory.parent == tmp_path / "new" / "xla"
    assert directory == cache.program_directory() == Path(jax.config.jax_compilation_cache_dir)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == cache.MIN_COMPILE_SECONDS


def test_every_kind_of_processor_has_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path))
    assert cache.processor() == cache.processor()
    here = cache.program_directory()
    monkeypatch.setattr(cache, "processor", lambda: "another")
    assert cache.program_directory() != here


def test_off_keeps_none(monkeypatch):
    monkeypatch.setenv("RESNET_JAX_CACHE", "off")
    assert cache.program_directory() is None
    assert cache.keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_directory_given_to_jax_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    assert cache.keep_compiled_programs() == tmp_path / "theirs"
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("obstacle", ["a file", "no permission"])
def test_where_nothing_can_be_written_nothing_is_kept_and_it_is_said(obstacle, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))
    if obstacle == "a file":
        (tmp_path / "cache").write_text("")
    else:
        monkeypatch.setattr(cache.os, "access", lambda *_: False)
    with caplog.at_level(logging.WARNING):
        assert cache.keep_compiled_programs() is None
    assert "compiled programs are not kept" in caplog.text
    assert jax.config.jax_compilation_cache_dir is None


def test_without_a_home_directory_it_is_private_among_the_temporary_files_and_said_once(monkeypatch, tmp_path, caplog):
    def no_home(*_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("RESNET_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPLCONFIGDIR", "/restored/afterwards")
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert cache.keep_compiled_programs() is not None
        assert cache.cache_directory().parent == tmp_path
    assert cache.cache_directory().stat().st_mode & 0o077 == 0
    assert caplog.text.count("there is no home directory") == 1
    monkeypatch.setenv("RESNET_JAX_CACHE", "~/cache")
    assert cache.cache_directory().parent == tmp_path


def test_a_directory_of_somebody_else_among_the_temporary_files_is_not_trusted(monkeypatch, tmp_path):
    """Code is loaded from there."""
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    taken = cache.private_directory()
    taken.chmod(0o777)
    assert cache.private_directory() != taken
    taken.rmdir()
    taken.symlink_to(tmp_path)
    assert cache.private_directory() != taken


def test_a_disk_that_is_full_or_read_only_is_found_out_by_writing(monkeypatch, tmp_path):
    def full(**_):
        raise OSError(28, "No space left on device")

    assert cache.why_not_writable(tmp_path / "new") is None
    monkeypatch.setattr(cache.tempfile, "TemporaryFile", full)
    assert cache.why_not_writable(tmp_path / "new") == "No space left on device"
