"""The digest is what its documentation says, and notices everything."""

from __future__ import annotations

import hashlib

import jax.numpy as jnp
import numpy as np

from resnet_jax.models.digest import params_digest

PARAMS = {"head": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3, np.float32)}}
STATS = {"norm": {"mean": np.ones(2, np.float32)}}


def test_it_is_the_stated_sha256():
    digest = hashlib.sha256()
    for path, shape, leaf in (
        ("batch_stats/norm/mean", "2", STATS["norm"]["mean"]),
        ("params/head/bias", "3", PARAMS["head"]["bias"]),
        ("params/head/kernel", "2,3", PARAMS["head"]["kernel"]),
    ):
        digest.update(f"{path} float32[{shape}]\n".encode() + leaf.tobytes())
    assert params_digest(PARAMS, STATS) == digest.hexdigest()


def test_it_does_not_depend_on_where_the_arrays_are_or_their_order():
    params = {"head": {"bias": jnp.zeros(3), "kernel": jnp.arange(6.0).reshape(2, 3)}}
    assert params_digest(params, STATS) == params_digest(PARAMS, STATS)


def test_it_notices_one_bit_one_name_one_shape_and_one_dtype():
    kernel = PARAMS["head"]["kernel"]
    flipped = kernel.copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    variants = [
        {"head": {**PARAMS["head"], "kernel": flipped}},
        {"haed": PARAMS["head"]},
        {"head": {**PARAMS["head"], "kernel": kernel.reshape(3, 2)}},
        {"head": {**PARAMS["head"], "kernel": kernel.view(np.int32)}},
    ]
    assert len({params_digest(p, STATS) for p in [*variants, PARAMS]}) == 5


def test_a_scalar_counts_like_any_other_leaf():
    """SkipInit, ReZero and Fixup live in scalars; so do empty and one-element arrays have a place of their own."""
    scalar = {**PARAMS, "alpha": np.float32(0.25)}
    digest = hashlib.sha256()
    for path, shape, leaf in (
        ("batch_stats/norm/mean", "2", STATS["norm"]["mean"]),
        ("params/alpha", "", np.float32(0.25)),
        ("params/head/bias", "3", PARAMS["head"]["bias"]),
        ("params/head/kernel", "2,3", PARAMS["head"]["kernel"]),
    ):
        digest.update(f"{path} float32[{shape}]\n".encode() + leaf.tobytes())
    assert params_digest(scalar, STATS) == digest.hexdigest()
    variants = [
        PARAMS,
        scalar,
        {**PARAMS, "alpha": jnp.float32(0.5)},
        {**PARAMS, "beta": np.float32(0.25)},
        {**PARAMS, "alpha": np.full(1, 0.25, np.float32)},
        {**PARAMS, "alpha": np.float64(0.25)},
        {**PARAMS, "alpha": np.zeros(0, np.float32)},
    ]
    digests = {params_digest(params, STATS) for params in variants}
    assert len(digests) == len(variants)
    assert params_digest(scalar, {**STATS, "count": np.int32(3)}) not in digests
