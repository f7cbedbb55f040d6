"""Logits, gradients and statistics of a PyTorch network, all weights random, against ours.

One reference is kept beside the tests (transformers' bottleneck ResNet, tiny); it was written by

    PEERS/bin/python experiments/parity/peer.py transformers-tiny transformers-tiny.safetensors --float32-only

With the environment variable RESNET_JAX_PEER_PYTHON naming an interpreter that has the peers, small networks are
compared anew; experiments/parity/results has all of them.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "parity"
REFERENCE = Path(__file__).parent / "data" / "transformers-tiny.safetensors"
PEER = os.environ.get("RESNET_JAX_PEER_PYTHON")


@pytest.fixture
def parity(monkeypatch):
    """The module that compares."""
    if not FOLDER.is_dir():
        pytest.skip(f"{FOLDER.parent.name}/{FOLDER.name} is not beside these tests")
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("compare")


@pytest.mark.slow
def test_stored_reference(parity):
    differences = parity.compare(parity.CASES["transformers-tiny"], parity.Reference(REFERENCE))
    assert sorted(differences) == ["eval", "train"]
    for difference in differences.values():
        assert difference.passes
        assert difference.logits < 1e-5
        assert difference.grad < 1e-4
    assert differences["train"].stats < 1e-6
    assert differences["train"].stats_at


@pytest.mark.parametrize(
    ("choices", "mode", "figures"),
    [
        ({"stride_in": "1x1"}, "eval", ("logits", "grad")),
        ({"norm_eps": 1e-3, "norm_momentum": 0.99}, "train", ("logits", "grad", "stats")),
    ],
)
@pytest.mark.slow
def test_another_network_does_not_pass(parity, choices, mode, figures):
    case = parity.CASES["transformers-tiny"]
    other = dataclasses.replace(case, choices={**case.choices, **choices})
    difference = parity.compare(other, parity.Reference(REFERENCE), modes=(mode,))[mode]
    assert not difference.passes
    for figure in figures:
        assert getattr(difference, figure) > 2 * parity.BARS[figure]


def test_the_page_says_which_cases_were_run(parity):
    rows = json.loads((FOLDER / "results" / "parity.json").read_text())
    page = parity.report(rows)
    assert (FOLDER / "results" / "README.md").read_text() == page
    assert f"{len(rows)} of the {len(rows)} cases that were run agree within the tolerances" in page
    missing = [name for name in parity.CASES if name not in rows]
    assert f"lists {len(parity.CASES)} cases; not run: {', '.join(missing) or 'none'}." in page
    assert "every case of ``cases.py``" not in parity.__doc__


def test_worst(parity):
    theirs = {"a": np.array([3.0, 4.0]), "b": np.array([1.0])}
    assert parity.worst({"a": np.array([3.0, 4.5]), "b": np.array([1.01]), "c": np.ones(1)}, theirs) == (0.1, "a")
    with pytest.raises(ValueError, match=r"nothing of ours stands for \['b'\]"):
        parity.worst({"a": theirs["a"]}, theirs)


@pytest.mark.skipif(PEER is None, reason="RESNET_JAX_PEER_PYTHON does not name a Python with torch and the peers")
@pytest.mark.parametrize("name", ["transformers-tiny", "pytorchcv-seresnet20", "timm-nf_resnet50-small"])
def test_peer(parity, tmp_path, name):
    row = parity.run(name, PEER, [], tmp_path, float64=False)
    assert row["passes"], row
