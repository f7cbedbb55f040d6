"""Shattered gradients: how similar the gradients at neighboring inputs are (Balduzzi et al. 2017, arXiv 1702.08591).

Along a line through input space, the gradient of a shallow network resembles a random walk (brown noise), and that of a
deep plain network resembles white noise; skips keep it brown. :func:`measure_shattering` measures this for a network.
:func:`gradient_correlation` and :func:`wide_gradient_correlation` return what theory predicts for two inputs at random
initialization.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from resnet_jax.depth.arrays import load_arrays, save_arrays
from resnet_jax.depth.profiling import describe_normalization
from resnet_jax.errors import UsageError
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.resnet import ResNet
from resnet_jax.tasks.losses import cross_entropy


@dataclasses.dataclass(frozen=True)
class Shattering:
    """Gradients at neighboring points of a line, and how similar they are.

    Attributes:
        position: of each point, from 0 at the start to 1 at the end, float64 ``(points,)``.
        value: value of the function at each point, float64 ``(points,)``.
        grad_norm: norm of its gradient with respect to the input, float64 ``(points,)``.
        autocorrelation: autocorrelation of the gradients, float64 ``(lags + 1,)``; see :func:`autocorrelation`.
        cosine: cosine of the angle between the gradients at points i and i + 1, float64 ``(points - 1,)``; NaN where
            one of them is 0.
        about: what was measured.
    """

    position: np.ndarray
    value: np.ndarray
    grad_norm: np.ndarray
    autocorrelation: np.ndarray
    cosine: np.ndarray
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write an npz file: one array per attribute, and ``about`` as JSON text."""
        save_arrays(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Shattering:
        """Read the result of :meth:`save`.

        Raises:
            UsageError: the file is of another kind.
        """
        return load_arrays(cls, path)


def gradients_along_line(
    function: Callable[[Array], Array], start: ArrayLike, stop: ArrayLike, points: int, *, batch: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Return values ``(points,)`` and gradients ``(points, *shape)`` of a function at points of a line, ends included.

    Args:
        function: a function of one input of the shape of ``start`` that returns a scalar.
        start: first point.
        stop: last point, of the same shape.
        points: number of points, equally spaced.
        batch: number of points computed together.

    Raises:
        UsageError: the ends differ in shape, or there are fewer than two points.

    >>> values, gradients = gradients_along_line(lambda x: jnp.sum(x**3), np.zeros(2), np.full(2, 2.0), 3)
    >>> gradients[:, 0].tolist()
    [0.0, 3.0, 12.0]
    """
    evaluate = jax.jit(jax.vmap(jax.value_and_grad(function)))
    return _in_batches(evaluate, line(start, stop, points), batch)


def line(start: ArrayLike, stop: ArrayLike, points: int) -> np.ndarray:
    """Return equally spaced points from ``start`` to ``stop``, ends included, ``(points, *shape)``.

    Raises:
        UsageError: the ends differ in shape, or there are fewer than two points.
    """
    first, last = np.asarray(start), np.asarray(stop)
    if first.shape != last.shape:
        raise UsageError(f"a line needs two ends of one shape: start has {first.shape}, stop {last.shape}")
    if points < 2:
        raise UsageError(f"a line needs at least 2 points, got {points}")
    dtype = jnp.result_type(first, last) if np.issubdtype(first.dtype, np.floating) else jnp.float32
    return np.linspace(first, last, points).astype(dtype)


def autocorrelation(gradients: ArrayLike, lags: int, *, center: bool = True, unbiased: bool = False) -> np.ndarray:
    r"""Return the autocorrelation of a sequence of vectors at lags 0 to ``lags``, float64 ``(lags + 1,)``.

    With n vectors g_i, less their mean over i if ``center``::

        R(k) = sum_{i < n - k} <g_i, g_{i+k}> / sum_i <g_i, g_i>

    ``unbiased`` multiplies this by n / (n - k), which gives means of products instead of sums. All dimensions share one
    denominator, so those with larger gradients weigh more; a scale common to all vectors cancels. R(0) = 1.

    In expectation, centered and biased, n vectors of white noise have R(k) = -(n - k) / (n (n - 1)) for k > 0, which is
    nearly 0, and a random walk falls slowly: about 1 - 5 k / n for k much smaller than n.

    Args:
        gradients: ``(n, *shape)``.
        lags: the largest lag, less than n.
        center: remove the mean over the sequence, for each dimension.
        unbiased: divide by the number of products instead of by n.

    Raises:
        UsageError: the sequence is too short, or constant (0 without ``center``).

    >>> autocorrelation(np.array([1.0, -1.0, 1.0, -1.0]), 2).tolist()
    [1.0, -0.75, 0.5]
    """
    values = np.asarray(gradients, np.float64)
    values = values.reshape(len(values), -1)
    if not 0 <= lags < len(values):
        raise UsageError(f"{len(values)} points have lags 0 to {len(values) - 1}, not {lags}")
    if center:
        values = values - values.mean(axis=0)
    scale = np.max(np.abs(values), initial=0.0)
    if not (np.isfinite(scale) and scale > 0):
        raise UsageError("the autocorrelation of gradients that are not finite, or all equal, is not defined")
    values = values / scale
    count = len(values)
    sums = np.asarray([np.sum(values[: count - lag] * values[lag:]) for lag in range(lags + 1)])
    return sums / sums[0] * (count / (count - np.arange(lags + 1)) if unbiased else 1.0)


def measure_shattering(
    model: nn.Module,
    variables: Mapping[str, Any],
    start: Float[ArrayLike, "*spatial c"],
    stop: Float[ArrayLike, "*spatial c"],
    points: int = 256,
    *,
    of: int | str = 0,
    label: int = 0,
    statistics: str = "running",
    lags: int = 15,
    center: bool = True,
    batch: int = 32,
) -> Shattering:
    """Measure the gradient with respect to the input along the line between two images.

    Args:
        model: a Linen module called as ``model(x, train=...)``.
        variables: ``params`` and, with batch norm, ``batch_stats``, in the layout of the network's execution.
        start: a normalized image.
        stop: another one.
        points: number of points on the line.
        of: the class whose logit is differentiated, or ``"loss"``: the cross-entropy of ``label``.
        label: class for the loss.
        statistics: what batch norm normalizes by: its ``running`` averages, or the statistics of the ``line``, with all
            its points as one batch. These are constants too: the gradient at a point is that of its own output alone,
            not of its effect on the statistics. A network at initialization needs the latter, because its running
            averages have seen no data. For :class:`resnet_jax.models.ResNet` only.
        lags: largest lag of the autocorrelation.
        center: see :func:`autocorrelation`.
        batch: number of points computed together.

    Raises:
        UsageError: something that was asked for does not exist.

    >>> from resnet_jax.models import create_model, init_variables
    >>> model = create_model("resnet20_cifar", stage_sizes=(1,), widths=(4,), num_classes=3)
    >>> variables = jax.jit(lambda key: init_variables(model, key, (8, 8, 3)))(jax.random.key(0))
    >>> found = measure_shattering(model, variables, np.zeros((8, 8, 3)), np.ones((8, 8, 3)), 8, lags=3)
    >>> found.autocorrelation.shape, found.cosine.shape
    ((4,), (7,))
    """
    if statistics not in ("running", "line"):
        raise UsageError(f"statistics={statistics!r}: batch norm can use 'running' or 'line'")
    if isinstance(of, str) and of != "loss":
        raise UsageError(f"of={of!r}: a gradient is that of a class's logit, by number, or of the 'loss'")
    images = line(start, stop, points)
    if statistics == "line":
        variables = _line_statistics(model, variables, images)
    logits = jax.eval_shape(lambda x: model.apply(variables, x, train=False), images[:1])
    wanted = label if isinstance(of, str) else of
    if not 0 <= wanted < logits.shape[-1]:
        raise UsageError(f"the network has classes 0 to {logits.shape[-1] - 1}, not {wanted}")
    measure = functools.partial(_output_gradients(model, isinstance(of, str)), variables, jnp.asarray(wanted))
    values, gradients = _in_batches(measure, images, batch)
    flat = gradients.reshape(points, -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.sum(flat[:-1] * flat[1:], axis=1) / norms[:-1] / norms[1:]
    about = {
        "points": points, "of": f"loss of class {label}" if isinstance(of, str) else f"logit {of}", "center": center,
        "normalization": "batch norm, statistics of the line, held constant"
        if statistics == "line" else describe_normalization(model, variables, False),
    }  # fmt: skip
    found = autocorrelation(flat, lags, center=center)
    return Shattering(np.linspace(0, 1, points), values.astype(np.float64), norms, found, cosine, about)


def gradient_correlation(
    layers: int, *, skip: bool = False, beta: float | None = None, coactivity: float = 0.5
) -> float:
    """Return the correlation of the gradients at two typical inputs at random initialization.

    It is exact in the model of the paper: weights of variance 2 / N (He) and independent gates, each open for half of
    the inputs. Of the units that are open for one input, the share ``coactivity`` is open for the other (for two
    typical inputs 1/2: a quarter of all units are open for both). Every layer then multiplies

    * in a plain net, the covariance by ``coactivity`` and the variance by 1: the correlation is 1 / 2^L (theorem 1);
    * in a residual net, x + W relu(x), by 1 + coactivity and 2: it is (3/4)^L (theorem 2);
    * in a residual net with batch norm, x + beta W relu(BN(x)), by 1 + c coactivity and 1 + c, where layer l has
      c = beta^2 / (beta^2 (l - 1) + 1), because BN divides by the standard deviation, which grows with depth. The
      variances have the product beta^2 L + 1, the covariances about its square root: the correlation falls no faster
      than 1 / (beta sqrt(L)) (theorem 3).

    Args:
        layers: L, the number of layers of gates.
        skip: whether the net is residual.
        beta: weight of the branch in a residual net with batch norm; None: no batch norm.
        coactivity: share in [0, 1].

    Raises:
        UsageError: ``beta`` without ``skip``, or a share outside [0, 1].

    >>> gradient_correlation(10) == 2**-10, gradient_correlation(10, skip=True) == 0.75**10
    (True, True)
    >>> round(gradient_correlation(50, skip=True, beta=0.1), 2)
    0.82
    """
    if not 0 <= coactivity <= 1:
        raise UsageError(f"coactivity is a share between 0 and 1, not {coactivity}")
    if not skip:
        if beta is not None:
            raise UsageError("beta weighs the branch of a residual net: give skip=True with it")
        return coactivity**layers
    if beta is None:
        return ((1 + coactivity) / 2) ** layers
    gain = np.square(beta) / (np.square(beta) * np.arange(layers) + 1)
    return float(np.prod((1 + gain * coactivity) / (1 + gain)))


def wide_gradient_correlation(cosine: float, layers: int, *, skip: bool = False) -> float:
    """Return the same for two given inputs of an infinitely wide net, whose gates depend on the inputs.

    Gaussian pre-activations of cosine r have the co-activity 1 - arccos(r) / pi, and after ReLU the cosine
    k(r) = (sqrt(1 - r^2) + r (pi - arccos r)) / pi (Cho and Saul 2009, kernels of degree 0 and 1). A plain layer W
    relu(x) maps r to k(r); a residual one, x + W relu(x) with independent halves, maps it to (r + k(r)) / 2. Since r
    tends to 1, real nets without biases and batch norm shatter far less than :func:`gradient_correlation` says for
    typical inputs, which is this function with r = 0 in every layer.

    Args:
        cosine: cosine of the angle between the two inputs of the first gates, in [-1, 1].
        layers: number of layers of gates.
        skip: whether the net is residual.

    >>> round(wide_gradient_correlation(0.0, 1), 3), wide_gradient_correlation(1.0, 9)
    (0.5, 1.0)
    """
    if not -1 <= cosine <= 1:
        raise UsageError(f"a cosine lies between -1 and 1, not at {cosine}")
    correlation, r = 1.0, float(cosine)
    for _ in range(layers):
        angle = np.arccos(r)
        coactivity, rectified = 1 - angle / np.pi, (np.sin(angle) + r * (np.pi - angle)) / np.pi
        correlation *= (1 + coactivity) / 2 if skip else coactivity
        r = min((r + rectified) / 2 if skip else rectified, 1.0)
    return float(correlation)


def _in_batches(evaluate: Callable[[Array], Any], inputs: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both results of ``evaluate`` for all inputs, computed in batches of equal size, the last one padded."""
    if batch < 1:
        raise UsageError(f"batch={batch}: at least one point is computed at a time")
    count, batch = len(inputs), min(batch, len(inputs))
    padded = inputs[np.minimum(np.arange(-(-count // batch) * batch), count - 1)]
    parts = [jax.device_get(evaluate(part)) for part in padded.reshape(-1, batch, *inputs.shape[1:])]
    values, gradients = zip(*parts, strict=True)
    return np.concatenate(values)[:count], np.concatenate(gradients)[:count]


@functools.lru_cache(maxsize=8)
def _output_gradients(model: nn.Module, loss: bool) -> Callable[..., tuple[Array, Array]]:
    @jax.jit
    def evaluate(variables, wanted, images):
        def total(x):
            logits = jnp.asarray(model.apply(variables, x, train=False))
            labels = jnp.full((len(x),), wanted)
            each = cross_entropy(logits, labels) if loss else jnp.take(logits, wanted, axis=-1)
            return jnp.sum(each), each

        gradients, values = jax.grad(total, has_aux=True)(images)
        return values, gradients

    return evaluate


def _line_statistics(model: nn.Module, variables: Mapping[str, Any], images: np.ndarray) -> dict[str, Any]:
    """Return the variables with the statistics of this batch in place of the running averages."""
    if not isinstance(model, ResNet):
        raise UsageError(
            "statistics='line' is for a resnet_jax ResNet: give another network batch_stats of its own and "
            "statistics='running'"
        )
    if "batch_stats" not in variables:
        return dict(variables)
    config = dataclasses.replace(
        model.config, norm_momentum=0.0, norm_scope="global", ghost_size=None, norm_group_devices=None,
        dropout=0.0, head_dropout=0.0, drop_path=0.0,
    )  # fmt: skip
    return {**variables, **_updated(config)(variables, images)}


@functools.lru_cache(maxsize=8)
def _updated(config: ResNetConfig) -> Callable[..., Any]:
    model = ResNet(config)
    return jax.jit(lambda variables, images: model.apply(variables, images, train=True, mutable=["batch_stats"])[1])
