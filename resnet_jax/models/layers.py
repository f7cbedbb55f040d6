"""The layers that make up every block, with the network's choices already filled in."""

from __future__ import annotations

import dataclasses
from typing import Any, assert_never

import jax.numpy as jnp
from flax import linen as nn
from flax.linen import module as linen_module
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.models.activation import ACTIVATIONS, GAINS
from resnet_jax.models.choices import StandardizationChoice
from resnet_jax.models.collections import PACKED
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.init import initializer, scaled
from resnet_jax.models.norms import NORMS, NormPlace

#: Name of a convolution's output for rematerialization.
CONV_OUTPUT = "conv_output"


@dataclasses.dataclass(frozen=True)
class Finish:
    """Operations after a convolution and its bias that a network for inference computes together with it.

    Attributes:
        skip: the array to add, if any.
        relu: whether a ReLU comes last.
    """

    skip: Array | None = None
    relu: bool = False


def finishes(module: nn.Module, config: ResNetConfig, *, train: bool) -> bool:
    """Return whether the convolutions of ``module`` also compute what follows them: bias, addition, ReLU.

    They do so when a folded network is evaluated and nothing observes the intermediate values, neither an interceptor
    nor captured intermediates. ``Branch`` then returns the sum with the skip instead of the branch alone.
    """
    return (
        config.norm == "folded"
        and config.activation == "relu"
        and config.residual == "plain"
        and config.attention == "none"
        and not config.is_nf
        and not train
        and not module.is_initializing()
        and not module.is_mutable_collection("intermediates")
        and not _intercepted()
    )


def _intercepted() -> bool:
    """Return whether anything intercepts module calls. Flax exposes this only privately."""
    stack = getattr(linen_module, "_global_interceptor_stack", None)
    return stack is None or len(stack) > 0


class Conv(nn.Module):
    """Convolution over ``(N, *spatial, C)``, padded by ``dilation * ((kernel_size - 1) // 2)`` on both sides.

    Attributes:
        features: output channels.
        kernel_size: side of the window.
        strides: stride, the same along every dimension.
        groups: channel groups.
        use_bias: add a bias per channel.
        standardize: ``none``, ``standard`` or ``scaled`` (see :mod:`resnet_jax.ops.standardize`).
        ws_eps: epsilon of the standardization.
        kernel_init: initializer of the kernel ``(*window, C // groups, features)``.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
        dilation: distance between the taps of the window.
        fixed: whether the kernel has no gradient and keeps its value.
        same: of ``p = dilation * (kernel_size - 1)`` zeros, put p // 2 before the map and the rest after it, so that
            stride 1 keeps the size for even windows too: "same" padding in Keras, TensorFlow and PyTorch.
    """

    features: int
    kernel_size: int
    strides: int = 1
    groups: int = 1
    use_bias: bool = False
    standardize: StandardizationChoice = "none"
    ws_eps: float = 1e-6
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    dilation: int = 1
    fixed: bool = False
    same: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], finish: Finish | None = None) -> Float[Array, "n *out f"]:
        """Return the convolution in ``dtype``; for inference, together with the operations that follow it."""
        dims = x.ndim - 2
        if self.same and self.dilation * (self.kernel_size - 1) % 2:
            x = jnp.pad(x, [(0, 0), *[(0, 1)] * dims, (0, 0)])
        if self.has_variable(PACKED, "kernel"):
            return self._packed(x, finish or Finish())
        shape = (self.kernel_size,) * dims + (x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        kernel = lax.stop_gradient(kernel) if self.fixed else kernel
        match self.standardize:
            case "none":
                pass
            case "standard":
                kernel = ops.standardize(kernel, self.ws_eps)
            case "scaled":
                gain = self.param("gain", nn.initializers.ones, (self.features,), self.param_dtype)
                kernel = ops.scaled_standardize(kernel, gain, self.ws_eps)
            case _:
                assert_never(self.standardize)
        operands = x.astype(self.dtype), kernel.astype(self.dtype)
        window: dict[str, Any] = {**self.sizes(dims), "padding": self._padding(dims)}
        bias = self._bias()
        if finish:
            return ops.finished_conv(*operands, bias, finish.skip, relu=finish.relu, **window)
        y = checkpoint_name(ops.conv(*operands, **window), CONV_OUTPUT)
        return y if bias is None else y + bias.reshape((1,) * (dims + 1) + (self.features,))

    @nn.nowrap
    def sizes(self, dims: int) -> dict[str, Any]:
        """Return strides, dilation and groups for this many dimensions, as :func:`.ops.conv` takes them."""
        return {"strides": (self.strides,) * dims, "dilation": (self.dilation,) * dims, "groups": self.groups}

    @nn.nowrap
    def _padding(self, dims: int) -> tuple[int, ...]:
        reach = self.kernel_size - 1
        return (self.dilation * reach // 2 if self.same else self.dilation * (reach // 2),) * dims

    @nn.nowrap
    def _bias(self) -> Array | None:
        if not self.use_bias:
            return None
        return self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype).astype(self.dtype)

    @nn.nowrap
    def _packed(self, x: Array, finish: Finish) -> Array:
        return ops.packed_conv(
            x.astype(self.dtype), self.get_variable(PACKED, "kernel"), self._bias(), finish.skip,
            window=(self.kernel_size,) * 2, features=self.features, strides=(self.strides,) * 2,
            padding=self._padding(2), relu=finish.relu,
        )  # fmt: skip


class Head(nn.Module):
    """The classifier: a linear layer in float32 or wider, times ``scale``."""

    features: int
    kernel_init: Initializer
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "n c"]) -> Float[Array, "n k"]:
        """Return the logits."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        logits = x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)[None]
        return logits if self.scale == 1.0 else logits * jnp.asarray(self.scale, self.dtype)


def conv(
    config: ResNetConfig,
    features: int,
    kernel_size: int,
    strides: int = 1,
    *,
    name: str,
    groups: int = 1,
    dilation: int = 1,
    before_norm: bool = False,
    init_scale: float = 1.0,
) -> Conv:
    """Build the network's convolution called ``name``.

    Args:
        config: the network's choices.
        features: output channels.
        kernel_size: side of the window.
        strides: stride.
        name: its name in the parameter tree.
        groups: channel groups.
        dilation: distance between the taps of the window.
        before_norm: whether a norm follows directly; a folded network has its bias there.
        init_scale: factor on the initial kernel.
    """
    return Conv(
        features,
        kernel_size,
        strides,
        groups,
        use_bias=config.has_conv_bias or (config.norm == "folded" and before_norm),
        standardize=config.standardizes,
        ws_eps=config.ws_eps,
        kernel_init=scaled(initializer(config.init), init_scale),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        dilation=dilation,
        same=True,
        name=name,
    )


def norm(
    config: ResNetConfig, *, name: str, after_conv: bool = True, last_of_branch: bool = False, relu: bool = False
) -> nn.Module:
    """Build the network's normalization called ``name``, called as ``(x, train=...)``.

    Args:
        config: the network's choices.
        name: its name in the parameter tree.
        after_conv: whether it directly follows a convolution; a folded network has no layer there.
        last_of_branch: whether it is the last norm of a branch, whose scale the residual rule may start at 0.
        relu: whether a batch norm also applies a ReLU.
    """
    zero = last_of_branch and config.residual == "zero_gamma"
    scale_init = nn.initializers.zeros if zero else nn.initializers.ones
    return NORMS[config.norm](config, NormPlace(name, scale_init, after_conv, relu))


def activate(config: ResNetConfig, x: Array) -> Array:
    """Apply the network's activation. The NF rules scale it to unit variance for a standard normal input."""
    y = ACTIVATIONS[config.activation](x)
    return y * GAINS[config.activation] if config.is_nf else y


def norm_and_activate(config: ResNetConfig, x: Array, *, name: str, train: bool, after_conv: bool = True) -> Array:
    """Apply the network's normalization called ``name`` and its activation: batch norm and ReLU in one pass."""
    if config.norm == "batch" and config.activation == "relu" and not config.is_nf:
        return norm(config, name=name, after_conv=after_conv, relu=True)(x, train=train)
    return activate(config, norm(config, name=name, after_conv=after_conv)(x, train=train))


def scalar(module: nn.Module, config: ResNetConfig, name: str, init: Initializer) -> Array:
    """Return the scalar parameter ``name`` of ``module``, in the compute dtype."""
    return jnp.asarray(module.param(name, init, (), config.param_dtype), config.dtype)
