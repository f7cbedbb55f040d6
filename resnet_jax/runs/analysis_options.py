"""Options of an analysis of a network, read without JAX; `analysis` acts on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from resnet_jax.errors import UsageError, closest, either
from resnet_jax.fields import AtLeast0, AtLeast1, check_fields
from resnet_jax.models.rows import MODELS
from resnet_jax.models.spec import ModelChanges
from resnet_jax.runs.images import OtherImages
from resnet_jax.runtime.paths import user_path


@dataclasses.dataclass(frozen=True)
class AnalysisConfig:
    """With what a network is analysed."""

    batch: AtLeast1 = 32
    """Images to look with."""
    seed: AtLeast0 = 0
    """Of the initialization of a named network, and of which images are taken or drawn."""
    norm_mode: Literal["batch", "running"] = "batch"
    """Batch norm normalizes by the statistics of this batch (batch, as in training) or its averages (running)."""
    checkpoint: Literal["last", "best"] | None = None
    """Of a run: last or best (default: the one it tested)."""
    class_names: Path | None = None
    """Of a run: file with the names of its outputs, one a line, by which the classes of data.source are matched."""
    data: OtherImages = dataclasses.field(default_factory=OtherImages)
    """Which images: a run's own training images, unless this says others; for a named network random ones."""
    model: ModelChanges = dataclasses.field(default_factory=ModelChanges)
    """What is changed of a named network. For a run only how it is computed: execution, remat and dtype. On the command
    line --dtype, --execution and --remat are short for --model.dtype, ..., --image-size for --data.image-size."""

    def __post_init__(self):
        """Check the numbers; raises UsageError."""
        check_fields(self)


def require_target(target: str) -> None:
    """Refuse what is neither the name of a network nor a path.

    Raises:
        UsageError: with the nearest names.
    """
    if target not in MODELS and not user_path(target).exists():
        near = either([repr(name) for name in closest(target, MODELS)])
        raise UsageError(
            f"{target!r} is neither a network that `resnet-jax models` lists nor a run directory; did you mean {near}?"
        )
