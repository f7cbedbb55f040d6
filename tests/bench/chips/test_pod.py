"""The step that a pod would run, compiled for one that is not there: how often it waits for all chips."""

from __future__ import annotations

import pytest

from resnet_jax.bench.chips import described
from resnet_jax.training.pieces import PIECES
from tests.bench.chips.test_plan import _plan

NORMS = 19


@pytest.mark.slow
@pytest.mark.skipif(bool(described.missing("tpu")), reason=described.missing("tpu"))
def test_resnet20_waits_once_each_way_for_a_norm():
    program = _plan("v5e:2x2", 512)["program"]
    kinds = {kind: found["count"] for kind, found in program["collectives"].items()}
    assert set(kinds) == {"all-gather", "all-reduce"}, "nothing of the batch or the parameters is moved"
    assert kinds["all-gather"] == NORMS, "forward"
    assert NORMS < kinds["all-reduce"] <= NORMS + PIECES, "backward, and the gradient, which no norm waits for"
    assert program["serial_collectives"] <= 2 * NORMS + 2
    # as float32: the gradient once, and 8 bytes a channel and chip forward, 8 backward
    assert program["collectives"]["all-gather"]["bytes"] == 4 * 8 * 688
    large = [each for each in program["each_collective"] if each["kind"] == "all-reduce" and each["bytes"] > 64 * 8 * 2]
    assert 4 <= sum(each["times"] for each in large) <= PIECES
