"""Averages of parameters and batch statistics: exponential moving averages, and stochastic weight averaging.

    e_n = d_n e_{n-1} + (1 - d_n) x_n        x_n: behind update n = 1, 2, ...; e_0: the initial values

(Polyak & Juditsky, 1992, in the exponential form common since Inception; Szegedy et al., 2016). The decay d_n depends
on the **warm-up**, of which there are three kinds; with k = n - 1, the number of updates before this one:

==========  ====================================================  =====================================
warmup      d_n                                                   follows
==========  ====================================================  =====================================
tensorflow  min(d, (1 + k) / (10 + k))                            TensorFlow's ExponentialMovingAverage
power       0 for k = 0, then min(d, 1 - (1 + k / gamma)^-power)  timm's ModelEmaV3 with use_warmup
none        0 for k = 0, then d                                   its default; PyTorch's AveragedModel
==========  ====================================================  =====================================

The length of a warm-up is easily underestimated: d = 0.9999 is reached at update 89,990 with ``tensorflow`` and after a
million updates with ``power`` 2/3. Until then the average covers about the last ninth, or half, of the training,
however large d is. ``none`` forgets nothing: it holds the (1 - d)-weighted sum of everything since the **first**
update, which it copies.

Batch statistics are averaged with the same decay as the parameters (timm; PyTorch with ``use_buffers``), so that the
averaged weights meet the statistics of (about) the networks they average. Alternatively, those of the last update are
used as they are (PyTorch's default). ``training.reestimate`` recomputes them.

**Stochastic weight averaging** (kind ``swa``; Izmailov et al. 2018, arXiv 1803.05407, algorithm 1) is the plain mean of
snapshots of the parameters, taken after update ``start`` and every ``every`` updates from then on. It follows the same
recursion with d_n = j / (j + 1) at snapshot j = 0, 1, ..., 1 between snapshots, and 0 before the start, where the
average is the network itself. It needs a learning rate that does not decay during that part (a schedule ``constant``,
or ``multistep`` with its last milestone at the start), and recomputed batch statistics (``train.ema.reestimate``).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from resnet_jax.training.options import Averaging

PyTree = Any


def ema_init(tree: PyTree) -> PyTree:
    """Return the initial average of one value: a float32 copy (in its own buffer, so that either may be donated)."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.float32, copy=True), tree)


def ema_update(average: PyTree, new: PyTree, averaging: Averaging | float, updates: ArrayLike = 0) -> PyTree:
    """Move the average towards ``new``: e + (1 - d_n) (x - e), in float32.

    Args:
        average: the average so far; see `ema_init`.
        new: the new values, with the same structure and shapes and any float dtype. With statistics ``latest``,
            everything under ``batch_stats`` is copied.
        averaging: how to average; a number means `Averaging` with that decay.
        updates: number of updates before this one, n - 1.

    Returns:
        The new average, float32.

    Raises:
        UsageError: for a decay outside [0, 1).

    >>> ema_update({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, 0.75, updates=100)["w"].tolist()
    [0.25, 0.25]
    """
    averaging = Averaging(averaging) if isinstance(averaging, (int, float)) else averaging
    rate = averaging.rate(updates)

    def move(old: jax.Array, x: jax.Array) -> jax.Array:
        old, x = old.astype(jnp.float32), x.astype(jnp.float32)
        return jnp.where(rate == 1.0, x, old + rate * (x - old))  # a copy is one to the last bit

    moved = jax.tree.map(move, average, new)
    if averaging.statistics == "latest" and isinstance(moved, dict) and "batch_stats" in moved:
        moved["batch_stats"] = jax.tree.map(lambda x: x.astype(jnp.float32), new["batch_stats"])
    return moved
