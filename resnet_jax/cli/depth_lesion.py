"""``resnet-jax depth lesion TARGET``: measure what a network loses without its blocks, and follow gradient paths."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Annotated, Any

import tyro

from resnet_jax.cli.depth_options import (
    SHORT,
    TargetOptions,
    draw,
    find,
    make_directory,
    outcome,
    output_directory,
    require_named,
    save,
)
from resnet_jax.cli.options import console_for, parse
from resnet_jax.errors import UsageError
from resnet_jax.report.text import say, working
from resnet_jax.runs.analysis_options import AnalysisConfig


@dataclasses.dataclass(frozen=True)
class LesionOptions(TargetOptions):
    """Options of ``depth lesion``."""

    config: Annotated[AnalysisConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=functools.partial(AnalysisConfig, batch=512)
    )
    draws: int = 8
    """Random draws of each kind: sets of blocks per number of removed blocks, orders per number of exchanges, and paths
    per length."""
    at_once: int = 128
    """Images evaluated at a time."""


def run(argv: list[str]) -> dict[str, Any]:
    """Run the measurement, write arrays, figures and a report, and return the figures."""
    began = time.perf_counter()
    about = (
        "Remove blocks from a network, swap them, and follow the gradient along single paths (Veit et al. 2016). Batch "
        "norm uses running averages; the images are the run's own (--data.source for an imported network)."
    )
    options = parse(LesionOptions, argv, verb="depth lesion", about=about, short=SHORT)
    require_named(options)
    if options.draws < 1 or options.at_once < 1:
        raise UsageError(f"--draws and --at-once must be 1 or more, got {options.draws} and {options.at_once}")
    from resnet_jax.depth.arrays import save_arrays
    from resnet_jax.depth.lesion import delete_blocks, permute_blocks
    from resnet_jax.depth.paths import path_lengths
    from resnet_jax.depth.profiling import describe_normalization
    from resnet_jax.depth.targets import rows
    from resnet_jax.report.lesion_page import FIGURES, write_lesion_report
    from resnet_jax.runs.outcome import finite

    files = ("deletions.npz", "permutations.npz", "paths.npz", *FIGURES)
    out = output_directory(options, files, "lesion")
    console = console_for(options.common)
    with working(console, f"{options.target}: without each of its blocks"):
        target = find(options)
        make_directory(out)
        measured = (target.model, target.variables, target.images, target.labels)
        blocks = target.model.config.num_blocks
        counts = sorted({max(1, round(blocks * share)) for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)})
        how: dict[str, Any] = {"draws": options.draws, "batch_size": options.at_once, "seed": options.config.seed}
        how |= target.judged
        deletions = delete_blocks(*measured, counts=counts, **how)
        permutations = paths = None
        if any(size > 2 for size in target.model.config.stage_sizes):
            permutations = permute_blocks(*measured, swaps=(1, 2, 4, 8, 16), **how)
        if target.model.config.shortcut != "none":
            first = rows(target.images, 0, few := min(options.at_once, len(target.images))), rows(target.labels, 0, few)
            of = {"draws": options.draws, "seed": options.config.seed, "loss": target.judged["loss"]}
            paths = path_lengths(*measured[:2], *first, **of)
    for name, result in (("deletions", deletions), ("permutations", permutations), ("paths", paths)):
        if result is not None:
            save(functools.partial(save_arrays, result), out / f"{name}.npz")
    say(console, f"{blocks} blocks; arrays {out}")
    with working(console, "drawing"):
        facts = {name: text for name, text in target.facts.items() if name != "updates"}
        facts["normalization"] = describe_normalization(target.model, target.variables, train=False)
        title = f"Lesions of {target.name}"
        draw(console, lambda: write_lesion_report(deletions, permutations, paths, out, title=title, facts=facts))
    return {**outcome(blocks, began, out), "accuracy": finite(deletions.whole_accuracy), "loss": deletions.whole_loss}
