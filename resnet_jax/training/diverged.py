"""The end of a training with rejected updates: what happened, where, and the state at that point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import RunError


class Diverged(RunError):
    """An update was not finite, once more in a row than is tolerated.

    Args:
        step: the rejected update, counted from 1.
        metrics: metrics of that step.
        tolerated: number of consecutive rejected updates that are only reported.
        member: index of the population member; None for a single run.

    Attributes:
        state: the current state, set by the loop after the updates in flight; None elsewhere.
        made_after: number of updates that changed the state after that step, 0 for none; the rejected one did not.
    """

    in_all_processes = True  # all of them read the same metrics

    in_all_processes = True  # the metrics are the same in all of them

    def __init__(self, step: int, metrics: Mapping[str, float], tolerated: int, member: int | None = None) -> None:
        super().__init__(_said(step, metrics, tolerated, member))
        self.step, self.member, self.tolerated = step, member, tolerated
        self.loss, self.grad_norm = metrics["loss"], metrics["grad_norm"]
        self.loss_scale = metrics.get("loss_scale")
        self.state: Any = None
        self.made_after = 0

    def add(self, sentence: str) -> None:
        """Insert a sentence about later findings into the message, before the advice."""
        said, advice, rest = str(self).partition(" Look at: ")
        sentence = sentence[:1].upper() + sentence[1:]
        self.args = (f"{said} {sentence}.{advice}{rest}",)


def _said(step: int, metrics: Mapping[str, float], tolerated: int, member: int | None) -> str:
    scaled = "loss_scale" in metrics
    who = "training" if member is None else f"member {member}"
    return (
        f"{who} diverged at step {step}: loss {metrics['loss']:.4g}, gradient norm {metrics['grad_norm']:.4g}"
        + (f", with the loss scale down at {metrics['loss_scale']:g}. " if scaled else ". ")
        + (f"{tolerated} rejected updates in a row are tolerated (train.max_rejected). " if tolerated else "")
        + "The update was rejected and the last good checkpoint is kept. Look at: the learning rate (lower it or add "
        "optim.schedule.warmup '5 epochs'), clipping (optim.clip_norm 1), the normalization of the images "
        "(data.mean, data.std); with batches of your own, whether every label is one of the network's classes "
        "0..K-1" + (", the range of float16, which ends at 65,504 (model.dtype bfloat16)" if scaled else "")
    )
