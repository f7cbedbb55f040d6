"""Residual networks in JAX: pure functions over a TrainState, trained by one compiled, sharded step.

The public names load on first use, so that ``import resnet_jax`` costs little more than JAX and Flax themselves.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "create_model": "resnet_jax.models",
    "list_models": "resnet_jax.models",
    "abstract_variables": "resnet_jax.models",
    "count": "resnet_jax.models",
    "init_variables": "resnet_jax.models",
    "stack_blocks": "resnet_jax.models",
    "unstack_blocks": "resnet_jax.models",
    "ResNet": "resnet_jax.models",
    "ResNetConfig": "resnet_jax.models",
    "TrainState": "resnet_jax.training.state",
    "init_state": "resnet_jax.training.state",
    "create_state": "resnet_jax.training.compile",
    "compile_train_step": "resnet_jax.training.compile",
    "compile_eval_step": "resnet_jax.training.compile",
    "make_train_step": "resnet_jax.training.step",
    "make_eval_step": "resnet_jax.training.step",
    "make_predict_step": "resnet_jax.training.step",
    "make_mesh": "resnet_jax.training.mesh",
    "shard_batch": "resnet_jax.training.mesh",
    "make_optimizer": "resnet_jax.training.optimizers",
    "OptimConfig": "resnet_jax.training.optimizers",
    "ScheduleConfig": "resnet_jax.training.schedules",
    "RunConfig": "resnet_jax.config",
    "load_recipe": "resnet_jax.config",
    "list_recipes": "resnet_jax.config",
    "fit": "resnet_jax.run",
    "load_run": "resnet_jax.use",
    "evaluate_run": "resnet_jax.use",
    "predict_images": "resnet_jax.use",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resnet_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
