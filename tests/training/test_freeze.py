"""Freezing: what is named stays to the bit and costs no memory; what names nothing is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UsageError
from resnet_jax.training.freeze import frozen
from resnet_jax.training.optimizers import OPTIMIZERS, OptimConfig, make_optimizer
from resnet_jax.training.roles import ROLE_RULES

SHAPES = {
    "stem/conv/kernel": (3, 3, 2, 4),
    "stem/norm/scale": (4,),
    "stage1/block0/conv1/kernel": (3, 3, 4, 4),
    "stage1/block0/norm1/scale": (4,),
    "stage1/block0/norm1/bias": (4,),
    "stage10/block0/conv1/kernel": (3, 3, 4, 4),
    "head/kernel": (4, 3),
    "head/bias": (3,),
}


def _params(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    flat = {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in SHAPES.items()}
    return unflatten_dict(flat, sep="/")


def _named(*freeze: str) -> set[str]:
    return {path for path, is_frozen in flatten_dict(frozen(_params(), freeze), sep="/").items() if is_frozen}


STEM = {"stem/conv/kernel", "stem/norm/scale"}
STAGE1 = {path for path in SHAPES if path.startswith("stage1/")}


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ((), set()),
        (("stem",), STEM),
        (("stage1",), STAGE1),  # and not stage10
        (("stage1/block0",), STAGE1),
        (("stage1/block0/norm1/bias",), {"stage1/block0/norm1/bias"}),
        (("stem", "stage1"), STEM | STAGE1),
        (("norm_scale",), {"stem/norm/scale", "stage1/block0/norm1/scale"}),
        (("conv",), {path for path in SHAPES if path.endswith("kernel") and path != "head/kernel"}),
        (("head",), {"head/kernel", "head/bias"}),
        (("stage1?\\d",), STAGE1 | {"stage10/block0/conv1/kernel"}),
        ((".*/conv1",), {"stage1/block0/conv1/kernel", "stage10/block0/conv1/kernel"}),
    ],
)
def test_roles_modules_and_patterns(freeze: tuple[str, ...], expected: set[str]) -> None:
    assert _named(*freeze) == expected


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_stay_and_the_others_move_as_if_alone(name: str) -> None:
    """With everything that could reach them: decay, l1, clipping, rates. The rest trains as a net without the stem."""
    cfg = OptimConfig(
        name, 0.05, weight_decay=0.1, l1=0.01, clip_norm=0.7, agc=0.5, layer_decay=0.5, freeze=("stem", "norm_bias")
    )
    params, rest = _params(), flatten_dict(_params(), sep="/")
    left = {path for path in SHAPES if not path.startswith("stem/") and path != "stage1/block0/norm1/bias"}
    alone = OptimConfig(name, 0.05, weight_decay=0.1, l1=0.01, clip_norm=0.7, agc=0.5, layer_decay=0.5)

    def train(cfg: OptimConfig, keep: set[str]) -> tuple[dict, int]:
        start = unflatten_dict({path: rest[path] for path in keep}, sep="/")
        tx, _ = make_optimizer(cfg, start, steps_per_epoch=1, total_steps=3)

        @jax.jit
        def step(p: dict, state: object, g: dict) -> tuple[dict, object]:
            updates, state = tx.update(g, state, p)
            return optax.apply_updates(p, updates), state

        p, state = start, tx.init(start)
        for seed in (1, 2):
            grads = flatten_dict(_params(seed), sep="/")
            p, state = step(p, state, unflatten_dict({path: grads[path] for path in keep}, sep="/"))
        return flatten_dict(p, sep="/"), sum(leaf.size for leaf in jax.tree.leaves(state))

    (got, memory), (expected, memory_alone) = train(cfg, set(SHAPES)), train(alone, left)
    assert memory == memory_alone
    for path, start in flatten_dict(params, sep="/").items():
        if path in left:
            np.testing.assert_allclose(got[path], expected[path], rtol=1e-6, err_msg=path)
            assert (np.asarray(got[path]) != np.asarray(start)).any()
        else:
            np.testing.assert_array_equal(got[path], start)


def test_a_gradient_that_is_not_finite_does_not_reach_frozen_parameters() -> None:
    params = _params()
    tx, _ = make_optimizer(OptimConfig(freeze=("stem",)), params, steps_per_epoch=1, total_steps=1)
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    updates, _ = tx.update(bad, tx.init(params), params)
    assert not updates["stem"]["conv"]["kernel"].any()


def test_a_frozen_classifier_may_go_with_adaptive_clipping() -> None:
    params = _params()
    cfg = OptimConfig("sgd", agc=0.1, freeze=("head",))
    tx, _ = make_optimizer(cfg, params, steps_per_epoch=1, total_steps=1)
    updates, _ = tx.update(params, tx.init(params), params)
    assert not updates["head"]["kernel"].any()
    assert updates["stem"]["conv"]["kernel"].all()


def test_rules_of_ones_own() -> None:
    params = {"w": 0, "v": 0}
    assert frozen(params, ["left"], (("w", "left"), ("v", "right"))) == {"w": True, "v": False}


@pytest.mark.parametrize(
    ("freeze", "why"),
    [
        (("stm",), r"'stm' names no parameter; did you mean 'stem'\? Roles here: bias, conv.*; modules: head, stage1,"),
        (("stage1/blck0",), "did you mean 'stage1/block0'"),
        (("norm_scal",), "did you mean 'norm_scale'"),
        (("stem", "scalar"), "'scalar' names no parameter"),  # a known role that no parameter here has
        (("qqqqqq",), r"'qqqqqq' names no parameter\. Roles"),
        (("stem(",), r"'stem\(' is no regular expression"),
        ((".*",), "freezing .* leaves nothing to train"),
    ],
)
def test_refusals(freeze: tuple[str, ...], why: str) -> None:
    params = flatten_dict(_params(), sep="/")
    params["stage1/block0/conv1/bias"] = jnp.zeros(4)
    with pytest.raises(UsageError, match=why):
        make_optimizer(OptimConfig(freeze=freeze), unflatten_dict(params, sep="/"), steps_per_epoch=1, total_steps=1,
                       rules=ROLE_RULES)  # fmt: skip
