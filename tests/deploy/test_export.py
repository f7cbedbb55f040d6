"""Runs as files: what they say, how they are loaded here and without this package, and that a wrong one is not kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax.deploy import export as export_module
from resnet_jax.deploy.artefact import load_artefact
from resnet_jax.deploy.checking import difference
from resnet_jax.deploy.export import ExportConfig, export_run
from resnet_jax.deploy.metadata import Metadata, preprocessing_of
from resnet_jax.deploy.packages import is_installed, package
from resnet_jax.errors import CheckError, DataError, UsageError
from resnet_jax.models.digest import params_digest
from resnet_jax.models.spec import ModelSpec
from resnet_jax.ops import native
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.foreign import import_weights
from resnet_jax.runs.inference import Inference
from resnet_jax.runs.trained import load_run
from tests.tools import few_devices, write_run

DOCS = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a moment on digits, 8x8 pixels of one channel, with weights drawn by NumPy."""
    path = tmp_path_factory.mktemp("export") / "run"
    model = ModelSpec("resnet20_cifar", stage_sizes=(1, 1), widths=(8, 16))
    with few_devices(1):
        write_run(path, RunConfig(model=model, data=DataConfig(source="digits")))
        yield load_run(path)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)


def config(format: str, **options) -> ExportConfig:
    return ExportConfig(format=format, **options)  # pyright: ignore


@pytest.mark.parametrize(
    ("format", "options", "runtimes"),
    [
        ("onnx", {"pixels": True, "any_size": True}, ("onnxruntime", "openvino")),
        pytest.param("onnx", {}, ("onnxruntime", "openvino"), marks=pytest.mark.slow),
        pytest.param("onnx", {"batch": 2, "fold": False}, ("onnxruntime", "openvino"), marks=pytest.mark.slow),
        ("jax", {}, ("jax",)),
        pytest.param("jax", {"pixels": True, "fold": False, "batch": 2}, ("jax",), marks=pytest.mark.slow),
    ],
)
def test_a_file_gives_the_outputs_of_the_run_and_says_what_it_is(run, images, tmp_path, format, options, runtimes):
    out = tmp_path / "net"
    exported = export_run(run, out, config(format, licence="MIT", **options))
    assert set(exported.differences) == set(runtimes)
    ours = Inference(run).outputs(images)
    for runtime in runtimes:
        artefact = load_artefact(out, runtime)
        assert difference(artefact.outputs_of_pixels(images), ours) < 1e-5
        assert artefact.batch == options.get("batch")
        assert artefact.classes == tuple("0123456789")
        assert artefact.metadata.licence == "MIT"
        assert artefact.metadata.digest == params_digest(run.variables["params"], run.variables["batch_stats"])
        assert artefact.metadata.network["config"]["widths"] == [8, 16]
        assert artefact.preprocessing.shape == (8, 8, 1)
        assert artefact.metadata.make_task() == run.task
        with pytest.raises(UsageError, match=r"takes .* got float64"):
            artefact.outputs(np.zeros((1, 8, 8, 1)))
        if options.get("any_size"):
            larger = np.zeros((2, 13, 10, 1), np.uint8)
            assert artefact.outputs(larger).shape == (2, 10)
    assert [each.name for each in tmp_path.iterdir()] == ["net"]


@pytest.mark.slow
def test_an_export_for_this_machine_calls_its_code_and_is_refused_elsewhere(run, images, tmp_path, monkeypatch):
    if not native.available():
        pytest.skip(f"nothing compiled: {native.status()}")
    out = tmp_path / "net.jax"
    export_run(run, out, config("jax", this_machine=True, batch=2))
    with zipfile.ZipFile(out) as file:
        program = jax.export.deserialize(bytearray(file.read("program.bin")))
    assert "@resnet_jax_conv" in program.mlir_module()
    assert difference(load_artefact(out).outputs_of_pixels(images), Inference(run).outputs(images)) < 1e-5
    monkeypatch.setattr(native, "identity", lambda: "native-of-another-machine")
    with pytest.raises(DataError, match=r"net.jax calls code that was compiled for another processor.*export the run"):
        load_artefact(out)
    monkeypatch.setattr(native, "identity", lambda: None)
    with pytest.raises(UsageError, match="nothing is compiled for this processor"):
        export_run(run, out, config("jax", this_machine=True, batch=2))


def test_a_file_that_differs_is_not_kept_and_the_one_before_it_is(run, tmp_path, monkeypatch):
    """The planted fault is in the weights: one number of one kernel."""
    out, real = tmp_path / "net.onnx", export_module.NetworkFunction.of

    def wrong(trained, *, fold, pixels):
        network = real(trained, fold=fold, pixels=pixels)
        if fold:
            stem = network.variables["params"]["stem"]["conv"]
            stem["kernel"] = stem["kernel"].at[0, 0, 0, 0].add(0.01)
        return network

    out.write_text("the one before")
    monkeypatch.setattr(export_module.NetworkFunction, "of", wrong)
    for format in ("onnx", "jax"):
        with pytest.raises(CheckError, match=r"net.onnx differs from the network: in (onnxruntime|jax) by .* not kept"):
            export_run(run, out, config(format))
    assert out.read_text() == "the one before"
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]


def test_weights_alone_are_the_same_to_the_bit_under_our_names_and_another_librarys(run, tmp_path):
    from safetensors.numpy import load_file

    export_run(run, tmp_path / "ours", config("safetensors"))
    found = load_file(tmp_path / "ours")
    stem = run.variables["params"]["stem"]
    np.testing.assert_array_equal(found["params/stem/conv/kernel"], stem["conv"]["kernel"])
    assert len(found) == len(jax.tree.leaves(run.variables))
    export_run(run, tmp_path / "theirs", config("safetensors", names="cifar"))
    np.testing.assert_array_equal(load_file(tmp_path / "theirs")["bn1.weight"], stem["norm"]["scale"])
    with pytest.raises(UsageError, match=r"unknown names of tensors 'torchvison'; did you mean 'torchvision'"):
        export_run(run, tmp_path / "no", config("safetensors", names="torchvison"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx", "names": "timm"}, "names is not used by format onnx, but by safetensors"),
        ({"format": "safetensors", "pixels": True}, "pixels is not used by format safetensors"),
        ({"format": "jax", "any_size": True}, "any_size is not used by format jax"),
        ({"format": "onnx", "this_machine": True, "batch": 2}, "this_machine is not used by format onnx, but by jax"),
        ({"format": "jax", "this_machine": True}, "this_machine needs batch"),
        ({"batch": 0}, "batch"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ExportConfig(**options)


def test_files_that_are_no_artefacts(run, tmp_path):
    missing, text, archive = (tmp_path / name for name in ("missing", "text", "archive.zip"))
    text.write_text("no network")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("metadata.json", "{}")
    for path, message in (
        (missing, "there is no such file"),
        (text, "does not read it"),
        (archive, "not a jax export"),
    ):
        with pytest.raises(DataError, match=message):
            load_artefact(path)
    with pytest.raises(UsageError, match="is a jax export, which openvino does not run"):
        load_artefact(archive, "openvino")
    texts = Metadata.of(run, preprocessing_of(run, takes="pixels", layout="channels_last")).as_texts()
    said = json.loads(texts["resnet_jax.preprocessing"])
    del said["sides"]
    texts["resnet_jax.preprocessing"] = json.dumps(said)
    with pytest.raises(DataError, match=r"x: resnet_jax\.preprocessing in its metadata is damaged: sides"):
        Metadata.read(texts, "x")
    with pytest.raises(DataError, match=r"x: no resnet_jax.classes in its metadata"):
        Metadata.read({}, "x")


def test_without_a_package_it_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"--format onnx needs the package onnx, .*pip install 'resnet-flax\[onnx\]'"):
        export_run(run, tmp_path / "net.onnx", config("onnx"))
    if not is_installed("tensorflow"):
        with pytest.raises(UsageError, match=r"needs the package tensorflow-cpu, .*resnet-flax\[tf\]"):
            export_run(run, tmp_path / "net", config("saved"))
    assert not list(tmp_path.iterdir())


def test_openvino_does_not_report():
    package("openvino", "a test")
    assert "openvino_telemetry" not in sys.modules


@pytest.mark.slow
def test_saved_model_and_litert(run, images, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install tensorflow-cpu")
    exported = export_run(run, tmp_path / "saved", config("saved"))
    assert exported.differences["tensorflow"] <= 1e-5
    loaded = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    x = preprocessing_of(run, takes="normalized", layout="channels_last").normalized(images)
    assert difference(loaded(input=tf.constant(x))["output"].numpy(), Inference(run).outputs(images)) < 1e-5
    assert export_run(run, tmp_path / "net.tflite", config("saved")).differences["LiteRT"] <= 1e-5


def snippets() -> dict[str, str]:
    """Return the loaders of docs/export.md by the file they load."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return {re.search(r'"(net\.\w+)"', block)[1]: block for block in blocks}  # pyright: ignore


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.onnx", "net.jax", "net.safetensors"])
def test_the_loaders_of_the_docs_run_without_this_package(run, tmp_path, name):
    """In another process that cannot import it; each prints what the run says of the image."""
    code = snippets()[name]
    assert len(code.strip().splitlines()) <= 10
    export_run(run, tmp_path / name, config(name.partition(".")[2]))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1)).astype(np.uint8)
    np.save(tmp_path / "image.npy", pixels)
    blocked = "import sys; sys.modules['resnet_jax'] = None\n"
    done = subprocess.run([sys.executable, "-c", blocked + code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = str(Inference(run).outputs(pixels).argmax()) if name != "net.safetensors" else "(3, 3, 1, 8)"
    assert done.stdout.strip().splitlines()[-1] == expected


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file", "count"), [
    ("resnet20", "resnet20-12fca82f.th", 932), ("resnet44", "resnet44-014dd654.th", 950),
])  # fmt: skip
def test_932_and_950_of_1017_in_every_runtime(shared_data, tmp_path, name, file, count):
    import_weights(shared_data / "pytorch-cifar-resnets" / file, ModelSpec(f"{name}_cifar"), tmp_path / "run")
    trained = load_run(tmp_path / "run")
    with np.load(shared_data / "cifar10-test-lossless-1017.npz") as data:
        x, y = data["x"], data["y"]
    for format, pixels, runtimes in (("onnx", True, ("onnxruntime", "openvino")), ("onnx", False, ("onnxruntime",)),
                                     ("jax", False, ("jax",))):  # fmt: skip
        export_run(trained, tmp_path / "net", config(format, pixels=pixels))
        for runtime in runtimes:
            outputs = load_artefact(tmp_path / "net", runtime).outputs_of_pixels(x)
            assert (outputs.argmax(1) == y).sum() == count, (format, runtime)
