"""The orthogonal choices a residual network is assembled from, validated once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.errors import UsageError, unknown
from resnet_jax.models import choices
from resnet_jax.models.branches import BLOCKS
from resnet_jax.models.choices import CHOICES
from resnet_jax.models.compatible import check_combination, check_values
from resnet_jax.models.norms import NORMS
from resnet_jax.ops import at_least_float32

#: Choices that may be None: the residual rule then brings its own.
FOLLOWS_RESIDUAL = ("order", "weight_standardization", "conv_bias", "head_init")

#: Choices that anybody can add values to, and what there is of each.
REGISTERED: dict[str, Mapping[str, Any]] = {"block": BLOCKS, "norm": NORMS}


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """What makes one residual network differ from another. Each field can be changed alone.

    Attributes:
        stage_sizes: residual blocks per stage. Stages after the first begin with stride 2.
        widths: base width of each stage; a bottleneck puts out four times as many channels.
        block: ``basic`` (two 3x3) or ``bottleneck`` (1x1, 3x3, 1x1), He et al. 2016, fig. 5.
        order: ``post`` is conv-norm-activation with an activation after the sum (v1, arXiv 1512.03385); ``pre`` is
            norm-activation-conv with nothing after it (v2, arXiv 1603.05027, fig. 4e). None: ``pre`` for the NF
            rules, else ``post``.
        stem: ``imagenet`` (7x7 stride 2, pool), ``cifar`` (3x3 stride 1) or three 3x3, the first of stride 2, and
            pool: ``deep`` 32-32-64 (ResNet-C/D, arXiv 1812.01187), ``deep_tiered`` 24-32-64, ``deep_wide`` 64-64-128.
        stem_width: channels the stem is built on; None takes the first of ``widths``.
        stem_pool: ``max`` 3x3 stride 2; ``zero_max`` the same over zero padding (BiT); ``conv`` a 3x3 convolution of
            stride 2 in its place (ResNet-RS, arXiv 2103.07579).
        shortcut: ``A`` identity, zero channels on both sides where it grows, ``A_end`` all of them behind; ``B`` 1x1
            projection where the shape changes; ``C`` projection in every block (arXiv 1512.03385, section 4.1); ``D``
            as B with a 2x2 mean before it instead of its stride (arXiv 1812.01187); ``none`` no skip: the plain net.
        stride_in: which convolution of a bottleneck strides: ``3x3`` is "v1.5" (torchvision), ``1x1`` the original.
        output_stride: 8, 16 or 32: pixels of the input along one side of a position of the last stage's output, where
            it is less than the network's own (32 with four stages and a stem that pools; 2 more for each stage). Later
            stages then do not stride; their convolutions are dilated (a trous, arXiv 1606.00915). Of the first block
            of such a stage the convolution that strode keeps the dilation of the stage before, and those after it
            take the new one, twice that: for bottlenecks that stride in the 3x3 this is torchvision's
            ``replace_stride_with_dilation``, for basic blocks timm's ``output_stride``. Shortcut D averages the
            positions it averaged. So every ``r``-th position of a stage is what the network's own has, r the stride
            left out, where no layer looks at all positions (norms of running averages, no squeeze-and-excitation).
            Parameters are the same. None: the network's own.
        groups: channel groups of a bottleneck's 3x3, the cardinality of ResNeXt (arXiv 1611.05431).
        base_width: a bottleneck is ``int(width * base_width / 64) * groups`` channels wide inside.
        norm: ``batch``, ``group`` (arXiv 1803.08494), ``layer`` (one group), ``instance`` (a group per channel),
            ``none``, or ``folded``: batch norms became biases, for inference (:func:`resnet_jax.weights.fold`).
        norm_eps: added to the variance.
        norm_momentum: weight of the old running average.
        norm_running_variance: ``biased``: batch norm's running variance moves towards the mean squared distance from
            the mean; ``unbiased``: towards n / (n - 1) times that, n values a channel in the batch, as PyTorch's.
            Training normalizes by the biased one in either case.
        norm_groups: groups of ``group``; must divide every width.
        norm_scope: whose statistics batch norm trains with: ``global`` all examples of the batch, on all devices;
            ``device`` those of one device; ``ghost`` groups of ``ghost_size`` (arXiv 1705.08741); ``frozen`` the
            running averages, which then never move.
        ghost_size: examples per ghost batch.
        norm_devices: devices the batch is sharded over under jit, for the scope ``device``. Under pmap or shard_map
            ``axis_name`` tells.
        residual: how the branch meets the skip. ``plain`` sum. ``zero_gamma`` starts the branch's last norm scale
            at 0 (Goyal et al. 2017). ``skipinit`` (arXiv 2002.10444) and ``rezero`` (arXiv 2003.04887) multiply the
            branch by a scalar that starts at 0; they differ in what surrounds it (``conv_bias``, ``head_init``).
            ``fixup`` (arXiv 1901.09321): init scaled by depth, scalar biases and scales. ``nf`` (arXiv 2101.08692):
            known variances divided out; ``nf_gain`` with a SkipInit scalar besides.
        alpha: growth of the NF rules: every block adds alpha^2 to the variance.
        weight_standardization: ``standard`` (arXiv 1903.10520) or ``scaled`` by 1/sqrt(fan-in) and a gain
            (arXiv 2101.08692, eq. 1). None: ``scaled`` for the NF rules, else ``none``.
        ws_eps: added to the variance of the weights.
        conv_bias: a bias in every convolution. None: for the NF rules, and for SkipInit without norm.
        attention: ``se`` squeeze-and-excitation (arXiv 1709.01507) or ``eca`` (arXiv 1910.03151) on the branch; the
            NF rules double its output.
        se_ratio: hidden over outer channels.
        se_divisor: hidden channels are rounded to a multiple of it (8 is timm's habit, 1 the paper).
        dropout: rate before the branch's last convolution (wide ResNets, arXiv 1605.07146).
        head_dropout: rate before the classifier.
        drop_path: stochastic depth: rate of the last block, falling linearly to 0 at the first, as in timm. (Where it
            was published, arXiv 1603.09382, eq. 4, the rates of L blocks are 1/L, 2/L, ... of the last: none is 0.)
        head_pool: ``mean`` or ``max`` over all positions.
        activation: a name in :data:`resnet_jax.models.activation.ACTIVATIONS`, used everywhere, the stem included.
        init: initializer of the convolutions, a name in :data:`resnet_jax.models.init.INITIALIZERS`.
        head_init: initializer of the classifier's kernel; its bias starts at 0. None: ``zeros`` for Fixup and
            SkipInit, else ``torch_uniform``.
        num_classes: outputs of the classifier; 0 leaves it out and the network returns the pooled features.
        in_channels: channels of the input images.
        spatial_dims: 1, 2 or 3; the input is ``(N, *spatial, C)``.
        execution: how a stage computes its blocks: one after the other in the program's text (``unroll``), or all but
            the first, which are equal, in a loop (``scan``): then compile time does not grow with depth. ``auto`` scans
            8 equal blocks or more. The numbers are the same up to rounding, and files are the same; in memory a scanned
            stage is stacked (:mod:`resnet_jax.models.layout`).
        remat: what the backward pass computes again instead of keeping it: ``none``, everything inside a ``block``, or
            everything but the convolutions (``conv``). The numbers are the same.
        dtype: of the computation. Statistics, pooled features and logits are float32 or wider in any case.
        param_dtype: of the parameters.
        axis_name: mapped axis for the batch statistics under pmap or shard_map; None under jit.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    block: choices.BlockChoice = "basic"
    order: choices.OrderChoice | None = None
    stem: choices.StemChoice = "imagenet"
    stem_width: int | None = None
    stem_pool: choices.StemPoolChoice = "max"
    shortcut: choices.ShortcutChoice = "B"
    stride_in: choices.StrideInChoice = "3x3"
    output_stride: choices.OutputStrideChoice | None = None
    groups: int = 1
    base_width: int = 64
    norm: choices.NormChoice = "batch"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.9
    norm_running_variance: choices.RunningVarianceChoice = "biased"
    norm_groups: int = 32
    norm_scope: choices.NormScopeChoice = "global"
    ghost_size: int | None = None
    norm_devices: int = 1
    residual: choices.ResidualChoice = "plain"
    alpha: float = 0.2
    weight_standardization: choices.StandardizationChoice | None = None
    ws_eps: float = 1e-6
    conv_bias: bool | None = None
    attention: choices.AttentionChoice = "none"
    se_ratio: float = 1 / 16
    se_divisor: int = 8
    dropout: float = 0.0
    head_dropout: float = 0.0
    drop_path: float = 0.0
    head_pool: choices.HeadPoolChoice = "mean"
    activation: choices.ActivationChoice = "relu"
    init: choices.InitChoice = "kaiming_normal"
    head_init: choices.InitChoice | None = None
    num_classes: int = 1000
    in_channels: int = 3
    spatial_dims: int = 2
    execution: choices.ExecutionChoice = "auto"
    remat: choices.RematChoice = "none"
    dtype: choices.DtypeChoice = "float32"
    param_dtype: choices.ParamDtypeChoice = "float32"
    axis_name: str | None = None

    def __post_init__(self):
        """Normalize dtypes to their names and check every field; raises UsageError with the way out."""
        for name in ("dtype", "param_dtype"):
            object.__setattr__(self, name, _dtype_name(name, getattr(self, name)))
        for name in ("stage_sizes", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, values in CHOICES.items():
            value = getattr(self, name)
            values = (*values, *(other for other in REGISTERED.get(name, ()) if other not in values))
            if value not in values and not (value is None and name in FOLLOWS_RESIDUAL):
                raise unknown(name, value, values)
        if "float64" in (self.dtype, self.param_dtype) and not jax.config.read("jax_enable_x64"):
            raise UsageError(
                "float64 needs JAX_ENABLE_X64=1 in the environment, or jax.config.update('jax_enable_x64', True) "
                "first; else JAX computes in float32"
            )
        check_values(self)
        check_combination(self)

    @property
    def expansion(self) -> int:
        """Channels a block puts out, as a multiple of its stage's width."""
        return BLOCKS[self.block].expansion

    @property
    def stem_stride(self) -> int:
        """Pixels of the input along one side of a position that the stem gives."""
        return 1 if self.stem == "cifar" else 4

    @property
    def own_stride(self) -> int:
        """Pixels of the input along one side of a position of the last stage's output, without ``output_stride``."""
        return self.stem_stride * 2 ** (len(self.stage_sizes) - 1)

    @property
    def is_nf(self) -> bool:
        """Whether variances are tracked by formula and divided out."""
        return self.residual in ("nf", "nf_gain")

    @property
    def is_pre(self) -> bool:
        """Whether norm and activation come before the convolutions."""
        return self.order == "pre" if self.order is not None else self.is_nf

    @property
    def standardizes(self) -> choices.StandardizationChoice:
        """The weight standardization in effect."""
        if self.weight_standardization is not None:
            return self.weight_standardization
        return "scaled" if self.is_nf else "none"

    @property
    def has_conv_bias(self) -> bool:
        """Whether every convolution has a bias."""
        if self.conv_bias is not None:
            return self.conv_bias
        return self.is_nf or (self.residual == "skipinit" and self.norm == "none")

    @property
    def head_kernel_init(self) -> choices.InitChoice:
        """The initializer in effect for the classifier's kernel."""
        if self.head_init is not None:
            return self.head_init
        return "zeros" if self.residual in ("fixup", "skipinit") else "torch_uniform"

    @property
    def num_blocks(self) -> int:
        """Residual blocks in all."""
        return sum(self.stage_sizes)

    @property
    def head_dtype(self) -> jnp.dtype:
        """Dtype of pooled features and logits: never narrower than float32."""
        return at_least_float32(self.dtype)


def _dtype_name(field: str, value: Any) -> str:
    try:
        return jnp.dtype(value).name
    except TypeError:
        raise unknown(field, value, CHOICES[field]) from None
