"""The role of every parameter, determined from its path: the basis of all optimizer masks.

Weight decay, LARS and similar methods treat convolution kernels, biases and normalization parameters differently. "By
rank" and "the last two leaves" fail with the first model that is built differently. Here an ordered table of regular
expressions gives each parameter a role, and **exactly one** rule must match each path (as in big_vision's masks): a new
kind of parameter is an error that names it, never silently decayed or skipped.

The default rules cover the networks of this package and the usual Linen layers under their automatic names:

============  ===============================================================================================
role          parameters
============  ===============================================================================================
conv          kernel of a module with "conv" in its name (``stem/conv``, ``conv1``, ``Conv_0``, ``eca/conv``)
head          kernel of the classifier: module ``head``, ``classifier``, ``classifier_*`` or ``logits``
head_bias     bias of the classifier
whiten        kernel of the convolution ``stem/whiten``, which has no gradient and is not to decay
dense         every other kernel (``Dense_0``, squeeze-excite)
bias          bias of everything else that is not a normalization
norm_scale    scale of a normalization (``norm1``, ``BatchNorm_0``, ``bn1``)
norm_bias     bias of a normalization
gain          per-channel gain of a weight-standardized convolution (``conv1/gain``)
scalar        scalars of a block or its branch (``branch/gain``, ``branch/scale``, ``branch/bias1a``), and
              Fixup's two outside of blocks (``stem/bias1``, ``bias2``)
log_variance  those of several tasks, which weigh their losses (``head/log_variance``)
temperature   ``log_scale`` of two towers
============  ===============================================================================================

Only the module that holds the parameter matters, wherever it is in the tree, so a stage scanned over its blocks
(`stage1/blocks/conv1/kernel`) has the same roles as the unrolled one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import jax

from resnet_jax.errors import UsageError, unknown
from resnet_jax.models.layout import is_stacked, listed_paths
from resnet_jax.training.options import CLASSIFIER_ROLES as CLASSIFIER_ROLES, KERNEL_ROLES as KERNEL_ROLES

PyTree = Any
Rules = tuple[tuple[str, str], ...]
"""Ordered pairs (regular expression that must match a whole '/'-joined path, role)."""

_IN = r"(?:.*/)?"  # any parent modules
_NORM = r"(?i:[^/]*norm[^/]*|(?:bn|gn|ln)(?:[_\d][^/]*)?)"  # norm1, BatchNorm_0, bn1, bn_init
_CONV = r"(?i:[^/]*conv[^/]*)"  # conv, conv1, Conv_0, ConvTranspose_0
_HOLDER = r"(?:blocks?\d*|branch)"
_TOWER = r"(?:left/|right/)"
_SCALAR = r"(?:bias\d[ab]|scale|gain)"


def role_rules(head: str = r"head|classifier(?:_\w+)?|logits") -> Rules:
    """Return the default rules, for a classifier with another name.

    Args:
        head: regular expression for the name of the classifier module.

    >>> roles({"Dense_0": {"kernel": 0}, "Dense_1": {"kernel": 0}}, role_rules(head="Dense_1"))
    {'Dense_0': {'kernel': 'dense'}, 'Dense_1': {'kernel': 'head'}}
    """
    head = rf"(?:{head})"
    return (
        (rf"{_IN}(?!{head}/){_CONV}/kernel", "conv"),
        (rf"{_IN}{head}/kernel", "head"),
        (rf"{_IN}{head}/bias", "head_bias"),
        (rf"{_IN}stem/whiten/kernel", "whiten"),
        (rf"{_IN}(?!{head}/|{_CONV}/)(?!(?<=stem/)whiten/)[^/]+/kernel|kernel", "dense"),
        (rf"{_IN}(?!{head}/|{_NORM}/)[^/]+/bias|bias", "bias"),
        (rf"{_IN}{_NORM}/scale", "norm_scale"),
        (rf"{_IN}{_NORM}/bias", "norm_bias"),
        (rf"{_IN}{_CONV}/gain", "gain"),
        (rf"{_IN}{_HOLDER}/{_SCALAR}|{_IN}stem/bias1|{_TOWER}?bias2", "scalar"),
        (rf"{_IN}{head}/log_variance", "log_variance"),
        ("log_scale", "temperature"),
    )


ROLE_RULES: Rules = role_rules()
"""The default rules. To cover more, add pairs: ``(*ROLE_RULES, ("pos_embedding", "embedding"))``."""


def role_names(rules: Rules = ROLE_RULES) -> tuple[str, ...]:
    """Return the roles that ``rules`` can assign, each once, in the order of the rules.

    >>> role_names()[:5], role_names()[-3:]
    (('conv', 'head', 'head_bias', 'whiten', 'dense'), ('scalar', 'log_variance', 'temperature'))
    """
    return tuple(dict.fromkeys(role for _, role in rules))


def roles(params: PyTree, rules: Rules = ROLE_RULES) -> PyTree:
    """Return the tree of ``params`` with the role, a string, in place of each parameter.

    Args:
        params: arrays, or ``jax.ShapeDtypeStruct`` instead; only the paths are read.
        rules: see `Rules`; every path must match exactly one.

    Raises:
        UsageError: if a path matches no rule or more than one; all such paths are listed.

    >>> roles({"stem": {"conv": {"kernel": 0}, "norm": {"scale": 0}}, "head": {"bias": 0}})
    {'head': {'bias': 'head_bias'}, 'stem': {'conv': {'kernel': 'conv'}, 'norm': {'scale': 'norm_scale'}}}
    """
    paths = jax.tree_util.tree_map_with_path(lambda path, _: join(path), params)
    matched = {path: _matches(path, rules) for path in jax.tree.leaves(paths)}
    problems = [_problem(path, found) for path, found in matched.items() if len(found) != 1]
    if problems:
        raise UsageError(
            "every parameter needs exactly one role; give `rules` that also decide:\n  " + "\n  ".join(problems)
        )
    return jax.tree.map(lambda path: matched[path][0][1], paths)


_roles = roles  # `mask` has an argument of that name


def mask(params: PyTree, roles: Collection[str], rules: Rules = ROLE_RULES) -> PyTree:
    """Return the tree of ``params`` with True where the parameter has one of ``roles``; for `optax.masked`.

    A known role that no parameter in ``params`` has is allowed: it selects nothing.

    Raises:
        UsageError: for a role that ``rules`` never assign, or parameters not covered exactly once.

    >>> mask({"conv": {"kernel": 0}, "norm": {"scale": 0}}, roles=("conv", "head"))
    {'conv': {'kernel': True}, 'norm': {'scale': False}}
    """
    known = role_names(rules)
    for role in roles:
        if role not in known:
            raise unknown("parameter role", role, known)
    return jax.tree.map(lambda role: role in roles, _roles(params, rules))


def count_by_role(params: PyTree, rules: Rules = ROLE_RULES) -> Mapping[str, int]:
    """Return how many numbers each role holds, for the roles that occur, in the order of the rules.

    >>> import jax.numpy as jnp
    >>> count_by_role({"head": {"kernel": jnp.ones((64, 10)), "bias": jnp.ones(10)}})
    {'head': 640, 'head_bias': 10}
    """
    counts: Counter[str] = Counter()
    jax.tree.map(lambda role, leaf: counts.update({role: leaf.size}), _roles(params, rules), params)
    return {role: counts[role] for role in role_names(rules) if role in counts}


def stacked(params: PyTree) -> PyTree:
    """Return the tree of ``params`` with True where a parameter has a leading axis of blocks (`models.layout`).

    Whatever acts on each parameter separately (norms, units) must then act on each block's.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: is_stacked(join(path)), params)


def listed(path: tuple[Any, ...], leaf: Any) -> str | tuple[str, ...]:
    """Return the path of a parameter, or the unrolled paths if it has a leading axis of blocks."""
    joined = join(path)
    return tuple(listed_paths(joined, leaf.shape[0])) if is_stacked(joined) else joined


def join(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _matches(path: str, rules: Rules) -> list[tuple[str, str]]:
    return [(pattern, role) for pattern, role in rules if re.fullmatch(pattern, path)]


def _problem(path: str, found: list[tuple[str, str]]) -> str:
    if not found:
        return f"{path!r}: no rule matches"
    return f"{path!r}: {len(found)} rules match (" + ", ".join(f"{role}: {p!r}" for p, role in found) + ")"
