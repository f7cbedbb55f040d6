"""A tiny network in 8 bits, end to end; ranges by closed forms; the file against the network that is trained for it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from resnet_jax.deploy.artefact import load_artefact
from resnet_jax.deploy.onnx.network import Input, write_network
from resnet_jax.deploy.quantize.calibrate import calibrate
from resnet_jax.deploy.quantize.convert import FloatNetwork, measure_files, quantize_run
from resnet_jax.deploy.quantize.graph import find_sites
from resnet_jax.deploy.quantize.images import require_apart, training_images
from resnet_jax.deploy.quantize.measure import batches_of
from resnet_jax.deploy.quantize.options import Quantization
from resnet_jax.deploy.quantize.qdq import quantize_model
from resnet_jax.deploy.quantize.ranges import Histogram, Range, range_of
from resnet_jax.deploy.quantize.straight_through import round_activations, rounded_network
from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.ops import reference_forms
from resnet_jax.runs.chosen import choose_images
from resnet_jax.runs.data import load_images
from resnet_jax.runs.network import build_network
from resnet_jax.runs.trained import TrainedRun
from tests.tiny_network import tiny_config, tiny_networks


def graph_of(model: ResNet, images: np.ndarray):
    """Return variables of a network and its float graph."""
    init = jax.jit(lambda key: model.init(key, jnp.asarray(images), train=False))
    variables = init(jax.random.key(0))
    return variables, write_network(model.config, variables, Input(images.shape[1:3])).model


def primitives(jaxpr):
    """Yield the names of all operations of a program, those of what it calls too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


def session(model, **options):
    import onnxruntime

    how = onnxruntime.SessionOptions()
    how.log_severity_level = 3
    for name, value in options.items():
        setattr(how, name, value)
    return onnxruntime.InferenceSession(model.SerializeToString(), how, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the digits that nobody trained: its own images, random weights."""
    with tiny_networks():
        config = tiny_config("1 epochs")
        images = load_images(config)
        model = build_network(config, images.card)
        init = jax.jit(lambda key: model.init(key, jnp.zeros((1, *images.card.image_shape)), train=False))
        path = tmp_path_factory.mktemp("run")
        yield TrainedRun(config, images.card, model, init(jax.random.key(0)), 0, path)


@pytest.mark.filterwarnings("ignore:os.fork", "ignore::pytest.PytestUnraisableExceptionWarning")  # importing OpenVINO
def test_every_form_is_written_and_measured_in_its_runtime(trained, tmp_path):
    options = Quantization(("static", "weights", "bf16"), calibration=64)
    said: list[str] = []
    files = quantize_run(trained, tmp_path / "net.onnx", options, say=said.append)
    assert [file.path.name for file in files] == [f"net-{kind}.onnx" for kind in options.kind]
    assert [file.operations for file in files] == [4, 0, 0]  # stem, two of the block, the head
    assert any("calibrated on 64 of" in line and "own training images" in line for line in said)
    test = choose_images(trained, "test")
    plain, rows = measure_files(trained, files, batches_of(trained, test), runtimes=["onnxruntime"], threads=1)
    assert [row.kind for row in rows] == ["float", *options.kind]
    assert all(row.examples == len(test.records) and row.images_per_second > 0 for row in rows)
    assert rows[0].same == rows[0].times_float == 1.0
    # random weights: hardly any logit is far from the next, and yet most images keep their class
    assert {row.kind: row.same > 0.9 for row in rows if row.same} == {
        "float": True, "static": True, "weights": True, "bf16": True,
    }  # fmt: skip
    assert plain.bytes > files[2].bytes
    assert load_artefact(files[0].path).classes == trained.card.class_names


@pytest.mark.slow  # a train step to compile
def test_a_network_trained_with_rounding_is_a_file_of_the_same_form(trained, tmp_path):
    said: list[str] = []
    options = Quantization(("static", "qat"), calibration=64, steps=100, batch_size=64, learning_rate=0.5)
    static, qat = quantize_run(trained, tmp_path / "net.onnx", options, say=said.append)
    assert qat.operations == static.operations
    assert abs(qat.bytes - static.bytes) < 200  # the metadata
    assert any(line.startswith("  update 100 of 100: loss") for line in said)
    batches = batches_of(trained, choose_images(trained, "test"))
    _, rows = measure_files(trained, [static, qat], batches, runtimes=["onnxruntime"], threads=1)
    assert rows[2].metric > rows[1].metric + 0.1  # it has learned


def test_the_runtime_computes_integers(trained, tmp_path):
    import onnx

    (file,) = quantize_run(trained, tmp_path / "net.onnx", Quantization(calibration=32))
    session(onnx.load(file.path), optimized_model_filepath=str(tmp_path / "optimized.onnx"))
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3, kinds
    assert kinds.count("QLinearGlobalAveragePool") == kinds.count("QGemm") == 1
    assert "Conv" not in kinds
    assert "Gemm" not in kinds


def test_what_is_trained_is_what_the_file_computes():
    model = ResNet(ResNetConfig((1, 1), (8, 16), stem="cifar", shortcut="A", norm="folded", num_classes=5))
    images = np.asarray(jax.random.normal(jax.random.key(1), (16, 12, 12, 3)))
    variables, graph = graph_of(model, images)
    given = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    sites = find_sites(graph.graph)
    ranges = calibrate(graph, sites.calibrated, [given])
    network, listed = rounded_network(model, variables, graph.graph, sites, ranges)
    file = session(quantize_model(graph, ranges)).run(None, {"input": given})[0]
    ours = np.asarray(jax.jit(lambda v: network.apply(v, images, train=False))(listed))
    plain = np.asarray(model.apply(variables, images, train=False))
    error, rounding = np.abs(ours - file).max(), np.abs(plain - file).max()
    assert rounding > 0
    assert error < rounding / 3  # a step here or there: bias and sums are rounded otherwise in the runtime
    with reference_forms():
        jaxpr = jax.make_jaxpr(lambda v: network.apply(v, images, train=True))(listed).jaxpr
    names = list(primitives(jaxpr))
    layers = names.count("conv_general_dilated") + names.count("dot_general")
    assert layers == len(sites.linear) == len(network.kernels) == len(network.before) == 6
    assert names.count("round") == len(network.kernels) + len(network.before) + len(network.after)


@pytest.mark.filterwarnings("ignore:os.fork", "ignore::pytest.PytestUnraisableExceptionWarning")  # importing OpenVINO
@pytest.mark.parametrize("choices", [{"order": "pre"}, {"attention": "se"}, {"norm": "group", "norm_groups": 4}])
def test_both_runtimes_agree_on_other_networks(choices, tmp_path):
    """OpenVINO pads 8-bit tensors with step 0: option A of a pre-activation network was wrong by 84 %."""
    config = {"norm": "folded", **choices}
    model = ResNet(ResNetConfig((1, 1), (8, 16), stem="cifar", shortcut="A", num_classes=5, **config))
    images = np.asarray(jax.random.normal(jax.random.key(1), (16, 8, 8, 3)))
    _, graph = graph_of(model, images)
    given = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    sites = find_sites(graph.graph)
    quantized = quantize_model(graph, calibrate(graph, sites.calibrated, [given]))
    plain, here = (session(each).run(None, {"input": given})[0] for each in (graph, quantized))
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(quantized.SerializeToString()), "CPU")
    there = compiled([given])[0]
    spread = (plain - plain.mean(0)).std()
    assert np.sqrt(((here - plain) ** 2).mean()) < 0.1 * spread
    assert np.sqrt(((there - plain) ** 2).mean()) < 0.1 * spread
    assert bool(sites.left) == (choices != {})


def test_ranges():
    assert Range(0.5, 5.1).scale_and_zero() == (pytest.approx(5.1 / 255), 0)  # 0 is always held
    assert Range(0.0, 0.0).scale_and_zero() == (1.0, 0)
    values = np.concatenate([np.random.default_rng(0).normal(size=100_000), [50.0]])
    histogram = Histogram.between(values.min(), values.max())
    histogram.add(values)
    found = {method: range_of(histogram, method).high for method in ("minmax", "percentile", "mse", "entropy")}
    assert found["minmax"] == 50.0
    assert found["percentile"] == pytest.approx(np.quantile(np.abs(values), 0.9999), abs=0.1)
    assert 3 < found["entropy"] < 10
    assert 3 < found["mse"] < 50


def test_averaged_ends_are_those_of_the_batches():
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    batches = [np.array([-1, 2], np.float32), np.array([-3, 7], np.float32)]
    assert calibrate(model, ["x", "y"], batches, "averaged") == {"x": Range(-2.0, 4.5), "y": Range(0.0, 4.5)}
    assert calibrate(model, ["x", "y"], batches, "minmax") == {"x": Range(-3.0, 7.0), "y": Range(0.0, 7.0)}


def test_the_gradient_of_rounding_is_that_of_the_identity_within_the_range():
    gradient = jax.grad(lambda x: round_activations(x, Range(-1.0, 1.0)).sum())(jnp.array([-2.0, -0.3, 0.4, 3.0]))
    assert gradient.tolist() == [0, 1, 1, 0]


def test_what_cannot_be(trained, tmp_path):
    with pytest.raises(UsageError, match=r"out must be an ONNX file"):
        quantize_run(trained, tmp_path / "net")
    with pytest.raises(UsageError, match=r"calibration 999,999: the train split has"):
        quantize_run(trained, tmp_path / "net.onnx", Quantization(calibration=999_999))
    with pytest.raises(UsageError, match="once"):
        Quantization(("static", "static"))
    imported = dataclasses.replace(trained, card=dataclasses.replace(trained.card, examples={}))
    with pytest.raises(UsageError, match="train-source"):
        training_images(imported, None)
    np.savez(tmp_path / "some.npz", x=np.zeros((20, 8, 8, 1), np.uint8), y=np.arange(20) % 10)
    same = choose_images(imported, "test", f"npz:{tmp_path / 'some.npz'}")
    with pytest.raises(UsageError, match="measured on what it was calibrated on"):
        require_apart(imported, same, same)
    scaled = ResNet(ResNetConfig((1,), (8,), stem="cifar", norm="none", residual="nf", num_classes=5))
    images = np.zeros((2, 8, 8, 3), np.float32)
    variables, graph = graph_of(scaled, images)
    sites = find_sites(graph.graph)
    with pytest.raises(UsageError, match="kind static quantizes this network"):
        rounded_network(scaled, variables, graph.graph, sites, dict.fromkeys(sites.calibrated, Range(0, 1)))


def test_weights_are_the_nearest_bfloat16(trained):
    from onnx import numpy_helper

    from resnet_jax.deploy.quantize.compact import _upper_halves, bfloat16_weights

    graph = FloatNetwork.of(trained).graph()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for tensor in bfloat16_weights(graph).graph.initializer:
        name = tensor.name.removesuffix("_bfloat16")
        if name != tensor.name:
            wanted = np.asarray(jnp.asarray(weights[name], jnp.bfloat16)).view(np.uint16)
            np.testing.assert_array_equal(_upper_halves(weights[name]), wanted)
