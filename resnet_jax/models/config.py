"""The orthogonal choices a residual network is assembled from, validated once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.errors import UsageError, unknown
from resnet_jax.models.init import INITIALIZERS
from resnet_jax.ops import at_least_float32

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}

#: The values each choice can take. Messages, tests and the command line read them from here.
CHOICES: dict[str, tuple[str, ...]] = {
    "block": ("basic", "bottleneck"),
    "stem": ("cifar", "imagenet"),
    "shortcut": ("A", "B", "C"),
    "stride_in": ("3x3", "1x1"),
    "norm": ("batch",),
    "residual": ("plain", "zero_gamma"),
    "activation": tuple(ACTIVATIONS),
    "init": tuple(INITIALIZERS),
    "head_init": tuple(INITIALIZERS),
    "dtype": ("float32", "bfloat16", "float64"),
    "param_dtype": ("float32", "float64"),
}


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """What makes one residual network differ from another. Each field can be changed alone.

    Attributes:
        stage_sizes: residual blocks per stage. Stages after the first begin with stride 2.
        widths: base width of each stage; a bottleneck puts out four times as many channels.
        block: ``basic`` (two 3x3) or ``bottleneck`` (1x1, 3x3, 1x1), He et al. 2016, fig. 5.
        stem: ``imagenet`` (7x7 stride 2, max-pool 3x3 stride 2) or ``cifar`` (3x3 stride 1).
        shortcut: ``A`` identity, zero channels where it grows; ``B`` 1x1 projection where the shape changes;
            ``C`` projection in every block (He et al. 2016, section 4.1).
        stride_in: which convolution of a bottleneck strides: ``3x3`` is "v1.5" (torchvision), ``1x1`` the original.
        norm: the normalization after each convolution.
        norm_eps: added to the variance.
        norm_momentum: weight of the old running average.
        residual: how the branch meets the skip: ``plain`` addition; ``zero_gamma`` also starts the branch's last
            norm scale at 0, so that each block begins as the identity (Goyal et al. 2017).
        activation: a name in :data:`ACTIVATIONS`, used everywhere, the stem included.
        init: initializer of the convolutions, a name in :data:`resnet_jax.models.init.INITIALIZERS`.
        head_init: initializer of the classifier's kernel; its bias starts at 0.
        num_classes: outputs of the classifier; 0 leaves it out and the network returns the pooled features.
        in_channels: channels of the input images.
        dtype: of the computation. Statistics, pooled features and logits are float32 or wider in any case.
        param_dtype: of the parameters.
        axis_name: mapped axis for the batch statistics under pmap or shard_map; None under jit.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    block: str = "basic"
    stem: str = "imagenet"
    shortcut: str = "B"
    stride_in: str = "3x3"
    norm: str = "batch"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.9
    residual: str = "plain"
    activation: str = "relu"
    init: str = "kaiming_normal"
    head_init: str = "torch_uniform"
    num_classes: int = 1000
    in_channels: int = 3
    dtype: str = "float32"
    param_dtype: str = "float32"
    axis_name: str | None = None

    def __post_init__(self):
        """Normalize dtypes to their names and check every field; raises UsageError with the way out."""
        for name in ("dtype", "param_dtype"):
            object.__setattr__(self, name, _dtype_name(name, getattr(self, name)))
        for name in ("stage_sizes", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise unknown(name, getattr(self, name), values)
        if "float64" in (self.dtype, self.param_dtype) and not jax.config.read("jax_enable_x64"):
            raise UsageError(
                "float64 needs jax.config.update('jax_enable_x64', True) first; else JAX computes in float32"
            )
        if not self.stage_sizes or min(self.stage_sizes) < 1:
            raise UsageError(f"stage_sizes must be one or more blocks per stage, got {self.stage_sizes}")
        if len(self.widths) != len(self.stage_sizes) or min(self.widths) < 1:
            raise UsageError(f"widths {self.widths} must give one positive width for each of {self.stage_sizes}")
        if self.num_classes < 0:
            raise UsageError(f"num_classes must be 0 (features) or more, got {self.num_classes}")
        if self.in_channels < 1:
            raise UsageError(f"in_channels must be 1 or more, got {self.in_channels}")
        if not 0.0 <= self.norm_momentum < 1.0:
            raise UsageError(f"norm_momentum must be in [0, 1), got {self.norm_momentum}")
        if self.norm_eps <= 0.0:
            raise UsageError(f"norm_eps must be positive, got {self.norm_eps}")

    @property
    def expansion(self) -> int:
        """Channels a block puts out, as a multiple of its stage's width."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def head_dtype(self) -> jnp.dtype:
        """Dtype of pooled features and logits: never narrower than float32."""
        return at_least_float32(self.dtype)


def _dtype_name(field: str, value: Any) -> str:
    try:
        return jnp.dtype(value).name
    except TypeError:
        raise unknown(field, value, CHOICES[field]) from None
