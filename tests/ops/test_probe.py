"""Gradients measured where two of them meet: against plain JAX, under every transformation, in both forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from resnet_jax import ops
from resnet_jax.ops import native
from tests.ops.exact import close
from tests.ops.test_channels import two_devices

IN_COMPILED_FORM = pytest.mark.parametrize("form", ["compiled"], indirect=True)


def arrays(shape, count=3, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(count)]


def loss(x, probe, a, b, *, relu):
    skip, branch = ops.fork(x, probe, relu=relu)
    return jnp.sum(jnp.sin(skip) * a) + jnp.sum(jnp.cos(2 * branch) * b)


def gradients(x, probe, a, b, *, relu):
    return jax.grad(lambda x, probe: loss(x, probe, a, b, relu=relu), (0, 1))(x, probe)


def expected(x, a, b, *, relu):
    """Return the gradient with respect to x, and the squared norm before the mask of each row, in float64."""
    x, a, b = (np.asarray(v, np.float64) for v in (x, a, b))
    y = np.maximum(x, 0) if relu else x
    g = np.cos(y) * a - 2 * np.sin(2 * y) * b
    return np.where(x > 0, g, 0) if relu else g, (g**2).reshape(len(g), -1).sum(1)


@pytest.mark.parametrize("shape", [(3, 5, 4, 16), (2, 40000), (40, 7), (1,)])
def test_sum_mask_and_squares(form, shape):
    """Rows longer than a block, shorter than a vector and of neither whole."""
    x, a, b = arrays(shape)
    ours = jax.jit(lambda *v: [gradients(v[0], jnp.zeros(shape[0]), *v[1:], relu=relu) for relu in (False, True)])
    close(ours(x, a, b), [expected(x, a, b, relu=relu) for relu in (False, True)], 1e-5)
    scalar = jax.jit(lambda *v: gradients(v[0], jnp.zeros(()), *v[1:], relu=True)[1])(x, a, b)
    np.testing.assert_allclose(scalar, expected(x, a, b, relu=True)[1].sum(), rtol=1e-5)


@IN_COMPILED_FORM
def test_the_compiled_pass_is_one_and_writes_over_the_branch(form):
    x, a, b = arrays((4, 6, 6, 16))
    for relu, name in ((True, "probe_join_masked"), (False, "probe_join")):
        compiled = (
            jax.jit(lambda *v, relu=relu: gradients(v[0], jnp.zeros(4), *v[1:], relu=relu)).lower(x, a, b).compile()
        )
        text = compiled.as_text() or ""
        assert text.count(f'custom_call_target="resnet_jax_{name}"') == 1
        assert "output_to_operand_aliasing" in text
        assert " reduce(" not in text


@IN_COMPILED_FORM
def test_to_the_bit_what_an_unprobed_network_gives(form):
    x, a, b = arrays((4, 6, 6, 16))

    def loss(skip, branch):  # gradients a and b: nothing that could be rounded once or twice
        return jnp.sum(skip * a) + jnp.sum(branch * b)

    plain = jax.jit(jax.grad(lambda x: loss(ops.relu(x), ops.relu(x))))
    probed = jax.jit(jax.grad(lambda x: loss(*ops.fork(x, jnp.zeros(()), relu=True))))
    np.testing.assert_array_equal(plain(x), probed(x))


@pytest.mark.parametrize("used", ["skip", "branch", "neither"])
def test_only_one_copy_or_none_is_used(form, used):
    x, a, b = arrays((3, 8))

    def one(x, probe):
        skip, branch = ops.fork(x, probe, relu=True)
        return jnp.sum(a * {"skip": skip, "branch": branch, "neither": b}[used])

    dx, squares = jax.jit(jax.grad(one, (0, 1)))(x, jnp.zeros(()))
    g = np.zeros_like(a) if used == "neither" else np.asarray(a)
    close((dx, squares), (np.where(np.asarray(x) > 0, g, 0), np.sum(g**2)), 1e-5)


def test_tap_measures_one_gradient(form):
    x, a, _ = arrays((3, 5, 9))
    dx, squares = jax.jit(jax.grad(lambda x, probe: jnp.sum(a * ops.tap(x, probe)), (0, 1)))(x, jnp.zeros(()))
    close((dx, squares), (a, np.sum(np.asarray(a, np.float64) ** 2)), 1e-5)
    scalar = jax.jit(jax.grad(lambda x, probe: 3 * ops.tap(x, probe), (0, 1)))(jnp.ones(()), jnp.zeros(()))
    assert [float(v) for v in scalar] == [3.0, 9.0]


def test_what_is_not_a_number_is_seen(form):
    x, a, b = arrays((3, 40))
    dx, squares = jax.jit(lambda b: gradients(x, jnp.zeros(3), a, b, relu=True))(
        jnp.asarray(np.where(np.arange(120).reshape(3, 40) == 47, np.nan, b), jnp.float32)
    )
    assert np.isnan(squares).tolist() == [False, True, False]
    assert np.isnan(dx).sum() == int(x[1, 7] > 0)


def test_vmap_scan_remat_and_a_jacobian(form):
    x, a, b = arrays((2, 3, 5, 8))
    members = jax.jit(jax.vmap(lambda *v: gradients(v[0], jnp.zeros(3), *v[1:], relu=True)))(x, a, b)
    each = [expected(*v, relu=True) for v in zip(x, a, b, strict=True)]
    close(members, tuple(np.stack(parts) for parts in zip(*each, strict=True)), 1e-5)

    def deep(x, probes, fork):
        @jax.checkpoint
        def body(x, probe):
            skip, branch = fork(x, probe)
            return skip + jnp.sin(branch), None

        return jnp.sum(jnp.square(lax.scan(body, x, probes)[0]))

    def unmeasured(x, probe):
        return jax.nn.relu(x), jax.nn.relu(x + 0 * jnp.sum(probe))

    dx, squares = jax.jit(jax.grad(lambda x, p: deep(x, p, lambda x, p: ops.fork(x, p, relu=True)), (0, 1)))(
        x, jnp.zeros((3, 2))
    )
    close(dx, jax.grad(deep)(x, jnp.zeros((3, 2)), unmeasured), 1e-5)
    assert squares.shape == (3, 2)
    assert (np.diff(squares, axis=0) < 0).all()  # each block adds to what passes its skip

    rows = jax.jit(jax.jacrev(lambda x, probe: sum(ops.fork(x, probe)), argnums=1))(a[0, 0], jnp.zeros(()))
    close(rows, np.full((5, 8), 4.0))


def test_shard_map_and_a_batch_that_the_compiler_splits(form):
    mesh = two_devices()
    x, a, b = arrays((4, 3, 6))
    split = P("data")

    def each(x, a, b):
        return gradients(x, jnp.zeros(x.shape[0]), a, b, relu=True)

    mapped = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))
    assert ("resnet_jax_probe_join" in mapped.lower(x, a, b).as_text()) == (form == "compiled")
    close(mapped(x, a, b), expected(x, a, b, relu=True), 1e-5)
    where = jax.sharding.NamedSharding(mesh, split)
    sharded = jax.jit(each, in_shardings=where)
    assert "resnet_jax_probe_join" not in sharded.lower(x, a, b).as_text()
    close(sharded(x, a, b), expected(x, a, b, relu=True), 1e-5)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_floats_are_measured_in_float32_or_wider(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, a, b = (v.astype(dtype) for v in arrays((3, 4, 6)))
        dx, squares = jax.jit(lambda *v: gradients(v[0], jnp.zeros(3), *v[1:], relu=True))(x, a, b)
        assert dx.dtype == x.dtype
        close((dx.astype(jnp.float32), squares), expected(x, a, b, relu=True), 1e-6 if dtype == "float64" else 5e-2)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_plain_operations(platform):
    x, a, b = arrays((4, 3, 6))
    step = jax.jit(lambda *v: gradients(v[0], jnp.zeros(4), *v[1:], relu=True))
    assert "custom_call" not in step.trace(x, a, b).lower(lowering_platforms=(platform,)).as_text()


def test_a_relu_is_known_by_its_result_while_remembered():
    x = jnp.ones(3)
    assert ops.relu_operand(ops.relu(x)) is None
    with ops.remembered_relus():
        y = ops.relu(x)
        assert ops.relu_operand(y) is x
        assert ops.relu_operand(y + 0) is None
    assert ops.relu_operand(y) is None


@pytest.mark.skipif(not native.available(), reason="no C++ compiler")
def test_reference_forms_are_plain():
    x, a, b = arrays((4, 3, 6))
    with ops.reference_forms():
        text = jax.jit(lambda *v: gradients(v[0], jnp.zeros(4), *v[1:], relu=True)).lower(x, a, b).as_text()
    assert "custom_call" not in text
