"""``resnet-jax depth lesion``: files, figures that hold together, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from resnet_jax.cli.main import run
from resnet_jax.depth import Deletions, PathLengths, load_arrays

SMALL = [
    *("--model.stage-sizes", "1", "3", "1", "--model.widths", "4", "8", "8", "--model.stem-width", "4"),
    *("--data.source", "digits", "--batch", "24"),
]


@pytest.mark.slow
def test_a_named_network(tmp_path, capsys):
    out = tmp_path / "lesion"
    assert run(["depth", "lesion", "resnet20_cifar", *SMALL, "--draws", "2", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["blocks"] == 5
    assert {path.name for path in out.iterdir()} == {
        "deletions.npz", "permutations.npz", "paths.npz", "lesions.png", "deletions.png", "permutations.png",
        "path-lengths.png", "report.html",
    }  # fmt: skip
    deletions, paths = load_arrays(Deletions, out / "deletions.npz"), load_arrays(PathLengths, out / "paths.npz")
    assert deletions.images == 24
    assert result["accuracy"] == deletions.whole_accuracy
    assert deletions.several_accuracy.shape == (len(deletions.counts), 2)
    assert paths.lengths.tolist() == list(range(6))
    np.testing.assert_allclose(paths.contribution.sum(), 1)
    page = (out / "report.html").read_text()
    assert "of the gradient, summed over paths, comes through" in page
    assert "Veit" in page


@pytest.mark.slow
def test_a_plain_network_has_no_paths(tmp_path, capsys):
    out = tmp_path / "lesion"
    assert run(["depth", "lesion", "plain20_cifar", *SMALL, "--draws", "1", "--out", str(out), "--json"]) == 0
    assert not (out / "paths.npz").exists()
    assert np.isnan(load_arrays(Deletions, out / "deletions.npz").accuracy).sum() == 2  # those that change the shape
    assert run(["depth", "lesion", "plain20_cifar", "--draws", "0"]) == 2
    assert "--draws and --at-once must be 1 or more" in capsys.readouterr().err
