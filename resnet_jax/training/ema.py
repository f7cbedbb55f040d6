"""Exponential moving average of parameters and of batch statistics.

    e_n = d_n e_{n-1} + (1 - d_n) x_n        x_n: behind update n = 1, 2, ...; e_0: the initial values

(Polyak & Juditsky, 1992, in the exponential form common since Inception; Szegedy et al., 2016). The decay d_n is up to
the **warm-up**, of which there are three; with k = n - 1, the updates before this one:

| warmup     | d_n                                                  | follows                                          |
|------------|------------------------------------------------------|--------------------------------------------------|
| tensorflow | min(d, (1 + k) / (10 + k))                           | TensorFlow's ExponentialMovingAverage            |
| power      | 0 for k = 0, then min(d, 1 - (1 + k / gamma)^-power) | timm's ModelEmaV3 with use_warmup                |
| none       | 0 for k = 0, then d                                  | its default; PyTorch's AveragedModel             |

How long a warm-up takes is easily underestimated: d = 0.9999 is reached at update 89,990 with ``tensorflow`` and after
a million with ``power`` 2/3; until then the average is of about the last ninth, or half, of what was trained, however
large d is. ``none`` forgets nothing: it holds (1 - d)-weighted what came since the **first** update, which it copies.

Batch statistics are averaged with the same decay as the parameters (timm; PyTorch with ``use_buffers``): the averaged
weights then meet the statistics of (about) the networks they are an average of. Or those of the last update are taken
as they are (PyTorch's default). ``training.reestimate`` measures them anew.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0, BelowOne, NotNegative, Positive, check_fields

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Averaging:
    """How the averages move. Static.

    Raises:
        UsageError: a value out of range, one that the warm-up does not use, or one without a decay.
    """

    decay: BelowOne | None = None
    """Decay d per update, in [0, 1); None: no averages."""
    warmup: Literal["tensorflow", "power", "none"] = "tensorflow"
    """How that decay d is reached: tensorflow, min(d, (1 + k) / (10 + k)) after k updates (0.9999 after 89,990); power,
    min(d, 1 - (1 + k / gamma)^-power), as timm's use_warmup; or none, d at once, from a copy of the first update on."""
    gamma: Positive = 1.0
    """gamma of the warm-up power; timm's warmup_gamma."""
    power: Positive = 2 / 3
    """Exponent of the warm-up power (timm: 2/3 for runs of a million updates, 3/4 for shorter ones)."""
    min_decay: NotNegative = 0.0
    """Warm-up power: the decay is not smaller from the second update on."""
    update_after: AtLeast0 = 0
    """Updates that the averages only copy before averaging, and its warm-up, begin; timm's update_after_step."""
    statistics: Literal["averaged", "latest"] = "averaged"
    """Running batch statistics that go with averaged parameters: averaged too (timm), or the latest (PyTorch)."""

    def __post_init__(self) -> None:
        check_fields(self, "train.ema.")
        if self.decay is None:
            defaults = {field.name: field.default for field in dataclasses.fields(self)}
            if dataclasses.asdict(self) != defaults:
                raise UsageError("the other fields of train.ema need train.ema.decay, such as 0.999")
            return
        if self.min_decay > self.decay:
            raise UsageError(
                f"train.ema.min_decay must be between 0 and train.ema.decay {self.decay}, got {self.min_decay}"
            )
        shape = (self.gamma, self.power, self.min_decay)
        if self.warmup != "power" and shape != (1.0, 2 / 3, 0.0):
            raise UsageError(
                f"gamma, power and min_decay of train.ema go with train.ema.warmup power, not {self.warmup}"
            )

    def rate(self, updates: ArrayLike) -> jax.Array:
        """Return 1 - d_n, float32; computed as such, for 1 - 0.9999 in float32 is off by 2e-4.

        Args:
            updates: made before this one, n - 1.

        >>> [round(1 - float(Averaging(0.99).rate(k)), 2) for k in (0, 10, 10_000)]
        [0.1, 0.55, 0.99]
        >>> [round(float(Averaging(0.9, "none").rate(k)), 2) for k in (0, 1)]
        [1.0, 0.1]
        """
        assert self.decay is not None, "no moving averages"
        least = 1.0 - self.decay
        k = jnp.maximum(jnp.asarray(updates).astype(jnp.float32) - self.update_after, 0.0)
        if self.warmup == "tensorflow":
            rate = jnp.maximum(9.0 / (10.0 + k), least)
            copied = jnp.asarray(updates) < self.update_after
        else:
            copied = k <= 0.0
            rate = jnp.full_like(k, least)
            if self.warmup == "power":
                rate = jnp.clip((1.0 + k / self.gamma) ** -self.power, least, 1.0 - self.min_decay)
        return jnp.where(copied, 1.0, rate)


def ema_init(tree: PyTree) -> PyTree:
    """Return the average of one value: a float32 copy (its own buffers, so that either may be donated)."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.float32, copy=True), tree)


def ema_update(average: PyTree, new: PyTree, averaging: Averaging | float, updates: ArrayLike = 0) -> PyTree:
    """Move the average towards ``new``: e + (1 - d_n) (x - e), in float32.

    Args:
        average: so far, see `ema_init`.
        new: the same structure and shapes, any float dtype. With statistics ``latest`` what is under ``batch_stats``
            is taken as it is.
        averaging: how; a number is `Averaging` of that decay.
        updates: made before this one, n - 1.

    Returns:
        The new average, float32.

    Raises:
        UsageError: a decay outside [0, 1).

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
