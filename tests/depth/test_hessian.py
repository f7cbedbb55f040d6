"""Eigenvalues by Lanczos against dense Hessians."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from resnet_jax.depth import HessianEigenvalues, hessian_eigenvalues
from resnet_jax.depth.profiling import cross_entropy
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import Anatomy
from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.models.layout import stack, unstack
from tests.tools import random_variables

SIZE, LABELS = 4, np.arange(4) % 3


def network(**choices) -> ResNet:
    return ResNet(ResNetConfig((3,), (2,), stem="cifar", num_classes=3, activation="gelu", **choices))


def images():
    return np.random.default_rng(3).normal(size=(4, SIZE, SIZE, 3)).astype(np.float32)


def dense(model, variables, train):
    """Return the eigenvalues of the Hessian by each block's parameters, and by all."""

    def loss(params):
        out, _ = model.apply({**variables, "params": params}, images(), train=train, mutable=["batch_stats"])
        return jnp.mean(cross_entropy(out, LABELS))

    def spectrum(part, put):
        flat, unravel = ravel_pytree(part)
        hessian = jax.jit(jax.hessian(lambda v: loss(put(unravel(v)))))(flat)
        return np.linalg.eigvalsh(np.asarray(hessian, np.float64))

    params = variables["params"]
    blocks = [
        spectrum(params["stage1"][name], lambda b, name=name: {**params, "stage1": {**params["stage1"], name: b}})
        for name in ("block0", "block1", "block2")
    ]
    return blocks, spectrum(params, lambda p: p)


@pytest.mark.parametrize("train", [True, False])
def test_eigenvalues_are_those_of_the_dense_hessian(train):
    model = network()
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    blocks, whole = dense(model, variables, train)
    found = hessian_eigenvalues(model, variables, images(), LABELS, train=train, iterations=40, whole=True)
    assert found.names == ("stage1/block0", "stage1/block1", "stage1/block2")
    np.testing.assert_allclose(found.largest, [values[-1] for values in blocks], rtol=1e-3)
    np.testing.assert_allclose(found.smallest, [values[0] for values in blocks], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(found.whole[:2], whole[[-1, 0]], rtol=2e-3)
    assert (found.largest_residual < 1e-3 * found.largest).all()


def test_stacked_blocks_have_the_same():
    listed, scanned = network(), network(execution="scan")
    variables = jax.tree.map(jnp.asarray, random_variables(listed, (SIZE, SIZE, 3)))
    one = hessian_eigenvalues(listed, variables, images(), LABELS, iterations=20)
    other = hessian_eigenvalues(scanned, stack(variables, "scan"), images(), LABELS, iterations=20)
    assert one.names == other.names
    np.testing.assert_allclose(one.largest, other.largest, rtol=1e-3)
    assert jax.tree.structure(unstack(stack(variables, "scan"))) == jax.tree.structure(variables)


def test_few_iterations_bound_from_below_and_files_keep_everything(tmp_path):
    model = network()
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    blocks, _ = dense(model, variables, True)
    found = hessian_eigenvalues(model, variables, images(), LABELS, iterations=2)
    for row, values in enumerate(blocks):
        assert found.largest[row] <= values[-1] * (1 + 1e-4)
        assert np.abs(values - found.largest[row]).min() <= found.largest_residual[row] + 1e-4
    assert np.isnan(found.whole).all()
    found.save(tmp_path / "hessian.npz")
    again = HessianEigenvalues.load(tmp_path / "hessian.npz")
    assert (again.names, again.iterations) == (found.names, 2)
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
    variables = Scales().init(jax.random.key(0), x, train=True)
    found = hessian_eigenvalues(
        Scales(), variables, x, LABELS[:2], loss=_squared_length, anatomy=Anatomy(Scaled), iterations=8
    )
    np.testing.assert_allclose(found.largest, 10.0, rtol=1e-5)
    np.testing.assert_allclose(found.smallest, 5.0, rtol=1e-5)


def _squared_length(out, labels):
    del labels
    return jnp.sum(jnp.square(out), axis=-1)


def test_what_cannot_be_done_is_said():
    model = network()
    variables = random_variables(model, (SIZE, SIZE, 3))
    with pytest.raises(UsageError, match="iterations must be at least 1"):
        hessian_eigenvalues(model, variables, images(), LABELS, iterations=0)
    with pytest.raises(UsageError, match="more than 4 GiB; take fewer iterations"):
        hessian_eigenvalues(model, variables, images(), LABELS, iterations=10**8)
