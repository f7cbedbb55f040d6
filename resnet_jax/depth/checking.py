"""Will it train at this depth? Signals and gradients at initialization, with a verdict in sentences.

What prevents a deep network from training at its start is exponential: each block multiplies the signal, or the
gradient, by a factor, and together the factors exceed what an optimizer can bridge. Growth by a power of depth is
harmless: in batch-norm residual networks the variance rises linearly, and the gradient by a factor 1 + O(1 / l) at
block l (De and Smith 2020, arXiv 2002.10444; Yang and Schoenholz 2017, arXiv 1712.08969), and networks of 1,001 layers
train. The exponential part of the change from one block to the next, in logarithms, is therefore estimated in two ways.
The first is r in

    change(l) = r + a / l        (l: place in the stage, from 1)

fitted over the last two thirds of the stages (at their start, powers of depth look different). The second is the mean
change over their last third. It is all that remains of growth that started with some variance, like ``1 / (25 + l)`` in
NF networks (Brock et al. 2021, arXiv 2101.08692), or of ``1 / l`` with l counted over all stages if skips go through
them. Each mistakes some powers of depth for exponentials, whereas true exponentials show in both, so the smaller one is
used, as ``exp(r blocks / 2)`` in root mean square. Stages of fewer than 6 blocks cannot tell the two apart; there r is
the mean change.

That covers what persists to the end. What happens only in some of the blocks (at the start, in short stages, or undone
by a norm or by later blocks) is found as the **stretch** of consecutive blocks with the largest change beyond

    Q = ((l + 1) / l)^a   per block,   a = 1 for the mean square of signals, a = 2 for the squared norm of gradients,

upwards or downwards: more than any power of depth that is known to train, stage by stage. With a = 1, a variance that
rises linearly counts as 1. The steepest gradient known to train, that of ResNet-1001 (v1, three stages of 111 blocks,
together 5e7 in norm), counts as 42. Root mean squares are compared with the limit, as above.

The default limit of 100 is chosen so that a plain network of 20 layers with batch norm passes (it trains; about 25) and
one of 56 layers does not (He et al. 2016, fig. 1: it trains badly; about 5,000). Of 96 of the named networks it rejects
the plain ones of 32 layers and more, and no other (experiments/results/propagation).

Whatever its shape, no stretch may change the root mean square of signals by more than 1e4 or the norm of gradients by
more than 1e9:

* Signals: the largest change among those 96 networks is 26, over 600 blocks. At 1e4, a change of 1e-3 in the input is
  1e-7 of the output, about float32's rounding (6e-8) and far below that of half precision: what the first blocks learn
  is lost.
* Gradients: the largest known to train is ResNet-1001's 5e7, with a batch norm after every weight, which undoes the
  scale. Without one, weights 2^24 = 1.7e7 apart share no learning rate of SGD: where one moves by its own size, the
  other moves by less than float32's rounding. 1e9 is 20 times the largest ever seen to train. Adam divides by the
  gradient but squares it first, so the second moments at the two ends are 1e18 apart, with one eps for both.
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
from resnet_jax.instrument.hooks import BlockNames
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.resnet import ResNet

#: Number of blocks from which on a stage shows whether growth is exponential or a power of depth.
LONG = 6
#: Change of the root mean square over the whole depth, by its exponential part, that is too much.
LIMIT = 100.0
#: Power of depth, in mean square, that a stretch may have in addition: signals and gradients.
SIGNAL_POWER, GRADIENT_POWER = 1.0, 2.0
#: Change of the root mean square that is too much, whatever its shape: signals and gradients.
SIGNAL_CEILING, GRADIENT_CEILING = 1e4, 1e9


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Consecutive blocks in which signals or gradients change a lot.

    Attributes:
        first: depth index of the first block.
        last: depth index of the last block.
        factor: factor of the root mean square over all of them, in the direction of the signals or gradients.
        excess: that factor beyond a power of depth, at least 1 in either direction.
    """

    first: int
    last: int
    factor: float
    excess: float


@dataclasses.dataclass(frozen=True)
class Direction:
    """How signals or gradients change through depth.

    Attributes:
        measured: mean square of the signal, or squared norm of the gradient relative to the last output's, at each
            depth; geometric mean over the draws, ``(blocks + 1,)``.
        predicted: the closed form, ``(blocks + 1,)``; None if there is none.
        rate: factor of the root mean square from one block to the next, by the exponential part.
        total: that factor over all blocks, at least 1 in either direction.
        steepest: depth index of the block with the largest change.
        steepest_factor: its factor of the root mean square.
        stretch: the blocks that change most beyond a power of depth; None if there are none or nothing can be said.
        widest: the blocks that change most; None as above.
    """

    measured: np.ndarray
    predicted: np.ndarray | None
    rate: float
    total: float
    steepest: int
    steepest_factor: float
    stretch: Stretch | None = None
    widest: Stretch | None = None


@dataclasses.dataclass(frozen=True)
class PropagationCheck:
    """The verdict; true if it is good.

    Attributes:
        ok: whether signals and gradients get through.
        sentences: what was found, and what would help.
        signal: forward.
        gradient: backward.
        names: path of every block.
        stage: stage of every block, from 0, ``(blocks,)``.
        no_prediction: why there is no closed form; empty if there is one.
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
        """Return the sentences, one per line."""
        return "\n".join(self.sentences)


def check(
    model: nn.Module,
    inputs: Array | Sequence[int],
    *,
    key: Key[Array, ""] | None = None,
    draws: int = 2,
    anatomy: BlockNames | None = None,
    train: bool = True,
    limit: float = LIMIT,
) -> PropagationCheck:
    """Measure signals and gradients at random initialization, and judge whether they get through the depth.

    It works for any network. A test of your own block is one line: ``assert (found := check(net, shape)), found``.

    Args:
        model: any Linen network called as ``model(x, train=...)``.
        inputs: a batch, or the shape of a batch of independent N(0, 1) numbers, ``(n, *spatial, c)``.
        key: PRNG key for weights and inputs.
        draws: number of draws of the weights.
        anatomy: what a block is; None: this library's.
        train: normalize by the statistics of the batch, as in the first train step.
        limit: maximum change of the root mean square over the whole depth by the exponential part, and of any stretch
            of blocks beyond a power of depth.

    Raises:
        UsageError: the network has no such blocks, or a number is out of range.

    >>> import jax.numpy as jnp
    >>> class Block(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return x + 2.0 * nn.Dense(16, kernel_init=nn.initializers.he_normal())(nn.relu(x))
    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, *, train):
    ...         for _ in range(10):
    ...             x = Block()(x)
    ...         return x
    >>> found = check(Net(), (8, 16), draws=1, anatomy=BlockNames(Block))
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
    ceilings = (SIGNAL_CEILING, GRADIENT_CEILING)
    trouble = [_trouble(one, limit, most) for one, most in zip((forward, backward), ceilings, strict=True)]
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
    """Return each block's place in its stage, from 0; many stages of one block (blocks wrapped singly) count as one.

    >>> _places(np.array([0, 0, 0, 1, 1])).tolist(), _places(np.arange(6)).tolist()
    ([0, 1, 2, 0, 1], [0, 1, 2, 3, 4, 5])
    """
    starts = np.flatnonzero(np.diff(stage, prepend=-1))
    if len(starts) == len(stage) >= LONG:
        return np.arange(len(stage))
    return np.arange(len(stage)) - np.repeat(starts, np.diff(np.append(starts, len(stage))))


def _direction(draws: np.ndarray, predicted: np.ndarray | None, place: np.ndarray, *, backward: bool) -> Direction:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.mean(np.log(draws), axis=0)
        change = np.diff(logs)
    if backward:
        change = -change  # what a block does to the gradient that comes from above
    if not np.isfinite(change).all():
        return Direction(np.exp(logs), predicted, math.nan, math.inf, 0, math.nan)
    rate = _exponential(change, place)
    steepest = int(np.argmax(np.abs(change)))
    total = _root(abs(rate) * len(place))
    power = (GRADIENT_POWER if backward else SIGNAL_POWER) * np.log((place + 2) / (place + 1))
    return Direction(
        np.exp(logs), predicted, _root(rate), total, steepest, _root(float(change[steepest])),
        _stretch(change, power), _stretch(change, 0.0 * power),
    )  # fmt: skip


def _root(log_square: float) -> float:
    """Return the factor of a root mean square from the logarithm of the mean square's, clipped to the float range."""
    return math.exp(min(log_square / 2, 700.0))


def _stretch(change: np.ndarray, power: np.ndarray) -> Stretch | None:
    """Return the blocks with the largest sum of changes, up or down, beyond ``power``; None if there are none.

    Between the two directions, several blocks take precedence over a single one that is less than twice as bad in
    logarithms: exploding blocks are the cause, the norm after them that undoes it is not.

    >>> found = _stretch(np.log([1.0, 9.0, 9.0, 1 / 9, 1.0]), np.zeros(5))
    >>> (found.first, found.last, round(found.factor, 6)) if found else None
    (1, 2, 9.0)
    """
    ways = []
    for sign in (1.0, -1.0):
        best, first, total = (0.0, 0, 0), 0, 0.0
        for block, beyond in enumerate(sign * change - power):
            if total <= 0.0:
                first, total = block, 0.0
            total += float(beyond)
            best = max(best, (total, first, block), key=lambda way: way[0])
        if best[0] > 0.0:
            ways.append(best)
    if not ways:
        return None
    ways.sort(reverse=True)
    worst, other = ways[0], ways[-1]
    if worst[1] == worst[2] and other[1] < other[2] and 2 * other[0] > worst[0]:
        worst = other
    return Stretch(worst[1], worst[2], _root(float(change[worst[1] : worst[2] + 1].sum())), _root(worst[0]))


def _exponential(change: np.ndarray, place: np.ndarray) -> float:
    """Return the change of the logarithm from one block to the next that is not a power of depth.

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


def _trouble(one: Direction, limit: float, ceiling: float) -> str:
    """Return what is wrong, or an empty string.

    ``nothing``: NaN or zero. ``jump``: a single block. ``explode`` and ``vanish``: through the depth. ``rise`` and
    ``fall``: a stretch of blocks. ``too far``: more than any training survives, whatever the shape.
    """
    if not math.isfinite(one.rate):
        return "nothing"
    widest, part = one.widest, one.stretch
    part = part if part is not None and part.excess > limit else None
    alone = abs(math.log(one.steepest_factor)) > math.log(limit)
    # a jump outside of an exploding stretch is what undoes it, and not an explosion of its own
    if alone and (part is None or part.first == part.last or part.first <= one.steepest <= part.last):
        return "jump"
    if one.total > limit and not alone:
        return "explode" if one.rate > 1 else "vanish"
    if part is not None:
        return "rise" if part.factor > 1 else "fall"
    return "too far" if widest is not None and abs(math.log(widest.factor)) > math.log(max(limit, ceiling)) else ""


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
    if trouble in ("rise", "fall", "too far"):
        part = one.widest if trouble == "too far" else one.stretch
        assert part is not None  # these three refer to a stretch
        between = f"blocks {part.first} to {part.last} ({found.names[part.first]} to {found.names[part.last]})"
        told = f"{between} multiply the {noun} by {_number(part.factor)} in root mean square"
        why = "far beyond any power of the depth that is known to train"
        if trouble == "too far":
            why = "more than any training is known to survive, whatever the shape"
        return f"{head} {'explode' if part.factor > 1 else 'vanish'}: {told}, {why}; {fact}{predicted}."
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
    if {"vanish", "nothing", "fall"} & set(trouble):
        return (
            "What helps: initial weights that keep the signal (Kaiming's for ReLU), an identity skip around every "
            "block, and nothing after the sum that shrinks it."
        )
    return (
        "What helps: branches that begin small: a scalar that starts at 0 on each (SkipInit, ReZero), a norm in each, "
        "or weights scaled down with the depth (Fixup)."
    )


def _number(value: float) -> str:
    """Format a number for people, with two or three digits.

    >>> [_number(value) for value in (1.0, 0.344, 21.43, 3.1e-9, 16777216.0)]
    ['1.0', '0.34', '21.4', '3.1e-09', '1.7e+07']
    """
    if not 0.01 <= abs(value) < 1000:
        return f"{value:.2g}"
    return f"{value:.3g}" if value >= 10 else f"{float(f'{value:.2g}')}"
