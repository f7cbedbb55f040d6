"""``resnet-jax bench data``: examples a second of input pipelines, ours and others', in turns."""

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
    """imagenet: decode, random resized crop of 224, flip, batch. cifar (32 x 32 RGB), mnist (28 x 28 grey): decode and
    batch."""
    images: Path | None = None
    """A folder with one folder of images a class (default: samples of the kind, made for it)."""
    records: bool = False
    """Put the images into one file first: an ArrayRecord for us, a TFRecord of the same bytes for TensorFlow."""
    batch: int = 32
    """Examples of a batch."""
    threads: int = 2
    """Threads of a side, or worker processes."""
    rounds: int = 5
    """Turns of every side; the figures are medians over them."""
    seconds: float = 2.0
    """Length of a turn."""
    sides: tuple[str, ...] = ()
    """Of ours: threads, workers, bare (OpenCV alone), grain, streamed, memory, resident (default: those that fit)."""
    against_python: Path | None = None
    """An interpreter that has torch and torchvision: also measure DataLoader."""
    tensorflow_python: Path | None = None
    """An interpreter that has tensorflow: also measure tf.data."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Measure, and return the figures."""
    about = "Examples a second of input pipelines, each in a process of its own, in turns."
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
