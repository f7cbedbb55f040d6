"""Two residual networks with a shared embedding space: an image on the left, any other input on the right.

Each tower is a :class:`~resnet_jax.models.ResNet` with any number of spatial dimensions, whose classifier serves as the
projection to unit-length embeddings. The temperature of the contrastive loss is a parameter of the network, as in CLIP
(Radford et al. 2021, arXiv 2103.00020, section 2.5). Paths look like ``left/stage1/block0/...``, ``right/head/kernel``
and ``log_scale``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet_jax.errors import UsageError
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.paths import LOG_SCALE
from resnet_jax.models.resnet import ResNet

#: Field of the batch -> the tower that takes it.
SIDES: dict[str, str] = {"image": "left", "other": "right"}
#: The initial temperature, and the largest scale (CLIP).
TEMPERATURE, MOST_SCALE = 0.07, 100.0
START = math.log(1 / TEMPERATURE)
#: Embeddings shorter than this are not scaled to length 1.
LEAST_LENGTH = 1e-6


class TwoTowers(nn.Module):
    """Embeddings of two inputs as a pure function ``(variables, {"image": x, "other": y}) -> outputs``.

    Attributes:
        left: network for ``image``; its ``num_classes`` is the width of the embeddings.
        right: network for ``other``, with the same width.
        other_shape: shape of one example of ``other``, such as (64, 40); the variables do not depend on its sides.

    Raises:
        UsageError: the towers have different widths or dtypes, or choices that a tower cannot have.

    >>> from resnet_jax.models.config import ResNetConfig
    >>> left = ResNet(ResNetConfig((1,), (8,), stem="cifar", num_classes=4))
    >>> right = ResNet(ResNetConfig((1,), (8,), stem="cifar", num_classes=4, spatial_dims=1, in_channels=1))
    >>> model = TwoTowers(left, right, (16, 1))
    >>> x = {"image": jnp.ones((2, 8, 8, 3)), "other": jnp.ones((2, 16, 1))}
    >>> variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    >>> sorted(variables["params"])
    ['left', 'log_scale', 'right']
    >>> outputs = jax.eval_shape(lambda v: model.apply(v, x, train=False), variables)
    >>> {name: value.shape for name, value in outputs.items()}
    {'image': (2, 4), 'other': (2, 4), 'scale': (2,)}
    """

    left: ResNet
    right: ResNet
    other_shape: tuple[int, ...]

    #: The fields of a batch that are inputs of the network.
    inputs: ClassVar[tuple[str, ...]] = tuple(SIDES)

    @property
    def config(self) -> ResNetConfig:
        """The choices of the left tower, for what both share (dtype, batch-norm momentum)."""
        return self.left.config

    @property
    def towers(self) -> dict[str, ResNet]:
        """Both towers, by name."""
        return {"left": self.left, "right": self.right}

    @nn.nowrap
    def joined(self, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the network's variables, given those of each tower, as arrays or shapes.

        The temperature has its initial value.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, variables in parts.items():
            for collection, tree in variables.items():
                found.setdefault(collection, {})[name] = tree
        some = jax.tree.leaves(found["params"])[0]
        abstract = isinstance(some, jax.ShapeDtypeStruct)
        found["params"][LOG_SCALE] = jax.ShapeDtypeStruct((), jnp.float32) if abstract else jnp.float32(START)
        return found

    @nn.compact
    def __call__(self, x: Mapping[str, Array], *, train: bool) -> dict[str, Array]:
        """Return unit-length embeddings (N, width) of every given input, and ``scale`` (N,).

        The scale is 1 / temperature, at most 100, and the same for every example.

        Args:
            x: ``image`` and ``other``, or one of them to embed only that side.
            train: as for :class:`~resnet_jax.models.ResNet`.

        Raises:
            UsageError: there is no input, or one of another name.
        """
        if not x or not set(x) <= set(SIDES):
            raise UsageError(f"two towers take inputs called {' and '.join(SIDES)}, got {', '.join(x) or 'none'}")
        outputs = {name: unit_length(self.towers[SIDES[name]](x[name], train=train)) for name in SIDES if name in x}
        init = nn.initializers.constant(START)
        scale = jnp.exp(at_most(self.param(LOG_SCALE, init, (), jnp.float32), math.log(MOST_SCALE)))
        return {**outputs, "scale": jnp.broadcast_to(scale, next(iter(x.values())).shape[:1])}


def two_towers(left: ResNetConfig, right: ResNetConfig, other_shape: tuple[int, ...]) -> TwoTowers:
    """Return a checked network of two towers.

    A projection that would start at 0, as with Fixup and SkipInit, gets the usual initializer, because embeddings of
    length 0 have no direction.

    Args:
        left: choices for ``image``.
        right: choices for ``other``.
        other_shape: shape of one example of ``other``.

    Raises:
        UsageError: the two differ in choices that must be equal, or have choices that a tower cannot have.
    """
    for name in ("num_classes", "dtype", "param_dtype", "execution", "norm_momentum"):
        ours, theirs = getattr(left, name), getattr(right, name)
        if ours != theirs:
            raise UsageError(f"the two towers need the same {name}: model has {ours}, other.model {theirs}")
    for where, config in (("model", left), ("other.model", right)):
        if config.num_classes < 1:
            raise UsageError(f"{where}.num_classes 0: a tower needs a projection to its embeddings")
        if config.head != "classifier":
            raise UsageError(f"{where}.head {config.head}: a tower ends in a projection: leave it out")
        if config.stem == "whiten":
            raise UsageError(f"{where}.stem whiten: whitening needs a network with one input; use stem cifar")
    return TwoTowers(ResNet(_projecting(left)), ResNet(_projecting(right)), tuple(other_shape))


def _projecting(config: ResNetConfig) -> ResNetConfig:
    starts = config.head_kernel_init if config.head_kernel_init != "zeros" else "torch_uniform"
    return dataclasses.replace(config, head_init=starts)


def inputs_of(network: Any, batch: Mapping[str, Any]) -> Any:
    """Return a network's input from a batch: its ``image``, or for two towers both inputs by name."""
    names = getattr(network, "inputs", None)
    return batch["image"] if names is None else {name: batch[name] for name in names}


def abstract_inputs(network: nn.Module, image_shape: Sequence[int], batch: int) -> Any:
    """Return the shapes of a network's inputs, in float32, for a batch of images of a shape."""
    shapes = {"image": tuple(image_shape), "other": getattr(network, "other_shape", ())}
    made = {name: jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for name, shape in shapes.items()}
    return inputs_of(network, made)


def unit_length(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Scale rows to length 1; rows shorter than :data:`LEAST_LENGTH` are divided by that instead.

    >>> (10 * unit_length(jnp.array([[3.0, 4.0], [0.0, 0.0]]))).round().tolist()
    [[6.0, 8.0], [0.0, 0.0]]
    """
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, LEAST_LENGTH**2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def at_most(x: Array, most: float) -> Array:
    """Return ``min(x, most)``, with a gradient that above ``most`` still leads back down but no further up.

    This has the effect of clipping a parameter after every update, as CLIP does, without touching the optimizer.

    >>> two = jnp.float32(2.0)
    >>> [float(jax.grad(lambda x, sign=sign: sign * at_most(x, 1.0))(two)) for sign in (1.0, -1.0)]
    [1.0, 0.0]
    """
    return jnp.minimum(x, jnp.asarray(most, x.dtype))


def _forward(x: Array, most: float) -> tuple[Array, Array]:
    return at_most(x, most), x


def _backward(most: float, x: Array, g: Array) -> tuple[Array]:
    return (jnp.where((x < jnp.asarray(most, x.dtype)) | (g > 0), g, jnp.zeros_like(g)),)


at_most.defvjp(_forward, _backward)
