"""Singular values of a network's Jacobians: of every block, and from every block to the end.

A network whose singular values are all close to 1 preserves the length of every gradient (dynamical isometry; Saxe et
al. 2014, Pennington, Schoenholz and Ganguli 2017). The batch is treated as one operator. In evaluation mode its
Jacobian is block-diagonal, with one block per example, and the spectrum is that of all examples together; batch
statistics couple the examples.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from resnet_jax.depth import blockwise
from resnet_jax.depth.arrays import open_arrays
from resnet_jax.depth.blockwise import Kind, Link
from resnet_jax.depth.lanczos import chain_ritz, operator_ritz
from resnet_jax.depth.spectra import Spectra, check_counts, from_bidiagonals, from_matrices
from resnet_jax.errors import DataError, UsageError
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops.annotations import Images
from resnet_jax.runtime.paths import user_path

#: Jacobians to the output are computed in full up to this many rows, and this many bytes for one of them.
EXACT_ROWS, EXACT_BYTES = 256, 2**30

_SPECTRA = ("blocks", "network", "to_output", "to_last")


@dataclasses.dataclass(frozen=True)
class JacobianSpectra:
    """Spectra of the Jacobians of a network at a batch, in depth order.

    Attributes:
        names: path of every block in the listed layout.
        stages: stage of every block, from 0, int ``(blocks,)``.
        train: whether norms used the statistics of the batch.
        iterations: number of Golub-Kahan iterations for every probe; fewer where an operator is smaller.
        probes: number of random starts for each.
        blocks: spectra of every block's output by its input.
        network: spectrum of the network's output (logits) by its images; one operator.
        to_output: spectra of the network's output by every block's input, exact; None if that is too large
            (:data:`EXACT_ROWS`, :data:`EXACT_BYTES`).
        to_last: spectra of the last block's output by every block's input; None if not requested.
    """

    names: tuple[str, ...]
    stages: np.ndarray
    train: bool
    iterations: int
    probes: int
    blocks: Spectra
    network: Spectra
    to_output: Spectra | None
    to_last: Spectra | None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to an ``.npz`` file, whose arrays are named ``blocks_largest``, ``network_values``, ..."""
        spectra = {name: getattr(self, name) for name in _SPECTRA}
        arrays = [one.arrays(name) for name, one in spectra.items() if one is not None]
        rest = {
            field.name: np.asarray(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in _SPECTRA
        }
        with user_path(path).open("wb") as file:
            np.savez(file, **rest, **{name: array for group in arrays for name, array in group.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> JacobianSpectra:
        """Read the result of :meth:`save`.

        Raises:
            DataError: the file cannot be read, or contains something else.
        """
        arrays = open_arrays(path)
        try:
            spectra = {
                name: Spectra.from_arrays(arrays, name) if f"{name}_largest" in arrays else None for name in _SPECTRA
            }
            names, stages = tuple(arrays["names"].tolist()), arrays["stages"]
            rest = (bool(arrays["train"]), int(arrays["iterations"]), int(arrays["probes"]))
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path} is not a JacobianSpectra file: {error}") from error
        return cls(names, stages, *rest, **spectra)  # pyright: ignore[reportArgumentType]


def jacobians(
    model: nn.Module,
    variables: Any,
    images: Images,
    *,
    train: bool = False,
    iterations: int = 32,
    probes: int = 1,
    seed: int = 0,
    to_last: bool = False,
) -> JacobianSpectra:
    """Return the singular values of the Jacobians of every block and of the whole network at a batch.

    Blocks run one after another. Blocks of equal shape share one compiled function, so compile time does not grow with
    depth. Nothing is dropped, whatever the network's rates of dropout and stochastic depth, and everything is computed
    in float32 or wider.

    Args:
        model: one of this library's networks.
        variables: its variables, in any layout.
        images: normalized images. Memory is that of ``2 * iterations`` of the largest feature map of the batch.
        train: normalize by the statistics of this batch instead of the running averages.
        iterations: products with each block's Jacobian and its transpose, for every probe. The largest singular value
            converges within tens; the smallest may need more than there are, which its residual shows.
        probes: number of random starts, over which the density and its mean square are averaged.
        seed: seed of the random starts.
        to_last: also compute the Jacobians from every block's input to the last block's output. They take products with
            all blocks in between: quadratic in depth.

    Raises:
        UsageError: the model is not one of this library's, or a count is less than 1.

    >>> from resnet_jax.models import create_model, init_variables
    >>> sizes = {"stage_sizes": (2,), "widths": (4,)}
    >>> model = create_model("resnet20_cifar", order="pre", norm="none", residual="rezero", **sizes)
    >>> variables = jax.jit(lambda key: init_variables(model, key, (4, 4, 3)))(jax.random.key(0))
    >>> spectra = jacobians(model, variables, jnp.ones((1, 4, 4, 3)), iterations=4)
    >>> spectra.names, spectra.blocks.largest.round(5).tolist(), spectra.network.shapes.tolist()
    (('stage1/block0', 'stage1/block1'), [1.0, 1.0], [[10, 48]])
    """
    if not isinstance(model, ResNet):
        raise UsageError(
            f"jacobians() runs a network of this library block by block, and {type(model).__name__} is none (see "
            "resnet_jax.create_model). Of any function f of an array, depth.lanczos.operator_ritz(f, x, ...) gives the "
            "singular values; of any network, depth.profile the gradients through depth"
        )
    check_counts(iterations=iterations, probes=probes)
    links = blockwise.chain(model.config, variables, train)
    keys = list(jax.random.split(jax.random.key(seed), len(links) + 1))
    with jax.default_matmul_precision("highest"):
        x = jnp.asarray(images).astype(links[0].kind.config.dtype)
        inputs, block_numbers, block_shapes = [], [], []
        for link, key in zip(links, keys, strict=False):
            inputs.append(x)
            y = blockwise.forward(link.kind, link.variables, link.beta, x)
            if link.kind.block is not None:
                count = min(iterations, x.size, y.size)
                probe_keys = jax.random.split(key, probes)
                numbers = _block_numbers(link.kind, count, link.variables, link.beta, x, probe_keys)
                block_numbers.append(jax.device_get(numbers))
                block_shapes.append((y.size, x.size))
            x = y
        exact = _to_output(links, inputs, x, train)
        if exact is None:
            whole = from_bidiagonals(*_through(links, inputs, x, iterations, probes, keys[-1:]))
            rest = None
        else:
            whole, rest = from_matrices(exact[:1]), from_matrices(exact[1:])
        last = None
        if to_last:
            blocks, ends = links[1:-1], inputs[1:-1]
            parts = [
                _through(blocks[i:], ends[i:], inputs[-1], iterations, probes, keys[i + 1 : i + 2])
                for i in range(len(blocks))
            ]
            last = from_bidiagonals([part[0][0] for part in parts], [part[1][0] for part in parts])
    blocks = links[1:-1]
    return JacobianSpectra(
        names=tuple(link.name for link in blocks),
        stages=np.asarray([link.stage for link in blocks]),
        train=train,
        iterations=iterations,
        probes=probes,
        blocks=from_bidiagonals(block_numbers, block_shapes),
        network=whole,
        to_output=rest,
        to_last=last,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _block_numbers(kind: Kind, iterations: int, variables: Any, beta: Any, x: Array, keys: Array) -> Any:
    return operator_ritz(functools.partial(kind, variables, beta), x, iterations, keys)


def _to_output(links: list[Link], inputs: list[Array], y: Array, train: bool) -> list[np.ndarray] | None:
    """Return the Jacobians of ``y`` by the images and every block's input, ``(examples, m, n)``, in one sweep of vjps.

    Without batch statistics, an example's outputs depend only on its own inputs, and one row serves all examples.
    """
    n, features = y.shape
    count = n * features if train else features
    if count > EXACT_ROWS or count * max(x.size for x in inputs) * y.dtype.itemsize > EXACT_BYTES:
        return None
    eye = jnp.eye(count, dtype=y.dtype)
    rows = eye.reshape(count, n, features) if train else jnp.broadcast_to(eye[:, None], (count, n, features))
    matrices = []
    for link, x in zip(reversed(links), reversed(inputs), strict=True):
        rows = blockwise.pull(link.kind, link.variables, link.beta, x, rows)
        if link.name != "rest":
            whole = np.asarray(rows).reshape(count, n, -1)
            matrices.append(whole.reshape(1, count, -1) if train else whole.swapaxes(0, 1))
    return matrices[::-1]


def _through(links: list[Link], inputs: list[Array], y: Array, iterations: int, probes: int, key: list[Array]) -> Any:
    """Return numbers and shape of the Jacobian of a chain's output by its input; lists of length one."""
    x = inputs[0]

    def forward(v):
        v = v.reshape(x.shape)
        for link, at in zip(links, inputs, strict=True):
            v = blockwise.push(link.kind, link.variables, link.beta, at, v)
        return v.reshape(-1)

    def backward(u):
        u = u.reshape(1, *y.shape)
        for link, at in zip(reversed(links), reversed(inputs), strict=True):
            u = blockwise.pull(link.kind, link.variables, link.beta, at, u)
        return u.reshape(-1)

    count = min(iterations, x.size, y.size)
    keys = jax.random.split(key[0], probes)
    return [chain_ritz(forward, backward, x.size, y.size, x.dtype, count, keys)], [(y.size, x.size)]
