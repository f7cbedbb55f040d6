r"""Does quantization-aware training help? ResNet-20 in 8 bits, calibrated, trained for it, and trained alike in float.

    uv run python experiments/qat.py --data /path/to/shared/data --cifar folder:/path/to/cifar10 [--run R --name N]

It uses the pretrained network, or a run directory of CIFAR-10. Training on JPEG images changes a network that was
trained on the original images, with and without rounding, so compare ``qat`` with ``trained``, the same updates on the
same images in float, and with the calibrated file of that. Accuracy is that of every file in ONNX Runtime and OpenVINO,
on the 1,017 images without JPEG losses and on the 10,000 JPEG test images. It takes about 4 minutes on two idle cores;
writes results/int8/qat-NAME.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from resnet_jax.deploy.artefact import RuntimeChoice, load_artefact
from resnet_jax.deploy.quantize.calibrate import calibrate
from resnet_jax.deploy.quantize.convert import FloatNetwork
from resnet_jax.deploy.quantize.graph import find_sites
from resnet_jax.deploy.quantize.images import calibration_images, training_images
from resnet_jax.deploy.quantize.measure import Processor, batches_of, evaluate_artefact
from resnet_jax.deploy.quantize.options import Quantization
from resnet_jax.deploy.quantize.qdq import quantize_model
from resnet_jax.deploy.quantize.straight_through import RoundedResNet, rounded_network
from resnet_jax.deploy.quantize.training import train_rounded
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.chosen import choose_images
from resnet_jax.runs.foreign import import_weights
from resnet_jax.runs.trained import TrainedRun, load_run
from resnet_jax.runtime.files import write_whole

RESULTS = Path(__file__).parent / "results" / "int8"
RUNTIMES: tuple[RuntimeChoice, ...] = ("onnxruntime", "openvino")


def files_of(trained: TrainedRun, cifar: str, how: Quantization) -> dict[str, Any]:
    """Return the graphs that are compared, by name."""
    network = FloatNetwork.of(trained)
    chosen = training_images(trained, None if trained.was_trained_here else f"{cifar}/train")
    pixels = calibration_images(trained, chosen, how.calibration, how.seed).pixels
    batches = [network.inputs(pixels[start : start + 64]) for start in range(0, len(pixels), 64)]
    sites = find_sites(network.graph().graph)

    def ranges_of(graph: Any) -> Any:
        return calibrate(graph, sites.calibrated, batches, how.method)

    def eight_bits(graph: Any, ranges: Any) -> Any:
        return quantize_model(graph, ranges, sites=sites, most_weight=how.most_weight)

    def after_training(rounding: RoundedResNet, variables: Any) -> Any:
        return network.graph(train_rounded(trained, rounding, variables, chosen.records, how, print))

    plain = network.graph()
    ranges = ranges_of(plain)
    rounded, variables = rounded_network(network.model, network.variables, plain.graph, sites, ranges)
    unrounded = RoundedResNet(rounded.config)  # the same network with nothing rounded
    taught = after_training(unrounded, variables)
    return {
        "float": plain, "static": eight_bits(plain, ranges),
        "trained": taught, "trained, static": eight_bits(taught, ranges_of(taught)),
        "qat": eight_bits(after_training(rounded, variables), ranges),
    }  # fmt: skip


def main() -> None:
    """Make the files, measure them, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--name", default="resnet20")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    how = Quantization(("qat",), steps=options.steps, learning_rate=options.rate)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.run is None:
            file = options.data / "pytorch-cifar-resnets" / "resnet20-12fca82f.th"
            import_weights(file, ModelSpec("resnet20_cifar"), folder / "run")
        trained = load_run(options.run or folder / "run")
        tested = {
            "lossless": f"npz:{options.data / 'cifar10-test-lossless-1017.npz'}",
            "jpeg": None if trained.was_trained_here else f"{options.cifar}/test",
        }
        batches = {name: batches_of(trained, choose_images(trained, "test", place)) for name, place in tested.items()}
        found: dict[str, Any] = {}
        for kind, graph in files_of(trained, options.cifar, how).items():
            path = folder / "net.onnx"
            path.write_bytes(graph.SerializeToString())
            row: dict[str, Any] = {"bytes": path.stat().st_size}
            for runtime in RUNTIMES:
                artefact = load_artefact(path, runtime)
                row[runtime] = {
                    name: evaluate_artefact(artefact, trained, some).correct for name, some in batches.items()
                }
            found[kind] = row
            print(kind, row, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    said = {"steps": options.steps, "learning_rate": options.rate, "processor": dataclasses.asdict(Processor.here())}
    write_whole(RESULTS / f"qat-{options.name}.json", json.dumps({**said, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
