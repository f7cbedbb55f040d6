"""The experiment at its smoke size: everything is written, and gradients are derivatives of the stated network."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "experiments" / "shattering.py"


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("shattering_experiment", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
def test_smoke(experiment, tmp_path, monkeypatch):
    def small(layers, skips, size):
        curve = np.linspace(1, 0, size.lags + 1)
        return experiment.depth.Shattering(curve, curve, curve, curve, curve, {"network": f"{layers}{skips}"})

    monkeypatch.setattr(experiment, "convolutional", small)  # resnet_jax.depth has tests of it; compiling is slow
    experiment.main(["--out", str(tmp_path), "--smoke"])
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["about"]["command"].endswith("--smoke")
    assert len(found["curves"]) == 6
    assert all(curve["mean"][0] == 1 for kind in found["curves"].values() for curve in kind.values())
    assert {"autocorrelation.png", "gradients.png", "table.md"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_convolutional_networks_at_smoke_size(experiment):
    found = experiment.convolutional(20, False, experiment.SMOKE)
    assert found.about["network"] == "plain20_cifar"
    assert np.isfinite(found.autocorrelation).all()


def test_one_layer_of_batch_norm_has_all_kinks_in_the_middle(experiment):
    row = np.asarray(experiment.dense_gradients(jax.random.key(0), "plain, batch norm", 1, 8, 32, 1))[0]
    np.testing.assert_allclose(row, np.repeat([row[0], row[-1]], 16), rtol=1e-4)
    plain = np.asarray(experiment.dense_gradients(jax.random.key(0), "plain", 1, 8, 32, 1))[0]
    assert len(np.unique(np.round(plain, 4))) > 3
