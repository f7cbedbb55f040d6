"""``resnet-jax summary`` and ``--quiet``."""

from __future__ import annotations

import json

import pytest


def test_the_summary_of_a_network(command):
    status, out, err = command("summary", "resnet20_cifar", "--depth", "2", "--model.norm", "none", "--json")
    assert status == 0
    assert err.splitlines()[0].split() == ["path", "kind", "block", "output", "parameters", "multiply-adds"]
    assert err.splitlines()[2].split() == ["stage1/block0", "Block", "0", "32x32x16", "4,608", "4,718,592"]
    found = json.loads(out)
    assert found["total"]["params"] == sum(row["params"] for row in found["rows"])
    assert found["input"] == [32, 32, 3]


def test_what_is_neither_network_nor_run_is_refused(command):
    status, out, err = command("summary", "resnet05")
    assert (status, out) == (2, "")
    assert "did you mean" in err


@pytest.mark.slow
def test_quiet_prints_the_object_alone(command):
    status, out, err = command("models", "resnet20_cifar", "--quiet", "--json")
    assert (status, err, len(out.splitlines())) == (0, "", 1)
    assert command("models", "resnet20_cifar", "--quiet") == (0, "", "")
    assert command("--quiet", "models", "nothing")[2].startswith("error: no network matches")
