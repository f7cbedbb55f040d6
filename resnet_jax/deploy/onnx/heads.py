"""From maps to outputs: the classifier, heads for pixels and for several tasks, and those that you register."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from resnet_jax.deploy.onnx.activation import activate
from resnet_jax.deploy.onnx.conv import convolution, linear, pointwise
from resnet_jax.deploy.onnx.graph import Graph
from resnet_jax.deploy.onnx.norm import norm, norm_and_activate
from resnet_jax.deploy.onnx.pooling import channels_last, double_nearest, resize_bilinear, sides_of
from resnet_jax.errors import UsageError
from resnet_jax.models import paths
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.heads.aspp import RATES
from resnet_jax.models.heads.several import LOG_VARIANCE, parse_outputs
from resnet_jax.runtime.registry import Registry

#: Name of the output of a network whose head has only one.
OUTPUT = "output"

#: A function from graph, choices, maps by name (:meth:`resnet_jax.models.ResNet.features`, and ``input``) and the sides
#: of the input (None for any) to the outputs by name. It is called within the scope ``head``.
HeadForm = Callable[[Graph, ResNetConfig, Mapping[str, str], tuple[int, ...] | None], dict[str, str]]

#: The ONNX form of every head, by the name in :data:`resnet_jax.models.heads.registry.HEADS`.
HEAD_FORMS: Registry[HeadForm] = Registry("ONNX form of head")


def write_head(
    graph: Graph, config: ResNetConfig, maps: Mapping[str, str], sides: tuple[int, ...] | None
) -> dict[str, str]:
    """Return the outputs by name, in the shapes of :class:`resnet_jax.models.ResNet`'s outputs.

    Raises:
        UsageError: the head is registered without an ONNX form.
    """
    if config.num_classes == 0:
        return {OUTPUT: maps["pooled"]}
    if config.head == "classifier":
        return {OUTPUT: _scaled(graph, config, linear(graph, maps["pooled"], paths.HEAD), paths.HEAD)}
    import resnet_jax.deploy.onnx.boxes  # noqa: F401  # registers the detection heads

    if config.head not in HEAD_FORMS:
        raise UsageError(
            f"head {config.head} has no ONNX form: register one with "
            f"resnet_jax.deploy.onnx.heads.HEAD_FORMS.register({config.head!r})"
        )
    with graph.scope(paths.HEAD):
        return HEAD_FORMS[config.head](graph, config, maps, sides)


def conv_norm(
    graph: Graph,
    config: ResNetConfig,
    x: str,
    name: str,
    *,
    strides: int = 1,
    dilation: int = 1,
    activated: bool = True,
) -> str:
    """Return a convolution, the network's norm and, by default, its activation."""
    x = convolution(graph, config, x, f"{name}_conv", strides, dilation=dilation)
    if activated:
        return norm_and_activate(graph, config, x, f"{name}_norm")
    return norm(graph, config, x, f"{name}_norm")


def pyramid(
    graph: Graph,
    config: ResNetConfig,
    maps: Mapping[str, str],
    *,
    first: int = 1,
    extra: int = 0,
    smooth: bool = True,
    bilinear: bool = False,
) -> list[str]:
    """Return the maps of a feature pyramid, finest first, as :class:`resnet_jax.models.heads.pyramid.Pyramid`."""
    stages, levels = len(config.stage_sizes), []
    with graph.scope("pyramid"):
        for number in range(stages, first - 1, -1):
            x = maps["final"] if number == stages else maps[paths.stage_name(number - 1)]
            if config.is_pre and number != stages:
                with graph.scope("preact"):
                    x = norm_and_activate(graph, config, x, f"norm{number}", after_conv=False)
            x = conv_norm(graph, config, x, f"lateral{number}", activated=False)
            if levels:
                bring = resize_bilinear if bilinear else double_nearest
                sides = sides_of(graph, x, f"sides{number}")
                x = graph.node("Add", x, bring(graph, levels[0], f"finer{number}", sides), name=f"sum{number}")
            levels.insert(0, x)
        if smooth:
            levels = [
                conv_norm(graph, config, x, f"smooth{at}", activated=False) for at, x in enumerate(levels, start=first)
            ]
        for more in range(1, extra + 1):
            x = levels[-1] if more == 1 else activate(graph, config, levels[-1], f"extra{more}_act")
            levels.append(conv_norm(graph, config, x, f"extra{more}", strides=2, activated=False))
    return levels


@HEAD_FORMS.register("fcn")
def _fcn(graph: Graph, config: ResNetConfig, maps: Mapping[str, str], sides: tuple[int, ...] | None) -> dict[str, str]:
    x = conv_norm(graph, config, maps["final"], "last")
    return {OUTPUT: _of_pixels(graph, config, x, maps)}


@HEAD_FORMS.register("fpn")
def _fpn(graph: Graph, config: ResNetConfig, maps: Mapping[str, str], sides: tuple[int, ...] | None) -> dict[str, str]:
    return {OUTPUT: _of_pixels(graph, config, _sum_of_levels(graph, config, maps), maps)}


@HEAD_FORMS.register("aspp")
def _aspp(graph: Graph, config: ResNetConfig, maps: Mapping[str, str], sides: tuple[int, ...] | None) -> dict[str, str]:
    x = maps["final"]
    stride = config.own_stride if config.output_stride is None else config.output_stride
    rates = RATES.get(stride, RATES[8] if stride < 8 else RATES[32])
    views = [conv_norm(graph, config, x, "point")]
    for number, rate in enumerate(rates, start=1):
        views.append(conv_norm(graph, config, x, f"atrous{number}", dilation=rate))
    mean = conv_norm(graph, config, graph.node("GlobalAveragePool", x, name="mean"), "pooled")
    views.append(graph.node("Expand", mean, graph.node("Shape", views[0], name="shape"), name="everywhere"))
    x = conv_norm(graph, config, graph.node("Concat", *views, name="views", axis=1), "project")
    return {OUTPUT: _of_pixels(graph, config, conv_norm(graph, config, x, "last"), maps)}


@HEAD_FORMS.register("several")
def _several(
    graph: Graph, config: ResNetConfig, maps: Mapping[str, str], sides: tuple[int, ...] | None
) -> dict[str, str]:
    wanted, outputs = parse_outputs(config.head_outputs), {}
    finest = _sum_of_levels(graph, config, maps) if any(pixels for *_, pixels in wanted) else None
    for name, _, of_pixels in wanted:
        layer = f"classifier_{name}"
        if of_pixels and finest is not None:
            outputs[name] = _of_pixels(graph, config, finest, maps, layer)
        else:
            outputs[name] = _scaled(graph, config, linear(graph, maps["pooled"], layer), layer)
    return outputs


@HEAD_FORMS.register("several_uncertain")
def _several_uncertain(
    graph: Graph, config: ResNetConfig, maps: Mapping[str, str], sides: tuple[int, ...] | None
) -> dict[str, str]:
    outputs = _several(graph, config, maps, sides)
    return {**outputs, LOG_VARIANCE: for_each(graph, maps["input"], LOG_VARIANCE, graph.param(LOG_VARIANCE))}


def for_each(graph: Graph, x: str, name: str, values: object) -> str:
    """Repeat a constant (...) for every example of ``x``: (N, ...)."""
    constant = graph.constant(f"{name}/values", values)
    rest = graph.constants[constant].shape
    with graph.scope(name):
        examples = graph.node("Shape", x, name="examples", start=0, end=1)
        shape = graph.node("Concat", examples, graph.integers("rest", rest), name="shape", axis=0)
    return graph.node("Expand", constant, shape, name=name)


def _sum_of_levels(graph: Graph, config: ResNetConfig, maps: Mapping[str, str]) -> str:
    """Return one map at the resolution of the finest stage that combines all stages."""
    levels = pyramid(graph, config, maps, smooth=False, bilinear=True)
    finest = sides_of(graph, levels[0], "finest")
    total = ""
    for at, level in enumerate(levels, start=1):
        part = conv_norm(graph, config, level, f"level{at}")
        if at > 1:
            part = resize_bilinear(graph, part, f"level{at}_resized", finest)
            part = graph.node("Add", total, part, name=f"levels_to_{at}")
        total = part
    return total


def _of_pixels(graph: Graph, config: ResNetConfig, x: str, maps: Mapping[str, str], layer: str = "classifier") -> str:
    """Return ``num_classes`` outputs for every pixel of the input, (N, *sides, K)."""
    x = _scaled(graph, config, pointwise(graph, x, layer), layer)
    x = resize_bilinear(graph, x, f"{layer}_resized", sides_of(graph, maps["input"], f"{layer}_sides"))
    return channels_last(graph, x, f"{layer}_pixels")


def _scaled(graph: Graph, config: ResNetConfig, x: str, name: str) -> str:
    return graph.multiplied(x, config.logit_scale, name=f"{name}/scaled")
