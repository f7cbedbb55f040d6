"""What a compiled function says of a call that does not fit: an error, and never a read of what is not there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason=f"nothing compiled: {native.status()}")

SUM, IMAGE, POOLED = ((1, 3), (2, 4, 4, 3), (2, 2, 2, 3))
SIZE = {"window": np.int64(2), "stride": np.int64(2), "padding": np.int64(0)}


def call(name, operands, results, **attributes):
    out = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    jax.block_until_ready(jax.jit(lambda *a: jax.ffi.ffi_call(f"resnet_jax_{name}", out)(*a, **attributes))(*operands))


FLOATS = [(SUM, jnp.float32)] * 2
CALLS = {
    "an operand is missing": ("channel_moments", [], FLOATS, {}),
    "an operand is missing or is no array of float32": ("channel_moments", [jnp.zeros(IMAGE, int)], FLOATS, {}),
    "there are more operands than the function takes": ("channel_moments", [jnp.zeros(IMAGE)] * 2, FLOATS, {}),
    "a result is missing": ("channel_moments", [jnp.zeros(IMAGE)], FLOATS[:1], {}),
    "there are more results than the function gives": ("channel_moments", [jnp.zeros(IMAGE)], FLOATS * 2, {}),
    "an attribute is missing": ("max_pool", [jnp.zeros(IMAGE)], [(POOLED, jnp.float32)], {"window": np.int64(2)}),
    "or of another type": ("max_pool", [jnp.zeros(IMAGE)], [(POOLED, jnp.float32)], {**SIZE, "stride": np.int32(2)}),
}


@pytest.mark.parametrize("reason", CALLS)
def test_a_call_that_does_not_fit(reason):
    name, operands, results, attributes = CALLS[reason]
    with pytest.raises(jax.errors.JaxRuntimeError, match=reason):
        call(name, operands, results, **attributes)


def test_one_that_fits():
    call("max_pool", [jnp.zeros(IMAGE)], [(POOLED, jnp.float32)], **SIZE)
