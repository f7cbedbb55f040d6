"""One data set as a folder of images, as an ArrayRecord copy and as a TFDS data set: same pixels, same accuracy.

Claim: ``data convert`` and ``data prepare --from`` change nothing. All 60,000 images of CIFAR-10 (as JPEG files) decode
to the same pixels in the same order from all three, and a network with the same weights classifies as many test images
correctly.

    python experiments/data_copies.py --images CIFAR10_FOLDER --weights resnet20-12fca82f.th --json copies.json

CIFAR10_FOLDER contains ``train/CLASS/NNNN.jpg`` and ``test/CLASS/NNNN.jpg``; the weights are akamaster's ResNet-20. It
prints a line for each format: SHA-256 of all pixels and of all labels in order, correct test images, bytes on disk,
seconds to write it and to open it for the first and the second time, and microseconds to read and decode an image in
one thread. Hardware: any CPU; a few minutes. No TensorFlow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from resnet_jax.data import load_dataset
from resnet_jax.data.convert import convert
from resnet_jax.data.prepare import prepare
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.evaluate import evaluate_run, load_run
from resnet_jax.runs.foreign import import_weights


def copies(images: Path, work: Path) -> dict[str, dict[str, Any]]:
    """Write the copies; return each way's source, seconds to write and bytes on disk."""
    source = f"folder:{images}"
    began = time.perf_counter()
    converted = convert(source, work / "cifar10.array_record")
    seconds = {"array_record": time.perf_counter() - began}
    began = time.perf_counter()
    prepared = prepare("cifar10", work / "tfds", source=source)
    seconds["tfds"] = time.perf_counter() - began
    files = [file for file in images.rglob("*") if file.is_file()]
    return {
        "folder": {"source": source, "bytes": sum(file.stat().st_size for file in files), "files": len(files)},
        "array_record": {
            "source": f"array_record:{converted.out}",
            "bytes": converted.size,
            "seconds_to_write": seconds["array_record"],
        },
        "tfds": {"source": prepared.opens_as, "bytes": prepared.size, "seconds_to_write": seconds["tfds"]},
    }


def digests(source: str) -> dict[str, Any]:
    """Open a source twice and read all of it; return digests of its pixels and labels in order, and times."""
    began = time.perf_counter()
    load_dataset(source)
    again = time.perf_counter()
    dataset = load_dataset(source)
    opened = [again - began, time.perf_counter() - again]
    pixels, labels = hashlib.sha256(), hashlib.sha256()
    began, count = time.perf_counter(), 0
    for split in ("train", "test"):
        records = dataset.splits[split]
        for index in range(len(records)):
            pixels.update(records[index]["image"].tobytes())
        labels.update(records.labels.tobytes())
        count += len(records)
    seconds = time.perf_counter() - began
    return {
        "examples": {split: len(records) for split, records in dataset.splits.items()},
        "class_names": list(dataset.class_names),
        "pixels": pixels.hexdigest(),
        "labels": labels.hexdigest(),
        "seconds_to_open": opened,
        "microseconds_an_image": 1e6 * seconds / count,
    }


def compare(images: Path, weights: Path, work: Path) -> dict[str, Any]:
    """Write the copies, and compare pixels, labels and accuracy.

    Raises:
        AssertionError: they are not the same.
    """
    import_weights(weights, ModelSpec("resnet20_cifar"), work / "net")
    trained, ways = load_run(work / "net"), copies(images, work)
    for name, way in ways.items():
        way.update(digests(way["source"]))
        result = evaluate_run(trained, "test", source=way["source"])
        way.update(correct=result.correct, of=result.examples)
        print(
            f"{name:<13} pixels {way['pixels'][:16]} labels {way['labels'][:16]} correct {way['correct']:,} of "
            f"{way['of']:,}; {way['bytes'] / 1e6:.1f} MB, written in {way.get('seconds_to_write', 0.0):.1f} s, opened "
            f"in {way['seconds_to_open'][0]:.2f} and {way['seconds_to_open'][1]:.2f} s, "
            f"{way['microseconds_an_image']:.0f} us an image",
            flush=True,
        )
    for key in ("examples", "class_names", "pixels", "labels", "correct", "of"):
        found = [way[key] for way in ways.values()]
        assert found == [found[0]] * len(found), f"{key} differs: {found}"
    return ways


def main() -> None:
    """Parse the command line, compare, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ.setdefault("RESNET_JAX_CACHE", f"{work}/cache")  # no labels from an earlier time
        ways = compare(options.images, options.weights, Path(work))
    places = {"folder": "folder:CIFAR10_FOLDER", "array_record": "array_record:COPY", "tfds": "tfds:cifar10"}
    for name, way in ways.items():
        way["source"] = places[name]
    result = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version(), "ways": ways}
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
