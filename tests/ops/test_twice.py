"""An array used twice: the sum of its gradients against plain JAX, under every transformation, in both forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from resnet_jax import ops
from tests.ops.exact import close
from tests.ops.test_channels import two_devices
from tests.ops.test_probe import IN_COMPILED_FORM, arrays


def loss(x, a, b, *, relu, twice=ops.twice):
    skip, branch = twice(x, relu=relu)
    return jnp.sum(jnp.sin(skip) * a) + jnp.sum(jnp.cos(2 * branch) * b)


def plain_twice(x, *, relu):
    y = jax.nn.relu(x) if relu else x
    return y, y


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 4, 16), (2, 9000), (1,)])
@pytest.mark.slow
def test_gradient_tangent_and_their_compositions(form, shape, relu):
    x, a, b = arrays(shape)

    def derivatives(twice):
        def f(x):
            return loss(x, a, b, relu=relu, twice=twice)

        forward = jax.jvp(f, (x,), (a,))
        over_reverse = jax.jvp(jax.grad(f), (x,), (b,))
        reverse_over = jax.grad(lambda x: jnp.sum(jax.grad(f)(x) * b))(x)
        return jax.grad(f)(x), forward, over_reverse, reverse_over

    close(jax.jit(lambda: derivatives(ops.twice))(), jax.jit(lambda: derivatives(plain_twice))(), 2e-5)


@IN_COMPILED_FORM
@pytest.mark.parametrize("relu", [False, True])
def test_the_compiled_pass_is_one_and_to_the_bit_the_plain_sum(form, relu):
    x, a, b = arrays((4, 6, 6, 16))

    def linear(x, twice):  # gradients a and b: nothing that could be rounded once or twice
        skip, branch = twice(x, relu=relu)
        return jnp.sum(skip * a) + jnp.sum(branch * b)

    ours, plain = (jax.jit(jax.grad(lambda x, twice=twice: linear(x, twice))) for twice in (ops.twice, plain_twice))
    np.testing.assert_array_equal(ours(x), plain(x))
    name = "probe_join_masked" if relu else "probe_join"
    assert (ours.lower(x).compile().as_text() or "").count(f'custom_call_target="resnet_jax_{name}"') == 1


@pytest.mark.parametrize("used", ["skip", "branch", "neither"])
def test_only_one_of_the_two_or_none_is_used(form, used):
    x, a, b = arrays((3, 8))

    def one(x):
        skip, branch = ops.twice(x, relu=True)
        return jnp.sum(a * {"skip": skip, "branch": branch, "neither": b}[used])

    expected = np.where(np.asarray(x) > 0, 0 if used == "neither" else np.asarray(a), 0)
    np.testing.assert_array_equal(jax.jit(jax.grad(one))(x), expected)


def test_vmap_scan_remat_and_a_number(form):
    x, a, b = arrays((2, 3, 5, 8))

    def deep(x, twice):
        @jax.checkpoint
        def body(x, _):
            skip, branch = twice(x, relu=True)
            return skip + jnp.sin(branch), None

        return jnp.sum(jnp.square(lax.scan(body, x, None, length=3)[0]))

    def gradients(twice):
        each = jax.vmap(jax.grad(lambda x, a, b: loss(x, a, b, relu=True, twice=twice)))(x, a, b)
        return each, jax.grad(lambda x: deep(x, twice))(x)

    close(jax.jit(lambda: gradients(ops.twice))(), jax.jit(lambda: gradients(plain_twice))(), 1e-5)
    assert float(jax.grad(lambda x: sum(ops.twice(x, relu=True)))(jnp.ones(()))) == 2.0


def test_shard_map(form):
    x, a, b = arrays((4, 3, 6))
    split = P("data")

    def each(twice):
        return lambda *v: jax.grad(lambda x: loss(x, *v[1:], relu=True, twice=twice))(v[0])

    mapped = jax.jit(jax.shard_map(each(ops.twice), mesh=two_devices(), in_specs=split, out_specs=split))
    close(mapped(x, a, b), jax.jit(each(plain_twice))(x, a, b), 1e-5)
