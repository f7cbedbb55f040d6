"""Options of the training as they are typed and written in recipes, parsed and checked without JAX.

What they do is implemented and documented in `optimizers`, `schedules`, `lookahead`, `ema`, `loss_scale` and
`placement`; how long and how to train is in `config`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from annotated_types import Ge, Interval

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0, AtLeast1, BelowOne, NotNegative, Positive, Share, check_fields
from resnet_jax.training.duration import parse_duration

if TYPE_CHECKING:
    import jax
    from jax.typing import ArrayLike

#: Names of the placements of the state.
PlacementChoice: TypeAlias = Literal["replicated", "fsdp"]
OptimizerName: TypeAlias = Literal["sgd", "adam", "adamw", "rmsprop", "lars", "lamb"]
Convention: TypeAlias = Literal["paper", "timm"]
L1Step: TypeAlias = Literal["subgradient", "proximal"]
ScheduleKind: TypeAlias = Literal["constant", "multistep", "cosine", "polynomial", "onecycle", "exponential"]
Anneal: TypeAlias = Literal["cosine", "linear"]

KERNEL_ROLES = ("conv", "head", "dense")
"""Roles that multiply activations as matrices: what is decayed, and what LARS and LAMB adapt."""

CLASSIFIER_ROLES = ("head", "head_bias")
"""Roles of the classifier, which adaptive gradient clipping excludes."""

#: Fields of stochastic weight averaging that are lengths.
_SWA = ("start", "every")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The learning-rate schedule. None (or empty) means the schedule's own default.

    Durations read "5 epochs", "32000 steps" or "50%" (of the whole run). A field that the chosen schedule does not use
    must stay unset: `make_schedule` rejects it, because a silently ignored setting is a wrong experiment.
    """

    kind: ScheduleKind = "constant"
    """The shape of the learning rate after the warm-up."""
    warmup: str | None = None
    """Length of the initial linear warm-up (default "0 steps"); onecycle has its own rise instead."""
    warmup_start_factor: Share | None = None
    """Learning rate of the first update as a fraction of the base rate (default 0)."""
    milestones: tuple[str, ...] = ()
    """multistep: when the rate drops, counted from the start of the run, such as ("50%", "75%")."""
    factor: NotNegative | None = None
    """multistep: the factor applied to the rate at each milestone (default 0.1)."""
    end_value: Share | None = None
    """cosine, polynomial: the final rate as a fraction of the base rate (default 0)."""
    power: Positive | None = None
    """polynomial: the exponent; 1 is a straight line (default 1)."""
    peak: str | None = None
    """onecycle: how long the rate rises (default "30%")."""
    div_factor: Annotated[float, Ge(1.0)] | None = None
    """onecycle: base rate / first rate (default 25)."""
    final_div_factor: Positive | None = None
    """onecycle: first rate / last rate (default 10000)."""
    anneal: Anneal | None = None
    """onecycle: shape of both halves (default cosine)."""
    start_value: Annotated[float, Interval(gt=0.0, le=1.0)] | None = None
    """exponential: first rate / base rate, from which it grows to the rate of the last update (default 1e-6)."""

    def __post_init__(self):
        """Check every value; raises UsageError."""
        check_fields(self, "optim.schedule.")


@dataclasses.dataclass(frozen=True)
class Lookahead:
    """Configuration of lookahead: how slow weights follow the fast ones. Static.

    Raises:
        UsageError: if a value is out of range, or ``every`` is missing.
    """

    every: AtLeast1 | None = None
    """Updates k between two synchronizations (5 or 10 in the paper). None: no lookahead."""
    alpha: Annotated[float, Interval(gt=0.0, le=1.0)] = 0.5
    """Step size alpha of the slow weights towards the fast ones."""
    power: NotNegative = 0.0
    """Power p with which the step size falls from 1 to alpha: 1 - (1 - alpha) (t / T)^p at update t of T. 0: always
    alpha."""

    def __post_init__(self) -> None:
        check_fields(self, "optim.lookahead.")
        if self.every is None and dataclasses.asdict(self) != {"every": None, "alpha": 0.5, "power": 0.0}:
            raise UsageError("the other fields of optim.lookahead need optim.lookahead.every, such as 5")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its penalties and its schedule. None means the optimizer's own default.

    Fields that the chosen optimizer does not use must stay None: `make_optimizer` rejects them.
    """

    name: OptimizerName = "sgd"
    """The optimizer."""
    learning_rate: Positive = 0.1
    """The base learning rate, which the schedule multiplies. It is not scaled with the batch size."""
    momentum: BelowOne | None = None
    """sgd, lars (default 0.9), rmsprop (default 0): heavy-ball momentum."""
    nesterov: bool | None = None
    """sgd, lars: use Nesterov momentum (default no)."""
    b1: BelowOne | None = None
    """adam, adamw, lamb: decay of the first moment (default 0.9)."""
    b2: BelowOne | None = None
    """adam, adamw, lamb: decay of the second moment (default 0.999)."""
    eps: Positive | None = None
    """adam, adamw, rmsprop (default 1e-8), lamb (default 1e-6): added to the root of the second moment."""
    decay: BelowOne | None = None
    """rmsprop: decay of the second moment, PyTorch's alpha (default 0.99)."""
    trust_coefficient: Positive | None = None
    """lars: trust coefficient c, how far one update may move a layer relative to its norm (default 0.001)."""
    convention: Convention | None = None
    """lars, lamb: paper (default) adapts all kernels; lars applies the rate inside its momentum. timm adapts only what
    is decayed (nothing without weight_decay); lars applies the rate outside, and lamb clips the global norm to 1 by
    default."""
    weight_decay: NotNegative = 0.0
    """L2 penalty, coupled or decoupled depending on the optimizer: weight_decay * w (no factor 2)."""
    l1: NotNegative = 0.0
    """L1 penalty (lasso), `l1 * |w|`."""
    l1_step: L1Step = "subgradient"
    """How l1 acts. subgradient: adds l1 * sign(w) to the gradient, which leaves weights near 0. proximal: ends each
    update with soft-thresholding, which makes them exactly 0 (sgd, adam, adamw, rmsprop)."""
    decay_roles: tuple[str, ...] = KERNEL_ROLES
    """Roles of the parameters that both penalties act on (see roles.py)."""
    l1_roles: tuple[str, ...] | None = None
    """Roles that l1 acts on (default: decay_roles). norm_scale gives network slimming (arXiv 1708.06519), which allows
    channels to be removed."""
    keep_zeros: bool = False
    """Keep kernel weights at 0 that are exactly 0 at the start (masks in the optimizer state), for networks with pruned
    weights."""
    clip_norm: Positive | None = None
    """Largest global norm of the gradient. None does not clip (except lamb with timm's convention, which clips to
    1)."""
    agc: Positive | None = None
    """Adaptive gradient clipping: largest norm of a unit's gradient relative to its weights' (0.01 in NF-Nets). None:
    off."""
    agc_exclude: tuple[str, ...] = CLASSIFIER_ROLES
    """Roles of the parameters that adaptive clipping excludes."""
    role_rates: tuple[tuple[str, float], ...] = ()
    """Learning-rate factors by role. Empty: none, except scalar 0.1 in a run with residual fixup, and log_variance 0.01
    where SGD weights tasks by uncertainty."""
    layer_decay: float | None = None
    """Learning-rate factor per block of distance from the classifier, in (0, 1], for fine-tuning."""
    freeze: tuple[str, ...] = ()
    """What to freeze: roles (norm_scale), modules (stem, stage1/block0) or regular expressions (stage[12]). Batch
    statistics are still updated, unless model.norm_scope is frozen."""
    lookahead: Lookahead = dataclasses.field(default_factory=Lookahead)
    """Lookahead: slow weights that follow the fast ones, which are reset to them every few updates. Off unless every is
    set."""
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    """How the learning rate changes over the run."""

    def __post_init__(self):
        """Check every value; raises UsageError. `make_optimizer` checks what goes with which optimizer."""
        check_fields(self, "optim.")


@dataclasses.dataclass(frozen=True)
class Averaging:
    """Configuration of the moving averages. Static.

    Raises:
        UsageError: if a value is out of range or not used by the kind or warm-up, or the decay is missing.
    """

    decay: BelowOne | None = None
    """Decay d per update. None: no averages."""
    warmup: Literal["tensorflow", "power", "none"] = "tensorflow"
    """How the decay d is reached. tensorflow: min(d, (1 + k) / (10 + k)) after k updates (0.9999 after 89,990). power:
    min(d, 1 - (1 + k / gamma)^-power), as timm's use_warmup. none: d at once, starting from a copy of the first
    update."""
    gamma: Positive = 1.0
    """gamma of the warm-up power; timm's warmup_gamma."""
    power: Positive = 2 / 3
    """Exponent of the warm-up power (timm: 2/3 for runs of a million updates, 3/4 for shorter ones)."""
    min_decay: NotNegative = 0.0
    """Warm-up power: lower bound of the decay from the second update on."""
    update_after: AtLeast0 = 0
    """Updates during which the averages are plain copies, before averaging and its warm-up begin; timm's
    update_after_step."""
    statistics: Literal["averaged", "latest"] = "averaged"
    """Running batch statistics used with averaged parameters: averaged too (timm), or the latest (PyTorch)."""
    kind: Literal["ema", "swa"] = "ema"
    """ema: exponential moving averages with a decay. swa: stochastic weight averaging, the mean of snapshots."""
    start: str = "75%"
    """swa: when the first snapshot is taken, such as '75%' of the run or '160 epochs'."""
    every: str = "1 epochs"
    """swa: interval between snapshots, such as '1 epochs'; with a cyclic rate, one cycle."""
    reestimate: AtLeast0 | None = None
    """Batches of training images on which the batch statistics of the averages are recomputed before each validation;
    0: none. Default: up to 50 for swa (from its start on), none for ema."""

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
        """Whether averages are computed."""
        return self.kind == "swa" or self.decay is not None

    def over(self, steps_per_epoch: int, total_steps: int) -> Averaging:
        """Return a copy with lengths in steps, as :meth:`rate` needs them.

        Raises:
            UsageError: if averaging would start after the end of the run.

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
        """Return 1 - d_n in float32, computed directly because 1 - 0.9999 in float32 is off by 2e-4.

        Args:
            updates: number of updates before this one, n - 1.

        >>> [round(1 - float(Averaging(0.99).rate(k)), 2) for k in (0, 10, 10_000)]
        [0.1, 0.55, 0.99]
        >>> [round(float(Averaging(0.9, "none").rate(k)), 2) for k in (0, 1)]
        [1.0, 0.1]
        >>> swa = Averaging(kind="swa", start="3 steps", every="2 steps")
        >>> [round(float(swa.rate(k)), 2) for k in range(7)]
        [1.0, 1.0, 1.0, 0.0, 0.5, 0.0, 0.33]
        """
        import jax.numpy as jnp

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
    """Return a length of stochastic weight averaging in its normalized spelling."""
    try:
        length = parse_duration(text)
    except UsageError as error:
        raise UsageError(f"train.ema.{name}: {error}") from None
    if length.seconds is not None or (name == "every" and length.amount <= 0):
        raise UsageError(f"train.ema.{name} is in epochs, steps or a share of the run, got {text!r}")
    return str(length)


@dataclasses.dataclass(frozen=True)
class LossScaling:
    """Configuration of the loss scale. Static.

    Raises:
        UsageError: unless 0 < minimum <= initial <= maximum and ``growth_every`` is positive.
    """

    initial: Positive = 2.0**15
    """Initial loss scale. It is halved when gradients overflow."""
    growth_every: AtLeast1 = 2000
    """Consecutive steps without overflow after which the loss scale is doubled."""
    minimum: Positive = 1.0
    """An overflow at this scale is an error."""
    maximum: Positive = 2.0**24
    """The largest loss scale."""

    def __post_init__(self) -> None:
        check_fields(self, "train.loss_scale.")
        if not self.minimum <= self.initial <= self.maximum:
            raise UsageError(
                f"train.loss_scale.initial must be between minimum {self.minimum:g} and maximum {self.maximum:g}, "
                f"got {self.initial:g}"
            )
