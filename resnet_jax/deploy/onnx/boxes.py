"""Detection heads: FCOS and RetinaNet with raw outputs, which :mod:`resnet_jax.tasks.detection` turns into boxes.

Anchors are constants, so the input size is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.deploy.onnx.activation import activate
from resnet_jax.deploy.onnx.conv import convolution
from resnet_jax.deploy.onnx.graph import Graph
from resnet_jax.deploy.onnx.heads import HEAD_FORMS, for_each, pyramid
from resnet_jax.deploy.onnx.norm import norm_and_activate
from resnet_jax.deploy.onnx.pooling import channels_last
from resnet_jax.errors import UsageError
from resnet_jax.models import paths
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.count import abstract_variables
from resnet_jax.models.heads.retinanet import anchors_of
from resnet_jax.models.heads.towers import PRIOR, first_stage, grid, level_strides
from resnet_jax.models.resnet import ResNet


@HEAD_FORMS.register("fcos")
def _fcos(graph: Graph, config: ResNetConfig, maps: Mapping[str, str], sides: tuple[int, ...] | None) -> dict[str, str]:
    sizes, classes, boxes = _towers(graph, config, maps, sides)
    cells = [
        np.concatenate([grid(size, stride), grid(size, stride) + stride], axis=1)
        for size, stride in zip(sizes, level_strides(config), strict=True)
    ]
    centre = _numbers(graph, boxes, "centre", 1)
    return {
        "class": _class_logits(graph, config, classes),
        "box": _numbers(graph, boxes, "box", 4),
        "centre": graph.node("Squeeze", centre, graph.integers("last_axis", [2]), name="centre"),
        **_geometry(graph, maps, np.concatenate(cells), sides),
    }


@HEAD_FORMS.register("retinanet")
def _retinanet(
    graph: Graph, config: ResNetConfig, maps: Mapping[str, str], sides: tuple[int, ...] | None
) -> dict[str, str]:
    sizes, classes, boxes = _towers(graph, config, maps, sides)
    return {
        "class": _class_logits(graph, config, classes),
        "box": _numbers(graph, boxes, "box", 4),
        **_geometry(graph, maps, anchors_of(sizes, level_strides(config)), sides),
    }


def _towers(
    graph: Graph, config: ResNetConfig, maps: Mapping[str, str], sides: tuple[int, ...] | None
) -> tuple[list[tuple[int, ...]], list[str], list[str]]:
    """Return the sides of the pyramid's levels, and the maps of the class tower and of the box tower."""
    if sides is None:
        raise UsageError(f"head {config.head} has anchors, which are made for one size of images: give no free size")
    first = first_stage(config)
    levels = pyramid(graph, config, maps, first=first, extra=config.pyramid_extra)
    sizes = _level_sides(config, sides, first)
    classes, boxes = (_tower(graph, config, levels, sizes, f"{what}_tower") for what in ("class", "box"))
    return sizes, classes, boxes


def _tower(graph: Graph, config: ResNetConfig, levels: list[str], sizes: list[tuple[int, ...]], name: str) -> list[str]:
    """Return maps after the convolutions of a tower, whose norms treat the positions of all levels as one map."""
    with graph.scope(name):
        for number in range(1, config.head_depth + 1):
            layer = f"conv{number}"
            levels = [
                convolution(graph, config, x, layer, node=f"{layer}_level{at}") for at, x in enumerate(levels, start=1)
            ]
            if config.norm in ("folded", "none"):  # only the activation remains
                levels = [activate(graph, config, x, f"act{number}_level{at}") for at, x in enumerate(levels, start=1)]
                continue
            flat = graph.integers("one_row", (0, 0, -1, 1))
            rows = [
                graph.node("Reshape", x, flat, name=f"row{number}_level{at}") for at, x in enumerate(levels, start=1)
            ]
            joined = graph.node("Concat", *rows, name=f"joined{number}", axis=2)
            joined = norm_and_activate(graph, config, joined, f"norm{number}")
            levels = _apart(graph, joined, sizes, f"apart{number}")
    return levels


def _apart(graph: Graph, joined: str, sizes: list[tuple[int, ...]], name: str) -> list[str]:
    """Return the maps of the levels whose positions are joined in one map of a single row."""
    found, start, axis = [], 0, graph.integers("rows", [2])
    for at, size in enumerate(sizes, start=1):
        end = start + math.prod(size)
        with graph.scope(f"{name}_level{at}"):
            ends = graph.integers("start", [start]), graph.integers("end", [end])
            part = graph.node("Slice", joined, *ends, axis, name="part")
            found.append(graph.node("Reshape", part, graph.integers("sides", (0, 0, *size)), name="map"))
        start = end
    return found


def _numbers(graph: Graph, maps: list[str], name: str, width: int) -> str:
    """Return the outputs of convolution ``classifier_{name}`` at all positions of all levels, (N, P, width)."""
    layer, found = f"classifier_{name}", []
    shape = graph.integers(f"{layer}/shape", (0, -1, width))
    for at, x in enumerate(maps, start=1):
        x = convolution(graph, None, x, layer, node=f"{layer}_level{at}", same=False)
        x = channels_last(graph, x, f"{layer}_level{at}/channels_last")
        found.append(graph.node("Reshape", x, shape, name=f"{layer}_level{at}/rows"))
    return graph.node("Concat", *found, name=layer, axis=1)


def _class_logits(graph: Graph, config: ResNetConfig, maps: list[str]) -> str:
    numbers = _numbers(graph, maps, "class", config.num_classes)
    return graph.binary("Sub", numbers, math.log((1 - PRIOR) / PRIOR), name="class")


def _geometry(
    graph: Graph, maps: Mapping[str, str], anchors: np.ndarray, sides: tuple[int, ...] | None
) -> dict[str, str]:
    assert sides is not None  # the towers reject it
    return {
        "anchors": for_each(graph, maps["input"], "anchors", anchors),
        "size": for_each(graph, maps["input"], "size", sides),
    }


def _level_sides(config: ResNetConfig, sides: tuple[int, ...], first: int) -> list[tuple[int, ...]]:
    """Return the sides of the pyramid's maps, finest first."""
    shape = (*sides, config.in_channels)
    model = ResNet(config)
    maps = jax.eval_shape(
        lambda variables, x: model.apply(variables, x, train=False, method="features"),
        abstract_variables(model, shape),
        jax.ShapeDtypeStruct((1, *shape), jnp.float32),
    )
    found = [maps[paths.stage_name(stage)].shape[1:-1] for stage in range(first - 1, len(config.stage_sizes))]
    for _ in range(config.pyramid_extra):
        found.append(tuple(-(-side // 2) for side in found[-1]))
    return found
