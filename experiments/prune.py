r"""A pruned ResNet-20 and ResNet-18: accuracy after fine-tuning, and speed in three runtimes.

    uv run python experiments/prune.py --data /path/to/shared/data --cifar folder:/path/to/cifar10 \
        --resnet18 /path/to/run --out runs/prune

ResNet-20 is the pretrained one, fine-tuned on JPEG CIFAR-10; ResNet-18 is a run directory of ``cifar10-adam-10ep``.
Each is pruned in several ways. Every network, **including the full one**, is then trained in the same way, with the
original network as its teacher. They and the original are tested on the JPEG test images and on the 1,017 images
without JPEG losses. Then the networks of a family take turns: ours (as ``predict`` computes), ONNX Runtime and
OpenVINO, batches of 1 and 128, all cores. ``times_first`` are speeds relative to the first network of a family.

On two cores shared with other work, ``--families resnet20 --ways full half-without-1`` took 22 minutes, and
``--families resnet18 --ways half`` 35. The same command resumes an interrupted run; ``--steps 20`` is a short try of
everything. Writes results/prune/results.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from resnet_jax.deploy.artefact import load_artefact
from resnet_jax.deploy.export import export_run
from resnet_jax.deploy.prune.how import HowToPrune
from resnet_jax.deploy.prune.prune import prune
from resnet_jax.deploy.prune.speed import time_in_turns
from resnet_jax.deploy.prune.structured import FINETUNED, RECORD, finetune_pruned
from resnet_jax.deploy.quantize.measure import Processor, images_per_second
from resnet_jax.models.count import count
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.evaluate import evaluate_run
from resnet_jax.runs.foreign import import_weights
from resnet_jax.runs.trained import TrainedRun, load_run
from resnet_jax.runtime.files import write_whole

RESULT = Path(__file__).parent / "results" / "prune" / "results.json"
#: The network that all are made of, as it is.
ORIGINAL = "original"
FULL = HowToPrune(ratio=(0.0,))
#: A vector holds 16 channels: the first stage of ResNet-20 keeps its 16, the others half of their 32 and 64.
HALF = HowToPrune(ratio=(0.5,), multiple_of=16, min_channels=16)
WAYS: dict[str, dict[str, HowToPrune]] = {
    "resnet20": {
        "full": FULL,
        "half-less-2": dataclasses.replace(HALF, drop_blocks=2),
        "half-without-1": dataclasses.replace(HALF, without_blocks=(1,)),
        "half-without-1-2": dataclasses.replace(HALF, without_blocks=(1, 2)),
    },
    "resnet18": {"full": FULL, "half": HALF, "two-fifths": dataclasses.replace(HALF, ratio=(0.4,))},
}
LENGTH = {"start": "4 epochs", "resnet20": "5 epochs", "resnet18": "2 epochs"}


def start_of(name: str, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Return the run directory that a family is made of, and how its networks are trained."""
    if name == "resnet18":
        return options.resnet18, {"data.source": options.cifar, "optim.learning_rate": 3e-4}
    given = {
        "data.source": options.cifar, "data.augment": ["random_crop(4)", "flip"], "data.val_fraction": 0.02,
        "train.batch_size": 128, "optim.name": "sgd", "optim.learning_rate": 0.02, "optim.momentum": 0.9,
        "optim.weight_decay": 1e-4,
    }  # fmt: skip
    imported = options.out / name / "imported"
    if not imported.is_dir():
        file = options.data / "pytorch-cifar-resnets" / "resnet20-12fca82f.th"
        import_weights(file, ModelSpec("resnet20_cifar"), imported)
    return trained(imported, options.out / name / "start", FULL, given, options, LENGTH["start"]), given


def trained(run: Path, out: Path, how: HowToPrune, given: dict[str, Any], options: Any, length: str) -> Path:
    """Prune a run and train what is left; return the directory of the trained one. Goes on with what was stopped."""
    if not (out / RECORD).is_file():
        prune(run, out, how, given=given, tell=print)
    finetune_pruned(RunDirectory.existing(out), f"{options.steps} steps" if options.steps else length, given, Console())
    return out / FINETUNED


def row_of(network: TrainedRun, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return accuracy, counts and bytes of a network; its ONNX file is checked against it."""
    lossless, record = f"npz:{options.data / 'cifar10-test-lossless-1017.npz'}", file.parent / RECORD
    counts, exported = count(network.model, network.card.image_shape), export_run(network, file)
    found = {"jpeg": evaluate_run(network).correct, "lossless": evaluate_run(network, source=lossless).correct}
    return found | {
        "params": counts.params, "macs": counts.macs, "onnx_bytes": exported.size, "checked": exported.differences,
        "blocks_gone": json.loads(record.read_text())["blocks"] if record.is_file() else [],
    }  # fmt: skip


def speeds_of(networks: list[TrainedRun], files: list[Path]) -> dict[str, list[float]]:
    """Return images per second of all networks, which take turns, by runtime and batch."""
    found, shape = {}, networks[0].card.image_shape
    for batch in (1, 128):
        times = time_in_turns([(each.model, each.variables) for each in networks], shape, batch=batch)
        found[f"ours, batch {batch}"] = [batch / min(each.rounds) for each in times]
        images = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)
        for runtime in ("onnxruntime", "openvino"):
            artefacts = [load_artefact(file, runtime) for file in files]
            found[f"{runtime}, batch {batch}"] = images_per_second(artefacts, images, rounds=9, seconds=0.4)
    return found


def family(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing of a family, and measure it."""
    start, given = start_of(name, options)
    given = given | {"task.distill.teacher": str(start.resolve())}
    ways = {way: how for way, how in WAYS[name].items() if way in (options.ways or WAYS[name])}
    folders = {way: options.out / name / way for way in ways}
    for way, how in ways.items():
        trained(start, folders[way], how, given, options, LENGTH[name])
    original = load_run(start)
    moved = with_values(original.config, {"data.source": options.cifar})
    networks = {ORIGINAL: dataclasses.replace(original, config=moved)}
    networks |= {way: load_run(folder / FINETUNED) for way, folder in folders.items()}
    files = {way: options.out / name / way / "net.onnx" for way in networks}
    files[ORIGINAL].parent.mkdir(exist_ok=True)
    rows = {way: row_of(network, files[way], options) for way, network in networks.items()}
    for column, speeds in speeds_of(list(networks.values()), list(files.values())).items():
        for way, speed in zip(rows, speeds, strict=True):
            rows[way].setdefault("images_per_second", {})[column] = speed
            rows[way].setdefault("times_first", {})[column] = speed / speeds[0]
    return rows


def main() -> None:
    """Train and measure what is missing, and print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--resnet18", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--ways", nargs="+", help="these beside the original network, such as full half-without-1")
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    result = options.out / "results.json" if options.steps else RESULT
    found: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
    for name in options.families:
        found[name] = family(name, options) | {"processor": dataclasses.asdict(Processor.here())}
        result.parent.mkdir(parents=True, exist_ok=True)
        write_whole(result, json.dumps(found, indent=1) + "\n")
        for way in (way for way in (ORIGINAL, *WAYS[name]) if way in found[name]):
            row = found[name][way]
            speeds = ", ".join(f"{column} {times:.2f}x" for column, times in row["times_first"].items())
            print(f"{name} {way}: {row['jpeg']} and {row['lossless']} right, {row['macs']:,} multiply-adds; {speeds}")


if __name__ == "__main__":
    main()
