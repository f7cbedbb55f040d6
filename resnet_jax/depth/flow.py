"""A signal on its way through a block by the mean-field rules, with the way back for gradients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from resnet_jax.depth import mean_field as forward, mean_field_backward as backward
from resnet_jax.depth.mean_field import Signal
from resnet_jax.depth.mean_field_backward import Gradient
from resnet_jax.models.branches import branch_convs
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.plan import BlockSpec, projects

#: Residual rules whose branch is exactly 0 at initialization.
ZERO_BRANCH = ("zero_gamma", "skipinit", "rezero", "fixup", "nf_gain")


@dataclasses.dataclass(frozen=True)
class Flow:
    """A signal, and the function that takes a gradient with respect to it back to the start of the flow.

    Attributes:
        signal: statistics of the feature map.
        back: from the gradient with respect to ``signal`` to the one with respect to the start.
        batch: number of examples that a batch norm normalizes together; infinity is a large batch.
    """

    signal: Signal
    back: Callable[[Gradient], Gradient]
    batch: float = math.inf

    @classmethod
    def start(cls, signal: Signal, batch: float = math.inf) -> Flow:
        """Start at ``signal``."""
        return cls(signal, lambda g: g, batch)

    def then(self, signal: Signal, pull: Callable[[Gradient], Gradient]) -> Flow:
        """Continue to ``signal``; ``pull`` takes a gradient back over this step."""
        return dataclasses.replace(self, signal=signal, back=lambda g: self.back(pull(g)))


def through_block(config: ResNetConfig, block: BlockSpec, x: Flow, train: bool) -> Flow:
    """Propagate through one block."""
    seen = x
    if config.is_pre:
        seen = _scale(_activate(config, _norm(config, x, train)), block.beta)
    branch = _branch(config, block, seen, train)
    if config.shortcut == "none":
        return branch if config.is_pre else _activate(config, branch)
    if projects(config, block):
        y = _add(_projection(config, block, seen, train), branch)
        return y if config.is_pre else _activate(config, y)
    skip = _subsample_and_pad(x, block) if block.changes_shape else x
    if config.is_pre:
        return _add(skip, branch)
    return _rectified(skip) if config.residual in ZERO_BRANCH else _reflected_sum(skip, branch)


def _branch(config: ResNetConfig, block: BlockSpec, x: Flow, train: bool) -> Flow:
    """Propagate through a branch, including the residual rule's factor."""
    convs = branch_convs(config, block)
    for number, spec in enumerate(convs, start=1):
        if config.is_pre and number > 1:
            x = _activate(config, _norm(config, x, train))
        x = _conv(config, x, spec.features, spec.kernel_size, spec.strides, spec.groups, spec.dilation)
        if not config.is_pre:
            x = _norm(config, x, train)
            x = x if number == len(convs) else _activate(config, x)
    if config.attention != "none" and not config.is_nf:
        x = _scale(x, 0.5)  # the sigmoid of about 0; the NF rules double it
    if config.residual in ZERO_BRANCH:
        return _scale(x, 0.0)
    return _scale(x, config.alpha) if config.is_nf else x


def _projection(config: ResNetConfig, block: BlockSpec, seen: Flow, train: bool) -> Flow:
    """Propagate through a 1x1 projection; in post-activation order a norm follows."""
    y = _conv(config, seen, block.features, 1, block.strides)
    return y if config.is_pre else _norm(config, y, train)


# ---- layers -----------------------------------------------------------------------------------------------------


def _scale(x: Flow, factor: float) -> Flow:
    return x.then(forward.scale(x.signal, factor), lambda g: backward.scale(g, factor))


def _conv(
    config: ResNetConfig, x: Flow, features: int, kernel_size: int, strides: int, groups: int = 1, dilation: int = 1
) -> Flow:
    y = forward.conv(config, x.signal, features, kernel_size, strides, groups, dilation)
    return x.then(y, lambda g: backward.conv(config, x.signal, g, features, kernel_size, strides, groups, dilation))


def _norm(config: ResNetConfig, x: Flow, train: bool) -> Flow:
    y = forward.norm(config, x.signal, train)
    return x.then(y, lambda g: backward.norm(config, x.signal, g, train, x.batch))


def _activate(config: ResNetConfig, x: Flow) -> Flow:
    y = forward.activate(config, x.signal)
    return x.then(y, lambda g: backward.activate(config, x.signal, y, g))


def _subsample_and_pad(x: Flow, block: BlockSpec) -> Flow:
    y = forward.subsample_and_pad(x.signal, block)
    return x.then(y, lambda g: backward.subsample_and_pad(x.signal, block, g))


def _rectified(x: Flow) -> Flow:
    return x.then(x.signal, lambda g: backward.rectified(x.signal, g))


def _add(skip: Flow, branch: Flow) -> Flow:
    """Add two flows from the same start."""
    y = forward.add(skip.signal, branch.signal)

    def back(g: Gradient) -> Gradient:
        to_branch = backward.flat(y.over_channels(g.square), branch.signal)
        return backward.add(skip.back(g), branch.back(to_branch))

    return dataclasses.replace(skip, signal=y, back=back)


def _reflected_sum(skip: Flow, branch: Flow) -> Flow:
    y = forward.reflected_sum(skip.signal, branch.signal)

    def back(g: Gradient) -> Gradient:
        to_skip, to_branch = backward.reflected_sum(skip.signal, branch.signal, g)
        return backward.add(skip.back(to_skip), branch.back(to_branch))

    return dataclasses.replace(skip, signal=y, back=back)
