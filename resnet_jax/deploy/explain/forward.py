"""A forward pass with access to the inner maps, and the gradient of a target with respect to them or the input."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.data.augment import downscaled, normalize
from resnet_jax.deploy.explain.settings import FINAL
from resnet_jax.deploy.explain.targets import Target, as_target
from resnet_jax.errors import unknown
from resnet_jax.models import paths
from resnet_jax.models.frontend import apply_frontend
from resnet_jax.models.resnet import ResNet

Choose = Callable[[Any], Target]


class Maps(NamedTuple):
    """The result of a forward and a backward pass.

    Attributes:
        outputs: outputs of the network.
        target: the target whose score was differentiated.
        values: the map of every layer, float32 (N, *sides, C).
        gradients: gradient of the score with respect to each map, with the same shapes.
    """

    outputs: Any
    target: Target
    values: dict[str, Array]
    gradients: dict[str, Array]


def layers_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a network's maps: ``stem``, ``stage1``, ..., ``final``.

    >>> from resnet_jax.models import create_model
    >>> layers_of(create_model("resnet20_cifar"))
    ('stem', 'stage1', 'stage2', 'stage3', 'final')
    """
    if not isinstance(model, ResNet):
        return ()
    return (paths.STEM, *(paths.stage_name(index) for index in range(len(model.config.stage_sizes))), FINAL)


def maps_and_gradients(
    model: nn.Module, variables: Mapping[str, Any], images: Array, target: Any, layers: Sequence[str]
) -> Maps:
    """Return the maps of some layers, and the gradient of the target's score with respect to each.

    It takes one forward and one backward pass, however many layers there are.

    Args:
        model: a :class:`~resnet_jax.models.ResNet`, or any Linen module called as ``(images, train=False)``.
        variables: variables of the network.
        images: normalized, (N, *sides, C).
        target: a :class:`.Target`, classes (N,), or a function of the outputs that returns one.
        layers: names of :func:`layers_of`, or paths of modules, such as ``stage2/block0``.

    Raises:
        UsageError: the network has no such layer.
    """

    def forward(added: Mapping[str, Array] | None) -> tuple[Any, dict[str, Array]]:
        values: dict[str, Array] = {}

        def with_added(layer: str, x: Array) -> Array:
            values[layer] = x
            return x if added is None else x + added[layer].astype(x.dtype)

        def look(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            found, path = call(*args, **kwargs), "/".join(context.module.path)
            if context.method_name == "__call__" and path in layers and isinstance(found, jax.Array):
                return with_added(path, found)
            if context.method_name == "features" and not path and FINAL in layers:
                return _with_final(context.module, found, with_added)
            return found

        with nn.intercept_methods(look):
            outputs = model.apply(variables, images, train=False)
        return outputs, values

    shapes = jax.eval_shape(lambda: forward(None)[1])
    for layer in layers:
        if layer not in shapes:
            raise unknown("layer", layer, layers_of(model) or ("the path of a module, such as stage1/block0",))
    zeros = {layer: jnp.zeros(shape.shape, jnp.float32) for layer, shape in shapes.items()}
    outputs, pull, values = jax.vjp(forward, zeros, has_aux=True)
    target = target(outputs) if callable(target) and not isinstance(target, Target) else as_target(target)
    cotangent = jax.grad(lambda outputs: target.score(outputs).sum(), allow_int=True)(outputs)
    (gradients,) = pull(cotangent)
    values = {layer: value.astype(jnp.float32) for layer, value in values.items()}
    return Maps(outputs, target, values, gradients)


def input_gradient(
    model: nn.Module, variables: Mapping[str, Any], images: Float[Array, "n *sides c"], target: Any
) -> tuple[Float[Array, " n"], Float[Array, "n *sides c"]]:
    """Return the target's score of every image, and its gradient with respect to the image."""
    target = as_target(target)

    def total(images: Array) -> tuple[Array, Array]:
        scores = target.score(model.apply(variables, images, train=False))
        return scores.sum(), scores

    gradients, scores = jax.grad(total, has_aux=True)(images)
    return scores, gradients.astype(ops.at_least_float32(gradients.dtype))


@functools.partial(jax.jit, static_argnums=0)
def score(model: nn.Module, variables: Mapping[str, Any], images: Array, target: Any) -> Float[Array, " n"]:
    """Return the target's score of every image, (N,)."""
    return as_target(target).score(model.apply(variables, images, train=False))


@functools.partial(jax.jit, static_argnums=0)
def probability(model: nn.Module, variables: Mapping[str, Any], images: Array, target: Any) -> Float[Array, " n"]:
    """Return the target's probability for every image, (N,); see :meth:`.Target.probability`."""
    return as_target(target).probability(model.apply(variables, images, train=False))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def network_inputs(
    images: Array, mean: tuple[float, ...], std: tuple[float, ...], downscale: int, dtype: str
) -> Float[Array, "n *sides c"]:
    """Return stored images (N, *sides, C) as the network takes them: normalized and downscaled."""
    return downscaled(normalize(images, mean, std, jnp.dtype(dtype)), downscale)


def behind_frontend(model: ResNet) -> ResNet:
    """Return a network that takes the output of another's front end as its input; the variables are the same.

    To a network that standardizes its input, a signal and half of it are the same, so the path from a baseline to the
    signal has no gradient. Behind the front end, where 0 is the mean of the example, it has one.

    >>> from resnet_jax.models import create_model
    >>> behind_frontend(create_model("resnet_ts", num_classes=2)).config.frontend
    'none'
    """
    config = model.config
    dims = 2 if config.frontend == "log_mel" else config.spatial_dims
    config = dataclasses.replace(config, frontend="none", spatial_dims=dims, mel_time_mask=0, mel_band_mask=0)
    return model.clone(config=config)


@functools.partial(jax.jit, static_argnums=0)
def frontend_of(model: ResNet, inputs: Array) -> Array:
    """Return the output of a network's front end, or the inputs if it has none."""
    return inputs if model.config.frontend == "none" else apply_frontend(model.config, inputs, None)


def upsampled(maps: Float[Array, " n *sides"], sides: Sequence[int]) -> Float[Array, " n *out"]:
    """Return maps at the size of images, interpolated linearly.

    For audio, a network on spectrograms has maps (time, bands), which are averaged over the bands.
    """
    if (more := maps.ndim - 1 - len(sides)) > 0:
        maps = maps.mean(axis=tuple(range(maps.ndim - more, maps.ndim)))
    return ops.resize_bilinear(maps[..., None], tuple(sides))[..., 0]


def _with_final(module: Any, maps: dict[str, Array], with_added: Callable[[str, Array], Array]) -> dict[str, Array]:
    """Return the maps of a network after adding something to the last one and pooling it again."""
    pool = ops.global_max_pool if module.config.head_pool == "max" else ops.global_mean_pool
    final = with_added(FINAL, maps[FINAL])
    return {**maps, FINAL: final, "pooled": maps["pooled"] + (pool(final) - pool(maps[FINAL]))}
