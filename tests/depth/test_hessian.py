"""Eigenvalues by Lanczos against dense Hessians."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from resnet_jax.depth import HessianEigenvalues, hessian_eigenvalues
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.models.layout import stack
from resnet_jax.tasks.losses import cross_entropy
from tests.tools import random_variables

SIZE, LABELS = 4, np.arange(4) % 3
SLOW = pytest.mark.slow


def network(**choices) -> ResNet:
    return ResNet(ResNetConfig(widths=(2,), stem="cifar", num_classes=3, activation="gelu", **choices))


def images():
    return np.random.default_rng(3).normal(size=(4, SIZE, SIZE, 3)).astype(np.float32)


def dense(model, variables, inputs, labels, blocks, train):
    """Return the eigenvalues of the Hessian by each block's parameters, and by all; of one dense Hessian."""
    flat, unravel = ravel_pytree(variables["params"])

    def loss(flat):
        params = unravel(flat)
        out, _ = model.apply({**variables, "params": params}, inputs, train=train, mutable=["batch_stats"])
        return jnp.mean(cross_entropy(out, labels))

    hessian = np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64)
    places, number = unravel(jnp.arange(flat.size, dtype=flat.dtype)), []
    for path in blocks:
        part = functools.reduce(lambda node, name: node[name], path.split("/"), places)
        number.append(np.asarray(ravel_pytree(part)[0], int))
    return [np.linalg.eigvalsh(hessian[np.ix_(index, index)]) for index in number], np.linalg.eigvalsh(hessian)


@pytest.mark.parametrize(
    ("train", "execution"),
    [
        (False, "scan"),
        *(pytest.param(*case, marks=SLOW) for case in ((True, "unroll"), (False, "unroll"), (True, "scan"))),
    ],
)
@pytest.mark.slow
def test_eigenvalues_are_those_of_the_dense_hessian(train, execution):
    """Blocks in a loop have those of the same blocks one after the other."""
    model = network(stage_sizes=(2,))
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    names = tuple(f"stage1/block{index}" for index in range(model.config.stage_sizes[0]))
    blocks, whole = dense(model, variables, images(), LABELS, names, train)
    found = hessian_eigenvalues(
        network(execution=execution, stage_sizes=model.config.stage_sizes), stack(variables, execution), images(),
        LABELS, train=train, iterations=40, whole=True,
    )  # fmt: skip
    assert found.names == names
    np.testing.assert_allclose(found.largest, [values[-1] for values in blocks], rtol=1e-3)
    np.testing.assert_allclose(found.smallest, [values[0] for values in blocks], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(found.whole[:2], whole[[-1, 0]], rtol=2e-3)
    assert (found.largest_residual < 1e-3 * found.largest).all()


class Bent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.gelu(nn.Dense(x.shape[-1])(x))


class BentTwice(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return Bent(name="b1")(Bent(name="b0")(x)) * (2.0 if train else 1.0)


def test_few_iterations_bound_from_below_and_files_keep_everything(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    block = {"Dense_0": {"kernel": rng.normal(size=(3, 3)).astype(np.float32), "bias": np.ones(3, np.float32)}}
    variables = {"params": {"b0": block, "b1": jax.tree.map(lambda leaf: 0.5 * leaf, block)}}
    blocks, _ = dense(BentTwice(), variables, x, LABELS, ("b0", "b1"), True)
    found = hessian_eigenvalues(BentTwice(), variables, x, LABELS, iterations=3, anatomy=BlockNames(Bent))
    for row, values in enumerate(blocks):
        assert found.largest[row] <= values[-1] * (1 + 1e-4)
        assert np.abs(values - found.largest[row]).min() <= found.largest_residual[row] + 1e-4
        assert found.largest_residual[row] < values[-1]
    assert np.isnan(found.whole).all()
    found.save(tmp_path / "hessian.npz")
    again = HessianEigenvalues.load(tmp_path / "hessian.npz")
    assert (again.names, again.iterations) == (found.names, 3)
    np.testing.assert_array_equal(again.largest, found.largest)


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, (x.shape[-1],))[None]


class Scales(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return Scaled(name="b1")(Scaled(name="b0")(x))


def test_blocks_of_fewer_parameters_than_iterations_have_all_their_eigenvalues():
    """Of the squared length of ``s x`` by s: the diagonal ``2 mean(x^2)``."""
    x = np.asarray([[1.0, 2.0], [3.0, -1.0]], np.float32)
    variables = {"params": {name: {"scale": np.ones(2, np.float32)} for name in ("b0", "b1")}}
    found = hessian_eigenvalues(
        Scales(), variables, x, LABELS[:2], loss=_squared_length, anatomy=BlockNames(Scaled), iterations=8
    )
    np.testing.assert_allclose(found.largest, 10.0, rtol=1e-5)
    np.testing.assert_allclose(found.smallest, 5.0, rtol=1e-5)


def _squared_length(out, labels):
    del labels
    return jnp.sum(jnp.square(out), axis=-1)


def test_what_cannot_be_done_is_said():
    model = network(stage_sizes=(1,))
    variables = random_variables(model, (SIZE, SIZE, 3))
    with pytest.raises(UsageError, match="iterations must be at least 1"):
        hessian_eigenvalues(model, variables, images(), LABELS, iterations=0)
    with pytest.raises(UsageError, match="more than 4 GiB; take fewer iterations"):
        hessian_eigenvalues(model, variables, images(), LABELS, iterations=10**8)
