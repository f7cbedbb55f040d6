"""Singular values by products against dense decompositions of materialised Jacobians, and closed forms."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings, strategies as st

from resnet_jax.depth import JacobianSpectra, jacobians
from resnet_jax.depth.lanczos import golub_kahan, lanczos, operator_ritz, singular_ritz, symmetric_ritz
from resnet_jax.depth.spectra import from_bidiagonals
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import Anatomy, instrumented
from resnet_jax.models import ResNet, ResNetConfig, init_variables
from resnet_jax.models.layout import stack
from tests.tools import random_variables

SIZE = 4
KINDS = {
    "post": {"shortcut": "B"},
    "pre": {"order": "pre"},
    "bottleneck": {"block": "bottleneck", "shortcut": "D"},
    "nf": {"norm": "none", "residual": "nf"},
    "plain": {"shortcut": "none"},
    "option A": {"shortcut": "A"},
}


def network(**choices) -> ResNet:
    return ResNet(ResNetConfig((1, 2), (2, 4), stem="cifar", num_classes=3, **choices))


def images(n=2):
    return np.random.default_rng(3).normal(size=(n, SIZE, SIZE, 3)).astype(np.float32)


def dense(model: ResNet, variables, x, train):
    """Return the Jacobian of every block, of the network by its images and by every block's input, as matrices."""

    def run(x, added):
        seen, inputs = {}, {}

        def hook(block, point, value):
            name = "/".join(block.path)
            if point == "input" and name in added:
                value = value + added[name]
            (inputs if point == "input" else seen)[name, point] = value
            return value

        with instrumented(Anatomy(), hook):
            logits, _ = model.apply(variables, x, train=train, mutable=["batch_stats"])
        outputs = {name: value for (name, point), value in seen.items() if point == "output"}
        return logits, outputs, {name: value for (name, _), value in inputs.items()}

    inputs = run(x, {})[2]
    found = {}
    for name, at in inputs.items():
        zero = jnp.zeros_like(at)
        by_input = jax.jacrev(lambda d, name=name: (run(x, {name: d})[1][name], run(x, {name: d})[0]))
        block, rest = jax.jit(by_input)(zero)
        found[name] = [np.asarray(j, np.float64).reshape(-1, at.size) for j in (block, rest)]
    whole = jax.jit(jax.jacrev(lambda x: run(x, {})[0]))(x)
    return found, np.asarray(whole, np.float64).reshape(-1, x.size)


def singular(matrix) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_jacobian_equals_the_dense_one(kind, train):
    model, x = network(**KINDS[kind]), images()
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    found = jacobians(model, variables, x, train=train, iterations=100)
    expected, whole = dense(model, variables, x, train)
    assert found.names == tuple(expected)
    assert found.stages.tolist() == [0, 1, 1]
    for row, name in enumerate(found.names):
        block, rest = (singular(matrix) for matrix in expected[name])
        np.testing.assert_allclose(found.blocks.largest[row], block[0], rtol=1e-4)
        assert found.blocks.largest_converged()[row]
        assert abs(found.blocks.smallest[row] - block[-1]) < 1e-3 * block[0] + found.blocks.smallest_residual[row]
        assert found.to_output is not None
        np.testing.assert_allclose(found.to_output.largest[row], rest[0], rtol=1e-4)
        np.testing.assert_allclose(found.to_output.squared_norm[row], np.sum(rest**2), rtol=1e-3)
    np.testing.assert_allclose(found.network.largest[0], singular(whole)[0], rtol=1e-4)
    np.testing.assert_allclose(found.network.smallest[0], singular(whole)[-1], rtol=1e-3, atol=1e-5)


def test_to_the_last_block_and_in_any_layout():
    model, x = network(), images(1)
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    found = jacobians(model, variables, x, iterations=40, to_last=True)
    expected, _ = dense(model, variables, x, False)
    matrices = [matrix for matrix, _ in expected.values()]
    assert found.to_last is not None
    for row in range(3):
        product = functools.reduce(lambda a, b: b @ a, matrices[row:])
        np.testing.assert_allclose(found.to_last.largest[row], singular(product)[0], rtol=1e-3)
    scanned = network(execution="scan")
    again = jacobians(scanned, stack(variables, "scan"), x, iterations=40)
    np.testing.assert_allclose(again.blocks.largest, found.blocks.largest, rtol=1e-5)


def test_the_density_is_that_of_all_singular_values():
    """Many random starts: the mean square is the squared Frobenius norm over n, within the scatter of the starts."""
    model, x = network(), images(1)
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    found = jacobians(model, variables, x, iterations=30, probes=240)
    expected, _ = dense(model, variables, x, False)
    for row, (block, _) in enumerate(expected.values()):
        values = singular(block)
        np.testing.assert_allclose(found.blocks.mean_square[row], np.mean(values**2), rtol=0.1)
        np.testing.assert_allclose(found.blocks.weights[row].sum(), 1.0, rtol=1e-6)
        edges = np.linspace(0, 1.01 * values[0], 4)
        mine = found.blocks.histogram(edges)[row] * np.diff(edges)
        np.testing.assert_allclose(mine, np.histogram(values, edges)[0] / len(values), atol=0.12)


def test_blocks_that_begin_as_the_identity_have_ones_only():
    model = network(norm="none", residual="rezero", order="pre", shortcut="A")
    variables = init_variables(model, jax.random.key(0), (SIZE, SIZE, 3))
    found = jacobians(model, variables, images(), iterations=8)
    for values in (found.blocks.largest, found.blocks.smallest):
        np.testing.assert_allclose(values[[0, 2]], 1.0, rtol=1e-6)  # block 1 throws positions away
    assert found.blocks.smallest_converged()[[0, 2]].all()


def test_too_few_iterations_say_so():
    model, x = network(), images()
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    found = jacobians(model, variables, x, iterations=2)
    assert not found.blocks.largest_converged(1e-4).any()
    expected, _ = dense(model, variables, x, False)
    for row, (block, _) in enumerate(expected.values()):
        values = singular(block)
        assert found.blocks.largest[row] <= values[0] * (1 + 1e-5)
        assert np.abs(values - found.blocks.largest[row]).min() <= found.blocks.largest_residual[row]


def test_a_file_brings_back_the_spectra(tmp_path):
    model, x = network(), images(1)
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    found = jacobians(model, variables, x, iterations=5)
    found.save(tmp_path / "jacobian.npz")
    again = JacobianSpectra.load(tmp_path / "jacobian.npz")
    assert (again.names, again.iterations, again.train, again.to_last) == (found.names, 5, False, None)
    np.testing.assert_array_equal(again.blocks.values, found.blocks.values)
    np.testing.assert_array_equal(again.network.largest, found.network.largest)


def test_what_cannot_be_done_is_said():
    with pytest.raises(UsageError, match=r"Dense is none.*operator_ritz.*depth.profile"):
        jacobians(nn.Dense(3), {}, images())
    with pytest.raises(UsageError, match="iterations must be at least 1, got 0"):
        jacobians(network(), {}, images(), iterations=0)


# ---- the linear algebra on its own ------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31 - 1), st.integers(0, 3))
def test_all_singular_values_of_any_matrix(rows, columns, seed, rank):
    rng = np.random.default_rng(seed)
    rank = min(rank + 1, rows, columns)
    a = (rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))).astype(np.float32)
    count = min(rows, columns)
    numbers = operator_ritz(
        lambda x: jnp.asarray(a) @ x, jnp.zeros(columns), count, jax.random.split(jax.random.key(seed))
    )
    for diagonal, upper in zip(*jax.device_get(numbers), strict=True):
        ritz = singular_ritz(diagonal, upper)
        np.testing.assert_allclose(ritz.values[::-1], singular(a.astype(np.float64)), atol=3e-5 * np.abs(a).sum())
        np.testing.assert_allclose(ritz.weights.sum(), 1.0, rtol=1e-6)


def test_orthogonal_and_scaled_identity_maps_are_exhausted_at_once_and_go_on():
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0].astype(np.float32)
    for a, value in ((jnp.asarray(q), 1.0), (3 * jnp.eye(12), 3.0)):
        ritz = singular_ritz(
            *golub_kahan(lambda v, a=a: a @ v, lambda u, a=a: a.T @ u, jnp.ones(12), 12, 8, jax.random.key(1))
        )
        np.testing.assert_allclose(ritz.values, value, rtol=1e-5)


def test_symmetric_eigenvalues_and_their_bounds():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(30, 30))
    a = ((a + a.T) / 2).astype(np.float32)
    values = np.linalg.eigvalsh(a.astype(np.float64))
    for count in (4, 30):
        ritz = symmetric_ritz(*lanczos(lambda v: jnp.asarray(a) @ v, jnp.ones(30), count, jax.random.key(0)))
        assert np.abs(values - ritz.values[-1]).min() <= ritz.residuals[-1] + 1e-4
    np.testing.assert_allclose(ritz.values, values, atol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_basis_that_fills_its_subspace_ends_there(dimensions, sign):
    mask = (np.arange(20) < dimensions).astype(np.float32)
    values = sign * mask * np.arange(2, 22, dtype=np.float32)
    for seed in range(4):
        start = jax.random.normal(jax.random.key(seed), (20,))
        diagonal, off = lanczos(
            lambda v: values * v, start, 8, jax.random.key(seed + 9), within=lambda v: jnp.asarray(mask) * v
        )
        ritz = symmetric_ritz(diagonal[:dimensions], off[:dimensions])
        np.testing.assert_allclose(ritz.values, np.sort(values[:dimensions]), rtol=1e-4)
        assert (ritz.residuals < 1e-3).all()
        assert not np.asarray(diagonal[dimensions:]).any()


def test_what_is_not_finite_stays_so():
    ritz = singular_ritz(np.asarray([1.0, np.nan]), np.asarray([0.0, 0.0]))
    assert np.isnan(ritz.values).all()
    spectra = from_bidiagonals([(np.full((1, 2), np.inf), np.zeros((1, 2)))], [(2, 2)])
    assert np.isnan(spectra.quantiles([0.5])).all()
