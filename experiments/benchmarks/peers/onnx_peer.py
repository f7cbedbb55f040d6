"""The ONNX Runtime and OpenVINO sides of ``resnet-jax bench infer``: the same network as an ONNX file, on the CPU.

It imports nothing of this project; ``resnet_jax/bench/serve.py`` loads and times it in an interpreter that has ``onnx``
and ``onnxruntime`` or ``openvino``. The file is what an exporter would write for a trained network: convolutions with a
bias, batch norm folded, ReLU, additions, pooling, one matrix product; NCHW, all shapes constant, random weights of He's
variance (speed does not depend on them). Both runtimes use their default optimizations, with a thread for each core
that the process may use; OpenVINO is set up for one request at a time (its hint LATENCY).
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

OPSET = 17


class Graph:
    """Nodes and weights of a file in the making."""

    def __init__(self, seed: int = 0):
        """Begin with nothing."""
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._rng = np.random.default_rng(seed)

    def weight(self, *shape: int, spread: float = 1.0) -> str:
        """Add a tensor of normal numbers; return its name."""
        name = f"w{len(self.weights)}"
        numbers = self._rng.standard_normal(shape, np.float32) * np.float32(spread)
        self.weights.append(numpy_helper.from_array(numbers, name))
        return name

    def constant(self, numbers: list[int]) -> str:
        """Add a tensor of integers; return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(numbers, np.int64), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, window: int, stride: int) -> str:
        """Add a convolution with a bias."""
        kernel = self.weight(outputs, inputs, window, window, spread=(2 / (inputs * window**2)) ** 0.5)
        return self.node(
            "Conv", x, kernel, self.weight(outputs, spread=0.1), kernel_shape=[window] * 2, strides=[stride] * 2,
            pads=[(window - 1) // 2] * 4,
        )  # fmt: skip


def _block(graph: Graph, network: dict[str, Any], x: str, inputs: int, width: int, stride: int) -> tuple[str, int]:
    """Add a basic block or a bottleneck; return its output and that one's channels."""
    if network["block"] == "bottleneck":
        features = 4 * width
        first, second = (stride, 1) if network["stride_in"] == "1x1" else (1, stride)
        rows = [(width, 1, first), (width, 3, second), (features, 1, 1)]
    else:
        features, rows = width, [(width, 3, stride), (width, 3, 1)]
    y, channels = x, inputs
    for index, (outputs, window, step) in enumerate(rows):
        y = graph.node("Relu", y) if index else y
        y, channels = graph.conv(y, channels, outputs, window, step), outputs
    if stride != 1 or inputs != features:
        if network["shortcut"] == "B":
            x = graph.conv(x, inputs, features, 1, stride)
        else:
            more = features - inputs
            before = more // 2 if network["shortcut"] == "A" else 0
            ends = [graph.constant(numbers) for numbers in ([0, 0], [2**31] * 2, [2, 3], [stride] * 2)]
            x = graph.node("Slice", x, *ends)
            x = graph.node("Pad", x, graph.constant([0, before, 0, 0, 0, more - before, 0, 0]))
    return graph.node("Relu", graph.node("Add", y, x)), features


def build(network: dict[str, Any], batch: int, side: int) -> Any:
    """Return the network as an ONNX model; ``network`` is what ``resnet-jax bench`` sends."""
    graph, width = Graph(), network["widths"][0]
    pools = network["stem"] != "cifar"
    x = graph.node("Relu", graph.conv("images", network["in_channels"], width, *((7, 2) if pools else (3, 1))))
    if pools:
        x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = width
    for stage, (size, width) in enumerate(zip(network["stage_sizes"], network["widths"])):  # noqa: B905  (Python 3.9)
        for index in range(size):
            x, inputs = _block(graph, network, x, inputs, width, 2 if stage > 0 and index == 0 else 1)
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    classes = network["num_classes"]
    x = graph.node("Gemm", x, graph.weight(inputs, classes, spread=inputs**-0.5), graph.weight(classes))
    ends = (("images", [batch, network["in_channels"], side, side]), (x, [batch, classes]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends]
    drawn = helper.make_graph(graph.nodes, "resnet", values[:1], values[1:], graph.weights)
    model = helper.make_model(drawn, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    checker.check_model(model)
    return model


def parameters(model: Any, network: dict[str, Any]) -> int:
    """Return how many parameters the network has before folding: every convolution had a scale for its bias too."""
    sizes = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    floats = [array for array in sizes if array.dtype == np.float32]
    return sum(array.size for array in floats) + sum(a.size for a in floats if a.ndim == 1) - network["num_classes"]


class Peer:
    """A compiled file and its input."""

    def __init__(self, spec: dict[str, Any]):
        """Write the file, and let the runtime compile it."""
        runtime, half = spec["runtime"], spec["dtype"] == "bfloat16"
        if spec["device"] != "cpu" or spec["mode"] != "infer":
            raise RuntimeError("this side is for inference on the CPU")
        model = build(spec["network"], spec["batch"], spec["image_size"])
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
        images = np.random.default_rng(1).standard_normal(shape, np.float32)
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        began = time.perf_counter()
        build_session = {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime]
        self.run, version = build_session(model.SerializeToString(), images, threads, half)
        self.images = spec["batch"]
        self.facts = {
            "params": parameters(model, spec["network"]),
            "device": "cpu",
            "threads": threads,
            "compile_seconds": time.perf_counter() - began,
            "versions": {runtime: version},
        }

    def dispatch(self) -> None:
        """Infer once, and wait."""
        self.run()

    def wait(self) -> None:
        """Nothing is on its way."""


def _onnxruntime(model: bytes, images: np.ndarray, threads: int, half: bool) -> tuple[Any, str]:
    import onnxruntime

    if half:
        raise RuntimeError("ONNX Runtime has no bfloat16 convolution on the CPU")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images}), onnxruntime.__version__


def _openvino(model: bytes, images: np.ndarray, threads: int, half: bool) -> tuple[Any, str]:
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",  # its own choice may be bfloat16
    }
    request = core.compile_model(core.read_model(model, b""), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
    return request.infer, openvino.__version__


def prepare(spec: dict[str, Any]) -> Peer:
    """Build the side."""
    return Peer(spec)
