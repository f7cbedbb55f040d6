"""Which parameters are frozen: selected by role, module or path.

A frozen parameter gets an update of exactly zero: no gradient, no weight decay, no memory in the optimizer state. It
does not contribute to the global norm that `clip_norm` bounds either.

Freezing parameters does not stop batch statistics: a frozen batch norm still normalizes with the statistics of each
batch and updates its running averages. To keep those fixed as well, build the network with frozen batch norm
(``model.norm_scope frozen``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax

from resnet_jax.errors import UsageError, nearest
from resnet_jax.training import roles

PyTree = Any


def frozen(params: PyTree, freeze: Sequence[str], rules: roles.Rules = roles.ROLE_RULES) -> PyTree:
    """Return the tree of ``params`` with True for the parameters that ``freeze`` selects.

    Args:
        params: parameters or their shapes; only the paths and the number of stacked blocks are read.
        freeze: each entry is a role (``"norm_scale"``), a module with everything in it (``"stem"``,
            ``"stage1/block0"``), or a regular expression for such a path (``"stage[12]"``, ``".*/norm1"``). ``"head"``
            is the whole classifier: both the role and the module.
        rules: how paths map to roles.

    Raises:
        UsageError: if an entry matches nothing, nothing is left to train, or an entry splits blocks that a scanned
            network keeps in one array.

    >>> params = {"stem": {"conv": {"kernel": 0}}, "stage1": {"block0": {"norm1": {"scale": 0}}}, "head": {"bias": 0}}
    >>> frozen(params, ["stem", "norm_scale"])
    {'head': {'bias': False}, 'stage1': {'block0': {'norm1': {'scale': True}}}, 'stem': {'conv': {'kernel': True}}}
    """
    role_of = roles.roles(params, rules)
    found: set[str] = set()

    def is_named(path: str, role: str) -> bool:
        names = {item for item, pattern in patterns.items() if item == role or pattern.fullmatch(path)}
        found.update(names)
        return bool(names)

    def is_frozen(path: tuple[Any, ...], leaf: Any, role: str) -> bool:
        paths = roles.listed(path, leaf)
        if isinstance(paths, str):
            return is_named(paths, role)
        named = [is_named(path, role) for path in paths]
        if any(named) and not all(named):
            raise UsageError(
                f"freezing {', '.join(freeze)} takes {paths[named.index(True)]} and not {paths[named.index(False)]}, "
                "which are computed in one loop: build the network with model.execution unroll"
            )
        return all(named)

    patterns = {item: _pattern(item) for item in freeze}
    result = jax.tree_util.tree_map_with_path(is_frozen, params, role_of)
    if missing := [item for item in freeze if item not in found]:
        raise _names_nothing(missing[0], params, role_of)
    if freeze and all(jax.tree.leaves(result)):
        raise UsageError(f"freezing {', '.join(freeze)} leaves nothing to train")
    return result


def without(tree: PyTree, frozen: PyTree) -> PyTree:
    """Return ``tree`` without the frozen parameters, in the form that `optax.masked` passes on."""
    return jax.tree.map(lambda leaf, is_frozen: optax.MaskedNode() if is_frozen else leaf, tree, frozen)


def update_only_the_rest(tx: optax.GradientTransformation, frozen: PyTree) -> optax.GradientTransformation:
    """Turn ``tx`` for trees :func:`without` the frozen parameters into one for whole trees; frozen updates are 0."""
    trained = jax.tree.map(lambda is_frozen: not is_frozen, frozen)
    return optax.chain(optax.masked(tx, trained), optax.masked(optax.set_to_zero(), frozen))


def _pattern(item: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(?:{item})(?:/.*)?")
    except re.error as error:
        raise UsageError(f"freeze {item!r} is no regular expression: {error}") from error


def _names_nothing(item: str, params: PyTree, role_of: PyTree) -> UsageError:
    paths = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        listed = roles.listed(path, leaf)
        paths += [listed] if isinstance(listed, str) else listed
    modules = dict.fromkeys("/".join(path.split("/")[:end]) for path in paths for end in range(1, path.count("/") + 2))
    present = sorted(set(jax.tree.leaves(role_of)))
    close = nearest(item, [*present, *modules])
    hint = f"; did you mean {close!r}?" if close else "."
    tops = dict.fromkeys(path.split("/")[0] for path in paths)
    return UsageError(
        f"freeze {item!r} names no parameter{hint} Roles here: {', '.join(present)}; modules: {', '.join(tops)}"
    )
