"""Groups of trials with the same static choices: what they have in common, and the program that trains them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import UsageError
from resnet_jax.runs.build import build_task
from resnet_jax.runs.carried import carries, encoded, values_of, with_options
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import PixelsWanted, RunData, load_images
from resnet_jax.runs.lanes import Lanes, build_lanes
from resnet_jax.runs.length import Origin, fit_length, length_of
from resnet_jax.search.directory import Definition
from resnet_jax.search.halving import Rung, rungs
from resnet_jax.search.space import SEED, Dimension
from resnet_jax.search.study import Trial
from resnet_jax.training.schedules import warmup_steps


class Images:
    """Loads images once for consecutive configurations that want the same pixels; keeps only the last ones."""

    def __init__(self) -> None:
        self._held: tuple[Any, RunData] | None = None

    def __call__(self, config: RunConfig) -> RunData:
        wanted = (PixelsWanted.of(config), config.data)
        if self._held is None or self._held[0] != wanted:
            self._held = None  # the old ones first out of memory
            self._held = (wanted, load_images(config))
        return self._held[1]


@dataclasses.dataclass(frozen=True)
class Group:
    """What trials with the same static choices have in common.

    Attributes:
        config: configuration of one of them; options that lanes carry have the recipe's values.
        images: images to train and validate on.
        rungs: where trials are compared; none is in the first epoch or within twice the warm-up, when small learning
            rates look best.
        adapted: a line for everything that was adapted to the length.
    """

    config: RunConfig
    images: RunData
    rungs: tuple[Rung, ...]
    adapted: tuple[str, ...] = ()


class Groups:
    """Separates the options that lanes carry from static choices, and makes configurations of them.

    Raises:
        UsageError: if there are no validation images, or the recipe with the first values of the space cannot be built.
    """

    def __init__(self, definition: Definition, images: Images, origin: Origin) -> None:
        self._definition, self._images = definition, images
        prefix = "optim.schedule."
        searched = {key.removeprefix(prefix) for key in definition.space.options if key.startswith(prefix)}
        self._origin = dataclasses.replace(origin, chosen=origin.chosen | searched)
        self.base_images = images(definition.base)
        if self.base_images.splits.val is None:
            raise UsageError("trials are compared on validation images: set data.val_fraction above 0")
        options = [one for one in definition.space.dimensions if one.option != SEED]
        self.carried = tuple(one.option for one in options if _is_carried(definition.base, one))
        self.static = tuple(one.option for one in options if one.option not in self.carried)
        self.task = build_task(definition.base, self.base_images.card)

    def static_of(self, trial: Trial) -> dict[str, Any]:
        """Return the static choices of a trial."""
        return {option: trial.values[option] for option in self.static}

    def group(self, values: Mapping[str, Any]) -> Group:
        """Return what the trials with these static choices have in common.

        Raises:
            UsageError: if there is no such configuration.
        """
        config = with_options(self._definition.base, values)
        images = self._images(config)
        per_epoch = len(images.splits.train) // config.train.batch_size
        config, adapted = fit_length(config, self._origin, max(per_epoch, 1))
        steps = length_of(config, max(per_epoch, 1)).steps
        least = max(per_epoch, 2 * warmup_steps(config.optim.schedule, max(per_epoch, 1), steps))
        return Group(config, images, rungs(steps, self._definition.eta, least), tuple(adapted))

    def program(self, group: Group) -> Lanes:
        """Build the program of a group; nothing is compiled yet.

        Raises:
            UsageError: for incompatible choices, or choices that lanes do not support.
        """
        return build_lanes(group.config, group.images, group.config.train.placed(), self.carried)

    def config(self, trial: Trial) -> RunConfig:
        """Return the configuration that reproduces a trial."""
        group = self.group(self.static_of(trial))
        values = {option: trial.values[option] for option in self.carried}
        return dataclasses.replace(with_options(group.config, values), seed=trial.seed)


def key_of(fixed: Mapping[str, Any]) -> str:
    """Return an identifier of these static choices."""
    return json.dumps(dict(fixed), sort_keys=True, default=str)


def _is_carried(base: RunConfig, dimension: Dimension) -> bool:
    """Return whether lanes can have all values of an option; for some that disable a transform at 0, they cannot."""
    option = dimension.option
    if not carries(base, option):
        return False
    try:
        values = values_of([with_options(base, {option: value}) for value in dimension.values], [option])
        encoded(option, values[option])
    except UsageError:
        return False
    return True
