"""The two pretrained networks in 8 bits: at most 3 of 1,017 images are lost in each runtime."""

from __future__ import annotations

import io
import tarfile

import cv2
import numpy as np
import pytest

from resnet_jax.deploy.quantize.convert import measure_files, quantize_run
from resnet_jax.deploy.quantize.measure import batches_of
from resnet_jax.deploy.quantize.options import Quantization
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.chosen import choose_images
from resnet_jax.runs.foreign import import_weights
from resnet_jax.runs.trained import load_run
from tests.test_pretrained import CLASSES, FILES
from tests.tools import few_devices

EVERY = 48
"""Of the 50,000 training images one in so many: 1,042."""


@pytest.fixture(scope="module")
def training(shared_data, tmp_path_factory):
    """Some training images, JPEG, as a source."""
    images, labels, seen = [], [], 0
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz", "r:xz") as tar:
        for member in tar:
            parts = member.name.split("/")
            if not member.isfile() or parts[1] != "train":
                continue
            seen += 1
            if seen % EVERY == 0:
                data = np.frombuffer(io.BytesIO(tar.extractfile(member).read()).getvalue(), np.uint8)
                images.append(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
                labels.append(CLASSES.index(parts[2]))
    path = tmp_path_factory.mktemp("training") / "train.npz"
    np.savez(path, x=np.stack(images), y=np.array(labels))
    return f"npz:{path}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork", "ignore::pytest.PytestUnraisableExceptionWarning")  # importing OpenVINO
@pytest.mark.parametrize(("name", "right"), [("resnet20", 932), ("resnet44", 950)])
def test_few_of_1017_are_lost(shared_data, training, tmp_path, name, right):
    with few_devices(1):
        import_weights(shared_data / "pytorch-cifar-resnets" / FILES[name], ModelSpec(f"{name}_cifar"), tmp_path / name)
        trained = load_run(tmp_path / name)
        (file,) = files = quantize_run(trained, tmp_path / "net.onnx", Quantization(), train_source=training)
        tested = choose_images(trained, "test", f"npz:{shared_data / 'cifar10-test-lossless-1017.npz'}")
        plain, rows = measure_files(trained, files, batches_of(trained, tested), threads=1)
    counts = {(row.kind, row.runtime): row.correct for row in rows}
    assert counts["float", "onnxruntime"] == counts["float", "openvino"] == right
    assert counts["static", "onnxruntime"] >= right - 3, counts
    assert counts["static", "openvino"] >= right - 3, counts
    assert file.operations == int(name.removeprefix("resnet"))
    assert file.bytes < 0.32 * plain.bytes
