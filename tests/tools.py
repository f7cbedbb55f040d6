"""What several tests need: variables and a step without compiling more than once, a network of a moment, cheap runs."""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental.compilation_cache import compilation_cache

from resnet_jax.models import layout
from resnet_jax.models.count import abstract_variables
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.training.compile import INIT_OPTIONS
from resnet_jax.training.mesh import make_mesh, replicated
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_train_step


class TinyNet(nn.Module):
    """A layer, batch norm and a classifier of 5: for tests of what goes around a network, compiled in a moment."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        x = nn.Dense(4, use_bias=False)(x.reshape(x.shape[0], -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(5, name="head")(x)


@functools.cache
def jitted_step(model: nn.Module, tx: Any, **options: Any) -> Callable[..., Any]:
    """Return the jitted train step of these choices, the same function in every test, so that it is compiled once."""
    return jax.jit(make_train_step(model, tx, **options))


#: Choices of a network that compiles in seconds, for command lines.
TINY = ("--model.stage-sizes", "1", "--model.widths", "8")


@contextlib.contextmanager
def few_devices(count: int) -> Iterator[None]:
    """Let this process have the first ``count`` of its devices only: a program for two compiles faster than for eight.

    What an array already lies on stays.
    """
    devices = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices[:count])
        yield


@contextlib.contextmanager
def kept_programs(directory: Path) -> Iterator[dict[str, str]]:
    """Keep compiled programs in a directory, for tests that make the same program again: resumed, or by hand.

    Yields:
        The environment variables with which another process finds them.
    """
    config: Any = jax.config
    choices = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.05,
    }
    before = {name: getattr(config, name) for name in choices}
    variables = {name.upper(): str(value) for name, value in choices.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        for name, value in choices.items():
            config.update(name, value)
        compilation_cache.reset_cache()
        try:
            yield variables
        finally:
            for name, value in before.items():
                config.update(name, value)
            compilation_cache.reset_cache()


def write_run(path: Path, config: RunConfig, seed: int = 0) -> dict[str, Any]:
    """Write a run directory as training leaves it, with given weights instead of trained ones; return these."""
    card = load_images(config).card
    variables = random_variables(build_model(config, card), card.image_shape, seed)
    averaged = jax.tree.map(lambda leaf: 0.5 * leaf, variables) if config.train.averaging() is not None else None
    write_network(path, config, card, variables, averaged)
    return averaged or variables


def write_network(path: Path, config: RunConfig, card: DatasetInfo, variables: dict, averaged: Any = None) -> None:
    """Write a run directory of a network with these variables."""
    from resnet_jax.training.checkpoint import Checkpoints  # Orbax is slow to import

    stats = variables.get("batch_stats", {})
    state = TrainState(jnp.int32(7), variables["params"], stats, {}, jax.random.key(0), averaged)
    run = RunDirectory.open(path, config)
    run.write_data(card)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save("last", jax.device_put(state, replicated(make_mesh())), {"made": "for a test"})


def write_by_hand(path: Path, text: str) -> None:
    """Write a file of a run directory as a person does who means it: what the run wrote there is no longer known."""
    path.write_text(text)
    (path.parent / ".written.json").unlink(missing_ok=True)


def paths(tree: Any) -> list[str]:
    """Return the '/'-joined path of every leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return ["/".join(str(part.key) for part in path) for path, _ in leaves]


def initialize(model, x, key=0):
    """Really initialize, compiled the quick way."""
    init = jax.jit(lambda key: model.init(key, x, train=False), compiler_options=INIT_OPTIONS["cpu"])
    return init(jax.random.key(key))


def random_variables(model, input_shape, seed: int = 0) -> dict[str, Any]:
    """Return variables of the right shapes, filled by NumPy: Kaiming-like kernels, norms near (not at) the identity."""

    def fill(path, leaf):
        name = "/".join(str(part.key) for part in path)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if name.endswith("kernel"):
            value = rng.normal(size=leaf.shape) * np.sqrt(2.0 / np.prod(leaf.shape[:-1]))
        elif name.endswith(("scale", "var")):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = 0.1 * rng.normal(size=leaf.shape)
        return value.astype(leaf.dtype)

    shapes = abstract_variables(model, input_shape)
    return layout.like(jax.tree_util.tree_map_with_path(fill, layout.unstack(shapes)), shapes)
