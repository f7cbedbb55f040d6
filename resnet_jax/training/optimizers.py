"""Optimizers: one gradient transformation from a flat configuration, in which roles decide every mask.

The order is fixed and the same for all optimizers:

1. clip the gradient of each unit adaptively (agc.py): first, so that one unit that explodes does not shrink all others
   in step 2;
2. clip the gradient by its global norm, which bounds what is left whatever step 1 did;
3. add the penalties that act through it: L1 (l1 sign(w)) for all, L2 (wd w) for sgd, adam and rmsprop;
4. the optimizer's own scaling;
5. decoupled weight decay, where the optimizer's paper has it: adamw, lars, lamb;
6. multiply by the learning rate of the schedule, and by each parameter's own factor of it (lr_multipliers.py);
7. with ``l1_step`` proximal, L1 by soft-thresholding instead of in step 3 (shrinkage.py): exact zeros;
8. with ``lookahead``, slow weights, to which the parameters return every few updates (lookahead.py);
9. with ``keep_zeros``, masks: gradients before step 1 and updates behind step 8 are 0 where weights began at 0
   (sparsity.py).

Frozen parameters (freeze.py) take part in none of this.

With g the gradient after 1 to 3, m' and s' Adam's bias-corrected moments, and norms taken per parameter:

=======  ==================================================================  =========================
name     update                                                              follows
=======  ==================================================================  =========================
sgd      v <- m v + g; w -= lr v (nesterov: w -= lr (g + m v))               PyTorch; Sutskever 2013
adam     w -= lr m' / (sqrt(s') + eps)                                       Kingma, Ba 2015 (with L2)
adamw    w -= lr (m' / (sqrt(s') + eps) + wd w)                              Loshchilov, Hutter 2019
rmsprop  s <- a s + (1 - a) g^2; v <- m v + g / (sqrt(s) + eps); w -= lr v   PyTorch (s_0 = 0)
lars     ``v <- m v + lr q (g + wd w); w -= v; q = c |w| / (|g| + wd |w|)``  You et al. 2017
lamb     ``r = m' / (sqrt(s') + eps) + wd w; w -= lr r |w| / |r|``           You et al. 2020
=======  ==================================================================  =========================

Penalties act only on parameters whose role is in ``decay_roles``. The trust ratios of lars and lamb act only on kernels
(`roles.KERNEL_ROLES`), decayed or not, as in MLPerf's LARS and the LAMB authors' code; elsewhere they are 1.

timm's Lars and Lamb are different optimizers with the same names; ``convention="timm"`` reproduces their numbers:

======================  ===============================  ===================================================
                        paper (the default)              timm
======================  ===============================  ===================================================
trust ratios reach      kernels, decayed or not          what decays: nothing at all where weight_decay is 0
lars, the rate          inside the momentum, as above    outside: v <- m v + q (g + wd w); w -= lr v
lars, q                 ``c |w| / (|g| + wd |w|)``       ``c |w| / (|g| + wd |w| + 1e-8)``
lamb, global norm of g  not clipped unless clip_norm is  clipped to 1 unless clip_norm says another
======================  ===============================  ===================================================

Inside and outside differ as soon as the rate changes: a warm-up or a drop acts immediately outside, and over the memory
of the momentum inside. With nesterov, g is looked ahead at the same point. Both keep q = 1 for w or g of norm 0. timm's
default weight decay for Lamb is 0.01; here it is 0, as for all optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.errors import UsageError
from resnet_jax.fields import is_on
from resnet_jax.models.layout import over_blocks
from resnet_jax.training import roles
from resnet_jax.training.agc import clip_adaptively, require_excluded
from resnet_jax.training.freeze import frozen as find_frozen, update_only_the_rest, without
from resnet_jax.training.lookahead import look_ahead
from resnet_jax.training.lr_multipliers import rate_factors, scale_rates
from resnet_jax.training.options import OptimConfig, OptimizerName
from resnet_jax.training.packing import ElementwiseTransformation
from resnet_jax.training.schedules import make_schedule
from resnet_jax.training.shrinkage import soft_threshold
from resnet_jax.training.sparsity import keep_zeros

PyTree = Any
_Settings = Mapping[str, float]


def make_optimizer(
    cfg: OptimConfig,
    params: PyTree,
    *,
    steps_per_epoch: int,
    total_steps: int,
    rules: roles.Rules = roles.ROLE_RULES,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Build the optimizer. Do this once per run: with two separately built ones, `jit` traces the step twice.

    Args:
        cfg: the optimizer and its settings; numbers may be traced scalars (`resnet_jax.fields.unchecked`).
        params: parameters, or ``jax.ShapeDtypeStruct`` instead; only paths and shapes are read, for the masks.
        steps_per_epoch: optimizer steps in one pass over the training set.
        total_steps: optimizer steps of the whole run.
        rules: how paths map to roles (`roles.Rules`).

    Returns:
        The transformation, whose ``update`` needs the parameters, and its schedule (for logging).

    Raises:
        UsageError: for an unknown optimizer, schedule or role, a setting that is unused or out of range, parameters
            without a role, or a selection that matches no parameter.

    >>> params = {"head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    >>> cfg = OptimConfig("sgd", learning_rate=0.5, weight_decay=0.1)
    >>> tx, schedule = make_optimizer(cfg, params, steps_per_epoch=10, total_steps=100)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> {name: round(float(u.sum()), 3) for name, u in updates["head"].items()}  # only the kernel decays
    {'bias': 0.0, 'kernel': -0.2}
    """
    spec = OPTIMIZERS[cfg.name]
    settings = _settings(cfg, spec.defaults)
    lr = make_schedule(cfg.schedule, cfg.learning_rate, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    decayed = roles.mask(params, cfg.decay_roles, rules)
    shrunk = decayed if cfg.l1_roles is None else roles.mask(params, cfg.l1_roles, rules)
    frozen = find_frozen(params, cfg.freeze, rules)
    factors = rate_factors(params, role_rates=cfg.role_rates, layer_decay=cfg.layer_decay, rules=rules)
    if cfg.agc is not None:
        require_excluded(params, cfg.agc_exclude, rules)
    trained, penalized = without(params, frozen), (without(decayed, frozen), without(shrunk, frozen))
    chain = _chain(cfg, spec, settings, lr, trained, *penalized, rules)
    if any(np.any(np.not_equal(factor, 1.0)) for factor in jax.tree.leaves(factors)):
        chain.append(scale_rates(without(factors, frozen)))
    if is_on(cfg.l1) and cfg.l1_step == "proximal":
        strength = cfg.l1 / (1.0 - settings.get("momentum", 0.0))  # momentum lengthens the gradient's step alike
        chain.append(soft_threshold(strength, lr, without(shrunk, frozen), without(factors, frozen)))
    tx = look_ahead(optax.chain(*chain), cfg.lookahead, total_steps)
    tx = update_only_the_rest(tx, frozen) if cfg.freeze else tx
    masked = jax.tree.map(lambda role: cfg.keep_zeros and role in roles.KERNEL_ROLES, roles.roles(params, rules))
    tx = keep_zeros(tx, masked) if cfg.keep_zeros else tx
    if spec.elementwise and cfg.agc is None:
        tx = ElementwiseTransformation.of(tx, jax.tree.map(_label, decayed, shrunk, masked, frozen, factors))
    return tx, lr


def _label(decayed: bool, shrunk: bool, masked: bool, frozen: bool, factor: float | np.ndarray) -> str | None:
    """Return what a parameter's update depends on besides its elements; None if on something no other's does."""
    if frozen or isinstance(factor, np.ndarray):
        return None
    return f"decayed {decayed}, shrunk {shrunk}, masked {masked}, rate {factor}"


def _chain(
    cfg: OptimConfig,
    spec: OptimizerSpec,
    settings: _Settings,
    lr: optax.Schedule,
    params: PyTree,
    decayed: PyTree,
    shrunk: PyTree,
    rules: roles.Rules,
) -> list[optax.GradientTransformation]:
    """Return steps 1 to 6 without the factors, for the trained parameters."""
    known = roles.role_names(rules)
    kernels = roles.mask(params, [role for role in roles.KERNEL_ROLES if role in known], rules)

    chain: list[optax.GradientTransformation] = []
    if cfg.agc is not None:
        chain.append(clip_adaptively(cfg.agc, roles.roles(params, rules), exclude=cfg.agc_exclude))
    clip_norm = 1.0 if cfg.clip_norm is None and cfg.name == "lamb" and cfg.convention == "timm" else cfg.clip_norm
    if clip_norm is not None:
        chain.append(optax.clip_by_global_norm(clip_norm))
    if is_on(cfg.l1) and cfg.l1_step == "subgradient":
        chain.append(optax.masked(_add_l1(cfg.l1), shrunk))
    if is_on(cfg.weight_decay) and spec.coupled:
        chain.append(optax.add_decayed_weights(cfg.weight_decay, mask=decayed))
    decay = _Decay(0.0 if spec.coupled else cfg.weight_decay, decayed)
    if cfg.convention == "timm":  # what decays adapts
        kernels = decayed if is_on(cfg.weight_decay) else jax.tree.map(lambda _: False, decayed)
    chain.append(spec.build(settings, lr, decay, kernels))
    return chain


class _Decay(NamedTuple):
    """Decoupled weight decay: its strength (0 where it is coupled) and the parameters it acts on."""

    strength: float
    mask: PyTree

    def add(self) -> optax.GradientTransformation:
        """Return the transformation that adds strength * w to the update."""
        return optax.add_decayed_weights(self.strength, self.mask) if is_on(self.strength) else optax.identity()


class OptimizerSpec(NamedTuple):
    """One optimizer.

    Attributes:
        defaults: the optional fields it accepts, with their defaults.
        coupled: whether weight decay goes through the gradient (L2) or is left to ``build``.
        build: (settings, schedule, decoupled decay, mask of adapted parameters) -> transformation that includes the
            rate.
        elementwise: whether the update of an element depends on no other element.
    """

    defaults: Mapping[str, float]
    coupled: bool
    build: Callable[[_Settings, optax.Schedule, _Decay, PyTree], optax.GradientTransformation]
    elementwise: bool = True


_OPTIONAL = ("momentum", "nesterov", "b1", "b2", "eps", "decay", "trust_coefficient")


def _settings(cfg: OptimConfig, defaults: Mapping[str, float]) -> dict[str, float]:
    """Override the optimizer's defaults with the given settings; reject unused settings."""
    chosen = {name: getattr(cfg, name) for name in _OPTIONAL if getattr(cfg, name) is not None}
    unused = [name for name in chosen if name not in defaults]
    if unused:
        raise UsageError(f"{cfg.name} does not use {', '.join(unused)}; it accepts: {', '.join(defaults)}")
    if cfg.convention is not None and cfg.name not in ("lars", "lamb"):
        raise UsageError(f"{cfg.name} does not use convention: only lars and lamb have two")
    if cfg.l1_roles is not None and not is_on(cfg.l1):
        raise UsageError("optim.l1_roles needs optim.l1, such as 1e-4")
    if cfg.l1_step == "proximal":
        if not is_on(cfg.l1):
            raise UsageError("optim.l1_step proximal needs optim.l1, such as 1e-5")
        if cfg.name in ("lars", "lamb"):
            raise UsageError(f"{cfg.name} does not use l1_step proximal: its trust ratios give each layer another step")
    settings = {**defaults, **chosen, "timm": cfg.convention == "timm"}
    if settings.get("nesterov") and not is_on(settings["momentum"]):
        raise UsageError(f"nesterov of {cfg.name} needs a momentum > 0")
    return settings


def _add_l1(strength: float) -> optax.GradientTransformation:
    return optax.stateless(lambda g, w: jax.tree.map(lambda g, w: g + strength * jnp.sign(w), g, w))


def _momentum(settings: _Settings) -> optax.GradientTransformation:
    if not is_on(settings["momentum"]):
        return optax.identity()
    return optax.trace(settings["momentum"], nesterov=bool(settings.get("nesterov")))


def _scale_by_adam(settings: _Settings) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(settings["b1"], settings["b2"], settings["eps"])

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        with jax.numpy_dtype_promotion("standard"):  # Optax computes float ** int in the bias correction
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)


def scale_by_lars(
    weight_decay: float, trust_coefficient: float, decayed: PyTree, adapted: PyTree, eps: float = 0.0
) -> optax.GradientTransformation:
    """Scale by LARS' layer-wise rate, q (g + wd w), q = c |w| / (|g| + wd |w| + eps) (You et al., 2017, algorithm 1).

    `optax.lars` divides by |g + wd w| instead. Where |w| or |g| is zero, q is 1.

    Args:
        weight_decay: wd.
        trust_coefficient: c.
        decayed: booleans, where wd acts (it is 0 elsewhere).
        adapted: booleans, where q acts (it is 1 elsewhere).
        eps: timm's term, which the paper does not have.
    """

    def scale(g: jax.Array, w: jax.Array, decays: bool, adapts: bool, stacked: bool) -> jax.Array:
        wd = weight_decay if decays else 0.0
        return over_blocks(partial(adapt, wd=wd), stacked)(g, w) if adapts else g + wd * w

    def adapt(g: jax.Array, w: jax.Array, wd: float) -> jax.Array:
        update = g + wd * w
        w_norm, g_norm = jnp.linalg.norm(w.ravel()), jnp.linalg.norm(g.ravel())
        usable = (w_norm > 0) & (g_norm > 0)
        ratio = trust_coefficient * w_norm / jnp.where(usable, g_norm + wd * w_norm + eps, 1.0)
        return jnp.where(usable, ratio, 1.0) * update

    return optax.stateless(lambda g, w: jax.tree.map(scale, g, w, decayed, adapted, roles.stacked(g)))


def _scale_by_trust_ratio() -> optax.GradientTransformation:
    """Return Optax's transformation, applied to each block's parameter separately if blocks are stacked."""
    tx = optax.scale_by_trust_ratio()

    def scale(update: jax.Array, w: jax.Array) -> Any:
        return tx.update(update, optax.EmptyState(), w)[0]

    def scale_all(updates: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda s, u, w: over_blocks(scale, s)(u, w), roles.stacked(updates), updates, params)

    return optax.stateless(scale_all)


def _sgd(settings: _Settings, lr: optax.Schedule, decay: _Decay, kernels: PyTree) -> optax.GradientTransformation:
    return optax.chain(_momentum(settings), optax.scale_by_learning_rate(lr))


def _adam(settings: _Settings, lr: optax.Schedule, decay: _Decay, kernels: PyTree) -> optax.GradientTransformation:
    return optax.chain(_scale_by_adam(settings), decay.add(), optax.scale_by_learning_rate(lr))


def _rmsprop(settings: _Settings, lr: optax.Schedule, decay: _Decay, kernels: PyTree) -> optax.GradientTransformation:
    rms = optax.scale_by_rms(settings["decay"], settings["eps"], eps_in_sqrt=False)
    return optax.chain(rms, _momentum(settings), optax.scale_by_learning_rate(lr))


def _lars(settings: _Settings, lr: optax.Schedule, decay: _Decay, kernels: PyTree) -> optax.GradientTransformation:
    eps = 1e-8 if settings["timm"] else 0.0
    layerwise = scale_by_lars(decay.strength, settings["trust_coefficient"], decay.mask, kernels, eps)
    rate, momentum = optax.scale_by_learning_rate(lr), _momentum(settings)
    return optax.chain(layerwise, momentum, rate) if settings["timm"] else optax.chain(layerwise, rate, momentum)


def _lamb(settings: _Settings, lr: optax.Schedule, decay: _Decay, kernels: PyTree) -> optax.GradientTransformation:
    layerwise = optax.masked(_scale_by_trust_ratio(), kernels)
    return optax.chain(_scale_by_adam(settings), decay.add(), layerwise, optax.scale_by_learning_rate(lr))


_MOMENTS = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}

OPTIMIZERS: Mapping[OptimizerName, OptimizerSpec] = MappingProxyType(
    {
        "sgd": OptimizerSpec({"momentum": 0.9, "nesterov": False}, True, _sgd),
        "adam": OptimizerSpec(_MOMENTS, True, _adam),
        "adamw": OptimizerSpec(_MOMENTS, False, _adam),
        "rmsprop": OptimizerSpec({"momentum": 0.0, "decay": 0.99, "eps": 1e-8}, True, _rmsprop),
        "lars": OptimizerSpec({"momentum": 0.9, "nesterov": False, "trust_coefficient": 1e-3}, False, _lars, False),
        "lamb": OptimizerSpec({**_MOMENTS, "eps": 1e-6}, False, _lamb, False),
    }
)
"""The optimizers by name."""
