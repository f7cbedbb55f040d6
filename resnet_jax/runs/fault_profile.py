"""One training step repeated to find non-finite values: in inputs, in every block forward and backward, in the update.

It computes what :func:`resnet_jax.training.step.make_train_step` does, on the same batch with the same keys, one
micro-batch after the other, and records the largest finite value and the number of non-finite values of everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.instrument.extremes import BACKWARD, FORWARD, extreme_values
from resnet_jax.instrument.hooks import BlockIndex, BlockNames, index_blocks, instrumented
from resnet_jax.models.collections import PROBES, SIGNALS
from resnet_jax.ops.probe import extremes
from resnet_jax.runtime.processes import fetched
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import TrainPreprocess, prepared


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a step encountered. Pairs are (largest finite absolute value, number of non-finite values).

    Attributes:
        names: names of the blocks, in depth order.
        stages: stage of each block, from 0.
        before: name -> the pair of each parameter and running statistic before the step.
        inputs: the pair of the network's inputs.
        bad_inputs: rows of the batch whose inputs are not finite.
        activations: point -> a pair for each block, (blocks, 2).
        outputs: the pair of the network's outputs.
        losses: losses of the examples, (N,).
        gradients: point -> pairs of the gradients there, (blocks, 2).
        parameters: name -> the pair of its gradient.
        statistics: name -> the pair of each running statistic after the step.
        update: name -> the pair of each parameter after the update.
    """

    names: tuple[str, ...]
    stages: tuple[int, ...]
    before: dict[str, np.ndarray]
    inputs: np.ndarray
    bad_inputs: np.ndarray
    activations: dict[str, np.ndarray]
    outputs: np.ndarray
    losses: np.ndarray
    gradients: dict[str, np.ndarray]
    parameters: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    update: dict[str, np.ndarray]


def profile_step(
    model: Any,
    task: Any,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    *,
    preprocess: TrainPreprocess | None,
    accumulate: int,
) -> Profile:
    """Return the profile of updating a state with a batch.

    Args:
        model: the network.
        task: task of the run.
        tx: its optimizer.
        state: the state before the step, with the ``step`` of the batch.
        batch: the batch, on the devices.
        preprocess: preprocessing of the train step.
        accumulate: number of micro-batches per batch.
    """
    chart = _chart(model, state, batch, preprocess, accumulate)

    def run(state: TrainState, batch: Any) -> dict[str, Any]:
        batch = prepared(preprocess, state.rng, batch)
        dropout_key = jax.random.fold_in(state.rng, state.step)
        keys = [dropout_key] if accumulate == 1 else list(jax.random.split(dropout_key, accumulate))
        scale = None if state.loss_scale is None else state.loss_scale.scale
        parts = [
            _part(model, task, state, {name: array[number::accumulate] for name, array in batch.items()}, key, scale,
                  chart)
            for number, key in enumerate(keys)
        ]  # fmt: skip
        images = batch["image"]
        grads = jax.tree.map(
            lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves), *[part["grads"] for part in parts]
        )
        updates, _ = tx.update(grads, state.opt_state, state.params)
        return {
            "before": _by_name(state.variables),
            "inputs": extremes(images),
            "bad_inputs": ~jnp.isfinite(images).reshape(images.shape[0], -1).all(axis=1),
            "activations": _worst([part["activations"] for part in parts]),
            "outputs": _worst([part["outputs"] for part in parts]),
            "losses": jnp.stack([part["losses"] for part in parts], axis=1).reshape(-1),
            "gradients": _worst([part["gradients"] for part in parts]),
            "parameters": _by_name(grads),
            "statistics": _worst([_by_name(part["stats"]) for part in parts]),
            "update": _by_name(optax.apply_updates(state.params, updates)),
        }

    found: dict[str, Any] = fetched(jax.jit(run)(state, batch))
    return Profile(names=chart.names, stages=tuple(int(stage) for stage in chart.stages), **found)


def _part(model: Any, task: Any, state: TrainState, batch: Any, key: jax.Array, scale: Any, chart: BlockIndex) -> Any:
    """Return the profile of one micro-batch."""

    def loss(trained: Any) -> tuple[jax.Array, Any]:
        with instrumented(BlockNames(), extreme_values()):
            outputs, updates = _apply(model, {**trained, "batch_stats": state.batch_stats}, batch, key)(
                [SIGNALS, "batch_stats"]
            )
        losses = task.loss(outputs, batch)
        value = jnp.mean(losses)
        kept = extremes(outputs), losses, updates[SIGNALS], updates.get("batch_stats", {})
        return value if scale is None else value * scale, kept

    probes = jax.tree.map(jnp.asarray, chart.zeros)
    (_, (outputs, losses, signals, stats)), grads = jax.value_and_grad(loss, has_aux=True)(
        {"params": state.params, PROBES: probes}
    )
    weights = grads["params"]
    if scale is not None:
        weights = jax.tree.map(lambda g: g / scale.astype(g.dtype), weights)
    return {
        "outputs": outputs,
        "losses": losses,
        "activations": {point: chart.rows(signals, point) for point in FORWARD if _has(signals, chart, point)},
        "gradients": {point: chart.rows(grads[PROBES], point) for point in BACKWARD},
        "grads": weights,
        "stats": stats,
    }


def _apply(model: Any, variables: Any, batch: Any, key: jax.Array) -> Callable[[list[str]], Any]:
    def apply(mutable: list[str]) -> Any:
        return model.apply(variables, batch["image"], train=True, mutable=mutable, rngs={"dropout": key})

    return apply


def _chart(
    model: Any, state: TrainState, batch: Any, preprocess: TrainPreprocess | None, accumulate: int
) -> BlockIndex:
    charts: list[BlockIndex] = []

    def chart(state: TrainState, batch: Any) -> None:
        batch = prepared(preprocess, state.rng, batch)
        part = {"image": batch["image"][::accumulate]}
        charts.append(index_blocks(_apply(model, state.variables, part, state.rng), BlockNames(), extreme_values()))

    jax.eval_shape(chart, state, batch)
    return charts[0]


def _has(signals: Any, chart: BlockIndex, point: str) -> bool:
    """Return whether every block has the point: a plain network has no skips."""

    def found(path: tuple[str, ...]) -> bool:
        node = signals
        for part in (*path, point):
            if part not in node:
                return False
            node = node[part]
        return True

    return all(found(path) for path in chart.paths)


def _worst(parts: list[Any]) -> Any:
    """Return pairs over all micro-batches: the largest value, and the total number of non-finite values."""

    def one(*pairs: jax.Array) -> jax.Array:
        stacked = jnp.stack(pairs)
        return jnp.stack([stacked[..., 0].max(axis=0), stacked[..., 1].sum(axis=0)], axis=-1)

    return jax.tree.map(one, *parts)


def _by_name(tree: Any) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(getattr(part, "key", part)) for part in path): extremes(leaf) for path, leaf in leaves}
