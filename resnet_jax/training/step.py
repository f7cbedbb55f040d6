"""The train and eval steps: pure functions without host work, with the same numbers on any number of devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.instrument.probing import block_grad_norm, chart_taps, taps
from resnet_jax.models.collections import PROBES
from resnet_jax.models.towers import inputs_of
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.losses import Loss
from resnet_jax.tasks.task import Task
from resnet_jax.training import task_gradients
from resnet_jax.training.accumulate import accumulate_gradients
from resnet_jax.training.loss_scale import LossScale, next_loss_scale
from resnet_jax.training.mapped import mapped_gradients, mapped_over
from resnet_jax.training.options import Averaging, LossScaling
from resnet_jax.training.placement import gathered
from resnet_jax.training.predict_step import Batch, Metrics, Preprocess, TrainPreprocess, make_predict_step, prepared
from resnet_jax.training.state import TrainState
from resnet_jax.training.update import advance
from resnet_jax.training.views import Views, predict_views

_STATS = ["batch_stats"]
#: Prefix of the name under which an eval step's summand is kept for every example.
SUMMAND = "summand "


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    task: Task | None = None,
    loss: Loss | None = None,
    preprocess: TrainPreprocess | None = None,
    accumulate: int = 1,
    norm_momentum: float | None = None,
    ema_decay: float | Averaging | None = None,
    loss_scaling: LossScaling | None = None,
    axis_name: str | None = None,
    probe: BlockNames | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Build ``train_step(state, batch) -> (state, metrics)``.

    The step also takes an optional third argument, ``train_step(state, batch, given)``: arrays that it passes on to
    ``preprocess``, the same at every step and not part of the state, such as the variables of a teacher.

    The batch has ``image`` (N, H, W, C) and what the task reads, such as ``label``; all its arrays have N rows. One
    call makes one optimizer update. If the loss, a gradient, or a resulting parameter or statistic is not finite, the
    update is rejected **as a whole**: params, opt_state, batch_stats and averages keep their old values, only ``step``
    advances (it is the position in the data), and ``rejected`` is 1. With a loss scale, such a step is skipped in the
    same way, to continue with a smaller scale: ``skipped`` is 1, and ``rejected`` is 1 only if there is no smaller
    scale. The optimizer's own count, which schedules use, counts updates made: rejected and skipped steps are not
    included.

    Args:
        model: a Linen module called as ``model(x, train=...)``.
        tx: the optimizer; build it once.
        task: what the outputs mean (default: classification with cross-entropy); the step minimizes the mean of its
            loss.
        loss: a per-example loss ``(logits, labels) -> (N,)``, instead of a task, for classification.
        preprocess: ``(key, batch) -> images`` for augmentation and normalization on the device, or ``(images, labels)``
            if it changes those too (mixup): the task sees these in the batch. The key is the same at every step, so
            derive from it with what identifies an example (epoch and index in the batch).
        accumulate: number of equal micro-batches the batch is split into; see :mod:`resnet_jax.training.accumulate` for
            how batch norm behaves then. Must be 1 for a task that compares examples.
        norm_momentum: momentum of the network's batch norm; needed for accumulation with batch norm.
        ema_decay: decay per update of the moving averages, which then warm up as in TensorFlow, or their full
            configuration (:class:`~resnet_jax.training.ema.Averaging`); the state must have averages
            (``init_state(ema=True)``).
        loss_scaling: for float16; the state must have a scale (``init_state(loss_scaling=...)``).
        axis_name: mapped axis if the step runs inside ``pmap`` or ``shard_map``; the model must average its batch
            statistics over the same axis.
        probe: what a block is (``BlockNames()`` for this library's networks), to measure the gradient at each.

    Returns:
        The step. Its metrics are float32 scalars: ``loss`` (mean), ``count`` and the sums over the batch of
        ``task.train_sums`` (for classification ``correct``), ``grad_norm`` (global L2 norm before clipping),
        ``rejected`` (0 or 1); with a loss scale also ``loss_scale``, the one used by this step, and ``skipped`` (0 or
        1). With a probe there is one array, ``block_grad_norm`` (blocks,): the norm of dL/dx over the whole batch, x
        the input of each block in depth order, L the mean loss (:func:`~resnet_jax.instrument.probing.chart_blocks`
        names the blocks); for a multi-task network also ``task_cosine`` (blocks, pairs)
        (:mod:`resnet_jax.training.task_gradients`).

    Raises:
        UsageError: if arguments are incompatible with each other or, when traced, with the state.
    """
    if accumulate < 1:
        raise UsageError(f"accumulate must be 1 or more micro-batches, got {accumulate}")
    task = task_of(task, loss)
    if accumulate > 1 and getattr(task, "compares", False):
        raise UsageError(
            f"task {task.kind} compares the examples of a batch with each other, and each of {accumulate} "
            "micro-batches would only be compared with itself: accumulate 1"
        )
    names, projected = task_gradients.task_names(task), task_gradients.projects(task)
    apart = bool(names) and (projected or probe is not None)  # whether each task's gradient is needed by itself
    whole = not projected or probe is not None

    def apply(network, variables, images, dropout_key, mutable):
        return network.apply(variables, images, train=True, mutable=mutable, rngs={"dropout": dropout_key})

    def loss_and_updates(trained, batch_stats, batch, dropout_key, *, network, scale):
        trained = {**trained, "params": gathered(trained["params"])}
        with taps(probe):
            variables = {**trained, "batch_stats": batch_stats}
            outputs, updates = apply(network, variables, inputs_of(network, batch), dropout_key, _STATS)
        sums = {name: jnp.sum(each.astype(jnp.float32)) for name, each in task.train_sums(outputs, batch).items()}
        if apart:
            value = jnp.stack([jnp.mean(each) for each in task_gradients.losses_of(task, outputs, batch)])
        else:
            value = jnp.mean(task.loss(outputs, batch))
        return value if scale is None else value * scale, (updates.get("batch_stats", {}), sums)

    def gradients(network, trained, batch_stats, batch, dropout_key, scale):
        function = functools.partial(loss_and_updates, network=network, scale=scale)
        if apart:
            value_and_grad = task_gradients.value_and_task_gradients(function, whole=whole)
        else:
            value_and_grad = jax.value_and_grad(function, has_aux=True)
        if accumulate == 1:
            return value_and_grad(trained, batch_stats, batch, dropout_key)
        like = task_gradients.like_gradients(trained, len(names), whole=whole) if apart else None
        return accumulate_gradients(
            value_and_grad,
            trained,
            batch_stats,
            batch,
            dropout_key,
            steps=accumulate,
            norm_momentum=norm_momentum,
            like=like,
        )

    def train_step(state: TrainState, batch: Batch, *given: Any) -> tuple[TrainState, Metrics]:
        if (state.loss_scale is None) != (loss_scaling is None):
            raise UsageError(
                "the state and the step must both have a loss scale or none: give loss_scaling to make_train_step and "
                "to init_state or create_state"
            )
        scale = None if state.loss_scale is None else state.loss_scale.scale
        batch = prepared(preprocess, state.rng, batch, *given)
        step_key = dropout_key = jax.random.fold_in(state.rng, state.step)
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, lax.axis_index(axis_name))
        trained, chart = {"params": state.params}, None
        if probe is not None:
            variables = {**trained, "batch_stats": state.batch_stats}
            images = jax.tree.map(lambda x: x[::accumulate], inputs_of(model, batch))
            chart = chart_taps(lambda mutable: apply(model, variables, images, dropout_key, mutable), probe)
            trained |= {PROBES: chart.zeros}
        devices = None if axis_name is not None else mapped_over(model, task, batch["image"].shape[0], accumulate)
        compute = (
            functools.partial(gradients, model) if devices is None else mapped_gradients(gradients, model, devices)
        )
        (value, (stats, sums)), grads = compute(trained, state.batch_stats, batch, dropout_key, scale)
        count = jnp.asarray(batch["image"].shape[0], jnp.float32)
        if axis_name is not None:
            grads, value = lax.pmean((grads, value), axis_name)
            sums, count = lax.psum((sums, count), axis_name)
        if scale is not None:
            value, grads = jax.tree.map(lambda x: x / scale.astype(x.dtype), (value, grads))

        own = task_gradients.own_gradients(grads, len(names)) if apart else []
        squares = grads.get(PROBES)
        grads = (
            task_gradients.pcgrad(own, jax.random.fold_in(step_key, task_gradients.ORDER))
            if projected
            else grads["params"]
        )
        new, finite, grad_norm = advance(tx, state, grads, stats, value, ema_decay)
        rejected = 1.0 - finite.astype(jnp.float32)
        metrics = {"loss": value, "count": count, "grad_norm": grad_norm, "rejected": rejected}
        if chart is not None:
            metrics["block_grad_norm"] = block_grad_norm(
                chart,
                squares,
                accumulate=accumulate * (1 if devices is None else devices.size),
                scale=scale,
                axis_name=axis_name,
            )
            if own:
                metrics["task_cosine"] = task_gradients.block_cosines(chart, own)
        if loss_scaling is not None and state.loss_scale is not None:
            new = new.replace(loss_scale=next_loss_scale(state.loss_scale, finite, loss_scaling))
            metrics |= _scaled_metrics(state.loss_scale, rejected, loss_scaling)
        return new, {name: metric.astype(jnp.float32) for name, metric in _joined(metrics, sums).items()}

    return train_step


def task_of(task: Task | None, loss: Loss | None) -> Task:
    """Return the task of a step: as given, or classification with a loss ``(logits, labels) -> (N,)``.

    Raises:
        UsageError: if both are given.
    """
    if task is None:
        return Classification() if loss is None else Classification(criterion=loss)
    if loss is not None:
        raise UsageError("give a task, which has a loss, or a loss alone, for classification; not both")
    return task


def _scaled_metrics(loss_scale: LossScale, rejected: jax.Array, rules: LossScaling) -> Metrics:
    """Return the metrics of a step with a loss scale: a failed step is skipped, or rejected at the smallest scale."""
    least = (loss_scale.scale <= rules.minimum).astype(jnp.float32)
    return {"rejected": rejected * least, "skipped": rejected * (1.0 - least), "loss_scale": loss_scale.scale}


def _joined(metrics: Metrics, sums: Metrics) -> Metrics:
    """Return the union of both.

    Raises:
        UsageError: if a sum of the task has the name of a metric of the step.
    """
    if twice := sorted(set(metrics) & set(sums)):
        raise UsageError(f"train_sums of the task has {', '.join(twice)}, a name that the step itself uses")
    return {**metrics, **sums}


def make_eval_step(
    model: nn.Module,
    *,
    task: Task | None = None,
    loss: Loss | None = None,
    preprocess: Preprocess | None = None,
    logits: bool = False,
    summands: bool = False,
    views: Views = "none",
    crop: int | None = None,
) -> Callable[[Mapping[str, Any], Batch], dict[str, Any]]:
    """Build ``eval_step(variables, batch) -> outputs``; add up the sums to evaluate a data set.

    The batch also has ``mask`` (N,), False for padding, so that a partial last batch is counted exactly.

    Args:
        model: called as ``model.apply(variables, images, train=False)``.
        task: what the outputs mean (default: classification with cross-entropy).
        loss: a per-example loss ``(logits, labels) -> (N,)``, instead of a task, for classification.
        preprocess: as for :func:`make_train_step`.
        logits: whether to also return the network's raw outputs.
        summands: whether ``rows`` also contain the summands of every example, under :data:`SUMMAND` and their names.
        views: views of every image, over which the task averages the network's outputs.
        crop: side in pixels of the crops taken of larger images.

    Returns:
        The step. Its outputs are ``loss_sum`` (float32) and ``count`` (int32), sums over unmasked examples; ``sums``,
        the sums over them of ``task.eval_sums``; ``rows``, ``task.eval_rows`` of all examples, (N, ...), including
        ``logits`` on request; and ``mask`` (N,), as given: with several processes, each passes its part of a batch and
        reads the outputs of all of it.
    """
    task = task_of(task, loss)
    predict_step = predict_views(make_predict_step(model, preprocess=preprocess), task, views, crop)

    def eval_step(variables: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
        outputs = predict_step(variables, batch)
        mask = batch["mask"]

        def unmasked_sum(values: jax.Array) -> jax.Array:
            # where, not a product: the loss of a padded example may be infinite
            counted = mask.reshape(-1, *(1,) * (values.ndim - 1))
            return jnp.sum(jnp.where(counted, values, jnp.zeros((), values.dtype)), axis=0)

        terms = task.eval_sums(outputs, batch)
        rows = {**task.eval_rows(outputs, batch), **({"logits": outputs} if logits else {})}
        if summands:
            rows |= {f"{SUMMAND}{name}": each for name, each in terms.items()}
        return {
            "loss_sum": unmasked_sum(task.loss(outputs, batch)),
            "count": jnp.sum(mask, dtype=jnp.int32),
            "sums": {name: unmasked_sum(each) for name, each in terms.items()},
            "rows": rows,
            "mask": mask,
        }

    return eval_step
