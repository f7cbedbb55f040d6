"""Prepare a network for inference on this machine: batch norms folded, kernels in the order that its processor
reads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jaxtyping import Array

from resnet_jax import ops
from resnet_jax.models.collections import PACKED
from resnet_jax.models.layers import Conv
from resnet_jax.models.layout import is_stacked
from resnet_jax.models.resnet import ResNet
from resnet_jax.weights.fold import fold_batch_norm, folded_config

Path = tuple[str, ...]


def prepare_for_inference(
    model: ResNet, variables: dict[str, Any], input_shape: Sequence[int]
) -> tuple[ResNet, dict[str, Any]]:
    """Return the network that is fastest for inference here, and its variables; for evaluation on this processor.

    Batch norms are folded (:func:`.fold_batch_norm`). On a CPU, kernels that have a compiled form are packed
    (:func:`resnet_jax.ops.pack_kernel`): they move from ``params`` to the collection ``packed``. All other kernels stay
    as they are, as do those of other dtypes and all kernels if there is no compiler. The logits are the same within
    rounding.

    Args:
        model: any network.
        variables: its variables; a collection ``batch_stats`` is folded away.
        input_shape: shape of one image, (*spatial, C).

    >>> import numpy as np
    >>> from resnet_jax.models.config import ResNetConfig
    >>> model = ResNet(ResNetConfig((1,), (32,), stem="cifar", num_classes=10))
    >>> images = jnp.ones((2, 8, 8, 3))
    >>> variables = jax.jit(lambda k: model.init(k, images, train=False))(jax.random.key(0))
    >>> fast, prepared = prepare_for_inference(model, variables, (8, 8, 3))
    >>> logits = model.apply(variables, images, train=False)
    >>> bool(np.allclose(fast.apply(prepared, images, train=False), logits, atol=1e-5))
    True
    """
    return prepared_network(model), prepare_variables(model, variables, input_shape=tuple(input_shape))


def prepared_network(model: ResNet) -> ResNet:
    """Return the network of :func:`prepare_for_inference`."""
    return ResNet(folded_config(model.config)) if model.config.norm == "batch" else model


@functools.partial(jax.jit, static_argnums=0, static_argnames="input_shape")
def prepare_variables(model: ResNet, variables: dict[str, Any], *, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the variables of :func:`prepare_for_inference`, computed in one compiled program."""
    if model.config.norm == "batch":
        model, variables = fold_batch_norm(model, variables)
    if jax.default_backend() != "cpu":
        return variables
    params: dict[Path, Any] = flatten_dict(variables["params"])
    packed: dict[Path, Array] = {}
    for path, sizes in _convolutions(model, variables, input_shape).items():
        kernel = _pack(params[*path, "kernel"], sizes, stacked=is_stacked("/".join((*path, "kernel"))))
        if kernel is not None:
            packed[*path, "kernel"] = kernel
            del params[*path, "kernel"]
    return {**variables, "params": unflatten_dict(params), **({PACKED: unflatten_dict(packed)} if packed else {})}


def _convolutions(model: ResNet, variables: dict[str, Any], input_shape: tuple[int, ...]) -> dict[Path, dict[str, Any]]:
    """Return strides, dilation and groups of the convolutions over images whose kernels are used unchanged."""
    found: dict[Path, dict[str, Any]] = {}

    def look(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        conv, is_called = context.module, context.method_name == "__call__"
        if is_called and isinstance(conv, Conv) and conv.standardize == "none" and jnp.dtype(conv.dtype) == jnp.float32:
            found[conv.path] = conv.sizes(args[0].ndim - 2)
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with nn.intercept_methods(look):
        jax.eval_shape(lambda variables, image: model.apply(variables, image, train=False), variables, image)
    return found


def _pack(kernel: Array, sizes: dict[str, Any], *, stacked: bool) -> Array | None:
    kernel = kernel.astype(jnp.float32)
    if not stacked:
        return ops.pack_kernel(kernel, **sizes)
    if jax.eval_shape(lambda kernel: ops.pack_kernel(kernel, **sizes), kernel[0]) is None:
        return None
    return lax.map(lambda one: ops.pack_kernel(one, **sizes), kernel)
