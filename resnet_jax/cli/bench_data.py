"""``resnet-jax bench data``: compare the throughput of our input pipelines with others, in alternating turns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.cli.trouble import platform_told
from resnet_jax.report.text import say, working


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of ``bench data``."""

    kind: Literal["imagenet", "cifar", "mnist"] = "imagenet"
    """The workload. imagenet: decode, random resized crop to 224, flip and batch. cifar (32 x 32 RGB) and mnist (28 x
    28 gray): decode and batch."""
    images: Path | None = None
    """A folder with one subfolder of images per class (default: generated samples of the chosen kind)."""
    records: bool = False
    """First pack the images into one file: an ArrayRecord for our pipelines, a TFRecord with the same bytes for
    TensorFlow."""
    batch: int = 32
    """Examples per batch."""
    threads: int = 2
    """Threads, or worker processes, of each pipeline."""
    rounds: int = 5
    """Number of turns each pipeline gets; the reported figures are medians over them."""
    seconds: float = 2.0
    """Length of a turn in seconds."""
    sides: tuple[str, ...] = ()
    """Which of our pipelines to measure: threads, workers, bare (OpenCV alone), grain, streamed, memory, resident
    (default: those that apply)."""
    against_python: Path | None = None
    """A Python interpreter that has torch and torchvision, to measure DataLoader too."""
    tensorflow_python: Path | None = None
    """A Python interpreter that has tensorflow, to measure tf.data too."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Run the measurement and return the figures."""
    about = "Measure the throughput of input pipelines, each in its own process, in alternating turns."
    options = parse(DataOptions, argv, verb="bench data", about=about)
    from resnet_jax.bench.data_compare import DataWorkload, compare_data, data_table

    workload = DataWorkload(
        kind=options.kind,
        images=options.images,
        records=options.records,
        batch=options.batch,
        threads=options.threads,
        rounds=options.rounds,
        seconds=options.seconds,
        sides=options.sides,
        torch=options.against_python,
        tensorflow=options.tensorflow_python,
    )
    console = console_for(options.common)
    with platform_told(), working(console, "") as status:
        result = compare_data(workload, status.update)
    say(console, data_table(result))
    return result
