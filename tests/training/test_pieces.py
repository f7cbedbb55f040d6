"""Gradients in pieces: every array comes back summed, in its dtype and place, with no more sums than said."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import create_model
from resnet_jax.models.count import abstract_variables
from resnet_jax.training.pieces import PIECES, backward_order, cut, summed
from resnet_jax.training.placement import make_mesh


@pytest.mark.parametrize("laid", [True, False])
def test_everything_is_summed_where_it_was(laid):
    rng = np.random.default_rng(0)
    params = {"stem": {"conv": {"kernel": rng.normal(size=(3, 2))}}, "head": {"bias": rng.normal(size=7)}}
    params |= {f"stage{s}": {"block0": {"a": rng.normal(size=(s, 4)), "b": np.float64(s)}} for s in (1, 2, 3)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    params["stage2"]["block0"]["b"] = params["stage2"]["block0"]["b"].astype(jnp.bfloat16)
    grads, early = (
        {"params": params, "probes": {"stage1": {"block0": jnp.ones(())}}},
        (jnp.ones(()), {"n": jnp.ones(())}),
    )

    def function(grads, early):
        return summed(grads, early, "data", laid=laid)

    whole = jax.P()
    mapped = jax.shard_map(
        function, mesh=make_mesh(jax.devices()[:2]), in_specs=whole, out_specs=whole, check_vma=False
    )
    got = jax.jit(mapped)(grads, early)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), got, jax.tree.map(lambda x: 2 * x, (grads, early)))
    assert got[0]["params"]["stage2"]["block0"]["b"].dtype == jnp.bfloat16


def test_pieces_of_a_resnet50_are_few_large_and_in_the_order_of_the_backward_pass():
    params = abstract_variables(create_model("resnet50"), (64, 64, 3))["params"]
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = ["/".join(key.key for key in path) for path, _ in flat]
    order = backward_order(paths)
    sizes = [flat[index][1].size for index in order]
    pieces = cut(sizes, PIECES)
    assert 4 <= len(pieces) <= 8
    assert pieces[0][0] == 0
    assert pieces[-1][1] == len(paths)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
    first, last = (order[slice(*piece)] for piece in (pieces[0], pieces[-1]))
    assert paths[first[0]].startswith("head/")
    assert paths[last[-1]].startswith("stem/")
    assert max(sum(sizes[slice(*piece)]) for piece in pieces) < 0.35 * sum(sizes)
