"""What is said of compilations, once and before they take their time."""

from __future__ import annotations

import pytest

from resnet_jax.runs import job
from resnet_jax.runtime import programs


@pytest.mark.parametrize(
    ("compiling", "missed", "lines"),
    [
        (False, [], []),
        (False, ["init", "convert_element_type"], []),
        (False, ["init", "train_step", "eval_step"], ["the step is compiled and cached"]),
        (True, ["init", "train_step"], ["the C++ for this processor and the step are compiled and cached"]),
        (True, [], ["the C++ for this processor and the step are compiled and cached"]),
    ],
)
def test_said_once(monkeypatch, compiling, missed, lines):
    monkeypatch.setattr(job, "is_compiling", lambda: compiling)
    said = []
    with job.compilations_said(said.append):
        for program in missed:
            for tell in programs._told:
                tell(program)
    assert len(said) == len(lines)
    assert all(line in text for line, text in zip(lines, said, strict=True))
    assert not programs._told
