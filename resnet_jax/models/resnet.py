"""The network: stem, stages of residual blocks, pooled features, classifier."""

from __future__ import annotations

from typing import Any, assert_never

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from resnet_jax import ops
from resnet_jax.errors import UsageError
from resnet_jax.fields import is_on
from resnet_jax.models import layers, layout, paths
from resnet_jax.models.block import Block
from resnet_jax.models.collections import BLOCK_AXES
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.dropout import Dropout
from resnet_jax.models.frontend import apply_frontend, masks_bands
from resnet_jax.models.heads.registry import make_head
from resnet_jax.models.init import initializer
from resnet_jax.models.plan import BlockInputs, BlockSpec, are_alike, plan_stages, stem_widths

_AXES = {1: "W", 2: "H, W", 3: "D, H, W"}


class Stem(nn.Module):
    """From the input to the first feature map, front end included. In order ``pre`` its last norm is that of the
    blocks.
    """

    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *out f"]:
        """Return the first feature map; one of its positions covers ``stem_stride`` positions of the input."""
        config = self.config
        if config.frontend != "none":
            x = apply_frontend(config, x, self.make_rng("dropout") if train and masks_bands(config) else None)
        x = x.astype(config.dtype)
        if config.stem == "none":
            return x
        widths = stem_widths(config)
        if config.stem == "whiten":
            return self._whitened(x, widths[0])
        single, finishes = len(widths) == 1, layers.finishes(self, config, train=train)
        for index, width in enumerate(widths):
            number = "" if single else str(index + 1)
            kernel_size, strides = self._window(index)
            bare = config.is_pre and index == len(widths) - 1
            finish = layers.Finish(relu=not bare) if finishes else None
            x = layers.conv(config, width, kernel_size, strides, name=f"conv{number}", before_norm=not bare)(x, finish)
            if config.residual == "fixup" and single:
                x = x + layers.scalar(self, config, "bias1", nn.initializers.zeros)
            if not bare and not finishes:
                x = layers.norm_and_activate(config, x, name=f"norm{number}", train=train)
        return self._pool(x, train)

    def _window(self, index: int) -> tuple[int, int]:
        """Return the window and stride of a convolution."""
        match self.config.stem:
            case "waveform":
                return 80, 4
            case "imagenet":
                return 7, 2
            case "cifar":
                return 3, 1
            case _:
                return 3, 2 if index == 0 else 1

    def _whitened(self, x: Array, width: int) -> Array:
        """Return whitened patches plus a bias. The kernel is random until :mod:`.whitening` sets it."""
        config = self.config
        x = layers.Conv(
            width, config.whiten_window, use_bias=True, kernel_init=initializer(config.init), dtype=config.dtype,
            param_dtype=config.param_dtype, fixed=True, name=paths.WHITEN,
        )(x)  # fmt: skip
        return x if config.is_pre else layers.activate(config, x)

    def _pool(self, x: Array, train: bool) -> Array:
        config = self.config
        if config.stem_stride == 1:
            return x
        if config.stem == "waveform":
            return ops.max_pool(x, window=4, stride=4, padding=0)
        match config.stem_pool:
            case "conv":
                x = layers.conv(config, x.shape[-1], 3, 2, name="pool_conv", before_norm=not config.is_pre)(x)
                if config.is_pre:
                    return x
                return layers.norm_and_activate(config, x, name="pool_norm", train=train)
            case "zero_max":
                x = jnp.pad(x, [(0, 0), *[(1, 1)] * (x.ndim - 2), (0, 0)])
                return ops.max_pool(x, window=3, stride=2, padding=0)
            case "max":
                return ops.max_pool(x, window=3, stride=2, padding=1)
            case _:
                assert_never(config.stem_pool)


#: What the backward pass may keep, by ``remat`` (except "none"). Convolution outputs are named in layers.Conv.
_KEPT = {"block": None, "conv": jax.checkpoint_policies.save_only_these_names(layers.CONV_OUTPUT)}


class Transition(nn.Module):
    """Start of a stage with ``transition="conv_pool"``: 3x3 convolution, 2x2 max pool, norm, activation.

    In pre-activation order, norm and activation are those of the blocks.
    """

    config: ResNetConfig
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Float[Array, "n *half f"]:
        """Return a map of half the side, rounded down."""
        config = self.config
        if min(x.shape[1:-1]) < 2:
            raise UsageError(
                f"transition conv_pool halves the map in each of {len(config.stage_sizes)} stages, and one of "
                f"{'x'.join(map(str, x.shape[1:-1]))} is left before {self.path[0]}: give larger inputs or fewer stages"
            )
        x = layers.conv(config, self.features, 3, name="conv")(x)
        x = ops.max_pool(x, window=2, stride=2, padding=0)
        return x if config.is_pre else layers.norm_and_activate(config, x, name="norm", train=train, after_conv=False)


class Stage(nn.Module):
    """Residual blocks of one width and resolution; only the first may change the shape."""

    config: ResNetConfig
    blocks: tuple[BlockSpec, ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *spatial c"], *, train: bool, key: Key[Array, ""] | None = None
    ) -> Float[Array, "n *out f"]:
        """Return the output of the last block.

        Args:
            x: the input.
            train: the mode of norm and dropout.
            key: PRNG key for what the network drops; None if nothing is dropped.
        """
        config = self.config

        def run(block: Block, x: Array, varying: BlockInputs) -> tuple[Array, None]:
            return block(x, train=train, varying=varying), None

        scanned = layout.stacks(config.execution, len(self.blocks)) and are_alike(self.blocks)
        if not self.is_initializing() and self.has_variable("params", paths.block_name(1) if scanned else layout.STACK):
            raise UsageError(
                f"{'/'.join(self.path)}: these variables are {'listed block by block' if scanned else 'stacked'}, and "
                f"execution {config.execution!r} of {len(self.blocks)} blocks needs the other layout: "
                f"resnet_jax.stack_blocks(variables, {config.execution!r}) brings them into it"
            )
        if config.transition == "conv_pool":
            x = Transition(config, self.blocks[0].in_features, name=paths.TRANSITION)(x, train=train)
        if config.remat != "none":
            # inside a loop nothing can undo remat; elsewhere the compiler would merge the common subexpressions
            run = nn.remat(run, prevent_cse=not scanned, policy=_KEPT[config.remat])
        for block in self.blocks[:1] if scanned else self.blocks:
            x, _ = run(Block(config, block, name=paths.block_name(block.index)), x, BlockInputs.of(block, key))
        if scanned:
            rest = self.blocks[1:]
            loop = nn.scan(
                run,
                length=len(rest),
                variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0, **BLOCK_AXES},
                split_rngs={"params": True, "dropout": True},
            )
            x, _ = loop(Block(config, rest[0], name=layout.STACK), x, BlockInputs.stacked(rest, key, config.dtype))
        return x


class ResNet(nn.Module):
    """A residual network as a pure function ``(variables, images) -> logits``: a backbone and a classifier.

    Variables are ``params`` and, with batch norm, ``batch_stats``. Paths look like ``stem/conv``,
    ``stage1/block0/branch/conv1``, ``stage2/block0/shortcut/conv`` and ``head``: stages count from 1, blocks from 0. In
    a scanned stage, all blocks after the first share one path ``stage1/blocks/...``, also in captured intermediates;
    ``unstack_blocks`` gives each its own (:mod:`resnet_jax.models.layout`).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = ResNet(ResNetConfig((1,), (8,), stem="cifar", num_classes=10))
        >>> variables = jax.jit(lambda k: model.init(k, jnp.zeros((1, 8, 8, 3)), train=False))(jax.random.key(0))
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> model.apply(variables, images, train=False).shape
        (2, 10)
        >>> logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        >>> sorted(updates)
        ['batch_stats']

        The backbone alone, with your own head:

        >>> maps = model.apply(variables, images, train=False, method="features")
        >>> {name: x.shape for name, x in maps.items()}["stage1"], maps["pooled"].shape
        ((2, 8, 8, 8), (2, 8))
        >>> class Segmenter(nn.Module):
        ...     backbone: ResNet
        ...     @nn.compact
        ...     def __call__(self, x, *, train):
        ...         x = self.backbone.features(x, train=train)["final"]
        ...         return nn.Conv(5, (1, 1), name="head")(x)
        >>> net = Segmenter(ResNet(ResNetConfig((1, 1), (8, 16), stem="cifar", num_classes=0)))
        >>> shapes = jax.eval_shape(lambda k: net.init(k, images, train=False), jax.random.key(0))
        >>> sorted(shapes["params"]), sorted(shapes["params"]["backbone"])
        (['backbone', 'head'], ['stage1', 'stage2', 'stem'])
    """

    config: ResNetConfig

    def setup(self) -> None:
        """Declare the head. The backbone is declared where :meth:`features` runs."""
        config = self.config
        if config.head != "classifier" and config.num_classes > 0:
            self.head: Any = make_head(config)
        elif config.num_classes > 0:
            self.head = layers.Head(
                config.num_classes,
                initializer(config.head_kernel_init),
                dtype=config.head_dtype,
                param_dtype=config.param_dtype,
                scale=config.logit_scale,
            )
            self.head_dropout = Dropout(config.head_dropout)

    def __call__(self, x: Float[Array, "n *spatial c"], *, train: bool) -> Any:
        """Return logits ``(N, num_classes)``, the outputs of another ``head``, or pooled features if ``num_classes`` is
        0.

        Args:
            x: normalized images ``(N, *spatial, in_channels)`` of any float dtype.
            train: use and update the batch statistics (apply with ``mutable=['batch_stats']``) and activate dropout and
                stochastic depth (pass ``rngs={'dropout': key}``).

        Raises:
            UsageError: the input's rank or channels do not match the network.
        """
        maps = self.features(x, train=train)
        pooled = maps["pooled"]
        if self.config.num_classes == 0:
            return pooled
        if self.config.head != "classifier":
            return self.head(maps, size=x.shape[1:-1], train=train)
        if is_on(self.config.head_dropout):
            pooled = self.head_dropout(pooled, deterministic=not train)
        return self.head(pooled)

    @nn.compact
    def features(self, x: Float[Array, "n *spatial c"], *, train: bool) -> dict[str, Array]:
        """Return the output of every part of the backbone, without the classifier.

        Call it as ``model.apply(variables, x, train=False, method="features")``, or as ``self.backbone.features(x,
        train=train)`` in a module of your own. Under ``jit``, outputs that you do not use are not computed.

        ==========================  ===============================================================================
        name                        what it is
        ==========================  ===============================================================================
        ``stem``                    output of the stem
        ``stage1`` to ``stage{S}``  output of each stage, ``(N, *spatial, C)``; in order ``pre`` the bare sums
        ``final``                   the input of the pool: the last stage's output, in order ``pre`` after the network's
                                    last norm and activation. This is the map for a head of your own
        ``pooled``                  its mean (or maximum, ``head_pool``) over all positions, ``(N, C)`` in float32 or
                                    wider; with Fixup plus its bias. The classifier's input, before dropout
        ==========================  ===============================================================================

        Maps have the network's ``dtype``. The stride of stage s is 4 x 2^(s - 1) pixels (2^(s - 1) with stem
        ``cifar``), and at most ``output_stride``.

        Args:
            x: normalized images, as for a call.
            train: as for a call.

        Raises:
            UsageError: the input's rank or channels do not match the network.
        """
        config = self.config
        if x.ndim != config.spatial_dims + 2:
            raise UsageError(
                f"expected images (N, {_AXES[config.spatial_dims]}, C), got shape {x.shape}: is the batch axis "
                f"missing? For other numbers of spatial dimensions pass spatial_dims to create_model"
            )
        if x.shape[-1] != config.in_channels:
            raise UsageError(
                f"the network takes {config.in_channels} channels in the last axis, got shape {x.shape}; "
                f"pass in_channels={x.shape[-1]} to create_model, or move the channels last"
            )
        key = self.make_rng("dropout") if train and (is_on(config.dropout) or is_on(config.drop_path)) else None
        x = Stem(config, name=paths.STEM)(x, train=train)
        maps = {"stem": x}
        for index, blocks in enumerate(plan_stages(config)):
            x = Stage(config, blocks, name=paths.stage_name(index))(x, train=train, key=key)
            maps[paths.stage_name(index)] = x
        if config.is_pre:
            x = layers.norm_and_activate(config, x, name="norm", train=train, after_conv=False)
        pooled = ops.global_max_pool(x) if config.head_pool == "max" else ops.global_mean_pool(x)
        if config.residual == "fixup":
            pooled = pooled + layers.scalar(self, config, "bias2", nn.initializers.zeros).astype(pooled.dtype)
        return {**maps, "final": x, "pooled": pooled}
