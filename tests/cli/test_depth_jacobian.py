"""resnet-jax depth jacobian."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.depth.hessian import HessianEigenvalues
from resnet_jax.depth.jacobian import JacobianSpectra, jacobians
from resnet_jax.models.spec import ModelSpec
from resnet_jax.report.jacobian_report import FIGURES
from resnet_jax.runs.analysis import AnalysisConfig, find_target
from resnet_jax.runs.images import OtherImages

from .conftest import last_json

SMALL = ["--model.stage-sizes", "1", "2", "--model.widths", "4", "8"]


@pytest.mark.slow
def test_a_named_network(command, tmp_path):
    out = tmp_path / "out"
    argv = ("depth", "jacobian", "resnet20_cifar", *SMALL, "--image-size", 8, "--iterations", 4)
    status, printed, error = command(*argv, "--out", out, "--json")
    assert status == 0, error
    said = last_json(printed)
    assert (said["blocks"], said["out"]) == (3, str(out))
    assert sorted(path.name for path in out.iterdir()) == sorted((*FIGURES[:3], "jacobian.npz"))

    model = ModelSpec(stage_sizes=(1, 2), widths=(4, 8))
    subject = find_target("resnet20_cifar", AnalysisConfig(batch=2, data=OtherImages(image_size=8), model=model))
    want = jacobians(subject.model, subject.variables, subject.images, train=True, iterations=4)
    found = JacobianSpectra.load(out / "jacobian.npz")
    np.testing.assert_allclose(found.blocks.largest, want.blocks.largest, rtol=1e-3)

    text = (out / "report.html").read_text()
    assert text.count("<figure ") == 2
    assert text.count("<figcaption>") == 2
    assert "batch norm, statistics of this batch" in text
    assert f"over all {len(found.names)} blocks" in text


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--iterations", "0"], "iterations"),
        (["--batch", "1"], "one image has none"),
        (["--norm-mode", "x"], "norm_mode"),
    ],
)
def test_what_is_refused(command, tmp_path, argv, said):
    status, _, error = command(
        "depth", "jacobian", "resnet20_cifar", *SMALL, "--image-size", 8, "--out", tmp_path / "out", *argv
    )
    assert (status, said in error) == (2, True), error


@pytest.mark.slow
def test_curvature(command, tmp_path):
    argv = ("depth", "jacobian", "resnet20_cifar", *SMALL, "--image-size", 8, "--iterations", 3, "--hessian")
    status, said, error = command(*argv, "--out", tmp_path / "out")
    assert status == 0, error
    found = HessianEigenvalues.load(tmp_path / "out" / "hessian.npz")
    assert (found.largest > 0).all()
    assert (tmp_path / "out" / "curvature.png").exists(), said
    assert "The loss bends most for block" in (tmp_path / "out" / "report.html").read_text()
