"""Optimizers against NumPy re-implementations of PyTorch's and the papers' formulas, and their masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro
from pydantic import TypeAdapter

from resnet_jax.errors import UsageError
from resnet_jax.training.optimizers import OPTIMIZERS, OptimConfig, make_optimizer
from resnet_jax.training.roles import ROLE_RULES
from resnet_jax.training.schedules import ScheduleConfig

LR, WD, STEPS = 0.05, 0.1, 6
Step = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (w, g) -> new w


def _params(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "stem": {"conv": {"kernel": draw(3, 3, 2, 4)}, "norm": {"scale": 1 + draw(4), "bias": draw(4)}},
        "head": {"kernel": draw(4, 3), "bias": draw(3)},
    }


def _make(cfg: OptimConfig, params: dict | None = None) -> optax.GradientTransformation:
    return make_optimizer(cfg, _params() if params is None else params, steps_per_epoch=10, total_steps=100)[0]


def _run(cfg: OptimConfig, grads: list[dict]) -> dict:
    params, tx = _params(), _make(cfg)

    @jax.jit
    def step(params: dict, state: object, g: dict) -> tuple[dict, object]:
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for g in grads:
        params, state = step(params, state, g)
    return params


def _zeros(tree: dict) -> dict:
    return jax.tree.map(jnp.zeros_like, tree)


# --- the formulas, per parameter; wd is 0 for parameters that do not decay ---


def _sgd(wd: float, *, momentum: float = 0.9, nesterov: bool = False) -> Step:
    v: list = [None]

    def step(w: np.ndarray, g: np.ndarray) -> np.ndarray:  # the first buffer is the gradient
        g = g + wd * w
        v[0] = g if v[0] is None else momentum * v[0] + g
        return w - LR * (g + momentum * v[0] if nesterov else v[0])

    return step


def _moments(b1: float, b2: float, eps: float) -> Callable[[np.ndarray], np.ndarray]:
    m, v, t = [0.0], [0.0], [0]

    def direction(g: np.ndarray) -> np.ndarray:
        t[0] += 1
        m[0], v[0] = b1 * m[0] + (1 - b1) * g, b2 * v[0] + (1 - b2) * g * g
        return m[0] / (1 - b1 ** t[0]) / (np.sqrt(v[0]) / np.sqrt(1 - b2 ** t[0]) + eps)

    return direction


def _adam(wd: float, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Step:
    direction = _moments(b1, b2, eps)
    return lambda w, g: w - LR * direction(g + wd * w)


def _adamw(wd: float, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Step:
    direction = _moments(b1, b2, eps)
    return lambda w, g: w * (1 - LR * wd) - LR * direction(g)


def _rmsprop(wd: float, *, momentum: float = 0.0, decay: float = 0.99, eps: float = 1e-8) -> Step:
    s, buf = [0.0], [0.0]

    def step(w: np.ndarray, g: np.ndarray) -> np.ndarray:
        g = g + wd * w
        s[0] = decay * s[0] + (1 - decay) * g * g
        buf[0] = momentum * buf[0] + g / (np.sqrt(s[0]) + eps)
        return w - LR * buf[0]

    return step


def _lars(wd: float, *, adapts: bool, momentum: float = 0.9, nesterov: bool = False, trust_coefficient: float = 1e-3):
    v = [0.0]

    def step(w: np.ndarray, g: np.ndarray) -> np.ndarray:
        norm = np.linalg.norm
        q = trust_coefficient * norm(w) / (norm(g) + wd * norm(w)) if adapts else 1.0
        u = LR * q * (g + wd * w)
        v[0] = momentum * v[0] + u
        return w - (u + momentum * v[0] if nesterov else v[0])

    return step


def _lamb(wd: float, *, adapts: bool, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6) -> Step:
    direction = _moments(b1, b2, eps)

    def step(w: np.ndarray, g: np.ndarray) -> np.ndarray:
        r = direction(g) + wd * w
        return w - LR * (np.linalg.norm(w) / np.linalg.norm(r) if adapts else 1.0) * r

    return step


REFERENCE = {"sgd": _sgd, "adam": _adam, "adamw": _adamw, "rmsprop": _rmsprop, "lars": _lars, "lamb": _lamb}
VARIANTS: list[tuple[str, dict]] = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.0}),
    ("sgd", {"momentum": 0.8, "nesterov": True}),
    ("adam", {}),
    ("adam", {"b1": 0.5, "b2": 0.9, "eps": 0.1}),
    ("adamw", {}),
    ("adamw", {"b1": 0.5, "b2": 0.9, "eps": 0.1}),
    ("rmsprop", {}),
    ("rmsprop", {"momentum": 0.9, "decay": 0.9, "eps": 0.1}),
    ("lars", {}),
    ("lars", {"momentum": 0.5, "nesterov": True, "trust_coefficient": 0.02}),
    ("lamb", {}),
    ("lamb", {"b1": 0.5, "b2": 0.9, "eps": 0.1}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_trajectory_equals_the_formula(name: str, settings: dict) -> None:
    """Several updates, all parameters: kernels decay (and, in lars and lamb, adapt), the others do not."""
    grads = [_params(seed) for seed in range(1, STEPS + 1)]
    got = _run(OptimConfig(name, LR, weight_decay=WD, **settings), grads)
    for (path, final), start, *gs in zip(
        jax.tree_util.tree_leaves_with_path(got),
        jax.tree.leaves(_params()),
        *map(jax.tree.leaves, grads),
        strict=True,
    ):
        kernel = path[-1].key == "kernel"
        extra = {"adapts": kernel} if name in ("lars", "lamb") else {}
        step = REFERENCE[name](WD if kernel else 0.0, **settings, **extra)
        w = np.asarray(start, np.float64)
        for g in gs:
            w = step(w, np.asarray(g, np.float64))
        np.testing.assert_allclose(final, w, rtol=2e-5, atol=2e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_decayed_roles_move_when_the_gradient_is_zero(name: str) -> None:
    """Exactly: without a gradient the penalties alone act, on kernels only; and they shrink them."""
    before = _params()
    after = _run(OptimConfig(name, 1e-3, weight_decay=WD, l1=1e-3), [_zeros(before)])
    for module in (("stem", "norm"), ("head",)):
        old, new = before, after
        for part in module:
            old, new = old[part], new[part]
        for leaf in set(old) - {"kernel"}:
            np.testing.assert_array_equal(new[leaf], old[leaf])
    for old, new in (
        (before["head"], after["head"]),
        (before["stem"]["conv"], after["stem"]["conv"]),
    ):
        assert jnp.linalg.norm(new["kernel"].ravel()) < jnp.linalg.norm(old["kernel"].ravel())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_roles_choose_what_decays(name: str) -> None:
    before = _params()
    cfg = OptimConfig(name, 1e-3, weight_decay=WD, decay_roles=("norm_scale",))
    after = _run(cfg, [_zeros(before)])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert moved == {
        "stem": {"conv": {"kernel": False}, "norm": {"scale": True, "bias": False}},
        "head": {"kernel": False, "bias": False},
    }


def test_l1_and_clipping_come_before_the_momentum() -> None:
    """Clip -> + l1 sign(w) + wd w -> momentum: the penalties are not clipped."""
    before, g = _params(), _params(1)
    norm = float(optax.tree.norm(g))
    cfg = OptimConfig("sgd", LR, momentum=0.0, weight_decay=WD, l1=0.3, clip_norm=0.5)
    after = _run(cfg, [g])
    w, gk = (np.asarray(t["head"]["kernel"], np.float64) for t in (before, g))
    expected = w - LR * (gk * 0.5 / norm + 0.3 * np.sign(w) + WD * w)
    np.testing.assert_allclose(after["head"]["kernel"], expected, rtol=1e-6)
    b, gb = before["head"]["bias"], g["head"]["bias"]
    np.testing.assert_allclose(after["head"]["bias"], b - LR * 0.5 / norm * gb, rtol=1e-5)


def test_a_small_gradient_is_not_clipped() -> None:
    g = jax.tree.map(lambda x: 1e-3 * x, _params(1))
    clipped, plain = (_run(OptimConfig("sgd", LR, clip_norm=c), [g]) for c in (10.0, None))
    jax.tree.map(np.testing.assert_array_equal, clipped, plain)


def test_the_schedule_drives_the_updates() -> None:
    cfg = OptimConfig("sgd", 1.0, momentum=0.0, schedule=ScheduleConfig("multistep", milestones=("2 steps",)))
    params = {"head": {"bias": jnp.zeros(1)}}
    tx, schedule = make_optimizer(cfg, params, steps_per_epoch=10, total_steps=100)
    state, g, seen = tx.init(params), {"head": {"bias": jnp.ones(1)}}, []
    for _ in range(4):
        updates, state = tx.update(g, state, params)
        seen.append(-float(updates["head"]["bias"][0]))
    np.testing.assert_allclose(seen, [1.0, 1.0, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(seen, [float(schedule(t)) for t in range(4)])


def test_lars_has_the_learning_rate_inside_its_momentum() -> None:
    """In v <- m v + lr u (the paper) a drop of the rate leaves what v already holds, unlike in sgd."""
    params, drop = {"head": {"bias": jnp.zeros(1)}}, ScheduleConfig("multistep", milestones=("1 step",))
    second = {}
    for name in ("lars", "sgd"):
        tx = _make(OptimConfig(name, 1.0, momentum=0.5, schedule=drop), params)
        state, g = tx.init(params), jax.tree.map(jnp.ones_like, params)
        _, state = tx.update(g, state, params)
        second[name] = -float(tx.update(g, state, params)[0]["head"]["bias"][0])
    assert second == pytest.approx({"lars": 0.5 * 1.0 + 0.1, "sgd": 0.1 * (0.5 + 1.0)})


def _logistic() -> Callable[[dict], jax.Array]:
    x = np.random.default_rng(3).normal(size=(64, 4)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5, 0.0]) > 0).astype(np.float32)
    return lambda p: optax.sigmoid_binary_cross_entropy(x @ p["head"]["kernel"][:, 0] + p["head"]["bias"][0], y).mean()


RATES = {"sgd": 0.1, "adam": 0.05, "adamw": 0.05, "rmsprop": 0.02, "lars": 10.0, "lamb": 0.05}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_descends_on_logistic_regression_in_one_trace(name: str) -> None:
    loss = _logistic()
    params = {"head": {"kernel": jnp.full((4, 1), 0.1, jnp.float32), "bias": jnp.zeros(1)}}
    tx = _make(OptimConfig(name, RATES[name], weight_decay=1e-4), params)
    state = jax.jit(tx.init)(params)
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(x.dtype == jnp.float32 and not x.weak_type for x in floats)
    traces = []

    @jax.jit
    def step(params: dict, state: object) -> tuple[dict, object, jax.Array]:
        traces.append(1)
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    values = []
    for _ in range(60):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
    assert len(traces) == 1
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zero_parameters_can_leave_zero(name: str) -> None:
    """Trust ratios are 1 where a norm is 0: zero-initialized kernels train, a zero gradient gives no NaN."""
    params = {"head": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}}
    tx = _make(OptimConfig(name, 0.1), params)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, tx.init(params), params)
    assert all((u < 0).all() for u in jax.tree.leaves(updates))
    still, _ = tx.update(_zeros(ones), tx.init(ones), ones)
    assert all((u == 0).all() for u in jax.tree.leaves(still))


def test_abstract_parameters_suffice() -> None:
    abstract = jax.eval_shape(_params)
    tx, _ = make_optimizer(OptimConfig("lars", weight_decay=WD), abstract, steps_per_epoch=1, total_steps=1)
    state = jax.eval_shape(tx.init, abstract)
    assert sum(x.size for x in jax.tree.leaves(state)) == sum(x.size for x in jax.tree.leaves(abstract)) + 1


def test_rules_can_be_extended() -> None:
    params = {"pos_embedding": jnp.ones(3), "head": {"kernel": jnp.ones((2, 2))}}
    cfg = OptimConfig("sgd", 1.0, weight_decay=WD, decay_roles=("embedding",))
    with pytest.raises(UsageError, match="unknown parameter role 'embedding'"):
        _make(cfg, params)
    with pytest.raises(UsageError, match="'pos_embedding': no rule matches"):
        _make(OptimConfig(), params)
    rules = (*ROLE_RULES, ("pos_embedding", "embedding"))
    tx, _ = make_optimizer(cfg, params, steps_per_epoch=1, total_steps=1, rules=rules)
    updates, _ = tx.update(_zeros(params), tx.init(params), params)
    np.testing.assert_allclose(updates["pos_embedding"], -0.1, rtol=1e-6)
    assert not updates["head"]["kernel"].any()


def test_rules_of_a_stranger_need_not_know_our_kernel_roles() -> None:
    params = {"w": jnp.ones(3)}
    cfg = OptimConfig("lamb", 0.1, decay_roles=())
    tx, _ = make_optimizer(cfg, params, steps_per_epoch=1, total_steps=1, rules=((".*", "anything"),))
    updates, _ = tx.update({"w": jnp.full(3, 2.0)}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-5)  # Adam's first step, ratio 1


@pytest.mark.parametrize(
    ("cfg", "why"),
    [
        (OptimConfig("adam", momentum=0.9), "adam does not use momentum; it accepts: b1, b2, eps"),
        (OptimConfig("sgd", b1=0.9, eps=1e-8), "sgd does not use b1, eps; it accepts: momentum, nesterov"),
        (OptimConfig("rmsprop", nesterov=False), "rmsprop does not use nesterov"),
        (OptimConfig("lamb", trust_coefficient=0.1), "lamb does not use trust_coefficient"),
        (OptimConfig("sgd", momentum=0.0, nesterov=True), "nesterov of sgd needs a momentum"),
        (OptimConfig(decay_roles=("convs",)), "unknown parameter role 'convs'; did you mean 'conv'"),
        (OptimConfig(schedule=ScheduleConfig("cosine", factor=0.1)), "cosine schedule does not use factor"),
    ],
)
def test_refusals(cfg: OptimConfig, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        _make(cfg)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("name", "sdg", r"unknown optim.name 'sdg'; did you mean 'sgd'"),
        ("learning_rate", 0.0, r"optim.learning_rate must be positive, got"),
        ("learning_rate", float("nan"), r"optim.learning_rate must be positive, got"),
        ("weight_decay", -1e-4, r"optim.weight_decay must be 0 or more, got"),
        ("l1", -1e-4, r"optim.l1 must be 0 or more, got"),
        ("clip_norm", 0.0, r"optim.clip_norm must be positive, got"),
        ("momentum", 1.0, r"optim.momentum must be in \[0, 1\), got"),
        ("b2", 1.5, r"optim.b2 must be in \[0, 1\), got"),
        ("eps", 0.0, r"optim.eps must be positive, got"),
        ("decay", -0.1, r"optim.decay must be in \[0, 1\), got"),
        ("trust_coefficient", float("inf"), r"optim.trust_coefficient must be positive, got"),
    ],
)
def test_values_out_of_range_are_refused_at_once(field: str, value: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        OptimConfig(**{field: value})


def test_command_line_and_yaml() -> None:
    args = ["--name", "lars", "--learning-rate", "2.0", "--decay-roles", "conv", "--clip-norm", "1",
            "--agc", "0.01", "--agc-exclude", "head", "--role-rates", "scalar", "0.1", "gain", "0.5",
            "--layer-decay", "0.75", "--freeze", "stem", "stage[12]",
            "--schedule.kind", "cosine", "--schedule.warmup", "5 epochs"]  # fmt: skip
    cfg = tyro.cli(OptimConfig, args=args)
    schedule = ScheduleConfig("cosine", warmup="5 epochs")
    assert cfg == OptimConfig(
        "lars", 2.0, decay_roles=("conv",), clip_norm=1.0, agc=0.01, agc_exclude=("head",),
        role_rates=(("scalar", 0.1), ("gain", 0.5)), layer_decay=0.75, freeze=("stem", "stage[12]"), schedule=schedule,
    )  # fmt: skip
    adapter = TypeAdapter(OptimConfig)
    assert adapter.validate_python(adapter.dump_python(cfg, mode="json")) == cfg
    again = tyro.cli(OptimConfig, args=["--role-rates", "head", "2"], default=cfg)
    assert again.role_rates == (("head", 2.0),)  # what a recipe has can be replaced


# --- timm's LARS and LAMB, several updates under a schedule (tests/reference) ---

TIMM = {
    "lars": OptimConfig("lars", trust_coefficient=0.02, weight_decay=0.1),
    "lars_nesterov": OptimConfig("lars", trust_coefficient=0.02, weight_decay=0.1, nesterov=True),
    "lars_no_decay": OptimConfig("lars", trust_coefficient=0.02),
    "lars_bias_decays": OptimConfig(
        "lars", trust_coefficient=0.02, weight_decay=0.1, momentum=0.0, decay_roles=("head", "head_bias")
    ),
    "lamb": OptimConfig("lamb", weight_decay=0.1),
    "lamb_no_decay": OptimConfig("lamb"),
    "lamb_clip_3": OptimConfig("lamb", weight_decay=0.1, clip_norm=3.0),
    "lamb_no_clip": OptimConfig("lamb", weight_decay=0.1, clip_norm=1e9),
}


def _trajectory(cfg: OptimConfig, stored: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the parameters after each update of the stored gradients, by the names of the file."""

    def tree(group: str, row: int | None = None) -> dict:
        kernel, bias, scale = (
            jnp.asarray(stored[f"optim/{group}/{name}"] if row is None else stored[f"optim/{group}/{name}"][row])
            for name in ("kernel", "bias", "scale")
        )
        return {"head": {"kernel": kernel, "bias": bias}, "stem": {"norm": {"scale": scale}}}

    cfg = dataclasses.replace(cfg, learning_rate=0.1, schedule=ScheduleConfig("cosine"))
    params = tree("start")
    tx, schedule = make_optimizer(cfg, params, steps_per_epoch=8, total_steps=8)
    np.testing.assert_allclose([schedule(t) for t in range(8)], 0.1 * stored["optim/rates"], rtol=1e-5)

    @jax.jit
    def step(params: dict, state: object, g: dict) -> tuple[dict, object]:
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    state, rows = tx.init(params), []
    for row in range(8):
        params, state = step(params, state, tree("grads", row))
        rows.append({**params["head"], "scale": params["stem"]["norm"]["scale"]})
    return rows


@pytest.mark.parametrize("name", TIMM)
def test_the_convention_timm_gives_timms_trajectory_and_the_default_another(name: str) -> None:
    stored = np.load(Path(__file__).parents[1] / "reference" / "torch.npz")
    theirs = _trajectory(dataclasses.replace(TIMM[name], convention="timm"), stored)
    for row, ours in enumerate(theirs):
        for key, value in ours.items():
            np.testing.assert_allclose(value, stored[f"optim/{name}/{key}"][row], rtol=2e-5, atol=2e-6)
    ours = _trajectory(TIMM[name], stored)
    if not name.startswith("lamb_clip") and name != "lamb_no_clip":  # with clipping told, these are the same
        assert max(np.abs(ours[-1][key] - theirs[-1][key]).max() for key in ("kernel", "bias")) > 1e-3


def test_conventions_are_refused_where_there_are_none() -> None:
    with pytest.raises(UsageError, match="sgd does not use convention: only lars and lamb have two"):
        _make(OptimConfig("sgd", convention="timm"))
    with pytest.raises(UsageError, match=r"unknown optim\.convention 'apex'"):
        OptimConfig("lamb", convention="apex")
