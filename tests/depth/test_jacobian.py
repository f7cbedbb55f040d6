"""Singular values by products against dense decompositions of materialised Jacobians, and closed forms."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.depth import JacobianSpectra, blockwise, jacobians
from resnet_jax.depth.lanczos import golub_kahan, lanczos, operator_ritz, singular_ritz, symmetric_ritz
from resnet_jax.depth.spectra import from_bidiagonals
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockNames, instrumented
from resnet_jax.models import ResNet, ResNetConfig, init_variables
from resnet_jax.models.layout import stack
from tests.tools import random_variables

SIZE = 4
SLOW = pytest.mark.slow
KINDS = {
    "post": {"shortcut": "B"},
    "pre": {"order": "pre"},
    "bottleneck": {"block": "bottleneck", "shortcut": "D"},
    "nf": {"norm": "none", "residual": "nf"},
    "plain": {"shortcut": "none"},
    "option A": {"shortcut": "A"},
}


def network(**choices) -> ResNet:
    return ResNet(
        ResNetConfig(**{"stage_sizes": (1, 1), "widths": (2, 4), "stem": "cifar", "num_classes": 3, **choices})
    )


def images(n=2):
    return np.random.default_rng(3).normal(size=(n, SIZE, SIZE, 3)).astype(np.float32)


def dense(model: ResNet, variables, x, train):
    """Return by every block's input the Jacobians of its output, the network's and the last block's; all by images.

    In one sweep of the derivatives of all outputs by all inputs.
    """

    def run(x, added):
        seen = {}

        def hook(block, point, value):
            name = "/".join(block.path)
            if point == "input" and added is not None:
                value = value + added[name]
            seen[name, point] = value
            return value

        with instrumented(BlockNames(), hook):
            logits, _ = model.apply(variables, x, train=train, mutable=["batch_stats"])
        outputs = {name: value for (name, point), value in seen.items() if point == "output"}
        return logits, outputs, {name: value for (name, point), value in seen.items() if point == "input"}

    inputs = jax.eval_shape(lambda: run(x, None)[2])
    zeros = {name: jnp.zeros(at.shape) for name, at in inputs.items()}
    logits, outputs = jax.jit(jax.jacrev(lambda x, zeros: run(x, zeros)[:2], (0, 1)))(x, zeros)

    def matrix(jacobian, at):
        return np.asarray(jacobian, np.float64).reshape(-1, at.size)

    last = list(inputs)[-1]
    by_name = {
        name: [matrix(j[1][name], at) for j in (outputs[name], logits, outputs[last])] for name, at in inputs.items()
    }
    return by_name, matrix(logits[0], x)


def singular(matrix) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False)


def check(found: JacobianSpectra, expected, whole) -> None:
    """Compare the ends of every spectrum with those of the dense matrices."""
    assert found.names == tuple(expected)
    assert found.stages.tolist() == list(range(len(expected)))
    for row, (name, (block, rest, last)) in enumerate(expected.items()):
        block, rest = singular(block), singular(rest)
        np.testing.assert_allclose(found.blocks.largest[row], block[0], rtol=1e-4, err_msg=name)
        assert found.blocks.largest_converged()[row]
        assert abs(found.blocks.smallest[row] - block[-1]) < 1e-3 * block[0] + found.blocks.smallest_residual[row]
        assert found.to_output is not None
        np.testing.assert_allclose(found.to_output.largest[row], rest[0], rtol=1e-4)
        np.testing.assert_allclose(found.to_output.squared_norm[row], np.sum(rest**2), rtol=1e-3)
        if found.to_last is not None:
            np.testing.assert_allclose(found.to_last.largest[row], singular(last)[0], rtol=1e-3)
    np.testing.assert_allclose(found.network.largest[0], singular(whole)[0], rtol=1e-4)
    np.testing.assert_allclose(found.network.smallest[0], singular(whole)[-1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("choices", "train"),
    [
        ({"order": "pre", "stage_sizes": (1,), "widths": (4,), "stem_width": 2}, True),
        pytest.param({"shortcut": "A", "stage_sizes": (1,), "widths": (4,), "stem_width": 2}, False, marks=SLOW),
        *(pytest.param(kind, train, marks=SLOW) for kind in KINDS.values() for train in (False, True)),
    ],
)
def test_every_jacobian_equals_the_dense_one(choices, train):
    model, x = network(**choices), images()
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    found = jacobians(model, variables, x, train=train, iterations=100)
    check(found, *dense(model, variables, x, train))


@pytest.fixture(scope="module")
def one():
    """A network whose second block is divided by what entered, its variables, and its dense Jacobians at an image."""
    model, x = network(norm="none", residual="nf", alpha=0.8), images(1)
    variables = jax.tree.map(jnp.asarray, random_variables(model, (SIZE, SIZE, 3)))
    return model, variables, x, dense(model, variables, x, False)


@pytest.mark.slow
def test_to_the_last_block_and_in_a_file(one, tmp_path):
    model, variables, x, expected = one
    found = jacobians(model, variables, x, iterations=20, to_last=True)
    assert found.to_last is not None
    check(found, *expected)
    found.save(tmp_path / "jacobian.npz")
    again = JacobianSpectra.load(tmp_path / "jacobian.npz")
    assert (again.names, again.iterations, again.train) == (found.names, 20, False)
    assert again.to_last is not None
    np.testing.assert_array_equal(again.blocks.values, found.blocks.values)
    np.testing.assert_array_equal(again.network.largest, found.network.largest)
    np.testing.assert_array_equal(again.to_last.largest, found.to_last.largest)


@pytest.mark.slow
def test_too_few_iterations_say_so(one, tmp_path):
    model, variables, x, (expected, _) = one
    found = jacobians(model, variables, x, iterations=2, probes=3)
    assert found.blocks.values.shape == (2, 3 * 2)
    assert not found.blocks.largest_converged(1e-4).any()
    for row, (block, *_) in enumerate(expected.values()):
        values = singular(block)
        assert found.blocks.largest[row] <= values[0] * (1 + 1e-5)
        assert np.abs(values - found.blocks.largest[row]).min() <= found.blocks.largest_residual[row]
    found.save(tmp_path / "jacobian.npz")
    assert JacobianSpectra.load(tmp_path / "jacobian.npz").to_last is None


def test_the_layout_does_not_matter():
    """Blocks of equal shape are one function, each with its own weights and its own factor."""
    choices = {"stage_sizes": (3,), "widths": (2,), "norm": "none", "residual": "nf", "alpha": 0.8}
    listed, scanned = network(**choices), network(**choices, execution="scan")
    variables = random_variables(listed, (SIZE, SIZE, 3))
    one, other = (
        blockwise.chain(model.config, stack(variables, execution), False)
        for model, execution in ((listed, "unroll"), (scanned, "scan"))
    )
    for mine, its in zip(one, other, strict=True):
        assert (mine.name, mine.stage, mine.kind.block) == (its.name, its.stage, its.kind.block)
        jax.tree.map(np.testing.assert_array_equal, (mine.variables, mine.beta), (its.variables, its.beta))
    assert one[2].kind == one[3].kind
    np.testing.assert_allclose([link.beta for link in one[1:4]], [(1 + 0.64 * n) ** -0.5 for n in range(3)])


@pytest.mark.slow
def test_blocks_that_begin_as_the_identity_have_ones_only():
    model = network(norm="none", residual="rezero", order="pre", shortcut="A")
    variables = init_variables(model, jax.random.key(0), (SIZE, SIZE, 3))
    found = jacobians(model, variables, images(), iterations=8)
    for values in (found.blocks.largest, found.blocks.smallest):
        np.testing.assert_allclose(values[0], 1.0, rtol=1e-6)  # block 1 throws positions away
    assert found.blocks.smallest_converged()[0]


def test_what_cannot_be_done_is_said():
    with pytest.raises(UsageError, match=r"Dense is none.*operator_ritz.*depth.profile"):
        jacobians(nn.Dense(3), {}, images())
    with pytest.raises(UsageError, match="iterations must be at least 1, got 0"):
        jacobians(network(), {}, images(), iterations=0)


# ---- the linear algebra on its own ------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def singular_numbers(a, count, keys):
    return operator_ritz(lambda x: a @ x, jnp.zeros(a.shape[1]), count, keys)


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), pytest.param(5, 5, marks=SLOW), (6, 3)])
def test_all_singular_values_of_any_matrix(rows, columns):
    for seed, rank in itertools.product(range(4), range(1, min(rows, columns) + 1)):
        rng = np.random.default_rng(seed)
        a = (rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))).astype(np.float32)
        numbers = singular_numbers(a, min(rows, columns), jax.random.split(jax.random.key(seed)))
        for diagonal, upper in zip(*jax.device_get(numbers), strict=True):
            ritz = singular_ritz(diagonal, upper)
            np.testing.assert_allclose(ritz.values[::-1], singular(a.astype(np.float64)), atol=3e-5 * np.abs(a).sum())
            np.testing.assert_allclose(ritz.weights.sum(), 1.0, rtol=1e-6)


def test_the_density_is_that_of_all_singular_values():
    """Many random starts: the mean square is the squared Frobenius norm over n, within the scatter of the starts."""
    a = np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32)
    numbers = singular_numbers(a, 12, jax.random.split(jax.random.key(0), 240))
    found = from_bidiagonals([jax.device_get(numbers)], [a.shape])
    values = singular(a)
    np.testing.assert_allclose(found.mean_square[0], np.mean(values**2), rtol=0.05)
    np.testing.assert_allclose(found.weights[0].sum(), 1.0, rtol=1e-6)
    edges = np.linspace(0, 1.01 * values[0], 4)
    mine = found.histogram(edges)[0] * np.diff(edges)
    np.testing.assert_allclose(mine, np.histogram(values, edges)[0] / len(values), atol=0.12)


def test_orthogonal_and_scaled_identity_maps_are_exhausted_at_once_and_go_on():
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0].astype(np.float32)
    numbers = jax.jit(lambda a: golub_kahan(lambda v: a @ v, lambda u: a.T @ u, jnp.ones(12), 12, 8, jax.random.key(1)))
    for a, value in ((jnp.asarray(q), 1.0), (3 * jnp.eye(12), 3.0)):
        np.testing.assert_allclose(singular_ritz(*numbers(a)).values, value, rtol=1e-5)


def test_symmetric_eigenvalues_and_their_bounds():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(30, 30))
    a = ((a + a.T) / 2).astype(np.float32)
    values = np.linalg.eigvalsh(a.astype(np.float64))
    for count in (4, 30):
        ritz = symmetric_ritz(*lanczos(lambda v: jnp.asarray(a) @ v, jnp.ones(30), count, jax.random.key(0)))
        assert np.abs(values - ritz.values[-1]).min() <= ritz.residuals[-1] + 1e-4
    np.testing.assert_allclose(ritz.values, values, atol=1e-3)


@pytest.fixture(scope="module")
def masked_lanczos():
    """Eight steps of Lanczos with a diagonal matrix in the subspace of a mask: one program for all of them."""

    @jax.jit
    def run(values, mask, start, key):
        return lanczos(lambda v: values * v, start, 8, key, within=lambda v: mask * v)

    return run


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_basis_that_fills_its_subspace_ends_there(masked_lanczos, dimensions, sign):
    mask = (np.arange(20) < dimensions).astype(np.float32)
    values = sign * mask * np.arange(2, 22, dtype=np.float32)
    for seed in range(4):
        start = jax.random.normal(jax.random.key(seed), (20,))
        diagonal, off = masked_lanczos(values, mask, start, jax.random.key(seed + 9))
        ritz = symmetric_ritz(diagonal[:dimensions], off[:dimensions])
        np.testing.assert_allclose(ritz.values, np.sort(values[:dimensions]), rtol=1e-4)
        assert (ritz.residuals < 1e-3).all()
        assert not np.asarray(diagonal[dimensions:]).any()


def test_what_is_not_finite_stays_so():
    ritz = singular_ritz(np.asarray([1.0, np.nan]), np.asarray([0.0, 0.0]))
    assert np.isnan(ritz.values).all()
    spectra = from_bidiagonals([(np.full((1, 2), np.inf), np.zeros((1, 2)))], [(2, 2)])
    assert np.isnan(spectra.quantiles([0.5])).all()
