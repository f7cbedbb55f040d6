"""Configuration of how long and how to train. The optimizer has its own configuration in `options`.

Every length is a text that :func:`~resnet_jax.training.duration.parse_duration` reads, stored in one normalized
spelling: ``15 epochs``, ``500 steps``, ``5%`` of the whole run, and ``10 minutes`` where wall-clock time is allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from resnet_jax.errors import UsageError
from resnet_jax.fields import SAME_RESULT, AtLeast0, AtLeast1, check_fields
from resnet_jax.runtime.forms import FormsChoice
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.duration import Duration, Unit, parse_duration
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.options import Averaging, LossScaling, PlacementChoice
from resnet_jax.training.plan import Plan, Reject, Saving
from resnet_jax.training.spikes import Spikes

if TYPE_CHECKING:
    from resnet_jax.training.placement import Placement

_STEPS: tuple[Unit, ...] = ("epochs", "steps")
_CLOCK: tuple[Unit, ...] = ("seconds", "minutes", "hours")

#: Fields that are lengths -> the units they accept, and how to describe those.
_LENGTHS: dict[str, tuple[tuple[Unit, ...], str]] = {
    "length": (_STEPS, "epochs or steps"),
    "limit": ((*_STEPS, *_CLOCK), "steps, epochs, or a time such as '30 min'"),
    "validate_every": ((*_STEPS, "fraction"), "epochs, steps or a share such as '5%', so that a run can be repeated"),
    "save_every": ((*_STEPS, "fraction", *_CLOCK), "epochs, steps, a share such as '5%' or a time such as '10 min'"),
    "log_every": ((*_STEPS, "fraction", *_CLOCK), "steps, epochs, a share such as '1%' or a time such as '30 s'"),
    "depth_every": ((*_STEPS, "fraction"), "steps, epochs or a share such as '1%'"),
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how to train.

    Raises:
        UsageError: if a value is out of range, or a length cannot be parsed.
    """

    length: str = "10 epochs"
    """How long to train: '10 epochs' (passes over the training set) or '64000 steps' (updates). The learning-rate
    schedule spans this length."""
    limit: str | None = None
    """A limit below length: either a number of steps such as '200 steps', which the schedule then spans, or wall-clock
    time over all sessions such as '30 min', which cuts the run off. None: no limit."""
    batch_size: AtLeast1 = 128
    """Examples per update, over all devices."""
    accumulate: AtLeast1 = 1
    """Number of micro-batches per update (gradient accumulation), to fit a large batch in memory."""
    placement: Annotated[PlacementChoice, SAME_RESULT] = "replicated"
    """Where parameters, optimizer state and moving averages live: replicated on every device, or sharded over the
    devices (fsdp)."""
    fsdp_devices: Annotated[AtLeast1, SAME_RESULT] | None = None
    """With placement fsdp: the number of consecutive devices that each copy of the state is sharded over, a divisor of
    all devices. None: all."""
    forms: Annotated[FormsChoice, SAME_RESULT] = "auto"
    """How operations are computed. auto: the fastest form for the hardware, which on one CPU device differs from that
    on several. plain: the same form everywhere, so that moving a run changes nothing but the order of sums."""
    steps_per_dispatch: Annotated[AtLeast1, SAME_RESULT] | None = None
    """Updates per compiled call, on examples resident on the devices. None: 1 on CPUs, more where it is faster."""
    ema: Averaging = dataclasses.field(default_factory=Averaging)
    """Moving averages of parameters and batch statistics, which are then evaluated. Off unless a decay or kind swa is
    set."""
    loss_scale: LossScaling = dataclasses.field(default_factory=LossScaling)
    """With model.dtype float16: the factor the loss is multiplied by."""
    validate_every: str = "1 epochs"
    """Interval between validations, in epochs, steps or a share of the run ('5%'). The run always ends with a
    validation."""
    save_every: Annotated[str, SAME_RESULT] | None = None
    """Interval between checkpoints to resume from, optionally in wall-clock time ('10 min'). None: at every
    validation."""
    keep_last: Annotated[AtLeast1, SAME_RESULT] = 2
    """Number of most recent checkpoints to keep for resuming. If one is damaged, the one before it is used."""
    keep_best: Annotated[AtLeast1, SAME_RESULT] = 1
    """Number of best checkpoints to keep, by validation metric (for each checkpoint to resume from, as of that
    time)."""
    on_save_failure: Annotated[Literal["continue", "stop"], SAME_RESULT] = "continue"
    """What happens if a checkpoint cannot be written, such as on a full disk: training continues and tries again at the
    next one, or it stops. Stopping would lose what a later save may still preserve. The final state must be written in
    either case."""
    save_share: Annotated[float, Interval(gt=0.0, le=1.0), SAME_RESULT] = 0.05
    """The largest fraction of the time that saving may take. If it takes more, the interval is lengthened. 1: no
    limit."""
    early_stopping: EarlyStopping = dataclasses.field(default_factory=EarlyStopping)
    """When to stop early, by the headline metric on the validation split. Off unless a patience is set."""
    max_rejected: AtLeast0 = 0
    """Number of consecutive updates that may be rejected for non-finite values before the run stops. A rejected update
    leaves the network unchanged."""
    spikes: Spikes = dataclasses.field(default_factory=Spikes)
    """When to return to the last checkpoint because the loss has risen too far. Off unless a factor is set."""
    select: Literal["last", "best"] = "last"
    """The state to test at the end: last, or best (by validation)."""
    test_views: Literal["none", "flip", "flip_shift"] = "none"
    """Test-time augmentation of the final test, whose probabilities are averaged (as in eval --views). Validation has
    none."""
    log_every: Annotated[str, SAME_RESULT] = "50 steps"
    """Interval between rows of metrics.jsonl and scalars for observers."""
    depth_every: Annotated[str, SAME_RESULT] | None = None
    """Interval between rows of depth.jsonl, which record the gradient that reaches every block, from the first step on.
    None: no rows."""
    observers: Annotated[tuple[str, ...], SAME_RESULT] = ("tensorboard",)
    """Observers of the training, besides files and terminal: tensorboard, wandb, trackio, or registered ones
    (resnet_jax.report.trackers)."""

    def __post_init__(self) -> None:
        check_fields(self, "train.")
        if self.fsdp_devices is not None and self.placement != "fsdp":
            raise UsageError(f"train.fsdp_devices {self.fsdp_devices} goes with train.placement fsdp")
        for name, (units, said) in _LENGTHS.items():
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(_checked(name, text, units, said)))

    def averaging(self) -> Averaging | None:
        """Return how moving averages are computed, or None for none."""
        return self.ema if self.ema.on else None

    def placed(self, devices: Sequence[Any] | None = None) -> Placement:
        """Return the placement on ``devices`` (JAX devices; default: all devices of all processes).

        Raises:
            UsageError: if ``fsdp_devices`` does not divide their number.
        """
        from resnet_jax.training.placement import Placement

        return Placement.of(devices, kind=self.placement, fsdp_devices=self.fsdp_devices)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of updates of the whole run, at least one."""
        steps = parse_duration(self.length).steps(steps_per_epoch)
        if self.limit is not None and self.time_limit is None:
            steps = min(steps, parse_duration(self.limit).steps(steps_per_epoch))
        return max(steps, 1)

    @property
    def time_limit(self) -> float | None:
        """Seconds of wall-clock time after which the run ends, or None for no such limit."""
        return None if self.limit is None else parse_duration(self.limit).seconds

    def cadence(self, length: str, steps_per_epoch: int) -> Cadence:
        """Return the interval that one of the fields describes."""
        return Cadence.every(length, steps_per_epoch=steps_per_epoch, total_steps=self.total_steps(steps_per_epoch))

    def depth_steps(self, steps_per_epoch: int) -> int | None:
        """Return the number of updates between measurements of the gradient at every block, or None for none."""
        if self.depth_every is None:
            return None
        return max(parse_duration(self.depth_every).steps(steps_per_epoch, self.total_steps(steps_per_epoch)), 1)

    def plan(self, steps_per_epoch: int) -> Plan:
        """Return the plan for the training loop."""
        return Plan(
            self.total_steps(steps_per_epoch),
            steps_per_epoch,
            validate=self.cadence(self.validate_every, steps_per_epoch),
            saving=Saving(
                None if self.save_every is None else self.cadence(self.save_every, steps_per_epoch),
                keep_best=self.keep_best,
                on_failure=self.on_save_failure,
                share=self.save_share,
            ),
            early_stopping=self.early_stopping,
            on_reject=Reject(tolerate=self.max_rejected),
            spikes=self.spikes,
            seconds=self.time_limit,
        )


def _checked(name: str, text: str, units: tuple[Unit, ...], said: str) -> Duration:
    try:
        duration = parse_duration(text)
    except UsageError as error:
        raise UsageError(f"train.{name}: {error}") from None
    if duration.unit not in units:
        raise UsageError(f"train.{name} is in {said}, got {text!r}")
    if duration.amount <= 0 or (duration.unit == "steps" and duration.amount < 1):
        raise UsageError(f"train.{name} must be more than nothing, got {text!r}")
    return duration
