"""Will it train at this depth? Signals and gradients at initialization, with a verdict in sentences.

What is wrong with a deep network at its start is exponential: each block multiplies the signal, or the gradient, by a
factor, and the factors add up to more than an optimizer can bridge. What is harmless grows like a power of depth: in
batch-norm residual networks the variance rises linearly, and the gradient of block l by a factor 1 + O(1 / l) (De and
Smith 2020, arXiv 2002.10444; Yang and Schoenholz 2017, arXiv 1712.08969), which is how networks of 1,001 layers train.
So the exponential part of the change from one block to the next, in logarithms, is estimated in two ways. It is r in

    change(l) = r + a / l        (l: place in the stage, from 1)

fitted over the last two thirds of the stages (at their start powers of depth look otherwise); and it is the mean change
over their last third, which is all that is left of growth that started with some variance, like ``1 / (25 + l)`` in NF
networks (Brock et al. 2021, arXiv 2101.08692), or of ``1 / l`` with l counted over all stages where skips go through
them. Either takes some powers of depth for exponentials, which agree in both; so the verdict looks at the smaller,
``exp(r blocks / 2)`` in root mean square. In stages of fewer than 6 blocks nothing can be told apart, and r is the mean
change.

The default limit of 100 was chosen so that a plain net of 20 layers with batch norm passes (it trains; about 25) and
one of 56 layers does not (He et al. 2016, fig. 1: it trains badly; about 5,000). Of 96 of the named networks it fails
the plain ones of 32 layers and more, and no other (experiments/results/propagation).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Key

from resnet_jax.depth.predict import predict_moments
from resnet_jax.depth.predict_backward import predict_gradients
from resnet_jax.depth.propagation import Propagation, measure_propagation
from resnet_jax.errors import UsageError
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.instrument import Anatomy
from resnet_jax.models.resnet import ResNet

#: Stages of so many blocks show whether growth is exponential or a power of depth.
LONG = 6
#: Change of the root mean square over the whole depth, by its exponential part, that is too much.
LIMIT = 100.0


@dataclasses.dataclass(frozen=True)
class Direction:
    """How signals or gradients change through depth.

    Attributes:
        measured: mean square of the signal, or squared norm of the gradient over that at the last output, at each
            depth; geometric mean over the draws, ``(blocks + 1,)``.
        predicted: the closed form, ``(blocks + 1,)``; None where there is none.
        rate: factor of the root mean square from a block to the next, by the exponential part.
        total: that factor over all blocks, at least 1 however it points.
        steepest: depth index of the block with the largest change.
        steepest_factor: its factor of the root mean square.
    """

    measured: np.ndarray
    predicted: np.ndarray | None
    rate: float
    total: float
    steepest: int
    steepest_factor: float


@dataclasses.dataclass(frozen=True)
class PropagationCheck:
    """The verdict; true where it is good.

    Attributes:
        ok: whether signals and gradients get through.
        sentences: what was found, and what would help.
        signal: forward.
        gradient: backward.
        names: path of every block.
        stage: stage of every block, from 0, ``(blocks,)``.
        no_prediction: why there is no closed form; empty where there is one.
    """

    ok: bool
    sentences: tuple[str, ...]
    signal: Direction
    gradient: Direction
    names: tuple[str, ...]
    stage: np.ndarray
    no_prediction: str

    def __bool__(self) -> bool:
        """Return ``ok``."""
        return self.ok

    def __str__(self) -> str:
        """Return the sentences, a line each."""
        return "\n".join(self.sentences)


def check(
    model: nn.Module,
    inputs: Array | Sequence[int],
    *,
    key: Key[Array, ""] | None = None,
    draws: int = 2,
    anatomy: Anatomy | None = None,
    train: bool = True,
    limit: float = LIMIT,
) -> PropagationCheck:
    """Measure signals and gradients at random initialization, and say whether they get through the depth.

    For anybody's network; as a test of your own block it is one line, ``assert (found := check(net, shape)), found``.

    Args:
        model: any Linen network called as ``model(x, train=...)``.
        inputs: a batch, or the shape of one of independent N(0, 1) numbers, ``(n, *spatial, c)``.
        key: for weights and inputs.
        draws: of the weights.
        anatomy: what a block is; None: this library's.
        train: normalize by the statistics of the batch, as in the first train step.
        limit: how far the exponential part may change the root mean square over the whole depth.

    Raises:
        UsageError: the network has no such blocks, or a number is out of range.

    >>> import jax.numpy as jnp
    >>> class Block(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return x + nn.Dense(16, kernel_init=nn.initializers.he_normal())(nn.relu(x))
    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, *, train):
    ...         for _ in range(24):
    ...             x = Block()(x)
    ...         return x
    >>> found = check(Net(), (8, 16), anatomy=Anatomy(Block))
    >>> found.ok, found.sentences[0].split(":")[0]
    (False, 'Signals explode')
    """
    if draws < 1 or not limit > 1:
        raise UsageError(f"a check needs draws of 1 or more and a limit above 1, got {draws} and {limit}")
    key = jax.random.key(0) if key is None else key
    found = measure_propagation(model, inputs, key=key, draws=draws, anatomy=anatomy, train=train)
    signal, gradient, why = _predictions(model, inputs, found, train)
    place = _places(found.stage)
    forward = _direction(found.mean_square, signal, place, backward=False)
    backward = _direction(found.gradient, gradient, place, backward=True)
    trouble = [_trouble(one, limit) for one in (forward, backward)]
    sentences = [
        _sentence("Signals", "signal", "mean square", forward, trouble[0], found, backward=False),
        _sentence("Gradients", "gradient", "squared norm", backward, trouble[1], found, backward=True),
    ]
    ok = not any(trouble)
    if not ok:
        sentences.append(_advice(model, trouble))
    return PropagationCheck(ok, tuple(sentences), forward, backward, found.names, found.stage, why)


def _predictions(
    model: nn.Module, inputs: Array | Sequence[int], found: Propagation, train: bool
) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    if not isinstance(model, ResNet):
        return None, None, "closed forms are known for the networks of this library"
    config: ResNetConfig = dataclasses.replace(model.config, dropout=0.0, head_dropout=0.0, drop_path=0.0)
    shape = tuple(inputs) if isinstance(inputs, (tuple, list)) else np.shape(inputs)
    mean = np.mean(found.mean_square[:, 0] - found.variance[:, 0])
    stem = (float(np.mean(found.mean_square[:, 0])), math.sqrt(max(float(mean), 0.0)))
    try:
        moments = predict_moments(config, shape[1:-1], stem=stem, train=train)
        gains = predict_gradients(config, shape[1:-1], stem=stem, train=train, batch=shape[0])
    except UsageError as error:
        return None, None, str(error)
    return np.concatenate([[moments.stem[0]], moments.mean_square]), gains.squared_norm, ""


def _places(stage: np.ndarray) -> np.ndarray:
    """Return each block's place in its stage, from 0."""
    starts = np.flatnonzero(np.diff(stage, prepend=-1))
    return np.arange(len(stage)) - np.repeat(starts, np.diff(np.append(starts, len(stage))))


def _direction(draws: np.ndarray, predicted: np.ndarray | None, place: np.ndarray, *, backward: bool) -> Direction:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.mean(np.log(draws), axis=0)
        change = np.diff(logs)
    if backward:
        change = -change  # what a block does to the gradient that comes from behind it
    if not np.isfinite(change).all():
        return Direction(np.exp(logs), predicted, math.nan, math.inf, 0, math.nan)
    rate = _exponential(change, place)
    steepest = int(np.argmax(np.abs(change)))
    total = math.exp(min(abs(rate) * len(place) / 2, 700.0))
    return Direction(
        np.exp(logs), predicted, math.exp(rate / 2), total, steepest, math.exp(float(change[steepest]) / 2)
    )


def _exponential(change: np.ndarray, place: np.ndarray) -> float:
    """Return the change of the logarithm from a block to the next that is not a power of depth.

    >>> place = np.arange(200)
    >>> [round(_exponential(change, place), 3) for change in (1 / (1 + place), 1 / (25 + place), 0.1 + 0.0 * place)]
    [0.0, 0.001, 0.1]
    """
    if place.max() + 1 < LONG:
        return float(change.mean())
    starts = np.flatnonzero(place == 0)
    length = np.repeat(lengths := np.diff(np.append(starts, len(place))), lengths)
    long = length >= LONG
    later, last = (long & (place >= share * length / 3) for share in (1, 2))
    columns = np.stack([np.ones(later.sum()), 1.0 / place[later]], axis=1)
    fitted = float(np.linalg.lstsq(columns, change[later], rcond=None)[0][0])
    late = float(change[last].mean())
    return math.copysign(min(abs(fitted), abs(late)), late) if fitted * late > 0 else 0.0


def _trouble(one: Direction, limit: float) -> str:
    """Return what is wrong: nothing, ``explode``, ``vanish``, ``jump`` or ``nothing``: not a number, or zero."""
    if not math.isfinite(one.rate):
        return "nothing"
    if max(one.steepest_factor, 1 / one.steepest_factor) > limit:
        return "jump"
    if one.total > limit:
        return "explode" if one.rate > 1 else "vanish"
    return ""


def _sentence(
    head: str, noun: str, quantity: str, one: Direction, trouble: str, found: Propagation, *, backward: bool
) -> str:
    blocks = len(found.names)
    low, high = (one.measured[0], one.measured[-1])
    if trouble == "nothing":
        bad = np.flatnonzero(~(np.isfinite(one.measured) & (one.measured > 0)))
        at = int(bad[-1] if backward else bad[0])
        where = f"behind block {at - 1} ({found.names[at - 1]})" if at else f"before block 0 ({found.names[0]})"
        return f"{head} end: the {noun} {where} is zero, or no number."
    if backward:
        ratio = math.sqrt(low / high)
        fact = (
            f"the gradient that reaches block 0 ({found.names[0]}) is {_number(ratio)} times that of the last block in "
            f"norm, over {blocks} blocks"
        )
    else:
        fact = f"the {quantity} goes from {_number(low)} to {_number(high)} over {blocks} blocks"
    predicted = ""
    if one.predicted is not None:
        start, end = one.predicted[0], one.predicted[-1]
        predicted = f" (predicted {_number(math.sqrt(start / end) if backward else end)})"
    if trouble in ("explode", "vanish"):
        rate = f"beyond a power of the depth each block multiplies it by {one.rate:.3g} in root mean square"
        if (not (found.stage == found.stage[0]).all() and np.bincount(found.stage).max() < LONG) or blocks < LONG:
            rate = f"on average each block multiplies it by {one.rate:.3g} in root mean square"
        return f"{head} {trouble}: {fact}{predicted}; {rate}."
    if trouble == "jump":
        at = f"block {one.steepest} ({found.names[one.steepest]})"
        return f"{head} jump: {at} alone multiplies the {noun} by {_number(one.steepest_factor)}; {fact}{predicted}."
    return f"{head} get through: {fact}{predicted}."


def _advice(model: nn.Module, trouble: Sequence[str]) -> str:
    config = model.config if isinstance(model, ResNet) else None
    if config is not None and config.shortcut == "none":
        return "What helps: a skip around every block (shortcut A or B), or fewer blocks."
    if config is not None and config.norm == "none" and config.residual == "plain":
        return (
            "What helps: a norm in every branch, or branches that begin at zero (residual skipinit, rezero, fixup) or "
            "with a known variance (residual nf)."
        )
    if "vanish" in trouble or "nothing" in trouble:
        return (
            "What helps: initial weights that keep the signal (Kaiming's for ReLU), an identity skip around every "
            "block, and nothing after the sum that shrinks it."
        )
    return (
        "What helps: branches that begin small: a scalar that starts at 0 on each (SkipInit, ReZero), a norm in each, "
        "or weights scaled down with the depth (Fixup)."
    )


def _number(value: float) -> str:
    """Write a number for people, two or three digits.

    >>> [_number(value) for value in (1.0, 0.344, 21.43, 3.1e-9, 16777216.0)]
    ['1.0', '0.34', '21.4', '3.1e-09', '1.7e+07']
    """
    if not 0.01 <= abs(value) < 1000:
        return f"{value:.2g}"
    return f"{value:.3g}" if value >= 10 else f"{float(f'{value:.2g}')}"
