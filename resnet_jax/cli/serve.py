"""``resnet-jax serve RUN_DIR|FILE``: serve a network over HTTP, with a web page to try it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.named import run_directory
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.deploy.serve.options import Batching, Limits
from resnet_jax.fields import AtLeast1
from resnet_jax.runs.images import ImagePreparation


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """Options of ``serve``."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR|FILE")]
    """A run directory, a name from `weights list`, or a file written by `resnet-jax export`."""
    port: int = 8000
    """The port to listen on. 0 picks a free one and prints it."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for all addresses of this machine."""
    token_file: Path | None = None
    """A file with a token that requests must send as Authorization: Bearer TOKEN (default: the environment variable
    RESNET_JAX_SERVE_TOKEN, if set)."""
    heatmap: bool = True
    """Serve /explain, which returns heatmaps of where a class is seen."""
    drift: bool = True
    """Compare the images with the run's reference (drift.npz, written by `resnet-jax drift`), if it has one."""
    drift_window: AtLeast1 = 256
    """Images compared at a time, at least 16."""
    access_log: Literal["json", "none"] = "json"
    """Write one line of JSON per request to standard error, or none."""
    checkpoint: str | None = None
    """The checkpoint to use: last or best (default: the one the run tested)."""
    batching: Batching = dataclasses.field(default_factory=Batching)
    """How images are batched."""
    limits: Limits = dataclasses.field(default_factory=Limits)
    """What is rejected, and when."""
    data: ImagePreparation = dataclasses.field(default_factory=ImagePreparation)
    """How to prepare the images, if not as the run does."""
    class_names: Path | None = None
    """A file with the names of the network's outputs, one per line in output order (default: the names stored in the
    run)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> Any:
    """Serve until a signal arrives."""
    options = parse(ServeOptions, argv, verb="serve", about="Serve a network over HTTP, with a web page to try it.")
    from resnet_jax.deploy.drift_watch import reference_path
    from resnet_jax.deploy.serve.access import read_token
    from resnet_jax.deploy.serve.app import Service
    from resnet_jax.deploy.serve.engine import open_engine
    from resnet_jax.deploy.serve.guard import AccessLog
    from resnet_jax.deploy.serve.heatmap import heatmap_of
    from resnet_jax.deploy.serve.metrics import Metrics
    from resnet_jax.deploy.serve.process import allow_descriptors, bind, require_packages, serve
    from resnet_jax.deploy.serve.watch import Watch
    from resnet_jax.report.text import say

    require_packages()
    token = read_token(options.token_file)
    limits = dataclasses.replace(options.limits, connections=allow_descriptors(options.limits))
    bound = bind(options.host, options.port)
    console = console_for(options.common)
    run = run_directory(options.run)
    watched = options.drift and reference_path(run).exists()
    engine = open_engine(
        run, options.batching.sizes, checkpoint=options.checkpoint, data=options.data,
        class_names=options.class_names, watched=watched,
    )  # fmt: skip
    for line in engine.notes:
        say(console, line)
    metrics, log = Metrics(), AccessLog(sys.stderr if options.access_log == "json" else None)
    watch = Watch(engine, reference_path(run), options.drift_window, metrics, log) if watched else None
    if options.drift and watch is None:
        say(console, f"No reference images: `resnet-jax drift {options.run}` creates them, to monitor drift")
    heatmap = heatmap_of(engine) if options.heatmap else None
    service = Service(engine, options.batching, limits, metrics, heatmap=heatmap, watch=watch)
    serve(service, bound, host=options.host, token=token, log=log, say=lambda text: say(console, text))
