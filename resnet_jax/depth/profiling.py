"""Signals and gradients through depth: one forward and one backward pass, two dozen numbers for every block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array

from resnet_jax.depth.blockwise import nothing_dropped
from resnet_jax.depth.result import DepthProfile
from resnet_jax.depth.targets import require_one_each
from resnet_jax.instrument.hooks import BlockIndex, BlockNames, index_blocks, instrumented, probe
from resnet_jax.instrument.signals import FORWARD, forward_signals
from resnet_jax.models.collections import PROBES, SIGNALS
from resnet_jax.models.layout import is_stacked, listed_paths
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops import squared_norm
from resnet_jax.ops.annotations import Images, Targets
from resnet_jax.tasks.losses import Loss, cross_entropy

_POINTS = ("input", "output", "preact", "branch_in", "skip_in", "seen")


def profile(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Images,
    labels: Targets,
    *,
    train: bool = True,
    loss: Loss = cross_entropy,
    optimizer: tuple[optax.GradientTransformation, Any] | None = None,
    anatomy: BlockNames | None = None,
    key: Array | None = None,
) -> DepthProfile:
    """Measure what reaches every block of a network, forward and backward, on one batch.

    It works at initialization and on a trained network, unrolled, scanned and rematerialized, in any dtype (sums are in
    float32 or wider), and on a batch that is sharded over devices, where the numbers are those of the whole batch. The
    first call for a network compiles; later calls with arrays of the same shapes do not.

    Args:
        model: a Linen module called as ``model(x, train=...)``.
        variables: ``params`` and, with batch norm, ``batch_stats``, in the layout of the network's execution.
        images: normalized images (or whatever the network takes).
        labels: for the loss: one array, or several by name.
        train: batch norm normalizes by the statistics of this batch, as in a train step; otherwise by its running
            averages. ``about["normalization"]`` of the result says which. This library's networks drop nothing in
            either case; other networks drop what they drop, by ``key``.
        loss: per-example loss ``(logits, labels) -> (N,)``, whose mean is differentiated.
        optimizer: ``(transformation, its state)`` to measure updates with.
        anatomy: what a block is; None: this library's.
        key: PRNG key for what other networks drop.

    Raises:
        UsageError: the network has no such blocks, or its variables do not fit.

    >>> from resnet_jax.models import create_model, init_variables
    >>> model = create_model("resnet20_cifar", stage_sizes=(2,), widths=(4,), num_classes=10)
    >>> images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    >>> variables = jax.jit(lambda key: init_variables(model, key, (8, 8, 3)))(jax.random.key(0))
    >>> found = profile(model, variables, images, jnp.arange(4))
    >>> found.names[0], found.grad_norm.shape, found.about["normalization"]
    ('stage1/block0', (2,), 'batch norm, statistics of this batch')
    """
    require_one_each(images, labels, "profile needs")
    model, anatomy = without_drops(model), BlockNames() if anatomy is None else anatomy
    tx, state = (None, None) if optimizer is None else optimizer
    key = jax.random.key(0) if key is None else key
    measure = _measure(model, train, loss, anatomy, tx)
    found, chart = measure(variables, images, labels, state, key)
    return _result(model, variables, images, train, jax.device_get(found), chart)


@functools.lru_cache(maxsize=8)
def _measure(
    model: nn.Module, train: bool, loss: Loss, anatomy: BlockNames, tx: optax.GradientTransformation | None
) -> Callable[..., tuple[dict[str, Any], BlockIndex]]:
    charts: list[BlockIndex] = []

    def measure(variables, images, labels, state, key):
        rest = {name: value for name, value in variables.items() if name != "params"}
        taps = probe(*_POINTS)

        def apply(params, probes, mutable):
            collections = {**rest, "params": params, **({PROBES: probes} if probes else {})}
            return model.apply(collections, images, train=train, mutable=mutable, rngs={"dropout": key})

        chart = index_blocks(lambda mutable: apply(variables["params"], {}, mutable), anatomy, taps)
        charts.append(chart)

        def mean_loss(params, probes):
            with instrumented(anatomy, forward_signals(), taps):
                logits, updates = apply(params, probes, [SIGNALS, "batch_stats"])
            return jnp.mean(loss(logits, labels)), updates[SIGNALS]

        (value, signals), (grads, squares) = jax.value_and_grad(mean_loss, (0, 1), has_aux=True)(
            variables["params"], chart.zeros
        )
        norms = {"weight": variables["params"], "grad": grads}
        if tx is not None:
            norms["update"] = tx.update(grads, state, variables["params"])[0]
        return {
            "loss": value,
            "forward": {name: chart.rows(signals, name) for name in FORWARD},
            "backward": {point: jnp.sqrt(chart.rows(squares, point)) for point in _POINTS},
            "parameters": {name: _norms(tree) for name, tree in norms.items()},
        }

    compiled = jax.jit(measure)

    def call(*operands):
        found = compiled(*operands)
        return found, charts[-1]  # all traces of one network have equal charts, except for sizes that are not used

    return call


def _norms(tree: Any) -> dict[str, Array]:
    """Return the norm of every leaf by its path; for a stacked leaf one per block, ``(blocks,)``."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {"/".join(str(part.key) for part in path): leaf for path, leaf in leaves}
    return {
        path: jnp.sqrt(jax.vmap(squared_norm)(leaf) if is_stacked(path) else squared_norm(leaf))
        for path, leaf in named.items()
    }


def _result(
    model: nn.Module, variables: Any, images: Images, train: bool, found: dict[str, Any], chart: BlockIndex
) -> DepthProfile:
    forward, backward = (
        {name: np.asarray(value, np.float64) for name, value in found[part].items()} for part in ("forward", "backward")
    )
    loss = float(found["loss"])
    if not np.isfinite(loss):  # masks of NaN let no gradient through, and the zeros would look like vanishing gradients
        backward = {point: np.full_like(norms, np.nan) for point, norms in backward.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = forward["inner"] / (forward["skip_norm"] * forward["branch_norm"])
    # A skip that takes its own input parts from the branch at the block's input, before any pre-activation; one that
    # takes the input of the branch (a projection in pre-activation order) parts after it.
    seen = backward["seen"] > 0
    before = np.where(np.isnan(backward["preact"]), backward["branch_in"], backward["preact"])
    parameters = _parameters(found["parameters"], chart)
    blocks = _per_block(parameters, len(chart.names))
    return DepthProfile(
        names=chart.names,
        stage=chart.stages,
        elements=forward["elements"].astype(np.int64),
        **{name: forward[name] for name in FORWARD if name not in ("elements", "inner")},
        branch_skip_cosine=cosine,
        grad_norm=backward["input"],
        grad_norm_out=backward["output"],
        branch_grad_norm=np.where(seen, backward["branch_in"], before),
        skip_grad_norm=np.where(seen, backward["seen"], backward["skip_in"]),
        **blocks,
        **parameters,
        about={
            "model": type(model).__name__,
            "loss": loss,
            "images": list(images.shape),
            "dtype": str(getattr(getattr(model, "config", None), "dtype", images.dtype)),
            "normalization": describe_normalization(model, variables, train),
            "blocks": len(chart.names),
        },
    )


def _parameters(norms: dict[str, dict[str, Any]], chart: BlockIndex) -> dict[str, Any]:
    place = {name: depth for depth, name in enumerate(chart.names)}
    names: list[str] = []
    for path, value in norms["weight"].items():
        names += listed_paths(path, len(value)) if is_stacked(path) else [path]
    columns = {
        kind: np.concatenate([np.atleast_1d(np.asarray(value, np.float64)) for value in by_path.values()])
        for kind, by_path in norms.items()
    }
    blocks = [next((place[name] for name in _parents(path) if name in place), -1) for path in names]
    columns.setdefault("update", np.full(len(names), np.nan))
    return {
        "parameters": tuple(names),
        "parameter_block": np.asarray(blocks, np.int64),
        **{f"parameter_{kind}_norm": columns[kind] for kind in ("weight", "grad", "update")},
    }


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _per_block(parameters: dict[str, Any], blocks: int) -> dict[str, np.ndarray]:
    """Return norms over all parameters of each block."""
    names = {"weight_norm": "weight", "weight_grad_norm": "grad", "update_norm": "update"}
    owner = parameters["parameter_block"]
    return {
        name: np.sqrt(
            [np.sum(np.square(parameters[f"parameter_{kind}_norm"][owner == block])) for block in range(blocks)]
        )
        for name, kind in names.items()
    }


def describe_normalization(model: nn.Module, variables: Mapping[str, Any], train: bool) -> str:
    """Return what the network normalizes by."""
    config = getattr(model, "config", None)
    norm = getattr(config, "norm", None)
    if jax.tree.leaves(variables.get("batch_stats", {})):
        frozen = getattr(config, "norm_scope", None) == "frozen"
        scope = {
            "ghost": f"ghost batches of {getattr(config, 'ghost_size', None)}",
            "device_group": "each group of devices' part",
            "device": "each device's part",
        }
        of = scope.get(getattr(config, "norm_scope", ""), "this batch")
        return f"batch norm, statistics of {of}" if train and not frozen else "batch norm, running averages"
    if norm is None:
        return "no batch statistics"
    return {"none": "none", "folded": "batch norm folded into the convolutions"}.get(norm, f"{norm} norm")


def without_drops(model: nn.Module) -> nn.Module:
    """Return one of our networks without dropout and stochastic depth; other networks are unchanged."""
    return ResNet(nothing_dropped(model.config)) if isinstance(model, ResNet) else model


def chart_of(
    model: nn.Module, variables: Mapping[str, Any], images: Images, anatomy: BlockNames, train: bool
) -> BlockIndex:
    """Return the chart of a network's blocks without computing anything."""
    charts: list[BlockIndex] = []

    def look(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        charts.append(
            index_blocks(
                lambda mutable: model.apply(variables, images, train=train, mutable=mutable, rngs=rngs), anatomy
            )
        )

    jax.eval_shape(look, dict(variables), images)
    return charts[0]
