"""The figures of a depth profile, one function each, from plain arrays of one value per block.

A figure whose values do not exist (a plain net has no skip) is drawn empty and says so in ``empty``.
"""

from __future__ import annotations

import numpy as np

from resnet_jax.report.depth_axes import DepthAxis, DepthFigure, Line, Panel, draw_depth

#: Last part of a parameter's path -> what it is called in a figure.
KINDS = {"kernel": "weights", "scale": "norm scales", "bias": "biases"}
OTHER = "other parameters"


def activation_figure(depth: DepthAxis, act_var: np.ndarray, act_mean: np.ndarray) -> DepthFigure:
    """Draw variance and mean of what every block puts out."""
    return draw_depth(
        "activations",
        "Size of the signal",
        "Variance (log axis) and mean of the values that each block puts out, over all images, positions and channels. "
        "A steady slope of the variance within a stage means that the signal grows or shrinks by the same factor in "
        "every block.",
        depth,
        [Panel("variance", [Line("", act_var)], "log"), Panel("mean value", [Line("", act_mean)], level=0.0)],
    )


def dead_figure(depth: DepthAxis, zero_share: np.ndarray, dead_units: np.ndarray) -> DepthFigure:
    """Draw shares of zeros and of dead channels."""
    top = np.nanmax([*zero_share, *dead_units, 0.0])
    return draw_depth(
        "zeros",
        "Zeros and dead channels",
        "Share of activations that are exactly 0, and of channels that are 0 at every position of every image of this "
        "batch. Half of all values at 0 is normal for ReLU; a dead channel hands on nothing and learns nothing. (The "
        "fewer images, the more channels look dead.)",
        depth,
        [
            Panel(
                "share of values, of channels",
                [Line("values that are 0", zero_share), Line("dead channels", dead_units)],
                "percent",
                limits=(-0.02, max(1.08 * top, 0.1)),
            )
        ],
    )


def branch_figure(depth: DepthAxis, skip_norm: np.ndarray, branch_norm: np.ndarray) -> DepthFigure:
    """Draw norms of skip and branch, and their ratio; of a plain net that of what its branches give."""
    if not np.isfinite(skip_norm).any():
        return draw_depth(
            "skip-and-branch",
            "Output of each block",
            "The network has no skips: a block hands on what its convolutions compute. Shown is its norm before the "
            "activation, over the whole batch.",
            depth,
            [Panel("norm of the output", [Line("", branch_norm)], "log")],
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(branch_norm, np.float64) / np.asarray(skip_norm, np.float64)
    return draw_depth(
        "skip-and-branch",
        "Skip and branch",
        "A block adds what its branch (the convolutions) computes to what its skip hands on. Above: the norm of both, "
        "over the whole batch. Below: branch over skip; at 1 both count the same, far below 1 a block changes little.",
        depth,
        [
            Panel("norm", [Line("skip", skip_norm), Line("branch", branch_norm)], "log"),
            Panel("branch norm / skip norm", [Line("", ratio)], "log", level=1.0),
        ],
    )


def cosine_figure(depth: DepthAxis, branch_skip_cosine: np.ndarray) -> DepthFigure:
    """Draw the cosine between skip and branch."""
    reach = min(max(1.2 * np.nanmax([*np.abs(branch_skip_cosine), 0.0]), 0.1), 1.05)
    return draw_depth(
        "cosine",
        "Angle between skip and branch",
        "Cosine of the angle between what the branch adds and what the skip hands on. 0: the branch adds something "
        "new; positive: it amplifies what is there; negative: it takes some of it away.",
        depth,
        [Panel("cosine of the angle", [Line("", branch_skip_cosine)], level=0.0, limits=(-reach, reach))],
    )


def gradient_figure(
    depth: DepthAxis, grad_norm: np.ndarray, branch_grad_norm: np.ndarray, skip_grad_norm: np.ndarray
) -> DepthFigure:
    """Draw the norm of the gradient that arrives at each block's input, and of its two parts."""
    lines, parts = [Line("whole", grad_norm)], ""
    if np.isfinite(skip_grad_norm).any():
        lines += [Line("through skip", skip_grad_norm), Line("through branch", branch_grad_norm)]
        parts = " The parts are what came back through skip and branch."
    return draw_depth(
        "gradient",
        "Gradient through depth",
        "Norm of the gradient of the loss at the input of each block. It travels from right to left: a line that falls "
        f"to the left is a vanishing gradient, one that rises an exploding one.{parts}",
        depth,
        [Panel("gradient norm", lines, "log")],
    )


def share_figure(depth: DepthAxis, branch_grad_share: np.ndarray) -> DepthFigure:
    """Draw the share of the gradient that came through the branch."""
    return draw_depth(
        "gradient-share",
        "Share of the branch in the gradient",
        "How much of the gradient came back through the branch: its squared norm over the sum of both squared norms. "
        "0 %: all of it took the skip, and the block is no obstacle; 50 %: both counted the same.",
        depth,
        [Panel("share through the branch", [Line("", branch_grad_share)], "percent", level=0.5, limits=(-0.03, 1.03))],
    )


def weights_figure(depth: DepthAxis, weight_grad_ratio: np.ndarray, update_ratio: np.ndarray) -> DepthFigure:
    """Draw, per block, gradient and update of its parameters relative to them; the latter only if there is one."""
    panels = [Panel("gradient / weight norm", [Line("", weight_grad_ratio)], "log")]
    text = "Norm of the gradient of all parameters of a block over the norm of the parameters"
    if (np.nan_to_num(update_ratio) > 0).any():
        panels.append(Panel("update / weight norm", [Line("", update_ratio)], "log"))
        text += (
            "; below, the optimizer's next update over the parameters: 0.001 means that a step changes them by 0.1 %"
        )
    return draw_depth(
        "updates",
        "How fast each block learns",
        f"{text}. Blocks far below the others hardly learn; far above, they are the first to diverge.",
        depth,
        panels,
    )


def parameters_figure(
    depth: DepthAxis, paths: tuple[str, ...], block: np.ndarray, weight_norm: np.ndarray, grad_norm: np.ndarray
) -> DepthFigure:
    """Draw gradient over weight of every parameter, by its kind.

    Args:
        depth: the axis.
        paths: of the parameters.
        block: depth index of the block each is in; -1 for none.
        weight_norm: ``(parameters,)``.
        grad_norm: ``(parameters,)``.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(grad_norm, np.float64) / np.asarray(weight_norm, np.float64)
    ratio = np.where(np.isfinite(ratio) & (ratio > 0), ratio, np.nan)
    kinds = np.array([KINDS.get(path.rsplit("/", 1)[-1], OTHER) for path in paths])
    lines = []
    for kind in (*KINDS.values(), OTHER):
        chosen = (kinds == kind) & (np.asarray(block) >= 0) & ~np.isnan(ratio)
        if chosen.any():
            lines.append(_band(kind, len(depth), np.asarray(block)[chosen], ratio[chosen]))
    return draw_depth(
        "parameters",
        "How fast each kind of parameter learns",
        "Norm of the gradient of each parameter over the norm of the parameter, by kind: weights of convolutions, "
        "scales of norms, biases. The line is the geometric mean within a block, the shade reaches from the smallest "
        "to the largest. Parameters that are still 0, or whose gradient is, have no ratio and are left out.",
        depth,
        [Panel("gradient / parameter norm", lines or [Line("", np.full(len(depth), np.nan))], "log")],
    )


def _band(label: str, blocks: int, owner: np.ndarray, ratio: np.ndarray) -> Line:
    low, high = np.full(blocks, np.inf), np.full(blocks, -np.inf)
    np.minimum.at(low, owner, ratio)
    np.maximum.at(high, owner, ratio)
    count = np.bincount(owner, minlength=blocks)
    with np.errstate(invalid="ignore"):
        mean = np.exp(np.bincount(owner, np.log(ratio), minlength=blocks) / count)
    low, high = (np.where(count > 0, edge, np.nan) for edge in (low, high))
    return Line(label, mean, low, high)
