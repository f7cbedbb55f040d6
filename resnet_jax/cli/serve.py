"""``resnet-jax serve RUN_DIR|FILE``: a server that names what is in images, and a page for people."""

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
    """A run directory, a name that `weights list` lists, or a file that `resnet-jax export` wrote."""
    port: int = 8000
    """Where to listen; 0: a free one, which is printed."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all of this machine's."""
    token_file: Path | None = None
    """File with a token that requests must have: Authorization: Bearer TOKEN (default: the environment variable
    RESNET_JAX_SERVE_TOKEN, if there is one)."""
    heatmap: bool = True
    """Answer /explain: pictures of where a class is seen."""
    drift: bool = True
    """Compare the images with the run's reference (drift.npz, which `resnet-jax drift` writes), if it has one."""
    drift_window: AtLeast1 = 256
    """Images that are compared at a time, 16 or more."""
    access_log: Literal["json", "none"] = "json"
    """A line of JSON for each request, on standard error; or none."""
    checkpoint: str | None = None
    """last or best (default: the one the run tested)."""
    batching: Batching = dataclasses.field(default_factory=Batching)
    """How images become batches."""
    limits: Limits = dataclasses.field(default_factory=Limits)
    """What is refused, and when."""
    data: ImagePreparation = dataclasses.field(default_factory=ImagePreparation)
    """How the images are prepared, where that is not the run's own way."""
    class_names: Path | None = None
    """File with the names of the network's outputs, one a line in their order (default: what the run knows)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> Any:
    """Serve until a signal."""
    options = parse(ServeOptions, argv, verb="serve", about="Serve a network: a page for people, HTTP for programs.")
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
        say(console, f"No reference of images: `resnet-jax drift {options.run}` makes one, and drift is watched then")
    heatmap = heatmap_of(engine) if options.heatmap else None
    service = Service(engine, options.batching, limits, metrics, heatmap=heatmap, watch=watch)
    serve(service, bound, host=options.host, token=token, log=log, say=lambda text: say(console, text))
