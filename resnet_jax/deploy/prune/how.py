"""What is asked for when a network is pruned."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from resnet_jax.deploy.prune.choose import Scope
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast0, AtLeast1, BelowOne, check_fields
from resnet_jax.training.duration import parse_duration

#: What channels are scored by (`scores`).
Criterion: TypeAlias = Literal["norm_scale", "activation", "filters", "random"]
Method: TypeAlias = Literal["norm_scale", "activation", "filters", "random", "magnitude", "lottery"]


@dataclasses.dataclass(frozen=True)
class HowToPrune:
    """What goes, and how much."""

    by: Method = "norm_scale"
    """Channels go by norm_scale (|scale| of the norm behind them), activation (their mean over training images),
    filters (sum of |weights|) or random. magnitude: single weights become 0 and stay so; lottery: that in rounds."""
    ratio: tuple[BelowOne, ...] = (0.5,)
    """Share of the channels within branches, or of the weights, that goes; several make a table of accuracy and speed.
    lottery: of what is left, in each round."""
    scope: Scope = "uniform"
    """uniform: this share of every layer; global: of all layers together, those with the smallest scores."""
    min_channels: AtLeast1 = 8
    """Fewer channels are not left in a layer that had more."""
    multiple_of: AtLeast1 = 8
    """Channels that stay are a multiple of it: a processor's vector holds 8 (AVX2) or 16 (AVX-512)."""
    drop_blocks: AtLeast0 = 0
    """Residual blocks that go whole first, one after the other those without which the training loss is smallest."""
    without_blocks: tuple[AtLeast0, ...] = ()
    """Residual blocks that go whole first, by depth from 0, in place of a number of them: with half of the channels of
    the wider stages gone, those of the first cost most time."""
    images: AtLeast1 = 1024
    """Training images that activations, losses and batch statistics are measured on."""
    recalibrate: bool = True
    """Measure the batch statistics of the smaller network anew on these images."""
    finetune: str | None = None
    """Then train for so long, such as '5 epochs', with the run's own recipe: DIR/finetuned. The rate is 0.1 of the
    recipe's, falling as a cosine, unless options say otherwise."""
    rounds: AtLeast1 = 5
    """lottery: rounds of training, pruning and going back."""
    rewind: str = "0 steps"
    """lottery: the moment whose weights each round begins with, such as '500 steps' (arXiv 1912.05671)."""

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
            raise UsageError(f"whole blocks go with pruning of channels, and by is {self.by}")
        if self.drop_blocks and self.without_blocks:
            raise UsageError("drop_blocks is how many go, and without_blocks which: give one of them")

    @property
    def criterion(self) -> Criterion | None:
        """What channels are scored by; None where single weights go."""
        return None if self.by in ("magnitude", "lottery") else self.by
