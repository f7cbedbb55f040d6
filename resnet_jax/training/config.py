"""Configuration of the training floor: how long and how to train. The optimizer has its own: `options`.

Every length is a text that :func:`~resnet_jax.training.duration.parse_duration` reads, kept in one spelling: ``15
epochs``, ``500 steps``, ``5%`` of the whole run, and where the clock may decide ``10 minutes``.
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

#: Fields that are lengths -> the units that they take, and how to say that.
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
        UsageError: a value out of range, or a length that cannot be read.
    """

    length: str = "10 epochs"
    """How long to train: '10 epochs' (passes over the training set) or '64000 steps' (updates). The schedule of the
    learning rate is over it."""
    limit: str | None = None
    """Shorter than length: '200 steps', which the schedule is then over, or a time on the clock such as '30 min', over
    all sessions, which cuts the run off; None for no limit."""
    batch_size: AtLeast1 = 128
    """Examples per update, over all devices."""
    accumulate: AtLeast1 = 1
    """Micro-batches an update is made of, to fit a large batch in memory."""
    placement: Annotated[PlacementChoice, SAME_RESULT] = "replicated"
    """How parameters, optimizer state and moving averages lie: replicated on every device, or fsdp, cut over them."""
    fsdp_devices: Annotated[AtLeast1, SAME_RESULT] | None = None
    """With placement fsdp: over how many consecutive devices each copy of the state is cut, a divisor of all; None:
    over all."""
    forms: Annotated[FormsChoice, SAME_RESULT] = "auto"
    """How operations are computed: auto, the fastest form where the run is, which on one CPU device is another one than
    on several; or plain, one form everywhere, so that moving a run changes nothing but the order of sums."""
    steps_per_dispatch: Annotated[AtLeast1, SAME_RESULT] | None = None
    """Updates made in one call, from examples resident on the devices; None: 1 on CPUs, more where it pays."""
    ema: Averaging = dataclasses.field(default_factory=Averaging)
    """Averages of parameters and statistics, which are then what is evaluated; off without a decay or kind swa."""
    loss_scale: LossScaling = dataclasses.field(default_factory=LossScaling)
    """With model.dtype float16: what the loss is multiplied by."""
    validate_every: str = "1 epochs"
    """Between validations: epochs, steps or a share of the run ('5%'). The end of the run is always validated."""
    save_every: Annotated[str, SAME_RESULT] | None = None
    """Between checkpoints to resume from, also by the clock ('10 min'); None: with every validation."""
    keep_last: Annotated[AtLeast1, SAME_RESULT] = 2
    """Newest checkpoints to resume from that are kept: should one be damaged, the one before is used."""
    keep_best: Annotated[AtLeast1, SAME_RESULT] = 1
    """Checkpoints of the best validations that are kept (of each checkpoint to resume from, as it was then)."""
    on_save_failure: Annotated[Literal["continue", "stop"], SAME_RESULT] = "continue"
    """What a checkpoint that cannot be written (a full disk) does: training goes on and tries again at the next one, or
    stops. Stopping would lose what going on may still save; the last state of the run has to be written in any case."""
    save_share: Annotated[float, Interval(gt=0.0, le=1.0), SAME_RESULT] = 0.05
    """Largest share of the time that saving may take; where it takes more, the interval becomes longer. 1: no limit."""
    early_stopping: EarlyStopping = dataclasses.field(default_factory=EarlyStopping)
    """When to stop before the end, by the validation's headline metric; off without a patience."""
    max_rejected: AtLeast0 = 0
    """Updates in a row that may be rejected, something in them being not finite, before the run stops: each leaves the
    network as it was."""
    spikes: Spikes = dataclasses.field(default_factory=Spikes)
    """When the loss has risen so far that the run goes back to its last checkpoint; off without a factor."""
    select: Literal["last", "best"] = "last"
    """Which state is tested at the end: last, or best (on validation)."""
    test_views: Literal["none", "flip", "flip_shift"] = "none"
    """Views of every test image at the end, whose probabilities are averaged (as eval --views); validation has none."""
    log_every: Annotated[str, SAME_RESULT] = "50 steps"
    """Between rows of metrics.jsonl and scalars of observers."""
    depth_every: Annotated[str, SAME_RESULT] | None = None
    """Between rows of depth.jsonl, the gradient that reaches every block, from the first step on; None for none."""
    observers: Annotated[tuple[str, ...], SAME_RESULT] = ("tensorboard",)
    """Observers of the training besides the files and the terminal: tensorboard, wandb, trackio, or registered ones
    (resnet_jax.report.trackers)."""

    def __post_init__(self) -> None:
        check_fields(self, "train.")
        if self.fsdp_devices is not None and self.placement != "fsdp":
            raise UsageError(f"train.fsdp_devices {self.fsdp_devices} goes with train.placement fsdp")
        for name, (units, said) in _LENGTHS.items():
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(_checked(name, text, units, said)))

    def averaging(self) -> Averaging | None:
        """Return how moving averages are taken, None for none."""
        return self.ema if self.ema.on else None

    def placed(self, devices: Sequence[Any] | None = None) -> Placement:
        """Return the placement on ``devices`` (JAX devices; default: all of them, of all processes).

        Raises:
            UsageError: ``fsdp_devices`` does not divide them.
        """
        from resnet_jax.training.placement import Placement

        return Placement.of(devices, kind=self.placement, fsdp_devices=self.fsdp_devices)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the updates of the whole run; at least one."""
        steps = parse_duration(self.length).steps(steps_per_epoch)
        if self.limit is not None and self.time_limit is None:
            steps = min(steps, parse_duration(self.limit).steps(steps_per_epoch))
        return max(steps, 1)

    @property
    def time_limit(self) -> float | None:
        """Seconds on the clock after which the run ends; None for no such limit."""
        return None if self.limit is None else parse_duration(self.limit).seconds

    def cadence(self, length: str, steps_per_epoch: int) -> Cadence:
        """Return how often something happens that goes by one of the fields."""
        return Cadence.every(length, steps_per_epoch=steps_per_epoch, total_steps=self.total_steps(steps_per_epoch))

    def depth_steps(self, steps_per_epoch: int) -> int | None:
        """Return the updates between two whose gradients are measured at every block; None for none."""
        if self.depth_every is None:
            return None
        return max(parse_duration(self.depth_every).steps(steps_per_epoch, self.total_steps(steps_per_epoch)), 1)

    def plan(self, steps_per_epoch: int) -> Plan:
        """Return what the loop is to do."""
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
