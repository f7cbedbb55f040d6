"""``resnet-jax depth jacobian TARGET``: estimate singular values of the Jacobian of every block and of the network."""

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
from resnet_jax.report.text import say, working
from resnet_jax.runs.analysis_options import AnalysisConfig


@dataclasses.dataclass(frozen=True)
class JacobianOptions(TargetOptions):
    """Options of ``depth jacobian``."""

    config: Annotated[AnalysisConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=functools.partial(AnalysisConfig, batch=2)  # all images together are one operator
    )
    iterations: int = 32
    """Products with each block's Jacobian and its transpose, per probe."""
    probes: int = 1
    """Number of random starting vectors."""
    to_last: bool = False
    """Also measure from every block to the last one. The time grows with the square of the depth."""
    hessian: bool = False
    """Also compute the largest eigenvalue of the loss's Hessian in each block's parameters. This takes many gradients
    per block."""


def run(argv: list[str]) -> dict[str, Any]:
    """Run the measurement, write arrays, figures and a report, and return the figures."""
    began = time.perf_counter()
    about = "Measure how a network stretches small changes: singular values of the Jacobians of blocks and network."
    options = parse(JacobianOptions, argv, verb="depth jacobian", about=about, short=SHORT)
    require_named(options)
    from resnet_jax.depth.hessian import hessian_eigenvalues
    from resnet_jax.depth.jacobian import jacobians
    from resnet_jax.report.jacobian_report import FIGURES, write_jacobian_report

    out = output_directory(options, ("jacobian.npz", "hessian.npz", *FIGURES), "jacobian")
    console = console_for(options.common)
    with working(console, f"{options.target}: one block after the other"):
        target = find(options)
        make_directory(out)
        found = jacobians(
            target.model,
            target.variables,
            target.images,
            train=target.train,
            iterations=options.iterations,
            probes=options.probes,
            seed=options.config.seed,
            to_last=options.to_last,
        )
    save(found.save, out / "jacobian.npz")
    hessian = None
    if options.hessian:
        with working(console, f"{options.target}: curvature, one block after the other"):
            hessian = hessian_eigenvalues(
                target.model,
                target.variables,
                target.images,
                target.labels,
                loss=target.loss,
                train=target.train,
                iterations=options.iterations,
                seed=options.config.seed,
            )
            save(hessian.save, out / "hessian.npz")
    say(console, f"{len(found.names)} blocks; arrays {out}")
    with working(console, "drawing"):
        kept = {name: text for name, text in target.facts.items() if name != "updates"}
        facts = {
            **kept,
            "Golub-Kahan": f"{options.iterations} iterations, probes: {options.probes}",
        }
        title = f"Jacobians of {target.name}"
        draw(console, lambda: write_jacobian_report(found, out, title=title, facts=facts, hessian=hessian))
    return outcome(len(found.names), began, out)
