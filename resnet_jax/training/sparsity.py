"""Weights that are exactly 0 at the start stay exactly 0: pruning masks in the optimizer, for training pruned networks.

The mask of a kernel is True where its weight is trained. It is computed once, from the initial weights of the training,
and is part of the optimizer state: it is saved in the checkpoint, so a resumed run has the same mask. A gradient is
masked before the optimizer sees it, so neither its moments nor a clipped global norm include pruned weights; the update
is masked last, after weight decay, momentum and slow weights. Averages of zeros are zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UsageError

PyTree = Any


class KeptZeros(NamedTuple):
    """The wrapped optimizer's state, and the masks: booleans of a kernel's shape, nothing for other parameters."""

    inner: Any
    trained: PyTree


def keep_zeros(tx: optax.GradientTransformation, masked: PyTree) -> optax.GradientTransformation:
    """Return ``tx`` for parameters of which those that are 0 in ``init`` stay 0.

    Args:
        tx: the optimizer, whose ``update`` returns what is added to the parameters.
        masked: tree of the parameters with True for those to mask.

    >>> tx = keep_zeros(optax.sgd(1.0, momentum=0.9), {"kernel": True, "bias": False})
    >>> params = {"kernel": jnp.asarray([0.0, 2.0]), "bias": jnp.zeros(1)}
    >>> updates, state = tx.update({"kernel": jnp.ones(2), "bias": jnp.ones(1)}, tx.init(params), params)
    >>> updates["kernel"].tolist(), updates["bias"].tolist()
    ([0.0, -1.0], [-1.0])
    """

    def init(params: PyTree) -> KeptZeros:
        trained = jax.tree.map(lambda w, is_masked: w != 0 if is_masked else optax.MaskedNode(), params, masked)
        return KeptZeros(tx.init(params), trained)

    def apply(trained: PyTree, tree: PyTree) -> PyTree:
        def one(mask: Any, leaf: Any) -> Any:
            return leaf if isinstance(mask, optax.MaskedNode) else jnp.where(mask, leaf, jnp.zeros_like(leaf))

        return jax.tree.map(one, trained, tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))

    def update(updates: PyTree, state: KeptZeros, params: PyTree | None = None) -> tuple[PyTree, KeptZeros]:
        updates, inner = tx.update(apply(state.trained, updates), state.inner, params)
        return apply(state.trained, updates), KeptZeros(inner, state.trained)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def masks_of(opt_state: PyTree) -> PyTree | None:
    """Return the masks in an optimizer state, or None if it has none."""
    found = [node for node in _kept(opt_state) if isinstance(node, KeptZeros)]
    return found[0].trained if found else None


def with_masks(opt_state: PyTree, trained: PyTree) -> PyTree:
    """Return an optimizer state with other masks.

    Raises:
        UsageError: if it has none.
    """
    if masks_of(opt_state) is None:
        raise UsageError("this optimizer has no masks: optim.keep_zeros makes them")

    def changed(node: Any) -> Any:
        return KeptZeros(node.inner, trained) if isinstance(node, KeptZeros) else node

    return jax.tree.map(changed, opt_state, is_leaf=lambda node: isinstance(node, KeptZeros))


def _kept(opt_state: PyTree) -> list[Any]:
    return jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, KeptZeros))
