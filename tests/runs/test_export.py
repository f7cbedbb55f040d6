"""Run directories as weight files of other libraries: what they say beside the weights."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.models import ModelSpec, ResNet
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.evaluate import load_run
from resnet_jax.runs.export import export_weights
from resnet_jax.runs.foreign import import_weights, write_network
from resnet_jax.tasks.config import TaskConfig
from tests.tools import random_variables


def trained_run(path, config: RunConfig, card: DatasetInfo):
    """A run directory with a network of random weights, as training leaves it."""
    model = ResNet(config.model.config(num_classes=len(card.class_names)))
    variables = jax.tree.map(jnp.asarray, random_variables(model, card.image_shape))
    return write_network(path, config, card, variables, step=7, origin={"test": "yes"})


def test_an_exported_run_comes_back_with_all_it_knew(tmp_path):
    model = ModelSpec("resnet20_cifar", stage_sizes=(1, 1), widths=(4, 8), activation="silu", norm_eps=1e-3)
    data = DataConfig(image_size=16, augment=("random_resized_crop",))
    config = RunConfig(model=model, data=data, task=TaskConfig(loss="bce"))
    card = DatasetInfo(("Dürer [1471]", "b: c"), (16, 16, 3), (0.5, 0.25, 0.125), (0.1, 0.2, 0.3), {"train": 5})
    trained_run(tmp_path / "run", config, card)
    export_weights(tmp_path / "run", tmp_path / "net.safetensors", format="cifar")
    imported = import_weights(tmp_path / "net.safetensors", ModelSpec(""), tmp_path / "again")
    assert imported.card == dataclasses.replace(card, examples={})
    back = imported.run.read_config()
    assert (back.data.image_size, back.data.crop, back.task.loss) == (16, "random_resized", "bce")
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    first, second = (load_run(tmp_path / name) for name in ("run", "again"))
    assert first.model.config == second.model.config
    expected, found = (jax.jit(partial(run.model.apply, train=False))(run.variables, images) for run in (first, second))
    np.testing.assert_array_equal(found, expected)
    assert "activation silu" in imported.lines["network"]
    assert "as the file says" in imported.lines["network"]
    other = import_weights(
        tmp_path / "net.safetensors", ModelSpec("resnet20_cifar", activation="relu"), tmp_path / "relu"
    )
    assert "given: activation relu (the file: silu)" in other.lines["network"]
