"""The orthogonal choices a residual network is assembled from, validated once."""

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
    """What makes one residual network differ from another. Each field can be changed alone.

    The first paragraph under a field is also its help on the command line.
    """

    stage_sizes: tuple[AtLeast1, ...]
    """Residual blocks per stage. Stages after the first begin with stride 2."""
    widths: tuple[AtLeast1, ...] = (64, 128, 256, 512)
    """Base width of each stage; a bottleneck puts out four times as many channels."""
    block: Annotated[choices.BlockChoice, MoreOf(BLOCKS)] = "basic"
    """basic (two 3x3), bottleneck (1x1, 3x3, 1x1; He et al. 2016, fig. 5), single (one 3x3) or series (8, 5, 3).

    ``series``: three convolutions of windows 8, 5 and 3 (Wang et al. 2017, arXiv 1611.06455), for time series.
    """
    order: choices.OrderChoice | None = None
    """post: conv, norm, activation (v1); pre: norm, activation, conv (v2). None: pre for the NF rules, else post.

    ``post`` has an activation after the sum (arXiv 1512.03385), ``pre`` nothing (arXiv 1603.05027, fig. 4e).
    """
    frontend: choices.FrontendChoice = "none"
    """What is done to an input before the stem: none, standardize (each), log_mel (sounds) or one_hot (texts).

    It has no parameters (:mod:`resnet_jax.models.frontend`). ``standardize``: every channel of an example to mean 0 and
    deviation 1 over its positions, which is the z-normalization of the UCR archive. ``log_mel``: of signals, (N, L, C),
    log-mel spectrograms (N, time, bands, C), standardized; the network is then one for images, and ``spatial_dims``,
    that of the input, stays 1. ``one_hot``: of whole numbers, (N, *spatial, 1), ``symbols`` channels of zeros and a
    one; a convolution of them is an embedding of the symbols and their neighbours.
    """
    symbols: AtLeast1 = 275
    """frontend one_hot: how many numbers there are, from 0 on; the characters of source text are 275."""
    mel_rate: AtLeast1 = 16_000
    """frontend log_mel: samples a second."""
    mel_window: AtLeast1 = 400
    """frontend log_mel: samples of a window (Hann), which is padded with zeros to the next power of 2."""
    mel_hop: AtLeast1 = 160
    """frontend log_mel: samples from one window to the next."""
    mel_bands: AtLeast1 = 64
    """frontend log_mel: triangular filters, equally wide on the mel scale (HTK), from 0 to half the rate."""
    mel_time_mask: AtLeast0 = 0
    """frontend log_mel: in training, a span of at most so many windows becomes the mean (SpecAugment); 0 for none."""
    mel_band_mask: AtLeast0 = 0
    """frontend log_mel: in training, at most so many neighbouring bands become the mean (SpecAugment); 0 for none."""
    stem: choices.StemChoice = "imagenet"
    """imagenet (7x7 stride 2, pool), cifar (3x3), whiten (PCA), waveform, none, deep, deep_tiered or deep_wide.

    The deep stems are three 3x3, the first of stride 2, and a pool. Their widths: ``deep`` 32-32-64 (ResNet-C/D, arXiv
    1812.01187), ``deep_tiered`` 24-32-64, ``deep_wide`` 64-64-128.
    ``whiten``: a convolution of stride 1 whose kernel is never trained, with a bias and the activation and no norm. Its
    filters are the eigenvectors of the patches of training images over the root of their eigenvalues, and the negative
    of each (Page 2018; arXiv 2404.00498, section 3.1): a run computes them before its first step
    (:mod:`resnet_jax.models.whitening`), a network by itself starts with random ones.
    ``waveform``: of sounds: 80 samples wide, stride 4, and the maximum of 4 (arXiv 1610.00087, table 1). ``none``: the
    first block sees the input itself (arXiv 1611.06455).
    """
    stem_width: AtLeast1 | None = None
    """Channels the stem is built on; None takes the first of widths. (Those of stem whiten follow from its patches.)"""
    stem_pool: choices.StemPoolChoice = "max"
    """max: 3x3 stride 2; zero_max: the same over zero padding (BiT); conv: a 3x3 convolution of stride 2 in its place.

    ``conv`` is that of ResNet-RS (arXiv 2103.07579).
    """
    whiten_window: AtLeast1 = 2
    """Side of the patches of stem whiten; it has 2 * window^2 * in_channels filters, for images."""
    transition: choices.TransitionChoice = "stride"
    """How stages shrink the map: stride (first block from stage 2 on), conv_pool (at the start of each) or none.

    ``conv_pool``: every stage, the first too, begins with a 3x3 convolution to its width, the maximum over windows of
    2x2, a norm and the activation; its blocks keep the shape (the ResNet-9 of Page 2018; arXiv 2404.00498). ``none``:
    all stages have the resolution of the stem.
    """
    shortcut: choices.ShortcutChoice = "B"
    """A or A_end (identity and zeros), B (1x1 where the shape changes), B_norm, C (always 1x1), D (mean, 1x1), none.

    ``A`` puts the zero channels on both sides where the identity grows, ``A_end`` all of them behind; ``B`` and ``C``:
    arXiv 1512.03385, section 4.1; ``D``: as B with a 2x2 mean before it instead of its stride (arXiv 1812.01187);
    ``B_norm``: as B, with a norm where it is the identity (hfawaz/dl-4-tsc); ``none``: no skip, the plain net.
    """
    stride_in: choices.StrideInChoice = "3x3"
    """Which convolution of a bottleneck strides: 3x3 is "v1.5" (torchvision), 1x1 the original."""
    output_stride: choices.OutputStrideChoice | None = None
    """Input pixels a side of a position of the last stage: later stages dilate instead of striding. None: its own.

    It is less than the network's own (32 with four stages and a stem that pools; 2 more for each stage). Later stages
    then do not stride; their convolutions are dilated (a trous, arXiv 1606.00915). Of the first block of such a stage
    the convolution that strode keeps the dilation of the stage before, and those after it take the new one, twice
    that: for bottlenecks that stride in the 3x3 this is torchvision's ``replace_stride_with_dilation``, for basic
    blocks timm's ``output_stride``. Shortcut D averages the positions it averaged. So every ``r``-th position of a
    stage is what the network's own has, r the stride left out, where no layer looks at all positions (norms of running
    averages, no squeeze-and-excitation). Parameters are the same.
    """
    groups: AtLeast1 = 1
    """Channel groups of a bottleneck's 3x3, the cardinality of ResNeXt (arXiv 1611.05431)."""
    base_width: AtLeast1 = 64
    """A bottleneck is int(width * base_width / 64) * groups channels wide inside."""
    branch_widths: tuple[AtLeast1, ...] = ()
    """Channels within each block's branch, block after block; empty: as the width of its stage says.

    One number for every convolution of a branch but its last: one a ``basic`` block, two a ``bottleneck``. Networks
    whose channels were pruned have them (``resnet-jax prune``). Blocks that differ are computed one after the other,
    whatever ``execution`` is.
    """
    norm: Annotated[choices.NormChoice, MoreOf(NORMS)] = "batch"
    """batch, group (arXiv 1803.08494), layer (one group), instance (a group per channel), none, or folded.

    ``folded``: batch norms became biases, for inference (:func:`resnet_jax.weights.fold`).
    """
    norm_eps: Positive = 1e-5
    """Added to the variance."""
    norm_momentum: BelowOne = 0.9
    """Weight of the old running average."""
    norm_running_variance: choices.RunningVarianceChoice = "biased"
    """Batch norm's running variance: biased (that of the batch), or unbiased as PyTorch's, n / (n - 1) times that.

    n values a channel in the batch. Training normalizes by the biased one in either case.
    """
    norm_groups: AtLeast1 = 32
    """Groups of norm group; must divide every width."""
    norm_scope: choices.NormScopeChoice = "global"
    """Whose statistics batch norm trains with: global, device_group, device, ghost or frozen.

    ``global``: all examples of the batch, on all devices; ``device_group``: those of ``norm_group_devices`` consecutive
    devices, which alone exchange them, the usual choice on pods; ``device``: those of one device; ``ghost``: groups of
    ``ghost_size`` (arXiv 1705.08741); ``frozen``: the running averages, which then never move.
    """
    ghost_size: AtLeast1 | None = None
    """Examples per ghost batch."""
    norm_group_devices: AtLeast1 | None = None
    """Devices per group of norm_scope device_group; must divide the devices that train."""
    norm_devices: Annotated[AtLeast1, NOT_AN_OPTION] = 1
    """Devices the batch is sharded over under jit, for the scopes device and device_group. Under pmap or shard_map
    axis_name tells."""
    residual: choices.ResidualChoice = "plain"
    """How the branch meets the skip: plain sum, zero_gamma, skipinit, rezero, fixup, nf or nf_gain.

    ``zero_gamma`` starts the branch's last norm scale at 0 (Goyal et al. 2017). ``skipinit`` (arXiv 2002.10444) and
    ``rezero`` (arXiv 2003.04887) multiply the branch by a scalar that starts at 0; they differ in what surrounds it
    (``conv_bias``, ``head_init``). ``fixup`` (arXiv 1901.09321): init scaled by depth, scalar biases and scales. ``nf``
    (arXiv 2101.08692): known variances divided out; ``nf_gain`` with a SkipInit scalar besides.
    """
    alpha: Positive = 0.2
    """Growth of the NF rules: every block adds alpha^2 to the variance."""
    weight_standardization: choices.StandardizationChoice | None = None
    """none, standard (arXiv 1903.10520) or scaled (by 1/sqrt(fan-in) and a gain). None: scaled for the NF rules.

    ``scaled``: arXiv 2101.08692, eq. 1. None is ``none`` without an NF rule.
    """
    ws_eps: Positive = 1e-6
    """Added to the variance of the weights."""
    conv_bias: bool | None = None
    """A bias in every convolution. None: for the NF rules, and for SkipInit without norm."""
    attention: choices.AttentionChoice = "none"
    """none, se (squeeze-and-excitation, arXiv 1709.01507) or eca (arXiv 1910.03151) on the branch.

    The NF rules double its output.
    """
    se_ratio: Positive = 1 / 16
    """Hidden over outer channels of squeeze-and-excitation."""
    se_divisor: AtLeast1 = 8
    """Its hidden channels are rounded to a multiple of it (8 is timm's habit, 1 the paper)."""
    dropout: BelowOne = 0.0
    """Rate before the branch's last convolution (wide ResNets, arXiv 1605.07146)."""
    head: Annotated[choices.HeadChoice, MoreOf(HEADS)] = "classifier"
    """What makes outputs of the maps: classifier (linear, of their mean), or what the task is about.

    Heads for pixels, boxes and several tasks are in :mod:`resnet_jax.models.heads`; a task takes the first of its own.
    """
    head_width: AtLeast1 = 128
    """Channels of the convolutions that a head other than classifier has of its own."""
    head_outputs: Annotated[tuple[str, ...], NOT_AN_OPTION] = ()
    """Names and numbers of the outputs of the heads several and several_uncertain: digit:10, segmentation:3:pixels."""
    head_depth: AtLeast0 = 4
    """Convolutions of the towers of heads fcos and retinanet, before their last ones."""
    pyramid_stride: AtLeast1 | None = None
    """Pixels between positions of the finest map of heads fcos and retinanet; None: 8, or half a smaller stride.

    Half the network's own stride, where that is below 16. Small objects need a fine map: one that is smaller than the
    stride may have no position in its middle.
    """
    pyramid_extra: AtLeast0 = 0
    """Maps of heads fcos and retinanet beyond the last stage's, each of twice the stride; the papers have 2."""
    head_dropout: BelowOne = 0.0
    """Rate before the classifier."""
    drop_path: BelowOne = 0.0
    """Stochastic depth: rate of the last block, falling linearly to 0 at the first, as in timm.

    (Where it was published, arXiv 1603.09382, eq. 4, the rates of L blocks are 1/L, 2/L, ... of the last: none is 0.)
    """
    head_pool: choices.HeadPoolChoice = "mean"
    """mean or max over all positions."""
    activation: choices.ActivationChoice = "relu"
    """Used everywhere, the stem included; gelu is its tanh form, gelu_erf PyTorch's default.

    A name in :data:`resnet_jax.models.activation.ACTIVATIONS`.
    """
    init: choices.InitChoice = "kaiming_normal"
    """Initializer of the convolutions; kaiming_normal and kaiming_uniform are of the fan-out, dirac is the identity.

    A name in :data:`resnet_jax.models.init.INITIALIZERS`.
    """
    head_init: choices.InitChoice | None = None
    """Initializer of the classifier's kernel. None: zeros for Fixup and SkipInit, else torch_uniform.

    The classifier's bias starts at 0.
    """
    logit_scale: Positive = 1.0
    """Factor on the logits; 1/9 and thereabouts where training is short (Page 2018)."""
    num_classes: AtLeast0 = 1000
    """Outputs of the classifier; 0 leaves it out, and the network returns the pooled features."""
    in_channels: AtLeast1 = 3
    """Channels of the input."""
    spatial_dims: choices.SpatialDimsChoice = 2
    """Spatial dimensions of the input, (N, *spatial, C); images have 2."""
    execution: Annotated[choices.ExecutionChoice, SAME_RESULT] = "auto"
    """How equal blocks are computed: unroll, or scan (in a loop: compile time does not grow with depth), or auto.

    ``unroll`` has one after the other in the program's text; ``scan`` all but the first of a stage, which are equal, in
    a loop; ``auto`` scans 8 equal blocks or more. The numbers are the same up to rounding, and files are the same; in
    memory a scanned stage is stacked (:mod:`resnet_jax.models.layout`).
    """
    remat: Annotated[choices.RematChoice, SAME_RESULT] = "none"
    """What the backward pass computes again to save memory: none, block (all of it), conv (all but convolutions).

    The numbers are the same.
    """
    dtype: choices.DtypeChoice = "float32"
    """Dtype of the computation. Statistics, pooled features and logits are float32 or wider in any case.

    float16 trains with a loss scale. float64 needs JAX_ENABLE_X64=1 in the environment.
    """
    param_dtype: choices.ParamDtypeChoice = "float32"
    """Dtype of the parameters."""
    axis_name: Annotated[str | None, NOT_AN_OPTION] = None
    """Mapped axis for the batch statistics under pmap or shard_map; None under jit."""

    def __post_init__(self):
        """Normalize dtypes to their names and check every field; raises UsageError with the way out."""
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
        """Return the network as it trains on so many devices: batch norm of devices, or groups of them, knows them.

        Raises:
            UsageError: they cannot be cut into groups of ``norm_group_devices``.
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
        """Channels a block puts out, as a multiple of its stage's width."""
        return BLOCKS[self.block].expansion

    @property
    def stem_stride(self) -> int:
        """Pixels of the input along one side of a position that the stem gives."""
        return {"cifar": 1, "whiten": 1, "none": 1, "waveform": 16}.get(self.stem, 4)

    @property
    def own_stride(self) -> int:
        """Pixels of the input along one side of a position of the last stage's output, without ``output_stride``."""
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
        UsageError: it is none.

    >>> import jax.numpy as jnp
    >>> dtype_name("dtype", jnp.bfloat16)
    'bfloat16'
    """
    if isinstance(value, str) and value in CHOICES[field]:  # which is no reason to load JAX
        return value
    import jax.numpy as jnp

    try:
        return jnp.dtype(value).name
    except TypeError:
        raise unknown(field, value, CHOICES[field]) from None


def _computes_in_float64() -> bool:
    import jax

    return jax.config.read("jax_enable_x64")
