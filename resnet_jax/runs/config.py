"""A run as data: the configurations of all parts in one frozen dataclass, which survives a round trip through YAML.

:mod:`resnet_jax.runs.recipes` reads it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from resnet_jax.data.config import DataConfig
from resnet_jax.data.transforms import canonical, divide, transform_names
from resnet_jax.errors import RunError, UsageError
from resnet_jax.fields import SAME_RESULT, AtLeast0, Listing, check_fields, is_marked, options_of
from resnet_jax.models.spec import ModelSpec
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.options import OptimConfig


@dataclasses.dataclass(frozen=True)
class OtherConfig:
    """The second input of a two-input task, the examples' field ``other``, and its network."""

    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    """The network for the second input. Options left out have the named network's own values; channels and dimensions
    are those of the input."""
    augment: Annotated[tuple[str, ...], Listing(transform_names)] = ()
    """Transforms of the second input in training, on the device, in this order. The names are those of data.augment."""

    def __post_init__(self) -> None:
        """Normalize the spelling of every transform, and reject those that run on the host."""
        object.__setattr__(self, "augment", canonical(self.augment, name="other.augment"))
        found = divide(self.augment, name="other.augment")
        if found.before or found.after or found.random_resized:
            raise UsageError(
                f"other.augment {' '.join(self.augment)}: what is done on the host goes to the first input alone; here "
                "use what is done on the device"
            )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that determines the result of a run."""

    recipe: str = "digits"
    """The recipe this configuration started from."""
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    """The network: a name that `resnet-jax models` lists, and changes to it. Options left out have the named network's
    own values; outputs and channels are those of the data."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """The data."""
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    """The optimizer and its schedule."""
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    """The training."""
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    """What the outputs mean."""
    other: OtherConfig = dataclasses.field(default_factory=OtherConfig)
    """The second input and its network, for a task with two inputs."""
    seed: AtLeast0 = 0
    """Seed of the initialization, the order of the images and the augmentation."""
    init_from: str | None = None
    """Warm start: a run directory, trained or imported, whose network this run starts from."""
    init_head: Literal["exact", "new"] = "exact"
    """The classifier of init_from: exact to keep it (the classes must be the same), or new to start with a fresh
    one."""
    init_stem: Literal["exact", "mean", "repeat", "bands"] = "exact"
    """How the first convolution of init_from is adapted to other input channels. exact: not at all. mean: every channel
    gets the average kernel. repeat: the kernels are repeated in turn; both are scaled to preserve the response to equal
    channels. bands: see init_bands."""
    init_bands: tuple[AtLeast0, ...] = ()
    """With init_stem bands: the channels, from 0, that correspond to those of init_from, such as 3 2 1 for red, green
    and blue. The others start at zero."""
    init_inflate: Literal["none", "mean", "centre"] = "none"
    """Start a volume network from an image network: mean (kernels repeated along depth and divided, I3D) or centre
    (kernels at the middle of the depth, zeros around)."""
    imports: Annotated[tuple[str, ...], SAME_RESULT] = ()
    """Modules, or files that end with .py, to import first, so that they can register networks, blocks, norms, sources,
    transforms, tasks and observers. Every verb takes one name after each --imports."""

    def __post_init__(self):
        """Reject impossible values; the rest is checked where it is used."""
        train, data = self.train, self.data
        needs_val = train.select == "best" or train.early_stopping.patience is not None
        _require(
            not (needs_val and not data.division().holds_out_val),
            "train.select best and train.early_stopping need validation images: set data.val_fraction above 0",
        )
        _require(
            not (data.balance == "classes" and self.task.class_weights == "balanced"),
            "data.balance classes and task.class_weights balanced both make up for rare classes: set one of them none",
        )
        check_fields(self)
        for name, value in (("init_head", self.init_head), ("init_stem", self.init_stem)):
            _require(value == "exact" or self.init_from is not None, f"{name} {value} needs init_from")
        _require(
            self.init_inflate == "none" or self.init_from is not None,
            f"init_inflate {self.init_inflate} needs init_from",
        )
        _require(
            (self.init_stem == "bands") == bool(self.init_bands),
            "init_stem bands and init_bands, which names the channels, go together: give both or neither",
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Return nested dictionaries of plain values."""

    def plain(value: Any) -> Any:
        if isinstance(value, ModelSpec):
            return value.to_dict()
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(config)


def config_to_yaml(config: RunConfig) -> str:
    """Write a configuration that :func:`~resnet_jax.runs.recipes.parse_config` reads back as the same."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


def without_effect() -> frozenset[str]:
    """Return the options that change only how a run is monitored, fed or computed, and its result only by rounding.

    >>> sorted(key for key in without_effect() if key.startswith("model."))
    ['model.execution', 'model.remat']
    """
    return frozenset(key for key, hint in options_of(RunConfig).items() if is_marked(hint, SAME_RESULT))


def decisive(config: RunConfig) -> dict[str, Any]:
    """Return every option that determines the result, by its dotted name; None where a section leaves it out."""
    tree, ignored = config_to_dict(config), without_effect()
    return {key: _at(tree, key) for key in options_of(RunConfig) if key not in ignored}


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Return one line per differing field that determines the result: ``optim.learning_rate: 0.1 -> 0.2``."""
    before, after = decisive(old), decisive(new)
    return [f"{key}: {was} -> {after[key]}" for key, was in before.items() if was != after[key]]


def require_same(old: RunConfig, new: RunConfig, *, where: Path) -> None:
    """Reject a directory that belongs to another configuration.

    Raises:
        RunError: if there are differences; it lists the fields.
    """
    changed = differences(old, new)
    if changed:
        hint = ""
        if old.data.source != new.data.source:
            hint = (
                f" If the same images only lie elsewhere now: set data.source to {old.data.source} and data.moved_to "
                f"to {new.data.source}"
            )
        if any(line.startswith(("model.dtype:", "model.param_dtype:")) for line in changed):
            hint += (
                f" A run keeps its precision. To go on from its weights in another, with a new optimizer: init_from "
                f"{where} in another run directory"
            )
        raise RunError(
            f"{where} holds a run of another configuration:\n  "
            + "\n  ".join(changed)
            + "\nUse another run directory, or the same settings to resume it."
            + hint
        )


def _at(tree: Any, key: str) -> Any:
    """Return the value of an option in nested dictionaries, or None if a section leaves it out."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
