"""Pooling, and resizing of maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from resnet_jax.deploy.onnx.graph import Graph


def max_pool(graph: Graph, x: str, name: str, *, window: int, stride: int, padding: int = 0) -> str:
    """Return the maximum over windows, in which padding never counts."""
    dims = graph.dims
    return graph.node(
        "MaxPool", x, name=name, kernel_shape=[window] * dims, strides=[stride] * dims, pads=[padding] * (2 * dims)
    )


def mean_pool_2(graph: Graph, x: str, name: str) -> str:
    """Return the mean over windows of 2 with stride 2; windows at an odd edge average only what exists."""
    dims = graph.dims
    return graph.node(
        "AveragePool", x, name=name, kernel_shape=[2] * dims, strides=[2] * dims, ceil_mode=1, count_include_pad=0
    )


def dilated_mean_2(graph: Graph, x: str, name: str, distance: int) -> str:
    """Return the mean of each position and the one ``distance`` after it along every dimension, using only what exists.

    If there is nothing after a position, it is counted twice. (ONNX Runtime rejects a mean pool whose padding is as
    wide as its window.)
    """
    with graph.scope(name):
        last = graph.integers("last", [2**31 - 1])
        for number in range(graph.dims):
            axis = graph.integers(f"axis{number}", [number + 2])
            after, edge = graph.integers("after", [distance]), graph.integers("edge", [-distance])
            later = graph.node("Slice", x, after, last, axis, name=f"later{number}")
            ends = graph.node("Slice", x, edge, last, axis, name=f"ends{number}")
            shifted = graph.node("Concat", later, ends, name=f"shifted{number}", axis=number + 2)
            x = graph.node("Add", x, shifted, name=f"sum{number}")
    return graph.binary("Mul", x, 0.5**graph.dims, name=name)


def mean_of_blocks(graph: Graph, x: str, name: str, side: int) -> str:
    """Return the mean over blocks of ``side`` positions along every dimension."""
    return graph.node("AveragePool", x, name=name, kernel_shape=[side] * graph.dims, strides=[side] * graph.dims)


def global_pool(graph: Graph, x: str, name: str, kind: Literal["mean", "max"]) -> str:
    """Return mean or maximum over all positions, (N, C)."""
    op = {"mean": "GlobalAveragePool", "max": "GlobalMaxPool"}[kind]
    return graph.node("Flatten", graph.node(op, x, name=f"{name}/all"), name=name)


def padded(graph: Graph, x: str, name: str, before: Sequence[int], after: Sequence[int]) -> str:
    """Return a map with zeros before and after every axis, including those of examples and channels."""
    return graph.node("Pad", x, graph.integers(f"{name}/pads", [*before, *after]), name=name)


def sides_of(graph: Graph, x: str, name: str) -> str:
    """Return the sides of a map, int64 (dims,), computed when the graph runs."""
    return graph.node("Shape", x, name=name, start=2)


def resize_bilinear(graph: Graph, x: str, name: str, sides: str) -> str:
    """Return a map resized by linear interpolation along every axis, with pixel centers at half pixels."""
    first = graph.node("Shape", x, name=f"{name}/examples", end=2)
    to = graph.node("Concat", first, sides, name=f"{name}/shape", axis=0)
    return graph.node("Resize", x, "", "", to, name=name, mode="linear", coordinate_transformation_mode="half_pixel")


def double_nearest(graph: Graph, x: str, name: str, sides: str) -> str:
    """Return a map with every position repeated twice along every axis, cropped to ``sides``."""
    dims = graph.dims
    scales = graph.constant(f"{name}/scales", [1.0, 1.0, *[2.0] * dims])
    twice = graph.node(
        "Resize", x, "", scales, name=f"{name}/twice", mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip
    starts, axes = graph.integers(f"{name}/starts", [0] * dims), graph.integers(f"{name}/axes", range(2, dims + 2))
    return graph.node("Slice", twice, starts, sides, axes, name=name)


def channels_last(graph: Graph, x: str, name: str) -> str:
    """Return a map as (N, *spatial, C)."""
    return graph.node("Transpose", x, name=name, perm=[0, *range(2, graph.dims + 2), 1])


def channels_first(graph: Graph, x: str, name: str, dims: int) -> str:
    """Return (N, *spatial, C), with ``dims`` spatial dimensions, as a map."""
    return graph.node("Transpose", x, name=name, perm=[0, dims + 1, *range(1, dims + 1)])
