"""Weights only, as safetensors, under our names or those of another library."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from resnet_jax.deploy.metadata import Metadata
from resnet_jax.errors import DamagedError, unknown
from resnet_jax.models import layout
from resnet_jax.runs.export import notes_of
from resnet_jax.runs.trained import TrainedRun, require_one_input
from resnet_jax.weights import from_variables, save_safetensors
from resnet_jax.weights.conventions import FORMATS
from resnet_jax.weights.files import read_weights

OURS = "ours"


def write_weights(trained: TrainedRun, metadata: Metadata, path: Path, names: str = OURS) -> int:
    """Write the weights of a run and return the number of tensors.

    Under our names, a tensor is named by its collection and path, block by block: ``params/stem/conv/kernel``,
    ``batch_stats/stem/norm/mean``. Reading it back gives the same bits. ``resnet-jax weights import`` also reads files
    with another library's names.

    Args:
        trained: the run.
        metadata: metadata for the file, besides the entries that import looks for.
        path: the file to write.
        names: ``ours``, or a key of :data:`resnet_jax.weights.conventions.FORMATS`.

    Raises:
        UsageError: there is no such naming scheme, or it has no names for this network.
        DamagedError: the file does not contain what was written.
    """
    require_one_input(trained)
    if names == OURS:
        listed = layout.unstack(jax.device_get(trained.variables))
        tensors = {name: np.asarray(leaf) for name, leaf in flatten_dict(listed, sep="/").items()}
    elif names in FORMATS:
        tensors = from_variables(trained.variables, trained.model, names)
    else:
        raise unknown("names of tensors", names, (OURS, *FORMATS))
    texts = {"model": trained.config.model.name, "step": str(trained.step), **metadata.as_texts()}
    save_safetensors(tensors, path, {**texts, **notes_of(trained).as_metadata()})
    found = read_weights(path).tensors
    for name, array in tensors.items():
        if name not in found or not np.array_equal(found[name], array, equal_nan=True):
            raise DamagedError(f"{path} was written, and its tensor {name} is not what was written")
    return len(tensors)
