"""Exported files that are served: as the run says, and with a word where the run would be faster."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from resnet_jax.deploy.export import ExportConfig, export_run
from resnet_jax.deploy.serve.engine import open_engine
from resnet_jax.models.spec import ModelSpec
from resnet_jax.ops import native
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.inference import Inference
from resnet_jax.runs.trained import load_run
from tests.tools import few_devices, write_run


@pytest.mark.slow
@pytest.mark.parametrize("format", ["jax", "onnx"])
def test_an_exported_file_is_served_as_its_run(tmp_path, format):
    model = ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(8,))
    write_run(tmp_path / "run", RunConfig(model=model, data=DataConfig(source="digits")))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    with few_devices(1):
        run = load_run(tmp_path / "run")
        export_run(run, tmp_path / "net", ExportConfig(format=format))
        engine = open_engine(tmp_path / "net", (4,))
        np.testing.assert_allclose(engine.compute(images), Inference(run).outputs(images), atol=1e-4)
    slower = format == "jax" and jax.default_backend() == "cpu" and native.available()
    assert len(engine.notes) == slower
    assert all("its run directory, or an ONNX file, is served faster" in note for note in engine.notes)
