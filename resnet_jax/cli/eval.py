"""``resnet-jax eval RUN_DIR``: compute accuracy and other metrics of a run on one of its splits, or on other images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.report.text import say
from resnet_jax.runs.images import EvaluatedImages, prepared


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Options of ``eval``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, or a name from `weights list`."""
    split: str = "test"
    """The split: train, val or test, as the run divided its data. With --data.source, a split of that source, or
    all."""
    checkpoint: str | None = None
    """The checkpoint to use: last or best (default: the one the run tested)."""
    data: EvaluatedImages = dataclasses.field(default_factory=EvaluatedImages)
    """Other images, or a different preparation of them."""
    class_names: Path | None = None
    """A file with the names of the network's outputs, one per line in output order. The classes of --data.source are
    matched by them (default: the names stored in the run)."""
    reestimate: int | None = None
    """Recompute the batch statistics first, on this many batches of the run's training images without augmentation. The
    run directory is not changed."""
    views: Literal["none", "flip", "flip_shift", "ten_crop", "multi_scale", "sliding"] = "none"
    """Test-time augmentation: average over several views of each image. flip: the image and its mirror image.
    flip_shift: both of these, also shifted by one pixel each way, which count half in all. ten_crop: the corners and
    center of a version enlarged by 1 / 0.875, and their mirror images. For segmentation: flip, multi_scale (0.75, 1 and
    1.25 times the size, also mirrored) and sliding (windows of half the side). Probabilities are averaged, or values
    for regression."""
    logits: Path | None = None
    """Also save the network's outputs as a .npy file, in the order of the images."""
    out: Path | None = None
    """For detection: also write the detections to this file, as JSON in COCO format, in pixels of the stored images."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Evaluate the run and return the figures."""
    options = parse(EvalOptions, argv, verb="eval", about="Evaluate a run. Every image counts exactly once.")
    path = existing_run(options.run_dir)
    from resnet_jax.report.coco_json import write_coco
    from resnet_jax.runs.chosen import describe_moved, own_or_other
    from resnet_jax.runs.evaluate import evaluate_run, load_run, reestimate_run, with_moved_data
    from resnet_jax.runs.outcome import finite, per_class_of, said_metric
    from resnet_jax.runtime.processes import is_main

    data = options.data
    trained, source, moved = load_run(path, options.checkpoint), data.source, ()
    if data.moved_to is not None:
        trained = with_moved_data(trained, data.moved_to)
        moved = describe_moved(trained)
    elif options.split != "all":
        trained, source = own_or_other(trained, source)
    trained = prepared(trained, data, options.class_names)
    if options.reestimate is not None:
        trained = reestimate_run(trained, options.reestimate, source=source)
    kept = options.logits is not None, options.out is not None
    result = evaluate_run(trained, options.split, source=source, logits=kept[0], views=options.views, coco=kept[1])
    console = console_for(options.common)
    task = trained.task
    headline = said_metric(task.headline, result.metrics[task.headline])
    correct = {"correct": result.correct} if "correct" in result.sums else {}
    headline += f" ({result.correct} of {result.examples})" if correct else f" ({result.examples} images)"
    accuracy = f"{result.split} {headline}" if result.own else f"{headline} over {result.what}"
    said = (*moved, *result.said, *result.notes)
    others = ", ".join(said_metric(name, value) for name, value in result.metrics.items() if name != task.headline)
    per_class = per_class_of(result, trained.card.class_names) if task.kind == "segmentation" else {}
    ious = ", ".join(f"{name} {value:.1%}" for name, value in per_class.get("iou", {}).items() if value is not None)
    for line in (
        *said,
        *([f"iou of {ious}"] if ious else []),
        *([others] if others else []),
        f"{accuracy}, loss {result.loss:.4f}, state after step {trained.step:,}",
    ):
        say(console, line)
    if result.logits is not None and is_main():  # after the result, which a full disk must not take along
        save_array(options.logits, result.logits)
    if result.coco is not None and options.out is not None and is_main():
        write_coco(options.out, result.coco)
    return {
        task.headline: finite(result.metrics[task.headline]),
        **correct,
        **({"per_class": per_class} if per_class else {}),
        "task": task.kind,
        "metrics": {name: finite(value) for name, value in result.metrics.items()},
        "examples": result.examples,
        "loss": result.loss,
        "split": result.split,
        "step": trained.step,
        "images": result.what,
        "source": result.place,
        "own_division": result.own,
        "image_shape": list(trained.card.image_shape),
        "classes": result.classes,
        "views": options.views,
        "outputs": trained.model.config.num_classes,
        "said": list(said),
        "skipped": [dataclasses.asdict(entry) for entry in result.skipped],
    }


def save_array(path: Path | None, array: Any) -> None:
    """Write a .npy file, or an .npz file under the same name for named outputs such as those of two towers.

    Raises:
        RunError: if it cannot be written.
    """
    import numpy as np

    from resnet_jax.errors import RunError

    assert path is not None
    try:
        with path.open("wb") as file:
            if isinstance(array, Mapping):
                np.savez(file, **array)
            else:
                np.save(file, array)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
