"""The plain Flax side of ``resnet-jax bench``: ResNet as in Flax's ImageNet example, nothing of this project's.

It uses ``nn.Conv`` (padding SAME), ``nn.BatchNorm``, ``jax.jit`` with default options and a donated state, and SGD with
momentum 0.9 and L2, with the last norm of each branch starting at zero, as a user of the example would. Inference runs
the network unchanged in evaluation mode, without folding. ``resnet_jax/bench/serve.py`` loads and times it.
"""

from __future__ import annotations

import importlib.metadata
import math
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn


class Block(nn.Module):
    """A basic block or a bottleneck."""

    network: dict[str, Any]
    width: int
    strides: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``relu(shortcut + branch)``."""
        bottleneck, strides = self.network["block"] == "bottleneck", (self.strides, self.strides)
        features = self.width * (4 if bottleneck else 1)
        if bottleneck:
            first, second = (strides, (1, 1)) if self.network["stride_in"] == "1x1" else ((1, 1), strides)
            y = nn.relu(self.norm()(self.conv(self.width, (1, 1), first)(x)))
            y = nn.relu(self.norm()(self.conv(self.width, (3, 3), second)(y)))
            y = self.conv(features, (1, 1))(y)
        else:
            y = nn.relu(self.norm()(self.conv(features, (3, 3), strides)(x)))
            y = self.conv(features, (3, 3))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if x.shape != y.shape:
            if self.network["shortcut"] == "B":
                x = self.norm()(self.conv(features, (1, 1), strides)(x))
            else:
                more = features - x.shape[-1]
                before = more // 2 if self.network["shortcut"] == "A" else 0
                x = jnp.pad(x[:, :: self.strides, :: self.strides], ((0, 0), (0, 0), (0, 0), (before, more - before)))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network; ``network`` is what ``resnet-jax bench`` sends."""

    network: dict[str, Any]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return float32 logits."""
        network = self.network
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        if network["stem"] == "cifar":
            x = nn.relu(norm()(conv(network["widths"][0], (3, 3))(x)))
        else:
            x = nn.relu(norm()(conv(network["widths"][0], (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, (size, width) in enumerate(zip(network["stage_sizes"], network["widths"], strict=True)):
            for index in range(size):
                strides = 2 if stage > 0 and index == 0 else 1
                x = Block(network, width, strides, conv, norm)(x)
        x = jnp.mean(x, axis=(1, 2))
        return jnp.asarray(nn.Dense(network["num_classes"], dtype=self.dtype)(x), jnp.float32)


OPTIMIZER = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))


def make_train_step(model: ResNet) -> Any:
    """Return ``train_step(state, images, labels) -> (state, metrics)``, as in the example."""

    def train_step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss_fn(params: Any) -> Any:
            logits, updates = model.apply(
                {"params": params, "batch_stats": state["batch_stats"]}, images, train=True, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (updates, logits)

        (loss, (updates, logits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"])
        deltas, opt_state = OPTIMIZER.update(grads, state["opt_state"], state["params"])
        state = {
            "params": optax.apply_updates(state["params"], deltas),
            "batch_stats": updates["batch_stats"],
            "opt_state": opt_state,
        }
        return state, {"loss": loss, "accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}

    return train_step


class Plain:
    """The jitted step, going on from its own result."""

    def __init__(self, spec: dict[str, Any]):
        """Initialize and compile."""
        side, channels = spec["image_size"], spec["network"]["in_channels"]
        model = ResNet(_hashable(spec["network"]), jnp.dtype(spec["dtype"]))
        variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, side, side, channels)))
        rng = np.random.default_rng(0)
        images = jnp.asarray(rng.standard_normal((spec["batch"], side, side, channels), np.float32))
        labels = jnp.asarray(rng.integers(0, spec["network"]["num_classes"], spec["batch"]), jnp.int32)
        params = variables["params"]

        def infer(state: Any, images: jax.Array, labels: jax.Array) -> Any:
            return state, model.apply(state, images, train=False)

        self._result = None
        if spec["mode"] == "train":
            self._state: Any = {**variables, "opt_state": OPTIMIZER.init(params)}
            step = jax.jit(make_train_step(model), donate_argnums=0)
        else:
            self._state = variables
            step = jax.jit(lambda *operands: infer(*operands)[1])
        self._train = spec["mode"] == "train"
        began = time.perf_counter()
        self._step = step.lower(self._state, images, labels).compile()
        self._data = images, labels
        self.images = spec["batch"]
        self.facts = {
            "params": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
            "device": jax.devices()[0].device_kind,
            "compile_seconds": time.perf_counter() - began,
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax")},
        }

    def dispatch(self) -> None:
        """Send one step."""
        if self._train:
            self._state, self._result = self._step(self._state, *self._data)
        else:
            self._result = self._step(self._state, *self._data)

    def wait(self) -> None:
        """Wait for the last step, and so for all."""
        jax.block_until_ready((self._state, self._result))


def prepare(spec: dict[str, Any]) -> Plain:
    """Build the side."""
    return Plain(spec)


def _hashable(network: dict[str, Any]) -> Any:
    from flax.core import FrozenDict

    return FrozenDict({key: tuple(value) if isinstance(value, list) else value for key, value in network.items()})
