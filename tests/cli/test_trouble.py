"""Errors nobody foresaw, in one sentence."""

from __future__ import annotations

import jax
import pytest

from resnet_jax.cli.trouble import explain, platform_told
from resnet_jax.errors import RunError


def caught(error: Exception) -> Exception:
    try:
        raise error
    except Exception as found:
        return found


def test_an_error_without_a_message_says_where_it_was_raised():
    text = explain(caught(AssertionError()))
    assert text.startswith("AssertionError without a message, in ")
    assert "test_trouble.py, line " in text
    assert "(caught)" in text


def test_a_full_disk_names_the_file():
    text = explain(caught(OSError(28, "No space left on device", "runs/x/metrics.jsonl")))
    assert text.startswith("cannot write runs/x/metrics.jsonl: No space left on device; free some space")


def test_a_directory_where_a_file_belongs_is_named():
    text = explain(caught(IsADirectoryError(21, "Is a directory", "runs/x/summary.json")))
    assert text == (
        "cannot write runs/x/summary.json: Is a directory; a file belongs there: move the directory away, or name "
        "another place"
    )


def test_too_little_memory_says_what_to_lower():
    text = explain(caught(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5368709120 bytes.")))
    assert "5 GiB were asked for at once" in text
    for way in ("--train.batch-size", "--train.accumulate", "--model.remat", "resnet-jax plan"):
        assert way in text
    assert "memory" in explain(caught(MemoryError()))


def test_another_process_without_its_platform_is_told(monkeypatch):
    """``bench`` measures in processes, whose last word is AssertionError."""

    def nothing():
        raise AssertionError

    with pytest.raises(RunError, match=r"^it ended with 1: AssertionError$"), platform_told():
        raise RunError("it ended with 1: AssertionError")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", nothing)
    monkeypatch.setattr("resnet_jax.cli.trouble._platforms", lambda: ["cpu"])
    with pytest.raises(RunError, match="cannot use the platform that JAX_PLATFORMS=cuda asks for"), platform_told():
        raise RunError("it ended with 1: AssertionError")


def test_others_stay_as_they_are():
    assert explain(caught(KeyError("x"))) == "KeyError: 'x'"
