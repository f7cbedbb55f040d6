"""Configuration of the training floor: how long and how to train. The optimizer has its own: `optimizers`."""

from __future__ import annotations

import dataclasses

from resnet_jax.training.ema import Averaging


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how to train."""

    epochs: int = 10
    """Passes over the training images."""
    max_steps: int | None = None
    """Stop after so many updates even if epochs are left; None for no limit."""
    batch_size: int = 128
    """Images per update, over all devices."""
    accumulate: int = 1
    """Micro-batches an update is made of, to fit a large batch in memory."""
    steps_per_dispatch: int | None = None
    """Updates made in one call, from pixels that lie on the devices; None: 1 on CPUs, more where it pays."""
    ema_decay: float | None = None
    """Decay per update of moving averages of parameters and statistics, which are then what is evaluated."""
    ema_warmup: str = "tensorflow"
    """How that decay d is reached: tensorflow, min(d, (1 + k) / (10 + k)) after k updates (0.9999 after 89,990); power,
    min(d, 1 - (1 + k / gamma)^-power), as timm's use_warmup; or none, d at once, from a copy of the first update on."""
    ema_warmup_gamma: float = 1.0
    """gamma of ema_warmup power."""
    ema_warmup_power: float = 2 / 3
    """Exponent of ema_warmup power (timm: 2/3 for runs of a million updates, 3/4 for shorter ones)."""
    ema_min_decay: float = 0.0
    """ema_warmup power: the decay is not smaller from the second update on."""
    ema_update_after: int = 0
    """Updates that the averages only copy before averaging, and its warm-up, begin."""
    ema_statistics: str = "averaged"
    """Running batch statistics that go with averaged parameters: averaged too (timm), or the latest (PyTorch)."""
    loss_scale: float = 32768.0
    """With model.dtype float16: what the loss is multiplied by at first; halved when gradients overflow."""
    loss_scale_growth_every: int = 2000
    """Steps without overflow after which the loss scale is doubled."""
    eval_every: int = 1
    """Epochs between validations and checkpoints."""
    early_stopping: int | None = None
    """Stop after so many validations without a better accuracy; None never does."""
    select: str = "last"
    """Which state is tested at the end: last, or best (on validation)."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl and TensorBoard scalars."""
    depth_every: int = 0
    """Steps between rows of depth.jsonl, the gradient that reaches every block, from the first step on; 0 for none."""

    def averaging(self) -> Averaging | None:
        """Return how moving averages are taken, None for none.

        Raises:
            UsageError: a value out of range.
        """
        how = (getattr(self, name) for name in _AVERAGING)
        return None if self.ema_decay is None else Averaging(self.ema_decay, *how)

    def without_averages(self) -> TrainConfig:
        """Return the same without moving averages."""
        default = TrainConfig()
        return dataclasses.replace(self, ema_decay=None, **{name: getattr(default, name) for name in _AVERAGING})


#: Fields of TrainConfig that say how averages are taken, in the order of Averaging's.
_AVERAGING = (
    "ema_warmup", "ema_warmup_gamma", "ema_warmup_power", "ema_min_decay", "ema_update_after", "ema_statistics",
)  # fmt: skip
