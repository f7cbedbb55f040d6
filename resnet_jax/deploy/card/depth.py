"""The section of a card on signals and gradients through depth: the profile of ``resnet-jax depth profile``."""

from __future__ import annotations

from typing import Any

import numpy as np

from resnet_jax.depth.result import DepthProfile
from resnet_jax.errors import ResNetJaxError
from resnet_jax.models.towers import TwoTowers
from resnet_jax.report import depth_figures as draw
from resnet_jax.report.depth_axes import DepthAxis
from resnet_jax.report.depth_page import Section
from resnet_jax.report.depth_report import summarize
from resnet_jax.runs.analysis import AnalysisConfig, profile_target, run_target
from resnet_jax.runs.images import OtherImages
from resnet_jax.runs.trained import TrainedRun

IMAGES = 32


def measure_depth(trained: TrainedRun, source: str | None) -> DepthProfile | str:
    """Return the profile of a run on some of its training images, or on ``source``; otherwise why there is none."""
    if isinstance(trained.model, TwoTowers):
        return "it is of networks of one input, and this one has two towers"
    found = "there are no images to measure it with; name a source"
    for place in dict.fromkeys((None, source) if trained.was_trained_here else (source,) if source else ()):
        for batch in (IMAGES, 8, 2):  # with too few images, a smaller batch
            config = AnalysisConfig(batch=batch, data=OtherImages(source=place))
            try:
                return profile_target(run_target(trained.path, config))
            except ResNetJaxError as error:
                found = str(error).replace(str(trained.path), "the run")
                if not found.startswith("batch "):
                    break
    return found


def depth_section(found: DepthProfile | str | None) -> Section | None:
    """Return the section of a page; None if it was not requested."""
    title = "Signal and gradient through depth"
    if found is None:
        return None
    if isinstance(found, str):
        return Section(title, f"Not measured: {found}.")
    depth = DepthAxis(found.stage)
    said = found.about["facts"]["images"].split("; ")
    text = f"One forward and one backward pass; inputs: {said[0]}, {said[-1]} each."
    figures = [
        draw.gradient_figure(depth, found.grad_norm, found.branch_grad_norm, found.skip_grad_norm),
        draw.activation_figure(depth, found.act_var, found.act_mean),
        draw.branch_figure(depth, found.skip_norm, found.branch_norm),
    ]
    return Section(title, text, figures, points=summarize(found))


def depth_json(found: DepthProfile | str | None) -> dict[str, Any] | str | None:
    """Return the profile as plain values: names of the blocks, and the arrays of the figures."""
    if not isinstance(found, DepthProfile):
        return found
    columns = ("grad_norm", "branch_grad_norm", "skip_grad_norm", "act_var", "act_mean", "skip_norm", "branch_norm")
    arrays = {name: [_plain(value) for value in getattr(found, name).tolist()] for name in columns}
    return {"images": found.about["facts"]["images"], "blocks": list(found.names), **arrays}


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
