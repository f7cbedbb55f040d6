"""How to fine-tune: the options of the verb, and the configurations of its stages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1, Positive, Share, check_fields
from resnet_jax.models.paths import HEAD
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.config import RunConfig

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

HEAD_RATE, ADAPTIVE_RATE = 0.1, 1e-4
"""Learning rates of a classifier alone, with SGD at batch size 128, and of the whole network with adaptive
optimizers."""

Method = Literal["full", "linear", "bit"]


@dataclasses.dataclass(frozen=True)
class HowToFinetune:
    """How to fine-tune."""

    method: Method = "full"
    """full: train the classifier first, then the whole network. linear: train the classifier alone. bit: train the
    whole network by the rule of Kolesnikov et al. 2020, which depends on the size of the data set."""
    head_share: Share = 0.2
    """full: fraction of the length in which only the classifier is trained; 0: none."""
    head_rate: Positive | None = None
    """Learning rate while only the classifier is trained (default: 0.1 at batch size 128, scaled in proportion to the
    batch size)."""
    seeds: AtLeast1 = 1
    """Number of seeds, starting at --seed. With several, the table has mean and standard deviation, and differences
    have intervals."""
    scratch: bool = False
    """Also train the same network from scratch with the same number of updates, for comparison."""

    def __post_init__(self) -> None:
        """Reject values out of range."""
        check_fields(self)
        if self.head_share == 1.0:
            raise UsageError("head_share 1 leaves nothing for the whole network: give less, or method linear")


@dataclasses.dataclass(frozen=True)
class ImportAs:
    """How to read a weights file that does not describe itself. Not used for a run directory."""

    key: str | None = None
    """For a weights file with several networks: which one, as in `weights import`."""
    class_names: Path | None = None
    """For a weights file: a file with the names of its outputs, one per line in output order."""


def without_choices(model: ModelSpec, *choices: str) -> ModelSpec:
    """Return a network in which the choices of these names are reset to its own."""
    return ModelSpec.from_dict({name: value for name, value in model.to_dict().items() if name not in choices})


def head_steps(how: HowToFinetune, steps: int) -> int:
    """Return the number of updates for the classifier alone, out of the total.

    >>> head_steps(HowToFinetune(head_share=0.25), 100), head_steps(HowToFinetune("linear"), 100)
    (25, 100)
    """
    match how.method:
        case "linear":
            return steps
        case "bit":
            return 0
        case "full":
            return min(round(how.head_share * steps), steps - 1)


def head_config(config: RunConfig, how: HowToFinetune, steps: int, model: ResNet, shape: tuple[int, ...]) -> RunConfig:
    """Return the run that trains only the classifier, on a backbone whose parameters and statistics are frozen.

    Args:
        config: configuration of the run of the whole network.
        how: how to fine-tune.
        steps: number of updates.
        model: the network, for the names of its parts.
        shape: shape of its inputs, without the batch axis.
    """
    from resnet_jax.models.count import abstract_variables
    from resnet_jax.runs.defaults import with_values

    batch, name = config.train.batch_size, config.optim.name
    rate = how.head_rate or (float(f"{HEAD_RATE * batch / 128:.4g}") if name == "sgd" else 10 * ADAPTIVE_RATE)
    backbone = [part for part in abstract_variables(model, shape)["params"] if part != HEAD]
    values = {
        "optim.layer_decay": None,
        "optim.freeze": backbone,
        "optim.learning_rate": rate,
        "optim.schedule": {"kind": "cosine", "warmup": "5%"},
    }
    network = config.model
    if model.config.norm == "batch":
        kept = without_choices(network, "norm_scope", "ghost_size", "norm_group_devices")
        network = ModelSpec.from_dict({**kept.to_dict(), "norm_scope": "frozen"})
    return with_steps(with_values(dataclasses.replace(config, model=network), values), steps)


def starting_from(config: RunConfig, path: Path) -> RunConfig:
    """Return a run that starts from the network in a run directory as it is, including its classifier."""
    from resnet_jax.runs.defaults import with_values

    as_it_is = {"init_head": "exact", "init_stem": "exact", "init_bands": [], "init_inflate": "none"}
    return with_values(config, {"init_from": str(path), **as_it_is})


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """Return a run with this number of updates."""
    from resnet_jax.runs.defaults import with_values

    return with_values(config, {"train.length": f"{steps} steps", "train.limit": None})
