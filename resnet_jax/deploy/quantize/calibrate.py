"""Measure the ranges of a graph's tensors on some images, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from resnet_jax.deploy.quantize.ranges import Histogram, Method, Range, range_of


def calibrate(
    model: Any, tensors: Sequence[str], batches: Iterable[np.ndarray], method: Method = "averaged"
) -> dict[str, Range]:
    """Return the range of each tensor over all batches.

    Args:
        model: a ModelProto of a float graph with one input.
        tensors: names of its tensors, which may include inputs.
        batches: inputs of the graph; they are iterated twice.
        method: ``averaged``: from the smallest value to the largest, each averaged over the batches (Jacob et al. 2018,
            arXiv 1712.05877, section 3.1); for the others see :func:`.range_of`.
    """
    batches = list(batches)
    watched = _Watched(model, tensors)
    ends: dict[str, list[tuple[float, float]]] = {name: [] for name in tensors}
    for batch in batches:
        for name, values in watched(batch).items():
            ends[name].append((float(values.min()), float(values.max())))
    if method == "averaged":
        return {name: Range(*(float(np.mean(some)) for some in zip(*ends[name], strict=True))) for name in tensors}
    whole = {name: Range(min(low for low, _ in ends[name]), max(high for _, high in ends[name])) for name in tensors}
    if method == "minmax":
        return whole
    histograms = {name: Histogram.between(each.low, each.high) for name, each in whole.items()}
    for batch in batches:
        for name, values in watched(batch).items():
            histograms[name].add(values)
    return {name: range_of(histograms[name], method) for name in tensors}


class _Watched:
    """A session that returns tensors of a graph, including its inputs."""

    def __init__(self, model: Any, tensors: Sequence[str]):
        import onnx
        import onnxruntime

        watching = onnx.ModelProto()
        watching.CopyFrom(model)
        self.input = next(
            value.name
            for value in model.graph.input
            if value.name not in {tensor.name for tensor in model.graph.initializer}
        )
        self.names = [name for name in tensors if name != self.input]
        self.all = tuple(tensors)
        already = {value.name for value in watching.graph.output}
        watching.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.names if name not in already)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            watching.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, Any] = dict(zip(self.names, self.session.run(self.names, {self.input: batch}), strict=True))
        return {name: batch if name == self.input else found[name] for name in self.all}
