"""The network that a name or a run directory refers to, and its input, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resnet_jax.errors import UsageError
from resnet_jax.models.rows import MODELS
from resnet_jax.models.spec import ModelChanges
from resnet_jax.runs.analysis_options import require_target
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runtime.paths import user_path

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet
    from resnet_jax.models.towers import TwoTowers


def network_of(
    target: str, changes: ModelChanges | None = None, image_size: int | None = None
) -> tuple[ResNet | TwoTowers, tuple[int, ...]]:
    """Return a network and the shape of one input, ``(*spatial, C)``.

    Args:
        target: the name of a network, or a run directory.
        changes: changes to a named network.
        image_size: side of the input (default: that of the network's row, or the run's).

    Raises:
        UsageError: if it is neither a network nor a run, a run is to be changed, or choices are incompatible.
    """
    require_target(target)
    if target in MODELS:
        from resnet_jax.models.resnet import ResNet

        config = (changes or ModelChanges()).replace(target).config()
        side = image_size or MODELS[target].image_size
        return ResNet(config), ((side,) * config.spatial_dims + (config.in_channels,))
    if changes is not None and changes.changes:
        named = ", ".join(f"model.{name}" for name in changes.changes)
        raise UsageError(f"{target} is a run, which has its own network: leave out {named}")
    from resnet_jax.runs.imports import missing_told
    from resnet_jax.runs.network import build_network

    run = RunDirectory.existing(Path(user_path(target)))
    config, card = run.read_config(), run.read_data()
    with missing_told(config.imports, where=str(run.path)):
        model = build_network(config, card)
    *sides, channels = card.image_shape
    return model, (*((image_size,) * len(sides) if image_size else sides), channels)
