"""What is measured: a network, a batch and how it is computed; and the same network in terms of other frameworks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, check_fields
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.rows import MODELS
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runtime.forms import FormsChoice
from resnet_jax.training.options import PlacementChoice


@dataclasses.dataclass(frozen=True)
class Workload:
    """One step of one network.

    Attributes:
        model: the network. If its dtype is not set, it is bfloat16 on an accelerator and float32 on the CPU.
        batch: images per step, on all devices together.
        mode: ``train``, or ``infer``: the forward pass in evaluation mode, with batch norm folded.
        image_size: side in pixels; None for the network's own.
        steps_per_dispatch: train steps inside one compiled call.
        accumulate: micro-batches per train step.
        placement: placement of the state on several devices, as ``train.placement``.
        fsdp_devices: number of devices to shard it over, as ``train.fsdp_devices``.
        forms: how operations are computed, as ``train.forms``.
    """

    model: ModelSpec
    batch: AtLeast1
    mode: Literal["train", "infer"] = "train"
    image_size: AtLeast1 | None = None
    steps_per_dispatch: AtLeast1 = 1
    accumulate: AtLeast1 = 1
    placement: PlacementChoice = "replicated"
    fsdp_devices: AtLeast1 | None = None
    forms: FormsChoice = "auto"

    def __post_init__(self):
        """Check the numbers; raises UsageError."""
        check_fields(self)
        if self.mode == "infer" and self.steps_per_dispatch > 1:
            raise UsageError("several steps in one dispatch are for training: inference has no state to hand on")

    def network(self) -> ResNet:
        """Build the network.

        Raises:
            UsageError: for an unknown name, or incompatible choices.
        """
        return ResNet(self.model.config())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for another process."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Workload:
        """Return what :meth:`to_dict` wrote."""
        return cls(**{**raw, "model": ModelSpec.from_dict(raw["model"])})

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        config = self.model.config()
        side = MODELS[self.model.name].image_size if self.image_size is None else self.image_size
        return (side,) * config.spatial_dims + (config.in_channels,)


#: Choices that the networks of the other frameworks support too.
SHARED = ("stage_sizes", "widths", "block", "stem", "shortcut", "stride_in", "num_classes", "in_channels")
#: Choices that change neither the arithmetic nor the number of parameters of such a network.
FREE = (
    *("init", "head_init", "norm_momentum", "norm_running_variance", "norm_eps", "dtype", "execution", "remat"),
    *(
        "norm_groups",
        "ghost_size",
        "norm_group_devices",
        "norm_devices",
        "alpha",
        "ws_eps",
        "se_ratio",
        "se_divisor",
        "axis_name",
    ),
)


def peer_network(config: ResNetConfig) -> dict[str, Any]:
    """Return the network as arguments for the other frameworks' side, or reject it.

    They build what He et al. (2016) describe: basic blocks and bottlenecks in post-activation order with batch norm,
    the CIFAR and the ImageNet stem, shortcuts A and B; in float32 or bfloat16.

    Raises:
        UsageError: for choices that they do not support; lists them.

    >>> peer_network(ResNetConfig((3, 3, 3), (16, 32, 64), stem="cifar", shortcut="A", num_classes=10))["shortcut"]
    'A'
    """
    plain = ResNetConfig(config.stage_sizes, config.widths)
    covered = {
        "stem": ("cifar", "imagenet"),
        "block": ("basic", "bottleneck"),
        "shortcut": ("A", "A_end", "B"),
        "dtype": ("float32", "bfloat16"),
    }
    other = [name for name, values in covered.items() if getattr(config, name) not in values]
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        start_only = name == "residual" and value == "zero_gamma"
        if name not in (*SHARED, *FREE) and value != getattr(plain, name) and not start_only:
            other.append(name)
    if other:
        listed = ", ".join(f"{name} {getattr(config, name)}" for name in other)
        raise UsageError(
            "a comparison is of ResNets v1 and v1.5 with basic or bottleneck blocks, batch norm, the cifar or "
            f"imagenet stem, shortcuts A or B, in float32 or bfloat16; this network has {listed}"
        )
    return {name: getattr(config, name) for name in SHARED}
