"""The report of a depth profile: sentences that say what the figures show, the figures, and all the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.depth.result import DepthProfile
from resnet_jax.report import depth_figures as draw
from resnet_jax.report.depth_axes import DepthAxis
from resnet_jax.report.depth_page import Page, Section, Table, write_page
from resnet_jax.report.numbers import change, percent, readable

#: Names of the files that :func:`write_profile_report` writes.
FIGURES = (
    "report.html", *(f"{name}.png" for name in (
        "activations", "skip-and-branch", "zeros", "cosine", "gradient", "gradient-share", "updates", "parameters",
    )),
)  # fmt: skip

#: What the columns of a profile are, for the table.
MEANING = {
    "stage": "stage of the block, counted from 1",
    "elements": "values in the block's output, over the whole batch",
    "act_mean": "mean of the block's output",
    "act_var": "variance of the block's output",
    "act_norm": "norm of the block's output, over the whole batch",
    "zero_share": "share of its activations that are exactly 0",
    "dead_units": "share of channels that are 0 everywhere in this batch",
    "skip_norm": "norm of what the skip brings to the sum",
    "branch_norm": "norm of what the branch adds",
    "branch_skip_cosine": "cosine of the angle between the two",
    "grad_norm": "norm of the gradient of the loss at the block's input",
    "grad_norm_out": "the same at its output",
    "branch_grad_norm": "norm of the part of it that came through the branch",
    "skip_grad_norm": "norm of the part that came through the skip",
    "weight_norm": "norm of all parameters of the block",
    "weight_grad_norm": "norm of the gradient with respect to them",
    "update_norm": "norm of the optimizer's update of them",
    "branch_skip_ratio": "branch_norm / skip_norm",
    "branch_grad_share": "squared norm of the branch's part over the sum of both parts'",
    "weight_grad_ratio": "weight_grad_norm / weight_norm",
    "update_ratio": "update_norm / weight_norm",
}


def write_profile_report(
    profile: DepthProfile, folder: Path, *, title: str, facts: Mapping[str, str], more: Sequence[Section] = ()
) -> Path:
    """Write the page of a profile and its figures; return the page's path.

    Args:
        profile: what was measured.
        folder: where to.
        title: headline.
        facts: label -> value, shown at the top.
        more: sections of other instruments.
    """
    page = Page(title, facts, summarize(profile), [*profile_sections(profile), *more])
    return write_page(page, folder)


def profile_sections(profile: DepthProfile) -> list[Section]:
    """Return the sections of a profile: forward, backward, parameters, numbers."""
    depth = DepthAxis(profile.stage)
    forward = [
        draw.activation_figure(depth, profile.act_var, profile.act_mean),
        draw.branch_figure(depth, profile.skip_norm, profile.branch_norm),
        draw.dead_figure(depth, profile.zero_share, profile.dead_units),
        draw.cosine_figure(depth, profile.branch_skip_cosine),
    ]
    backward = [
        draw.gradient_figure(depth, profile.grad_norm, profile.branch_grad_norm, profile.skip_grad_norm),
        draw.share_figure(depth, profile.branch_grad_share),
    ]
    learning = [
        draw.weights_figure(depth, profile.weight_grad_ratio, profile.update_ratio),
        draw.parameters_figure(
            depth,
            profile.parameters,
            profile.parameter_block,
            profile.parameter_weight_norm,
            profile.parameter_grad_norm,
        ),
    ]
    return [
        Section(
            "Forward: the signal",
            "One forward pass. A block is a small group of layers, usually with a skip around it; blocks of one stage "
            "work at one resolution and width. Norm means the Euclidean norm: the root of the sum of all squares.",
            forward,
        ),
        Section("Backward: the gradient", "One backward pass, from the mean loss of the same batch.", backward),
        Section("Learning: parameters and their updates", "", learning),
        Section("All numbers", "The same arrays are in profile.npz, by these names.", tables=[block_table(profile)]),
    ]


def block_table(profile: DepthProfile) -> Table:
    """Return all columns, one row per block; columns without a value are left out."""
    columns: dict[str, Any] = {"block": np.arange(len(profile)), "name": profile.names}
    for name, values in profile.columns().items():
        if not np.isnan(values.astype(np.float64)).all():
            columns[name] = values + 1 if name == "stage" else values
    return Table("One row per block", columns, {name: MEANING[name] for name in columns if name in MEANING})


def summarize(profile: DepthProfile) -> list[str]:
    """Return what the profile shows in sentences, the most important first."""
    bad = [name for name, values in profile.columns().items() if np.isinf(values).any() and not name.endswith("ratio")]
    lost = np.flatnonzero(~np.isfinite(profile.grad_norm) | ~np.isfinite(profile.act_var))
    if len(lost):
        return [
            f"The numbers of {len(lost)} of {len(profile)} blocks are not finite (first: block {lost[0]}, "
            f"{profile.names[lost[0]]}): the signal or the gradient overflowed"
            + (f" ({', '.join(bad)})." if bad else ".")
        ]
    return [*_gradient(profile), *_signal(profile), *_branches(profile), *_learning(profile), *_dead(profile)]


def _gradient(profile: DepthProfile) -> list[str]:
    first, last = float(profile.grad_norm[0]), float(profile.grad_norm_out[-1])
    if not first or not last:
        if last:
            return ["No gradient at all is left at the input of block 0: everything before it does not learn."]
        return [
            "No gradient at all reaches the output of the last block: nothing before the classifier would learn from "
            "this batch. (A classifier that starts at 0, like Fixup's, does that for one step.)"
        ]
    ratio, blocks = first / last, len(profile)
    each = ratio ** (1 / blocks)
    if ratio > 10:
        verdict = "it grows on its way back"
    elif ratio < 0.1:
        verdict = "it fades on its way back"
    else:
        verdict = "it stays within a factor of ten"
    later = f"{blocks} blocks later" if blocks > 1 else "one block later"
    return [
        f"The gradient that arrives at the input of block 0 is {change(first, last)} that at the output of the last "
        f"block, {later}: {verdict} (on average by a factor of {each:.4g} per block)."
    ]


def _signal(profile: DepthProfile) -> list[str]:
    first, last = float(profile.act_var[0]), float(profile.act_var[-1])
    if not first or not last:
        return ["The output of a block does not vary at all: the signal is lost there."]
    return [
        f"The variance of the signal is {readable(first)} behind block 0 and {readable(last)} behind the last: "
        f"{change(last, first)} as much."
    ]


def _branches(profile: DepthProfile) -> list[str]:
    ratio = profile.branch_skip_ratio[np.isfinite(profile.branch_skip_ratio)]
    if not len(ratio):
        return ["The network has no skips: signal and gradient have one way only."]
    if not ratio.any():
        return ["All branches give 0: every block hands on what it gets, as this network is made to start."]
    share = profile.branch_grad_share[np.isfinite(profile.branch_grad_share)]
    text = f"In a typical block (median) the branch is {change(float(np.median(ratio)), 1.0)} the size of the skip"
    return [
        f"{text}, and {percent(np.median(share))} of the gradient comes back through it." if len(share) else f"{text}."
    ]


def _learning(profile: DepthProfile) -> list[str]:
    ratio = profile.update_ratio
    known = np.flatnonzero(np.isfinite(ratio) & (ratio > 0))
    if not len(known):
        return []
    low, high = (int(known[at]) for at in (np.argmin(ratio[known]), np.argmax(ratio[known])))
    typical = float(np.median(ratio[known]))
    if len(known) == 1:
        return [f"The next update would change the parameters of block {low} by {percent(typical)} of their size."]
    return [
        f"The next update would change the parameters of a typical block (median) by {percent(typical)} of their "
        f"size; from {percent(ratio[low])} in block {low} to {percent(ratio[high])} in block {high}."
    ]


def _dead(profile: DepthProfile) -> list[str]:
    worst = int(np.nanargmax(profile.dead_units)) if np.isfinite(profile.dead_units).any() else 0
    if not profile.dead_units[worst] > 0:
        return ["No channel is dead on this batch."]
    return [
        f"In block {worst}, {percent(profile.dead_units[worst])} of the channels are dead on this batch; nowhere more."
    ]
