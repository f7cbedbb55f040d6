"""Residual blocks: ``y = act(skip + branch)`` in post-activation order, ``y = skip + branch`` in pre-activation order.

A block consists of three submodules, so that each can be addressed by name: ``preact`` (pre-activation order only),
``branch`` (F, exactly what is added to the skip, including its scalars and stochastic depth) and ``shortcut``.
"""

from __future__ import annotations

from typing import assert_never

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.fields import is_on
from resnet_jax.models import layers
from resnet_jax.models.attention import EfficientChannelAttention, SqueezeExcite
from resnet_jax.models.branches import branch_convs
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.dropout import Dropout
from resnet_jax.models.plan import BlockInputs, BlockSpec, projects


def dilated_mean_2(x: Float[Array, "n *spatial c"], distance: int) -> Float[Array, "n *spatial c"]:
    """Mean of each position and the one ``distance`` after it along every dimension, using only positions that exist.

    For ``distance`` 1, every second position equals :func:`resnet_jax.ops.mean_pool_2`.

    >>> dilated_mean_2(jnp.arange(3.0).reshape(1, 3, 1), 1).ravel().tolist()
    [0.5, 1.5, 2.0]
    """
    for axis in range(1, x.ndim - 1):
        size = x.shape[axis]
        after = jnp.take(x, jnp.minimum(jnp.arange(size) + distance, size), axis, mode="fill", fill_value=0)
        count = jnp.where(jnp.arange(size) + distance < size, 2, 1).astype(x.dtype)
        x = (x + after) / count.reshape(-1, *(1,) * (x.ndim - 1 - axis))[(None,) * axis]
    return x


class PreActivation(nn.Module):
    """Norm and activation before the branch and a projection (arXiv 1603.05027, fig. 4e)."""

    config: ResNetConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *spatial c"], *, train: bool, beta: float | Float[Array, ""]
    ) -> Float[Array, "n *spatial c"]:
        """Return ``act(norm(x))``, or ``act(x) * beta`` under the NF rules."""
        x = layers.norm_and_activate(self.config, x, name="norm", train=train, after_conv=False)
        return x * beta if self.config.is_nf else x


class Shortcut(nn.Module):
    """The skip path. A projection sees the input of the branch; the identity and option A see that of the block."""

    config: ResNetConfig
    block: BlockSpec

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *spatial c"], seen: Float[Array, "n *spatial c"], *, train: bool
    ) -> Float[Array, "n *out f"]:
        """Return the skip in the shape of the branch.

        Args:
            x: the input of the block.
            seen: the input of the branch: ``x``, or ``x`` after norm and activation.
            train: the mode of the norm.
        """
        config, block = self.config, self.block
        if projects(config, block):
            strides = block.strides
            if config.shortcut == "D" and strides == 2:
                seen, strides = ops.mean_pool_2(seen), 1
            elif config.shortcut == "D" and block.undone == 2:
                seen = dilated_mean_2(seen, block.dilation_in)
            normed = not config.is_pre  # projections have no norm of their own in pre-activation order
            finish = layers.Finish() if layers.finishes(self, config, train=train) else None
            y = layers.conv(config, block.features, 1, strides, name="conv", before_norm=normed)(seen, finish)
            return layers.norm(config, name="norm")(y, train=train) if normed else y
        if block.changes_shape:
            # Fixup's code also shifts the input of a shortcut that changes shape
            source = seen if config.residual == "fixup" else x
            return ops.subsample_and_pad(
                source, stride=block.strides, features=block.features, both_sides=config.shortcut == "A"
            )
        if config.shortcut == "B_norm":
            return layers.norm(config, name="norm", after_conv=False)(x, train=train)
        return x


class Branch(nn.Module):
    """F(x): convolutions with norm, activation and the additions of the residual rule."""

    config: ResNetConfig
    block: BlockSpec

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *spatial c"], *, train: bool, varying: BlockInputs, finish: layers.Finish | None = None
    ) -> Float[Array, "n *out f"]:
        """Return F(x), ready to be added to the skip. In pre-activation order ``x`` is already normalized and
        activated.

        Args:
            x: the input.
            train: the mode of norm and dropout.
            varying: the inputs that differ from block to block.
            finish: in a network for inference, what the last convolution does to F(x); the result is then that of the
                whole block.
        """
        config = self.config
        keys = self._keys(varying) if train and (is_on(config.dropout) or is_on(self.block.drop_rate)) else None
        convs = branch_convs(config, self.block)
        fixup, count = config.residual == "fixup", len(convs)
        # Fixup (arXiv 1901.09321, section 3.1): scale all but the last of m by L^(-1 / (2m - 2)); the last one is zero
        shrink = config.num_blocks ** (-1.0 / (2 * count - 2)) if fixup else 1.0
        for number, spec in enumerate(convs, start=1):
            first, last = number == 1, number == count
            if config.is_pre and not first and finish is None:
                x = layers.norm_and_activate(config, x, name=f"norm{number}", train=train)
            if fixup and not first:
                x = x + layers.scalar(self, config, f"bias{number}a", nn.initializers.zeros)
            if last and is_on(config.dropout):
                x = Dropout(config.dropout, deterministic=not train, name="dropout")(
                    x, rng=None if keys is None else keys[0]
                )
            x = layers.conv(
                config, spec.features, spec.kernel_size, spec.strides, name=f"conv{number}", groups=spec.groups,
                dilation=spec.dilation, before_norm=not (config.is_pre and last),
                init_scale=0.0 if fixup and last else shrink,
            )(x, finish if finish is None or last else layers.Finish(relu=True))  # fmt: skip
            if finish is not None:
                continue
            if fixup:
                if last:
                    x = x * layers.scalar(self, config, "scale", nn.initializers.ones)
                x = x + layers.scalar(self, config, f"bias{number}b", nn.initializers.zeros)
            if not config.is_pre and last:
                x = layers.norm(config, name=f"norm{number}", last_of_branch=True)(x, train=train)
            elif not config.is_pre:
                x = layers.norm_and_activate(config, x, name=f"norm{number}", train=train)
        x = self._finish(x)
        return ops.drop_path(keys[1], x, varying.drop_rate) if keys is not None and is_on(self.block.drop_rate) else x

    def _keys(self, varying: BlockInputs) -> Array:
        """Return one key for dropout and one for stochastic depth."""
        return jax.random.split(self.make_rng("dropout") if varying.key is None else varying.key)

    def _finish(self, x: Array) -> Array:
        """Apply attention and the residual rule's scalar."""
        config = self.config
        match config.attention:
            case "none":
                pass
            case "se":
                x = SqueezeExcite(config, name="se")(x)
            case "eca":
                x = EfficientChannelAttention(config, name="eca")(x)
            case _:
                assert_never(config.attention)
        if config.attention != "none" and config.is_nf:
            x = x * 2.0
        match config.residual:
            case "skipinit" | "rezero" | "nf_gain":
                x = x * layers.scalar(self, config, "gain", nn.initializers.zeros)
            case "plain" | "zero_gamma" | "fixup" | "nf":
                pass
            case _:
                assert_never(config.residual)
        return x * config.alpha if config.is_nf else x


class Block(nn.Module):
    """One residual unit."""

    config: ResNetConfig
    block: BlockSpec

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *spatial c"], *, train: bool, varying: BlockInputs | None = None
    ) -> Float[Array, "n *out f"]:
        """Return the sum of skip and branch, activated in post-activation order.

        Args:
            x: the input.
            train: the mode of norm and dropout.
            varying: the inputs that differ from block to block; None takes them from the block's plan.
        """
        config, seen = self.config, x
        varying = BlockInputs.of(self.block, None) if varying is None else varying
        if config.is_pre:
            seen = PreActivation(config, name="preact")(x, train=train, beta=varying.beta)
        elif config.residual == "fixup":
            seen = x + layers.scalar(self, config, "bias1a", nn.initializers.zeros)
        branch = Branch(config, self.block, name="branch")
        if layers.finishes(self, config, train=train):
            skip = None
            if config.shortcut != "none":
                skip = Shortcut(config, self.block, name="shortcut")(x, seen, train=train)
            return branch(seen, train=train, varying=varying, finish=layers.Finish(skip, relu=not config.is_pre))
        y = branch(seen, train=train, varying=varying)
        if config.shortcut != "none":
            y = Shortcut(config, self.block, name="shortcut")(x, seen, train=train) + y
        return y if config.is_pre else layers.activate(config, y)
