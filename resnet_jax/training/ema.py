"""Averages of parameters and of batch statistics: exponential moving ones, and stochastic weight averaging.

    e_n = d_n e_{n-1} + (1 - d_n) x_n        x_n: behind update n = 1, 2, ...; e_0: the initial values

(Polyak & Juditsky, 1992, in the exponential form common since Inception; Szegedy et al., 2016). The decay d_n is up to
the **warm-up**, of which there are three; with k = n - 1, the updates before this one:

==========  ====================================================  =====================================
warmup      d_n                                                   follows
==========  ====================================================  =====================================
tensorflow  min(d, (1 + k) / (10 + k))                            TensorFlow's ExponentialMovingAverage
power       0 for k = 0, then min(d, 1 - (1 + k / gamma)^-power)  timm's ModelEmaV3 with use_warmup
none        0 for k = 0, then d                                   its default; PyTorch's AveragedModel
==========  ====================================================  =====================================

How long a warm-up takes is easily underestimated: d = 0.9999 is reached at update 89,990 with ``tensorflow`` and after
a million with ``power`` 2/3; until then the average is of about the last ninth, or half, of what was trained, however
large d is. ``none`` forgets nothing: it holds (1 - d)-weighted what came since the **first** update, which it copies.

Batch statistics are averaged with the same decay as the parameters (timm; PyTorch with ``use_buffers``): the averaged
weights then meet the statistics of (about) the networks they are an average of. Or those of the last update are taken
as they are (PyTorch's default). ``training.reestimate`` measures them anew.

**Stochastic weight averaging** (kind ``swa``; Izmailov et al. 2018, arXiv 1803.05407, algorithm 1) is the plain mean of
snapshots: of the parameters behind update ``start``, and every ``every`` updates from then on. It is the same recursion
with d_n = j / (j + 1) at snapshot j = 0, 1, ..., 1 between snapshots, and 0 before the start, where the average is
the network itself. It wants a rate that does not decay away over that part (a schedule ``constant``, or ``multistep``
with its last milestone at the start), and batch statistics measured anew (``train.ema.reestimate``).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0, BelowOne, NotNegative, Positive, check_fields
from resnet_jax.training.duration import parse_duration

PyTree = Any
_SWA = ("start", "every")


@dataclasses.dataclass(frozen=True)
class Averaging:
    """How the averages move. Static.

    Raises:
        UsageError: a value out of range, one that the kind or the warm-up does not use, or one without a decay.
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
    kind: Literal["ema", "swa"] = "ema"
    """ema, exponential moving averages with a decay, or swa, stochastic weight averaging: the mean of snapshots."""
    start: str = "75%"
    """swa: when the first snapshot is taken, such as '75%' of the run or '160 epochs'."""
    every: str = "1 epochs"
    """swa: between snapshots, such as '1 epochs'; with a cyclic rate one cycle."""
    reestimate: AtLeast0 | None = None
    """Batches of training images on which the averages' batch statistics are measured anew before each validation; 0:
    none. Default: up to 50 for swa (from its start on), none for ema."""

    def __post_init__(self) -> None:
        check_fields(self, "train.ema.")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if self.kind == "swa":
            for name in ("decay", "warmup", "gamma", "power", "min_decay", "update_after"):
                if getattr(self, name) != defaults[name]:
                    raise UsageError(f"train.ema.{name} goes with train.ema.kind ema, not swa")
            for name in _SWA:
                object.__setattr__(self, name, _length(name, getattr(self, name)))
            return
        for name in _SWA:
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"train.ema.{name} goes with train.ema.kind swa, not ema")
        if self.decay is None:
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

    @property
    def on(self) -> bool:
        """Whether there are averages."""
        return self.kind == "swa" or self.decay is not None

    def over(self, steps_per_epoch: int, total_steps: int) -> Averaging:
        """Return the same with its lengths in steps, as :meth:`rate` needs them.

        Raises:
            UsageError: averaging would start behind the end of the run.

        >>> averaging = Averaging(kind="swa").over(steps_per_epoch=10, total_steps=100)
        >>> averaging.start, averaging.every
        ('75 steps', '10 steps')
        """
        if self.kind != "swa":
            return self
        start, every = (parse_duration(getattr(self, name)).steps(steps_per_epoch, total_steps) for name in _SWA)
        if start > total_steps:
            raise UsageError(
                f"train.ema.start {self.start} is update {start:,} of a run of {total_steps:,} updates: "
                "nothing would be averaged"
            )
        return dataclasses.replace(self, start=f"{start} steps", every=f"{max(every, 1)} steps")

    def rate(self, updates: ArrayLike) -> jax.Array:
        """Return 1 - d_n, float32; computed as such, for 1 - 0.9999 in float32 is off by 2e-4.

        Args:
            updates: made before this one, n - 1.

        >>> [round(1 - float(Averaging(0.99).rate(k)), 2) for k in (0, 10, 10_000)]
        [0.1, 0.55, 0.99]
        >>> [round(float(Averaging(0.9, "none").rate(k)), 2) for k in (0, 1)]
        [1.0, 0.1]
        >>> swa = Averaging(kind="swa", start="3 steps", every="2 steps")
        >>> [round(float(swa.rate(k)), 2) for k in range(7)]
        [1.0, 1.0, 1.0, 0.0, 0.5, 0.0, 0.33]
        """
        if self.kind == "swa":
            start, every = (parse_duration(getattr(self, name)).steps(1) for name in _SWA)
            since = jnp.asarray(updates).astype(jnp.int32) + 1 - start
            mean = 1.0 / (since // every + 1).astype(jnp.float32)
            return jnp.where(since <= 0, 1.0, jnp.where(since % every == 0, mean, 0.0))
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


def _length(name: str, text: str) -> str:
    """Return a length of stochastic weight averaging in its one spelling."""
    try:
        length = parse_duration(text)
    except UsageError as error:
        raise UsageError(f"train.ema.{name}: {error}") from None
    if length.seconds is not None or (name == "every" and length.amount <= 0):
        raise UsageError(f"train.ema.{name} is in epochs, steps or a share of the run, got {text!r}")
    return str(length)


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
