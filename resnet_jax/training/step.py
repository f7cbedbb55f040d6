"""The train and eval step: pure functions, no host work inside, the same numbers on any number of devices."""

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
from resnet_jax.instrument.hooks import Anatomy
from resnet_jax.instrument.probing import block_grad_norm, chart_taps, taps
from resnet_jax.models.collections import PROBES
from resnet_jax.tasks.losses import cross_entropy
from resnet_jax.training.accumulate import accumulate_gradients
from resnet_jax.training.ema import Averaging, ema_update
from resnet_jax.training.loss_scale import LossScaling, next_loss_scale
from resnet_jax.training.state import TrainState

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Preprocess = Callable[[jax.Array, Batch], jax.Array]
TrainPreprocess = Callable[[jax.Array, Batch], jax.Array | tuple[jax.Array, jax.Array]]


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    loss: Loss = cross_entropy,
    preprocess: TrainPreprocess | None = None,
    accumulate: int = 1,
    norm_momentum: float | None = None,
    ema_decay: float | Averaging | None = None,
    loss_scaling: LossScaling | None = None,
    axis_name: str | None = None,
    probe: Anatomy | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Build ``train_step(state, batch) -> (state, metrics)``.

    The batch has ``image`` (N, H, W, C) and ``label``. One call makes one optimizer update. If the loss, a gradient,
    or a parameter or statistic that comes out is not finite, the update is rejected **as a whole**: params, opt_state,
    batch_stats and averages keep their old values, only ``step`` moves on (it is the position in the data) and
    ``rejected`` is 1. With a loss scale the step is skipped in the same way, to go on with a smaller one: ``skipped``
    is 1, and ``rejected`` only when there is none. The optimizer's own count, which schedules go by, counts updates
    made: rejected and skipped steps are not in it.

    Args:
        model: a Linen module called as ``model(x, train=...)``.
        tx: the optimizer; build it once.
        loss: per-example loss ``(logits, labels) -> (N,)``; the step minimizes its mean.
        preprocess: ``(key, batch) -> images`` for augmentation and normalization on the device, or ``(images, labels)``
            where it changes those too (mixup). The key is the same at every step: derive from it with what identifies
            an example (epoch and index in the batch).
        accumulate: number of equal micro-batches the batch is cut into; see
            :mod:`resnet_jax.training.accumulate` for what batch norm does then.
        norm_momentum: momentum of the network's batch norm; needed to accumulate with one.
        ema_decay: decay per update of the moving averages, which then warm up as TensorFlow's, or all that is to say
            about them (:class:`~resnet_jax.training.ema.Averaging`); the state must hold some
            (``init_state(ema=True)``).
        loss_scaling: for float16; the state must hold a scale (``init_state(loss_scaling=...)``).
        axis_name: mapped axis when the step runs inside ``pmap`` or ``shard_map``; the model must average its
            batch statistics over the same axis.
        probe: what a block is (``Anatomy()`` for this library's networks), to measure the gradient that reaches each.

    Returns:
        The step. Its metrics are float32 scalars: ``loss`` (mean), ``correct`` and ``count`` (sums over the batch;
        with soft labels, correct is the class of the largest share), ``grad_norm`` (global L2 norm before clipping),
        ``rejected`` (0 or 1); with a loss scale also ``loss_scale``, that of this step, and ``skipped`` (0 or 1). With
        a probe there is one array, ``block_grad_norm`` (blocks,): the norm of dL/dx over the whole batch, x the input
        of each block in depth order, L the mean loss (:func:`~resnet_jax.instrument.probing.chart_blocks` names them).

    Raises:
        UsageError: arguments that do not go together, or, when traced, with the state.
    """
    if accumulate < 1:
        raise UsageError(f"accumulate must be 1 or more micro-batches, got {accumulate}")

    def apply(variables, images, dropout_key, mutable):
        return model.apply(variables, images, train=True, mutable=mutable, rngs={"dropout": dropout_key})

    def loss_and_updates(trained, batch_stats, images, labels, dropout_key, scale):
        with taps(probe):
            logits, updates = apply({**trained, "batch_stats": batch_stats}, images, dropout_key, ["batch_stats"])
        correct = jnp.sum(_is_correct(logits, labels).astype(jnp.float32))
        value = jnp.mean(loss(logits, labels))
        return value if scale is None else value * scale, (updates.get("batch_stats", {}), correct)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if (state.loss_scale is None) != (loss_scaling is None):
            raise UsageError(
                "the state and the step must both have a loss scale or none: give loss_scaling to make_train_step and "
                "to init_state or create_state"
            )
        scale = None if state.loss_scale is None else state.loss_scale.scale
        value_and_grad = jax.value_and_grad(functools.partial(loss_and_updates, scale=scale), has_aux=True)
        images, labels = _prepared(preprocess, state.rng, batch)
        dropout_key = jax.random.fold_in(state.rng, state.step)
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, lax.axis_index(axis_name))
        trained, chart = {"params": state.params}, None
        if probe is not None:
            variables = {**trained, "batch_stats": state.batch_stats}
            chart = chart_taps(lambda mutable: apply(variables, images[::accumulate], dropout_key, mutable), probe)
            trained |= {PROBES: chart.zeros}
        if accumulate == 1:
            (value, (stats, correct)), grads = value_and_grad(trained, state.batch_stats, images, labels, dropout_key)
        else:
            (value, (stats, correct)), grads = accumulate_gradients(
                value_and_grad, trained, state.batch_stats, images, labels, dropout_key,
                steps=accumulate, norm_momentum=norm_momentum,
            )  # fmt: skip
        count = jnp.asarray(labels.shape[0], jnp.float32)
        if axis_name is not None:
            grads, value = lax.pmean((grads, value), axis_name)
            correct, count = lax.psum((correct, count), axis_name)
        if scale is not None:
            value, grads = jax.tree.map(lambda x: x / scale.astype(x.dtype), (value, grads))

        grads, squares = grads["params"], grads.get(PROBES)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        # The update thereby waits for the whole gradient. Else what the optimizer makes of the last stages lies
        # there while the activations of the first are still needed: 28 MiB more for ResNet-1202 with remat.
        grads = jax.tree.map(lambda g: jnp.where(finite, g, jnp.zeros((), g.dtype)), grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # of the result too: a finite gradient times a huge rate overflows, and must not reach a checkpoint
        finite &= _all_finite(params) & _all_finite(stats)
        ema = state.ema
        if ema_decay is not None:
            made = _updates_made(state)
            ema = ema_update(ema, {"params": params, "batch_stats": stats}, ema_decay, made)
        new = state.replace(params=params, batch_stats=stats, opt_state=opt_state, ema=ema)
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state).replace(step=state.step + 1)
        rejected = 1.0 - finite.astype(jnp.float32)
        metrics = {
            "loss": value,
            "correct": correct,
            "count": count,
            "grad_norm": grad_norm,
            "rejected": rejected,
        }
        if chart is not None:
            metrics["block_grad_norm"] = block_grad_norm(
                chart, squares, accumulate=accumulate, scale=scale, axis_name=axis_name
            )
        if loss_scaling is not None and state.loss_scale is not None:
            new = new.replace(loss_scale=next_loss_scale(state.loss_scale, finite, loss_scaling))
            least = (state.loss_scale.scale <= loss_scaling.minimum).astype(jnp.float32)
            metrics |= {"rejected": rejected * least, "skipped": rejected * (1.0 - least)}
            metrics["loss_scale"] = state.loss_scale.scale
        return new, {name: metric.astype(jnp.float32) for name, metric in metrics.items()}

    return train_step


def make_predict_step(
    model: nn.Module, *, preprocess: Preprocess | None = None
) -> Callable[[Mapping[str, Any], Batch], jax.Array]:
    """Build ``predict_step(variables, batch) -> logits`` in evaluation mode, float32 or wider."""

    def predict_step(variables: Mapping[str, Any], batch: Batch) -> jax.Array:
        images = batch["image"] if preprocess is None else preprocess(jax.random.key(0), batch)
        logits: Any = model.apply(variables, images, train=False)
        return logits

    return predict_step


def make_eval_step(
    model: nn.Module,
    *,
    loss: Loss = cross_entropy,
    preprocess: Preprocess | None = None,
    logits: bool = False,
    read_out: Callable[[jax.Array], jax.Array] | None = None,
) -> Callable[[Mapping[str, Any], Batch], dict[str, jax.Array]]:
    """Build ``eval_step(variables, batch) -> outputs``; add the sums up to evaluate a data set.

    The batch also has ``mask`` (N,), False for padding, so that a last partial batch is counted exactly.

    Args:
        model: called as ``model.apply(variables, images, train=False)``.
        loss: per example, of what is read out.
        preprocess: as for :func:`make_train_step`.
        logits: whether to return the outputs of the network as well, as they are.
        read_out: what makes logits, one a class, of the outputs; None where they are that already.

    Returns:
        The step. Its outputs: ``loss_sum`` and ``correct`` (float32 and int32 sums over unmasked examples),
        ``count`` (int32), ``prediction`` (int32 (N,), the class with the largest logit) and, if asked for with
        ``logits``, ``logits`` (N, classes).
    """
    predict_step = make_predict_step(model, preprocess=preprocess)

    def eval_step(variables: Mapping[str, Any], batch: Batch) -> dict[str, jax.Array]:
        raw = predict_step(variables, batch)
        outputs = raw if read_out is None else read_out(raw)
        mask, labels = batch["mask"], batch["label"]
        # where, not a product: a padded example may well have an infinite loss
        losses = jnp.where(mask, loss(outputs, labels), 0.0)
        return {
            "loss_sum": jnp.sum(losses),
            "correct": jnp.sum(mask & _is_correct(outputs, labels), dtype=jnp.int32),
            "count": jnp.sum(mask, dtype=jnp.int32),
            "prediction": jnp.argmax(outputs, axis=-1).astype(jnp.int32),
            **({"logits": raw} if logits else {}),
        }

    return eval_step


def _prepared(preprocess: TrainPreprocess | None, key: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Return images and labels as the network and the loss take them."""
    prepared = batch["image"] if preprocess is None else preprocess(key, batch)
    return prepared if isinstance(prepared, tuple) else (prepared, batch["label"])


def _updates_made(state: TrainState) -> jax.Array:
    """Return the updates made so far by the optimizer's count, if it has one (ours have), else the steps tried."""
    counts = [count for _, count in optax.tree.get_all_with_path(state.opt_state, "count")]
    return counts[0] if counts else state.step


def _all_finite(tree: Any) -> jax.Array:
    return jnp.asarray([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)], bool).all()


def _is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    if labels.ndim > 1:  # soft targets
        labels = jnp.argmax(labels, axis=-1).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32) == labels.astype(jnp.int32)
