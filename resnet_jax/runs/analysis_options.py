"""Options of a network analysis, parsed without JAX; `analysis` implements them."""

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
    """What a network is analyzed with."""

    batch: AtLeast1 = 32
    """Number of images."""
    seed: AtLeast0 = 0
    """Seed of a named network's initialization, and of which images are selected or drawn."""
    norm_mode: Literal["batch", "running"] = "batch"
    """Which statistics batch norm uses: those of this batch (batch, as in training) or its running averages
    (running)."""
    checkpoint: Literal["last", "best"] | None = None
    """For a run: the checkpoint to use, last or best (default: the one it tested)."""
    class_names: Path | None = None
    """For a run: a file with the names of its outputs, one per line, by which the classes of data.source are
    matched."""
    data: OtherImages = dataclasses.field(default_factory=OtherImages)
    """The images: by default a run's own training images, or random ones for a named network."""
    model: ModelChanges = dataclasses.field(default_factory=ModelChanges)
    """Changes to a named network. For a run, only how it is computed: execution, remat and dtype. On the command line,
    --dtype, --execution and --remat are short for --model.dtype and so on, and --image-size for --data.image-size."""

    def __post_init__(self):
        """Check the numbers; raises UsageError."""
        check_fields(self)


def require_target(target: str) -> None:
    """Reject a target that is neither the name of a network nor a path.

    Raises:
        UsageError: if it is neither; it suggests the nearest names.
    """
    if target not in MODELS and not user_path(target).exists():
        near = either([repr(name) for name in closest(target, MODELS)])
        raise UsageError(
            f"{target!r} is neither a network that `resnet-jax models` lists nor a run directory; did you mean {near}?"
        )
