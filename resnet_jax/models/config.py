"""The orthogonal choices that make up a residual network, validated once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from resnet_jax.errors import UsageError, unknown
from resnet_jax.fields import NOT_AN_OPTION, SAME_RESULT, AtLeast0, AtLeast1, BelowOne, MoreOf, Positive, check_fields
from resnet_jax.models import choices
from resnet_jax.models.branches import BLOCKS
from resnet_jax.models.choices import CHOICES
from resnet_jax.models.heads.registry import HEADS
from resnet_jax.models.norms import NORMS
from resnet_jax.models.validation import check_combination, check_stages

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """The choices that distinguish one residual network from another. Each field can be changed alone.

    The first paragraph under a field is also its help on the command line.
    """

    stage_sizes: tuple[AtLeast1, ...]
    """Residual blocks per stage. Every stage after the first begins with stride 2."""
    widths: tuple[AtLeast1, ...] = (64, 128, 256, 512)
    """Base width of each stage. A bottleneck block outputs four times as many channels."""
    block: Annotated[choices.BlockChoice, MoreOf(BLOCKS)] = "basic"
    """Residual block: basic (two 3x3), bottleneck (1x1, 3x3, 1x1), single (one 3x3) or series (windows 8, 5, 3).

    ``bottleneck`` is that of He et al. 2016, fig. 5. ``series`` has three convolutions with windows of 8, 5 and 3 for
    time series (Wang et al. 2017, arXiv 1611.06455).
    """
    order: choices.OrderChoice | None = None
    """Layer order: post (conv, norm, activation) or pre (norm, activation, conv). None: pre for NF rules, else post.

    ``post`` (v1) applies an activation after the sum (arXiv 1512.03385); ``pre`` (v2) does not (arXiv 1603.05027, fig.
    4e).
    """
    frontend: choices.FrontendChoice = "none"
    """Preprocessing before the stem: none, standardize (each example), log_mel (audio) or one_hot (text).

    A front end has no parameters (:mod:`resnet_jax.models.frontend`). ``standardize`` brings every channel of an
    example to mean 0 and standard deviation 1 over its positions, the z-normalization of the UCR archive. ``log_mel``
    turns signals (N, L, C) into standardized log-mel spectrograms (N, time, bands, C); the network is then one for
    images, while ``spatial_dims`` describes the input and stays 1. ``one_hot`` turns integers (N, *spatial, 1) into
    ``symbols`` one-hot channels; a convolution of these is an embedding of the symbols and their neighbors.
    """
    symbols: AtLeast1 = 275
    """Symbols of frontend one_hot: inputs are integers below this. Source text has 275 characters."""
    mel_rate: AtLeast1 = 16_000
    """Sampling rate for frontend log_mel, in samples per second."""
    mel_window: AtLeast1 = 400
    """Window length for frontend log_mel, in samples (Hann). Windows are zero-padded to the next power of 2."""
    mel_hop: AtLeast1 = 160
    """Hop length for frontend log_mel: samples from the start of one window to the next."""
    mel_bands: AtLeast1 = 64
    """Mel bands for frontend log_mel: triangular filters, equally wide in mel (HTK), from 0 to half the rate."""
    mel_time_mask: AtLeast0 = 0
    """Time mask for frontend log_mel in training: up to this many windows become the mean (SpecAugment). 0: none."""
    mel_band_mask: AtLeast0 = 0
    """Band mask for frontend log_mel in training: up to this many bands become the mean (SpecAugment). 0: none."""
    stem: choices.StemChoice = "imagenet"
    """Stem: imagenet (7x7 stride 2, pool), cifar (3x3), whiten (PCA), waveform, none, deep, deep_tiered or deep_wide.

    The deep stems are three 3x3 convolutions, the first with stride 2, followed by a pool. Their widths are 32-32-64
    for ``deep`` (ResNet-C/D, arXiv 1812.01187), 24-32-64 for ``deep_tiered`` and 64-64-128 for ``deep_wide``.
    ``whiten`` is a convolution of stride 1 with a frozen kernel, a bias and the activation, but no norm. Its filters
    are the eigenvectors of patches of the training images, divided by the square root of their eigenvalues, and the
    negative of each (Page 2018; arXiv 2404.00498, section 3.1). A run computes them before its first step
    (:mod:`resnet_jax.models.whitening`); outside a run, the network starts with random filters. ``waveform`` is for
    audio: 80 samples wide, stride 4, then a maximum over 4 (arXiv 1610.00087, table 1). With ``none`` the first block
    sees the input itself (arXiv 1611.06455).
    """
    stem_width: AtLeast1 | None = None
    """Base channels of the stem. None: the first of widths. (Those of stem whiten follow from its patches.)"""
    stem_pool: choices.StemPoolChoice = "max"
    """Stem pooling: max (3x3, stride 2), zero_max (the same over zero padding; BiT) or conv (3x3 stride 2 instead).

    ``conv`` comes from ResNet-RS (arXiv 2103.07579).
    """
    whiten_window: AtLeast1 = 2
    """Patch side for stem whiten, which has 2 * window^2 * in_channels filters. For images."""
    transition: choices.TransitionChoice = "stride"
    """Downsampling: stride (first block of each stage from the second on), conv_pool (start of each stage) or none.

    With ``conv_pool`` every stage, including the first, begins with a 3x3 convolution to its width, a 2x2 max pool, a
    norm and the activation, and its blocks keep the shape (the ResNet-9 of Page 2018; arXiv 2404.00498). With ``none``
    all stages have the resolution of the stem.
    """
    shortcut: choices.ShortcutChoice = "B"
    """Skip: A or A_end (identity, zero-padded), B (1x1 where the shape changes), B_norm, C (1x1), D (mean, 1x1), none.

    Where the identity widens, ``A`` adds zero channels on both sides and ``A_end`` adds them all at the end. ``B`` and
    ``C`` are those of arXiv 1512.03385, section 4.1. ``D`` is B with a 2x2 mean before it instead of its stride
    (arXiv 1812.01187). ``B_norm`` is B with a norm where the skip is the identity (hfawaz/dl-4-tsc). ``none`` has no
    skip: a plain network.
    """
    stride_in: choices.StrideInChoice = "3x3"
    """Which convolution of a bottleneck has the stride: 3x3 ("v1.5", as in torchvision) or 1x1 (the original)."""
    output_stride: choices.OutputStrideChoice | None = None
    """Stride of the last stage: below the network's own (None), later stages dilate instead of striding.

    The network's own stride is 32 with four stages and a stem that pools, and doubles with each stage. A smaller value
    replaces the strides of later stages with dilation (atrous convolution, arXiv 1606.00915). In the first block of
    such a stage, the convolution that had the stride keeps the dilation of the stage before; the convolutions after it
    use twice that. For bottlenecks that stride in the 3x3 this is torchvision's ``replace_stride_with_dilation``, for
    basic blocks timm's ``output_stride``. Shortcut D averages the same positions as before. If r is the stride left
    out, every ``r``-th position of a stage equals that of the original network, as long as no layer sees all positions
    (norms use running averages, and there is no squeeze-and-excitation). The parameters are the same.
    """
    groups: AtLeast1 = 1
    """Channel groups of a bottleneck's 3x3 convolution: the cardinality of ResNeXt (arXiv 1611.05431)."""
    base_width: AtLeast1 = 64
    """Sets the inner width of a bottleneck: int(width * base_width / 64) * groups channels."""
    branch_widths: tuple[AtLeast1, ...] = ()
    """Channels inside the branch of each block, in order. Empty: derived from the width of the stage.

    There is one number for every convolution of a branch except the last: one for a ``basic`` block, two for a
    ``bottleneck``. Networks with pruned channels use them (``resnet-jax prune``). Blocks that differ are computed one
    after another, whatever ``execution`` says.
    """
    norm: Annotated[choices.NormChoice, MoreOf(NORMS)] = "batch"
    """Normalization: batch, group (arXiv 1803.08494), layer (one group), instance (a group per channel), none, folded.

    ``folded`` means that batch norms have become biases, for inference (:func:`resnet_jax.weights.fold`).
    """
    norm_eps: Positive = 1e-5
    """Epsilon that a norm adds to the variance."""
    norm_momentum: BelowOne = 0.9
    """Weight of the old running average when batch norm updates it."""
    norm_running_variance: choices.RunningVarianceChoice = "biased"
    """Batch norm's running variance: biased (that of the batch) or unbiased (n / (n - 1) times that, as in PyTorch).

    n is the number of values per channel in the batch. Training normalizes by the biased variance in either case.
    """
    norm_groups: AtLeast1 = 32
    """Number of groups for norm group. It must divide every width."""
    norm_scope: choices.NormScopeChoice = "global"
    """Which examples share batch statistics in training: global, device_group, device, ghost or frozen.

    ``global``: all examples of the batch, across all devices. ``device_group``: those on ``norm_group_devices``
    consecutive devices, which communicate only among themselves; this is the usual choice on pods. ``device``: those on
    one device. ``ghost``: groups of ``ghost_size`` (arXiv 1705.08741). ``frozen`` uses the running averages, which then
    never change.
    """
    ghost_size: AtLeast1 | None = None
    """Examples per ghost batch, for norm_scope ghost."""
    norm_group_devices: AtLeast1 | None = None
    """Devices per group for norm_scope device_group. It must divide the number of devices that train."""
    norm_devices: Annotated[AtLeast1, NOT_AN_OPTION] = 1
    """Devices over which the batch is sharded under jit, for the scopes device and device_group. Under pmap or
    shard_map, axis_name is used instead."""
    residual: choices.ResidualChoice = "plain"
    """How a block combines branch and skip: plain (the sum), zero_gamma, skipinit, rezero, fixup, nf or nf_gain.

    ``zero_gamma`` starts the scale of the branch's last norm at 0 (Goyal et al. 2017). ``skipinit`` (arXiv 2002.10444)
    and ``rezero`` (arXiv 2003.04887) multiply the branch by a scalar that starts at 0; they differ in the surrounding
    defaults (``conv_bias``, ``head_init``). ``fixup`` (arXiv 1901.09321) scales the initialization by depth and adds
    scalar biases and scales. ``nf`` (arXiv 2101.08692) divides by variances known in closed form; ``nf_gain`` adds a
    SkipInit scalar.
    """
    alpha: Positive = 0.2
    """Variance growth of the NF rules: every block adds alpha^2 to the variance."""
    weight_standardization: choices.StandardizationChoice | None = None
    """Weight standardization: none, standard (arXiv 1903.10520) or scaled. None: scaled for the NF rules.

    ``scaled`` is by 1/sqrt(fan-in) and a gain (arXiv 2101.08692, eq. 1). Without an NF rule, None means ``none``.
    """
    ws_eps: Positive = 1e-6
    """Epsilon that weight standardization adds to the variance of the weights."""
    conv_bias: bool | None = None
    """Give every convolution a bias. None: only for the NF rules, and for SkipInit without norm."""
    attention: choices.AttentionChoice = "none"
    """Channel attention on the branch: none, se (squeeze-and-excitation, arXiv 1709.01507) or eca (arXiv 1910.03151).

    The NF rules double its output.
    """
    se_ratio: Positive = 1 / 16
    """Ratio of hidden to outer channels in squeeze-and-excitation."""
    se_divisor: AtLeast1 = 8
    """Hidden channels of squeeze-and-excitation are rounded to a multiple of this (timm: 8, the paper: 1)."""
    dropout: BelowOne = 0.0
    """Dropout rate before the last convolution of each branch (wide ResNets, arXiv 1605.07146)."""
    head: Annotated[choices.HeadChoice, MoreOf(HEADS)] = "classifier"
    """Output layers: classifier (mean pool and a linear layer), or a head that fits the task.

    Heads for pixels, boxes and several tasks are in :mod:`resnet_jax.models.heads`. By default a task uses the first
    head that it lists.
    """
    head_width: AtLeast1 = 128
    """Channels of the convolutions inside a head other than classifier."""
    head_outputs: Annotated[tuple[str, ...], NOT_AN_OPTION] = ()
    """Outputs of the heads several and several_uncertain, by name and number: digit:10, segmentation:3:pixels."""
    head_depth: AtLeast0 = 4
    """Convolutions in the towers of heads fcos and retinanet, before the final ones."""
    pyramid_stride: AtLeast1 | None = None
    """Stride of the finest map of heads fcos and retinanet. None: 8, or half the network's stride if that is less.

    Half the network's stride applies where that stride is below 16. Small objects need a fine map: an object smaller
    than the stride may have no position in its middle.
    """
    pyramid_extra: AtLeast0 = 0
    """Extra maps of heads fcos and retinanet beyond the last stage, each of twice the stride. The papers have 2."""
    head_dropout: BelowOne = 0.0
    """Dropout rate before the classifier."""
    drop_path: BelowOne = 0.0
    """Stochastic depth: drop rate of the last block. It falls linearly to 0 at the first block, as in timm.

    (In the paper, arXiv 1603.09382, eq. 4, the rates of L blocks are 1/L, 2/L, ... of the last, so none is 0.)
    """
    head_pool: choices.HeadPoolChoice = "mean"
    """Global pooling before the classifier: mean or max over all positions."""
    activation: choices.ActivationChoice = "relu"
    """Activation, used in the stem too. gelu is the tanh approximation, gelu_erf PyTorch's default.

    A name in :data:`resnet_jax.models.activation.ACTIVATIONS`.
    """
    init: choices.InitChoice = "kaiming_normal"
    """Initializer of the convolutions. kaiming_normal and kaiming_uniform use the fan-out; dirac is the identity.

    A name in :data:`resnet_jax.models.init.INITIALIZERS`.
    """
    head_init: choices.InitChoice | None = None
    """Initializer of the classifier's kernel. None: zeros for Fixup and SkipInit, otherwise torch_uniform.

    The classifier's bias starts at 0.
    """
    logit_scale: Positive = 1.0
    """Factor on the logits. Values around 1/9 suit short training (Page 2018)."""
    num_classes: AtLeast0 = 1000
    """Outputs of the classifier. With 0 there is no classifier and the network returns the pooled features."""
    in_channels: AtLeast1 = 3
    """Number of input channels."""
    spatial_dims: choices.SpatialDimsChoice = 2
    """Spatial dimensions of the input (N, *spatial, C). Images have 2."""
    execution: Annotated[choices.ExecutionChoice, SAME_RESULT] = "auto"
    """How to compile equal blocks: unroll, scan (a loop, so that compile time does not grow with depth) or auto.

    ``unroll`` writes the blocks one after another into the program. ``scan`` puts all blocks of a stage but the first,
    which are equal, into a loop. ``auto`` scans from 8 equal blocks on. The numbers are the same up to rounding and the
    files are identical; in memory a scanned stage is stacked (:mod:`resnet_jax.models.layout`).
    """
    remat: Annotated[choices.RematChoice, SAME_RESULT] = "none"
    """What the backward pass recomputes to save memory: none, block (everything) or conv (all but convolutions).

    The numbers are the same.
    """
    dtype: choices.DtypeChoice = "float32"
    """Dtype of the computation. Statistics, pooled features and logits are always float32 or wider.

    float16 trains with a loss scale. float64 needs JAX_ENABLE_X64=1 in the environment.
    """
    param_dtype: choices.ParamDtypeChoice = "float32"
    """Dtype of the parameters."""
    axis_name: Annotated[str | None, NOT_AN_OPTION] = None
    """Mapped axis for batch statistics under pmap or shard_map; None under jit."""

    def __post_init__(self):
        """Normalize dtypes to their names and check every field. Raises UsageError with a way to fix it."""
        for name in ("dtype", "param_dtype"):
            object.__setattr__(self, name, dtype_name(name, getattr(self, name)))
        for name in ("stage_sizes", "widths", "branch_widths", "head_outputs"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_fields(self)
        if "float64" in (self.dtype, self.param_dtype) and not _computes_in_float64():
            raise UsageError(
                "float64 needs JAX_ENABLE_X64=1 in the environment, or jax.config.update('jax_enable_x64', True) "
                "first; else JAX computes in float32"
            )
        check_stages(self)
        check_combination(self)

    def on_devices(self, devices: int) -> ResNetConfig:
        """Return this network as it trains on so many devices, which batch norm over devices needs to know.

        Raises:
            UsageError: the devices cannot be divided into groups of ``norm_group_devices``.
        """
        if self.norm_scope not in ("device", "device_group"):
            return self
        size = self.norm_group_devices
        if size is not None and devices % size:
            raise UsageError(
                f"norm_scope device_group with norm_group_devices {size} needs groups of {size} devices, and there are "
                f"{devices}: use a divisor of {devices}, or norm_scope ghost, whose groups of ghost_size examples are "
                "the same on any devices"
            )
        return dataclasses.replace(self, norm_devices=devices)

    @property
    def expansion(self) -> int:
        """Output channels of a block, as a multiple of its stage's width."""
        return BLOCKS[self.block].expansion

    @property
    def stem_stride(self) -> int:
        """Stride of the stem: input pixels per output position along one side."""
        return {"cifar": 1, "whiten": 1, "none": 1, "waveform": 16}.get(self.stem, 4)

    @property
    def own_stride(self) -> int:
        """Stride of the last stage without ``output_stride``: input pixels per output position along one side."""
        halvings = {"none": 0, "stride": len(self.stage_sizes) - 1, "conv_pool": len(self.stage_sizes)}
        return self.stem_stride * 2 ** halvings[self.transition]

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
    def head_dtype(self) -> np.dtype:
        """Dtype of pooled features and logits: never narrower than float32."""
        from resnet_jax.ops import at_least_float32

        return at_least_float32(self.dtype)


def dtype_name(field: str, value: Any) -> str:
    """Return the name of a dtype that is given as a name or an object.

    Raises:
        UsageError: it is not a known dtype.

    >>> import jax.numpy as jnp
    >>> dtype_name("dtype", jnp.bfloat16)
    'bfloat16'
    """
    if isinstance(value, str) and value in CHOICES[field]:  # a name needs no JAX
        return value
    import jax.numpy as jnp

    try:
        return jnp.dtype(value).name
    except TypeError:
        raise unknown(field, value, CHOICES[field]) from None


def _computes_in_float64() -> bool:
    import jax

    return jax.config.read("jax_enable_x64")
