r"""Two pretrained CIFAR networks in 8 bits: accuracy in the runtimes, file sizes, and speed relative to float32.

    uv run python experiments/int8.py --data /path/to/shared/data --train folder:/path/to/cifar10/train

The networks are calibrated on 1,024 JPEG training images with several seeds and tested on the 1,017 pixel-exact test
images, in ONNX Runtime and OpenVINO on one thread, with all files taking turns and batches of 1 and 16. It takes about
6 minutes on an idle machine with 2 cores, and about 10 more with ``--qat`` (400 updates; ``qat.py`` compares that with
the same training in float). Writes results/int8/results.json; existing results are not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, get_args

from resnet_jax.deploy.quantize.convert import measure_files, quantize_run
from resnet_jax.deploy.quantize.measure import Processor, batches_of
from resnet_jax.deploy.quantize.options import Kind, Quantization
from resnet_jax.deploy.quantize.ranges import Method
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.chosen import choose_images
from resnet_jax.runs.foreign import import_weights
from resnet_jax.runs.trained import TrainedRun, load_run
from resnet_jax.runtime.files import write_whole

RESULT = Path(__file__).parent / "results" / "int8" / "results.json"
FILES = {"resnet20": "resnet20-12fca82f.th", "resnet44": "resnet44-014dd654.th"}


def rows_of(trained: TrainedRun, options: argparse.Namespace, seed: int, kinds: tuple[Kind, ...], batch: int) -> Any:
    """Return what the files of a seed are worth."""
    tested = choose_images(trained, "test", f"npz:{options.data / 'cifar10-test-lossless-1017.npz'}")
    with tempfile.TemporaryDirectory() as folder:
        how = Quantization(kinds, seed=seed, steps=options.steps, method=options.method)
        files = quantize_run(trained, Path(folder) / "net.onnx", how, train_source=options.train)
        plain, rows = measure_files(trained, files, batches_of(trained, tested), threads=1, batch=batch)
    return {
        "bytes": {file.kind: file.bytes for file in (plain, *files)},
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def main() -> None:
    """Measure what is missing and print a line for each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", choices=get_args(Method), default=Quantization.method)
    parser.add_argument("--qat", action="store_true")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    found["processor"] = dataclasses.asdict(Processor.here())
    print(found["processor"])
    wanted: list[tuple[int, tuple[Kind, ...], int]] = [(0, ("static", "weights", "bf16"), 16), (0, ("static",), 1)]
    wanted.extend((seed, ("static",), 16) for seed in range(1, options.seeds))
    if options.qat:
        wanted.append((0, ("qat",), 16))
    with tempfile.TemporaryDirectory() as folder:
        for name, file in FILES.items():
            run = Path(folder) / name
            import_weights(options.data / "pytorch-cifar-resnets" / file, ModelSpec(f"{name}_cifar"), run)
            trained = load_run(run)
            for seed, kinds, batch in wanted:
                key = f"{name} seed {seed} {'+'.join(kinds)} batch {batch}"
                key += "" if options.method == "minmax" else f" {options.method}"  # keys without one are of minmax
                if key not in found:
                    found[key] = rows_of(trained, options, seed, kinds, batch)
                    RESULT.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(RESULT, json.dumps(found, indent=1) + "\n")
                for row in found[key]["rows"]:
                    print(
                        f"{key}: {row['kind']:8} {row['runtime']:12} {row['correct']} of {row['examples']}, "
                        f"{row['images_per_second']:.0f} images/s, {row['times_float']:.2f}x"
                    )


if __name__ == "__main__":
    main()
