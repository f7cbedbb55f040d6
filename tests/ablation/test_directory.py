"""One directory, one ablation."""

from __future__ import annotations

import dataclasses

import pytest

from resnet_jax.ablation.directory import AblationDirectory, Definition
from resnet_jax.ablation.grid import parse_axis
from resnet_jax.errors import RunError
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.recipes import load_recipe

DEFINITION = Definition(
    load_recipe("digits"),
    (parse_axis("model.norm", "batch,none"), parse_axis("optim.clip_norm", "None,1")),
    {"a": {"data.mean": (0.5,), "data.std": [1]}},
    (0, 1),
)


def test_the_same_definition_goes_on_and_what_decides_nothing_may_change(tmp_path):
    directory = AblationDirectory(tmp_path / "x")
    directory.open(DEFINITION)
    before = directory.definition.read_text()
    base = DEFINITION.base
    watched = dataclasses.replace(
        base, seed=9, imports=("mine.py",), train=dataclasses.replace(base.train, log_every="77 steps")
    )
    same = dataclasses.replace(DEFINITION, base=watched)
    directory.open(same)
    assert directory.definition.read_text() == before
    assert same.default_path() == DEFINITION.default_path()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": (0, 1, 2)}, r"seeds: \[0, 1\] -> \[0, 1, 2\]"),
        ({"base": RunConfig()}, r"base.train.length: 15 epochs -> 10 epochs"),
        ({"axes": DEFINITION.axes[:1]}, r"axes.optim.clip_norm: \[None, 1.0\] -> absent"),
        ({"axes": DEFINITION.axes[::-1]}, "order of the axes: model.norm, optim.clip_norm"),
        ({"named": {}}, r"cells.a.data.mean: \[0.5\] -> absent"),
    ],
)
def test_another_definition_is_refused_with_the_difference(tmp_path, change, message):
    directory = AblationDirectory(tmp_path)
    directory.open(DEFINITION)
    other = dataclasses.replace(DEFINITION, **change)
    with pytest.raises(RunError, match=message):
        directory.open(other)
    assert other.default_path() != DEFINITION.default_path()


def test_directories_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write the directory"):
        AblationDirectory(tmp_path / "file" / "x").open(DEFINITION)
    (tmp_path / "ablation.yaml").write_text("seeds: [0]")
    with pytest.raises(RunError, match="is not the definition of an ablation"):
        AblationDirectory(tmp_path).require(DEFINITION)
    (tmp_path / "ablation.yaml").write_text("a: [")
    with pytest.raises(RunError, match="is not the definition of an ablation"):
        AblationDirectory(tmp_path).require(DEFINITION)
