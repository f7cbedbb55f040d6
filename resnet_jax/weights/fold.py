"""Fold batch norms into the preceding convolutions: the same network for inference, without the normalization.

In evaluation, batch norm is ``y = g (x - mean) + bias`` with ``g = scale / sqrt(var + eps)``, so that

    conv(x, w) + b   followed by it is   conv(x, g w) + (g (b - mean) + bias).

A norm that follows no convolution (the first of a pre-activation block, and the last of such a network) stays as a
scale and a shift. Standardized weights become plain ones, with their gain multiplied in.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.layout import stack, unstack
from resnet_jax.models.paths import TRANSITION
from resnet_jax.models.resnet import ResNet

Flat = dict[tuple[str, ...], Any]


def fold_batch_norm(model: ResNet, variables: dict[str, Any]) -> tuple[ResNet, dict[str, Any]]:
    """Return the network without batch norm, and its variables; in evaluation it gives the same logits.

    Args:
        model: a network with batch norm.
        variables: its ``params`` and ``batch_stats``.

    Returns:
        The network with ``norm="folded"``, and its ``params``.

    Raises:
        UsageError: the network has another norm or none, so nothing can be folded.

    >>> import jax, numpy as np
    >>> model = ResNet(ResNetConfig((1,), (4,), stem="cifar", num_classes=10))
    >>> variables = jax.jit(lambda k: model.init(k, jnp.zeros((1, 8, 8, 3)), train=False))(jax.random.key(0))
    >>> folded, params = fold_batch_norm(model, variables)
    >>> images = jnp.ones((2, 8, 8, 3))
    >>> logits = model.apply(variables, images, train=False)
    >>> bool(np.allclose(folded.apply(params, images, train=False), logits, atol=1e-5))
    True
    """
    config = model.config
    if config.norm != "batch":
        raise UsageError(f"only batch norm can be folded into convolutions, and norm is {config.norm}")
    params: Flat = flatten_dict(unstack(variables["params"]))
    stats: Flat = flatten_dict(unstack(variables["batch_stats"]))
    folded = {path: leaf for path, leaf in params.items() if "norm" not in path[-2] and path[-1] != "gain"}
    folded |= {path: params[path] for path in params if path[-1] == "gain" and "conv" not in path[-2]}
    for path in params:
        if "conv" in path[-2] and path[-1] == "kernel":
            folded[path] = _plain_kernel(config, params, path[:-1])
    for norm in dict.fromkeys(path[:-1] for path in stats):  # in order: cached programs are found by their text
        gain = params[*norm, "scale"] / jnp.sqrt(stats[*norm, "var"] + config.norm_eps)
        mean, bias = stats[*norm, "mean"], params[*norm, "bias"]
        conv = _conv_before(config, norm)
        if conv is None or (*conv, "kernel") not in params:  # shortcut B_norm has a norm alone
            folded[*norm, "scale"], folded[*norm, "bias"] = gain, bias - mean * gain
            continue
        kernel = folded[*conv, "kernel"]
        folded[*conv, "kernel"] = kernel * gain.reshape((1,) * (kernel.ndim - 1) + gain.shape)
        folded[*conv, "bias"] = (params.get((*conv, "bias"), jnp.zeros_like(mean)) - mean) * gain + bias
    return ResNet(folded_config(config)), {"params": stack(unflatten_dict(folded), config.execution)}


def folded_config(config: ResNetConfig) -> ResNetConfig:
    """Return the choices of the folded network, without those that concern only batch norm and its initial scale."""
    return dataclasses.replace(
        config,
        norm="folded",
        norm_scope="global",
        norm_running_variance="biased",
        ghost_size=None,
        norm_group_devices=None,
        residual="plain" if config.residual == "zero_gamma" else config.residual,
        weight_standardization="none",
    )


def _conv_before(config: ResNetConfig, norm: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the path of the convolution whose output ``norm`` normalizes, or None."""
    *parents, name = norm
    if parents == [] or parents[-1] in ("preact", TRANSITION):  # a max pool precedes the norm of a transition
        return None
    number = re.fullmatch(r"norm(\d+)", name)
    if number and config.is_pre and parents[-1] == "branch":  # norm2 comes between conv1 and conv2
        return (*parents, f"conv{int(number[1]) - 1}")
    return (*parents, name.replace("norm", "conv"))


def _plain_kernel(config: ResNetConfig, params: Flat, conv: tuple[str, ...]) -> Any:
    """Return the effective kernel, after standardization; kernels in an attention module are used unchanged."""
    kernel = params[*conv, "kernel"]
    if config.standardizes == "none" or "eca" in conv:
        return kernel
    if config.standardizes == "standard":
        return ops.standardize(kernel, config.ws_eps)
    return ops.scaled_standardize(kernel, params[*conv, "gain"], config.ws_eps)
