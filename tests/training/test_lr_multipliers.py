"""Rates by role and by depth, against the paper's and timm's rules spelled out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UsageError
from resnet_jax.training.lr_multipliers import distances, rate_factors
from resnet_jax.training.optimizers import OPTIMIZERS, OptimConfig, make_optimizer

# two stages, of 11 and 2 blocks: as strings, block10 would come before block2
DISTANCES = {
    "stem/conv1/kernel": 14,
    "stem/bias1": 14,
    **{f"stage1/block{index}/branch/norm1/scale": 13 - index for index in range(11)},
    "stage2/block0/shortcut/conv/kernel": 2,
    "stage2/block1/branch/scale": 1,
    "norm/scale": 0,
    "bias2": 0,
    "head/kernel": 0,
    "head/bias": 0,
}


def _tree(table: dict) -> dict:
    return unflatten_dict(table, sep="/")


def test_distances_count_blocks_from_the_classifier_in_natural_order() -> None:
    assert flatten_dict(distances(_tree(DISTANCES)), sep="/") == DISTANCES


def test_a_wrapped_network_has_the_same_distances() -> None:
    inner = {path: d for path, d in DISTANCES.items() if path.startswith("st")}
    assert flatten_dict(distances({"net": _tree(inner)})["net"], sep="/") == inner


def test_factors_multiply() -> None:
    factors = rate_factors(_tree(DISTANCES), role_rates=[("scalar", 0.1), ("head", 10.0)], layer_decay=0.75)
    flat = flatten_dict(factors, sep="/")
    own = {"head/kernel": 10.0, "stem/bias1": 0.1, "bias2": 0.1, "stage2/block1/branch/scale": 0.1}
    assert flat == pytest.approx({path: own.get(path, 1.0) * 0.75**d for path, d in DISTANCES.items()})


def test_nothing_is_done_unasked() -> None:
    """Fixup's scalars too train at the full rate unless it is said."""
    assert set(jax.tree.leaves(rate_factors(_tree(DISTANCES)))) == {1.0}
    assert set(jax.tree.leaves(rate_factors(_tree(DISTANCES), layer_decay=1.0))) == {1.0}


@pytest.mark.parametrize(
    "name", [name if name in ("sgd", "lamb") else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_a_factor_is_the_learning_rate_of_that_parameter(name: str) -> None:
    """Decay, momentum and all: each parameter moves as in a run of its own with that rate, over several steps."""
    rng = np.random.default_rng(0)
    shapes = {"stage1/block0/conv1/kernel": (3, 2), "stage1/block0/branch/scale": (), "head/kernel": (2, 2)}
    params = _tree({path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()})

    def train(learning_rate: float, **settings) -> dict:
        cfg = OptimConfig(name, learning_rate, weight_decay=0.1, **settings)
        tx, _ = make_optimizer(cfg, params, steps_per_epoch=1, total_steps=3)

        @jax.jit
        def step(p: dict, state: object, g: dict) -> tuple[dict, object]:
            updates, state = tx.update(g, state, p)
            return jax.tree.map(jnp.add, p, updates), state

        p, state = params, tx.init(params)
        for seed in range(3):
            draw = np.random.default_rng(seed + 1)
            g = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), jnp.float32), params)  # noqa: B023
            p, state = step(p, state, g)
        return flatten_dict(p, sep="/")

    mixed = train(0.05, role_rates=(("scalar", 0.1),), layer_decay=0.5)
    for path, factor in zip(shapes, (0.5, 0.05, 1.0), strict=True):
        np.testing.assert_allclose(mixed[path], train(0.05 * factor)[path], rtol=2e-5, err_msg=path)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"role_rates": [("scalr", 0.1)]}, "unknown parameter role 'scalr'; did you mean 'scalar'"),
        ({"role_rates": [("scalar", 0.0)]}, "the factor of scalar must be finite and positive, got 0.0; see freeze"),
        ({"role_rates": [("scalar", float("inf"))]}, "must be finite and positive"),
        ({"role_rates": [("scalar", 0.1), ("scalar", 0.2)]}, "names a role twice"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\], got 0.0"),
        ({"layer_decay": 1.5}, "layer_decay must be in"),
    ],
)
def test_refusals(settings: dict, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        rate_factors(_tree(DISTANCES), **settings)


def test_a_parameter_of_unknown_depth_is_named() -> None:
    params = _tree(dict.fromkeys(["Conv_0/kernel", "stage1/unit0/conv1/kernel", "neck/se/kernel", "stem/bias1"], 0))
    with pytest.raises(UsageError, match="how deep") as caught:
        rate_factors(params, layer_decay=0.9)
    assert str(caught.value).split("\n  ")[1:] == ["Conv_0/kernel", "neck/se/kernel", "stage1/unit0/conv1/kernel"]
