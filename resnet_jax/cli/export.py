"""``resnet-jax export RUN_DIR --format onnx|jax|saved|safetensors --out FILE``: export a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.deploy.export_options import ExportConfig
from resnet_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of ``export``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, or a name from `weights list`."""
    out: Path | None = None
    """The file to write. An existing file is replaced only once the new one has passed its check."""
    checkpoint: str | None = None
    """The checkpoint to use: last or best (default: the one the run tested)."""
    how: Annotated[ExportConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ExportConfig)
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Write the file and return a description of it."""
    options = parse(ExportOptions, argv, verb="export", about="Export a network for another program, and check it.")
    if options.out is None:
        raise UsageError("say where to write: resnet-jax export RUN_DIR --format onnx --out FILE")
    path = existing_run(options.run_dir)
    from resnet_jax.deploy.export import export_run
    from resnet_jax.report.text import say
    from resnet_jax.runs.trained import load_run

    exported = export_run(load_run(path, options.checkpoint), options.out, options.how)
    console = console_for(options.common)
    say(console, f"{exported.path}: {options.how.format}, {exported.size / 2**20:.2f} MiB")
    for runtime, apart in exported.differences.items():
        say(
            console,
            f"  {runtime:<12} gives the network's outputs; largest difference {apart:.1e} of the largest output",
        )
    for note in exported.notes:
        say(console, f"  {note}")
    return {
        "out": str(exported.path),
        "format": options.how.format,
        "bytes": exported.size,
        "differences": exported.differences,
        "classes": list(exported.metadata.classes),
        "digest": exported.metadata.digest,
        "notes": list(exported.notes),
    }
