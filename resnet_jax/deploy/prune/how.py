"""Options for pruning a network."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from resnet_jax.deploy.prune.choose import Scope
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0, AtLeast1, BelowOne, check_fields
from resnet_jax.training.duration import parse_duration

#: Criteria for scoring channels (`scores`).
Criterion: TypeAlias = Literal["norm_scale", "activation", "filters", "random"]
Method: TypeAlias = Literal["norm_scale", "activation", "filters", "random", "magnitude", "lottery"]


@dataclasses.dataclass(frozen=True)
class HowToPrune:
    """What to prune, and how much."""

    by: Method = "norm_scale"
    """Pruning method. Remove channels by norm_scale (|scale| of the following norm), activation (mean over training
    images), filters (sum of |weights|) or random; or set single weights to 0 by magnitude, at once (magnitude) or in
    rounds (lottery)."""
    ratio: tuple[BelowOne, ...] = (0.5,)
    """Share of the branches' channels, or of the weights, to remove. Several values give a table of accuracy and speed.
    For
    lottery: the share of the remaining weights to remove in each round."""
    scope: Scope = "uniform"
    """Where to apply the ratio: uniform (to every layer) or global (the smallest scores of all layers together)."""
    min_channels: AtLeast1 = 8
    """Minimum number of channels to keep in a layer that had more."""
    multiple_of: AtLeast1 = 8
    """Round the number of kept channels to a multiple of this: a vector register holds 8 (AVX2) or 16 (AVX-512)."""
    drop_blocks: AtLeast0 = 0
    """Number of whole residual blocks to remove first, one by one: each time the one whose removal costs the least
    training loss."""
    without_blocks: tuple[AtLeast0, ...] = ()
    """Whole residual blocks to remove first, by depth from 0, instead of a number of them. Once half of the channels of
    the wider stages are gone, the blocks of the first stage take most of the time."""
    images: AtLeast1 = 1024
    """Number of training images for measuring activations, losses and batch statistics."""
    recalibrate: bool = True
    """Measure the batch statistics of the smaller network again on these images."""
    finetune: str | None = None
    """Fine-tune afterwards for this long, such as '5 epochs', with the run's own recipe, into DIR/finetuned. The
    learning rate is 0.1 of the recipe's with cosine decay unless you set it."""
    rounds: AtLeast1 = 5
    """Number of rounds of training, pruning and rewinding, for lottery."""
    rewind: str = "0 steps"
    """Point in training to whose weights each round rewinds, for lottery, such as '500 steps' (arXiv 1912.05671)."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.ratio:
            raise UsageError("ratio needs a number, such as 0.5")
        for name in ("finetune", "rewind"):
            if (text := getattr(self, name)) is not None and parse_duration(text).seconds is not None:
                raise UsageError(f"{name} is in epochs or steps, got {text!r}")
        if self.by == "lottery" and (self.finetune is not None or len(self.ratio) > 1):
            raise UsageError("lottery trains every round as the run was trained, and has one ratio: no finetune")
        if self.by in ("magnitude", "lottery") and (self.drop_blocks or self.without_blocks):
            raise UsageError(f"whole blocks can only be removed when channels are pruned, and by is {self.by}")
        if self.drop_blocks and self.without_blocks:
            raise UsageError("drop_blocks is the number of blocks and without_blocks names them: use one of the two")

    @property
    def criterion(self) -> Criterion | None:
        """The criterion for scoring channels; None if single weights are pruned."""
        return None if self.by in ("magnitude", "lottery") else self.by
