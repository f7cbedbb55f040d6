"""``resnet-jax quantize RUN_DIR --out FILE.onnx``: quantize a network to 8 bits, and measure the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.deploy.quantize.options import KINDS, Quantization
from resnet_jax.errors import UsageError
from resnet_jax.fields import AtLeast1


@dataclasses.dataclass(frozen=True)
class QuantizeOptions:
    """Options of ``quantize``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, or a name from `weights list`."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.onnx")] = None
    """The file to write. With several kinds, each file has its kind in its name."""
    how: Annotated[Quantization, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Quantization)
    """How to quantize."""
    train_source: str | None = None
    """Training images to calibrate on, for an imported run that has none: folder:PATH, npz:PATH or tfds:NAME (default:
    the run's own)."""
    test_source: str | None = None
    """Images to measure the accuracy on, in the same form (default: the run's own test split)."""
    measure: bool = True
    """Measure accuracy and throughput of every file in ONNX Runtime, and in OpenVINO if it is installed, next to the
    float network's."""
    pixels: bool = False
    """Make the file take pixels as they are stored, (N, height, width, channels), and normalize them itself."""
    threads: AtLeast1 | None = None
    """Threads of the runtimes during the measurement (default: the runtime's own choice)."""
    batch: AtLeast1 = 16
    """Batch size of the timed calls."""
    checkpoint: str | None = None
    """The checkpoint to use: last or best (default: the one the run tested)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Write the files, and return their accuracy and speed."""
    options = parse(
        QuantizeOptions, argv, verb="quantize", about="Quantize a network to 8 bits as ONNX, and measure it."
    )
    if options.out is None:
        raise UsageError("say where to write: resnet-jax quantize RUN_DIR --out FILE.onnx")
    path = existing_run(options.run_dir)
    from resnet_jax.deploy.quantize.convert import measure_files, quantize_run
    from resnet_jax.deploy.quantize.images import require_apart, training_images
    from resnet_jax.deploy.quantize.measure import Processor, batches_of
    from resnet_jax.report.text import say
    from resnet_jax.runs.chosen import choose_images
    from resnet_jax.runs.trained import load_run
    from resnet_jax.tasks.task import format_metric

    console = console_for(options.common)
    trained = load_run(path, options.checkpoint)
    tested = None
    if options.measure and (options.test_source is not None or trained.was_trained_here):
        tested = choose_images(trained, "test", options.test_source)
        if {"static", "qat"} & {*options.how.kind}:
            require_apart(trained, training_images(trained, options.train_source), tested)
    files = quantize_run(
        trained,
        options.out,
        options.how,
        train_source=options.train_source,
        pixels=options.pixels,
        say=lambda line: say(console, line),
    )
    for file in files:
        about = f", {file.operations} convolutions and linear layers in 8 bits" if file.operations else ""
        say(console, f"{file.path}: {KINDS[file.kind]}{about}")
        if file.left:
            said = ", ".join(f"{count} {name}" for name, count in sorted(file.left.items()))
            say(console, f"  left in float: {said}")
    result: dict[str, Any] = {"files": [{**dataclasses.asdict(file), "path": str(file.path)} for file in files]}
    if tested is None:
        if options.measure:
            say(
                console,
                f"{trained.path} has no test images of its own: nothing was measured; name some with test-source",
            )
        return result
    processor = Processor.here()
    plain, rows = measure_files(
        trained, files, batches_of(trained, tested), pixels=options.pixels, threads=options.threads, batch=options.batch
    )
    sizes = {file.kind: file.bytes for file in (plain, *files)}
    headline = trained.task.headline
    for line in tested.said:
        say(console, line)
    say(
        console, f"over {tested.what}; {processor.name}, {' '.join(processor.instructions) or 'instructions not known'}"
    )
    say(console, f"{'':12} {'runtime':12} {'bytes':>11} {headline:>20} {'same':>7} {'images/s':>9} {'by float':>8}")
    for row in rows:
        counted = "" if row.correct is None else f" ({row.correct:,} of {row.examples:,})"
        metric = format_metric(headline, row.metric) + counted
        same = "" if row.same is None else f"{row.same:.1%}"
        say(
            console,
            f"{row.kind:12} {row.runtime:12} {sizes[row.kind]:11,} {metric:>20} {same:>7} "
            f"{row.images_per_second:9,.0f} {row.times_float:7.2f}x",
        )
    if processor.saturates and not options.how.reduce_range and {"static", "qat"} & {*options.how.kind}:
        say(console, "8-bit products can saturate on this processor (no VNNI); where accuracy is lost try reduce-range")
    return {
        **result,
        "headline": headline,
        "float_bytes": plain.bytes,
        "processor": dataclasses.asdict(processor),
        "measured": [dataclasses.asdict(row) for row in rows],
    }
