"""The values of each choice of a network, one ``Literal`` each, for people, messages and type checkers."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict, get_args, get_origin, get_type_hints

import numpy as np

BlockChoice: TypeAlias = Literal["basic", "bottleneck", "single", "series"]
OrderChoice: TypeAlias = Literal["post", "pre"]
StemChoice: TypeAlias = Literal["cifar", "imagenet", "deep", "deep_tiered", "deep_wide", "whiten", "waveform", "none"]
FrontendChoice: TypeAlias = Literal["none", "standardize", "log_mel", "one_hot"]
StemPoolChoice: TypeAlias = Literal["max", "zero_max", "conv"]
TransitionChoice: TypeAlias = Literal["stride", "conv_pool", "none"]
ShortcutChoice: TypeAlias = Literal["A", "A_end", "B", "B_norm", "C", "D", "none"]
StrideInChoice: TypeAlias = Literal["3x3", "1x1"]
NormChoice: TypeAlias = Literal["batch", "group", "layer", "instance", "none", "folded"]
RunningVarianceChoice: TypeAlias = Literal["biased", "unbiased"]
NormScopeChoice: TypeAlias = Literal["global", "device_group", "device", "ghost", "frozen"]
ResidualChoice: TypeAlias = Literal["plain", "zero_gamma", "skipinit", "rezero", "fixup", "nf", "nf_gain"]
StandardizationChoice: TypeAlias = Literal["none", "standard", "scaled"]
AttentionChoice: TypeAlias = Literal["none", "se", "eca"]
HeadChoice: TypeAlias = Literal["classifier", "fcn", "aspp", "fpn", "several", "several_uncertain", "fcos", "retinanet"]
HeadPoolChoice: TypeAlias = Literal["mean", "max"]
ActivationChoice: TypeAlias = Literal["relu", "leaky_relu", "elu", "gelu", "gelu_erf", "silu", "tanh"]
InitChoice: TypeAlias = Literal[
    "kaiming_normal",
    "kaiming_uniform",
    "kaiming_normal_fan_in",
    "kaiming_uniform_fan_in",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "orthogonal",
    "dirac",
    "torch_uniform",
    "normal_0.01",
    "zeros",
]
ExecutionChoice: TypeAlias = Literal["auto", "unroll", "scan"]
RematChoice: TypeAlias = Literal["none", "block", "conv"]
DtypeChoice: TypeAlias = Literal["float32", "bfloat16", "float16", "float64"]
ParamDtypeChoice: TypeAlias = Literal["float32", "float64"]
OutputStrideChoice: TypeAlias = Literal[8, 16, 32]
SpatialDimsChoice: TypeAlias = Literal[1, 2, 3]


class ModelChoices(TypedDict, total=False):
    """The fields of :class:`resnet_jax.models.ResNetConfig` as keyword arguments; a dtype may be given as an object."""

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    block: BlockChoice
    order: OrderChoice | None
    frontend: FrontendChoice
    symbols: int
    mel_rate: int
    mel_window: int
    mel_hop: int
    mel_bands: int
    mel_time_mask: int
    mel_band_mask: int
    stem: StemChoice
    stem_width: int | None
    stem_pool: StemPoolChoice
    whiten_window: int
    transition: TransitionChoice
    shortcut: ShortcutChoice
    stride_in: StrideInChoice
    output_stride: OutputStrideChoice | None
    groups: int
    base_width: int
    branch_widths: tuple[int, ...]
    norm: NormChoice
    norm_eps: float
    norm_momentum: float
    norm_running_variance: RunningVarianceChoice
    norm_groups: int
    norm_scope: NormScopeChoice
    ghost_size: int | None
    norm_group_devices: int | None
    norm_devices: int
    residual: ResidualChoice
    alpha: float
    weight_standardization: StandardizationChoice | None
    ws_eps: float
    conv_bias: bool | None
    attention: AttentionChoice
    se_ratio: float
    se_divisor: int
    dropout: float
    head: HeadChoice
    head_width: int
    head_outputs: tuple[str, ...]
    head_depth: int
    pyramid_stride: int | None
    pyramid_extra: int
    head_dropout: float
    drop_path: float
    head_pool: HeadPoolChoice
    activation: ActivationChoice
    init: InitChoice
    head_init: InitChoice | None
    logit_scale: float
    num_classes: int
    in_channels: int
    spatial_dims: SpatialDimsChoice
    execution: ExecutionChoice
    remat: RematChoice
    dtype: DtypeChoice | type | np.dtype
    param_dtype: ParamDtypeChoice | type | np.dtype
    axis_name: str | None


def _names_in(hint: Any) -> tuple[str, ...]:
    """Return the names that a ``Literal``, or a ``Literal | None``, allows; empty for other annotations."""
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal and all(isinstance(value, str) for value in get_args(part)):
            return get_args(part)
    return ()


#: The names each choice allows, by field. Messages and tests read them from here.
CHOICES: dict[str, tuple[str, ...]] = {
    name: names for name, hint in get_type_hints(ModelChoices).items() if (names := _names_in(hint))
}
