"""Quantize a run: from its network to 8-bit files, and the accuracy and speed of each in its runtime."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from resnet_jax.deploy.artefact import Artefact, RuntimeChoice, load_artefact
from resnet_jax.deploy.metadata import PREFIX, Metadata, Preprocessing, preprocessing_of
from resnet_jax.deploy.onnx.network import Input, write_network
from resnet_jax.deploy.packages import is_installed, package
from resnet_jax.deploy.quantize.calibrate import calibrate
from resnet_jax.deploy.quantize.compact import bfloat16_weights, int8_weights
from resnet_jax.deploy.quantize.graph import Sites, find_sites
from resnet_jax.deploy.quantize.images import Calibration, calibration_images, training_images
from resnet_jax.deploy.quantize.options import Kind, Quantization
from resnet_jax.deploy.quantize.qdq import quantize_model
from resnet_jax.deploy.quantize.ranges import Range
from resnet_jax.deploy.quantize.straight_through import rounded_network
from resnet_jax.deploy.quantize.training import train_rounded
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models.resnet import ResNet
from resnet_jax.runs.chosen import Chosen
from resnet_jax.runs.trained import TrainedRun, require_images
from resnet_jax.runtime.files import replacing
from resnet_jax.weights.fold import fold_batch_norm

CALIBRATION_BATCH = 64
Say = Callable[[str], None]


def _silent(_line: str) -> None:
    """Do nothing."""


@dataclasses.dataclass(frozen=True)
class FloatNetwork:
    """A run's network without batch norm, and its float graph.

    Attributes:
        trained: the run.
        model: the folded network, or the original if it has no batch norm.
        variables: variables of ``model``.
        preprocessing: the input of the graph.
    """

    trained: TrainedRun
    model: ResNet
    variables: dict[str, Any]
    preprocessing: Preprocessing

    @classmethod
    def of(cls, trained: TrainedRun, *, pixels: bool = False) -> FloatNetwork:
        """Fold the batch norm of a run.

        Args:
            trained: the run.
            pixels: whether the graph takes stored pixels and normalizes them itself.

        Raises:
            UsageError: the network takes no images, or their normalization is not known.
        """
        require_images(trained)
        model, variables = trained.model, trained.variables
        if model.config.norm == "batch":
            model, variables = fold_batch_norm(model, variables)
        takes, layout = ("pixels", "channels_last") if pixels else ("normalized", "channels_first")
        return cls(trained, model, variables, preprocessing_of(trained, takes=takes, layout=layout))

    def graph(self, variables: Mapping[str, Any] | None = None, **notes: Any) -> Any:
        """Return the network as a ModelProto with metadata.

        Args:
            variables: variables to use instead of its own.
            **notes: the file's metadata under ``resnet_jax.quantization``; none for a float file.
        """
        said, card = self.preprocessing, self.trained.card
        given = Input(
            said.sides,
            pixels=said.dtype if said.takes == "pixels" else None,
            scale=said.scale,
            mean=said.mean,
            std=said.std,
            downscale=card.downscale,
        )
        texts = Metadata.of(self.trained, said).as_texts()
        texts |= {f"{PREFIX}quantization": json.dumps(notes)} if notes else {}
        return write_network(self.model.config, variables or self.variables, given, texts).model

    def inputs(self, pixels: np.ndarray) -> np.ndarray:
        """Return stored pixels (N, H, W, C) as the graph takes them."""
        said = self.preprocessing
        found = pixels if said.takes == "pixels" else said.normalized(pixels)
        return np.ascontiguousarray(np.moveaxis(found, -1, 1) if said.layout == "channels_first" else found)


@dataclasses.dataclass(frozen=True)
class Converted:
    """A file that was written.

    Attributes:
        kind: ``float`` or the kind of quantization.
        path: path of the file.
        bytes: its size.
        operations: convolutions and linear layers in 8 bits.
        left: operations that stay in float in a file with 8-bit activations, by name.
    """

    kind: Kind | str
    path: Path
    bytes: int
    operations: int = 0
    left: dict[str, int] = dataclasses.field(default_factory=dict)


def quantize_run(
    trained: TrainedRun,
    out: Path,
    options: Quantization | None = None,
    *,
    train_source: str | None = None,
    pixels: bool = False,
    say: Say = _silent,
) -> list[Converted]:
    """Write the network of a run in the forms listed in ``options.kind``.

    Args:
        trained: the run.
        out: the file. With several forms, each has its kind in the name, ``net-static.onnx``.
        options: how to quantize (default: int8, calibrated).
        train_source: training images for a run that has none of its own.
        pixels: whether the files take stored pixels and normalize them.
        say: called with progress messages.

    Returns:
        The files, in the order of ``options.kind``.

    Raises:
        UsageError: there are no images to calibrate on, the network has no ONNX form, or a package is not installed.
        DataError: images are missing or unreadable.
        RunError: a file cannot be written, or training diverged.
    """
    options = options or Quantization()
    package("onnx", "quantize")
    package("onnxruntime", "quantize")
    paths = paths_of(out, options.kind)
    network = FloatNetwork.of(trained, pixels=pixels)
    calibrated = _Calibrated.of(network, options, train_source, say) if {"static", "qat"} & {*options.kind} else None
    return [
        _convert(network, kind, path, options, calibrated, say) for kind, path in zip(options.kind, paths, strict=True)
    ]


def paths_of(out: Path, kinds: Sequence[Kind]) -> list[Path]:
    """Return the file of each kind.

    Raises:
        UsageError: the name does not end in .onnx, or the folder does not exist.

    >>> [path.name for path in paths_of(Path("net.onnx"), ("static", "bf16"))]
    ['net-static.onnx', 'net-bf16.onnx']
    """
    if out.suffix != ".onnx":
        raise UsageError(f"out must be an ONNX file, NAME.onnx, got {out}")
    if not out.parent.is_dir():
        raise UsageError(f"out: there is no folder {out.parent}")
    return [out] if len(kinds) == 1 else [out.with_name(f"{out.stem}-{kind}.onnx") for kind in kinds]


@dataclasses.dataclass(frozen=True)
class _Calibrated:
    """The graph with its quantization sites, and the ranges on training images."""

    images: Chosen
    drawn: Calibration
    sites: Sites
    ranges: dict[str, Range]

    @classmethod
    def of(cls, network: FloatNetwork, options: Quantization, source: str | None, say: Say) -> _Calibrated:
        chosen = training_images(network.trained, source)
        for line in chosen.said:
            say(line)
        drawn = calibration_images(network.trained, chosen, options.calibration, options.seed)
        say(f"calibrated on {drawn.said}: {options.method}")
        model = network.graph()
        sites = find_sites(model.graph)
        starts = range(0, len(drawn.pixels), CALIBRATION_BATCH)
        batches = [network.inputs(drawn.pixels[start : start + CALIBRATION_BATCH]) for start in starts]
        return cls(chosen, drawn, sites, calibrate(model, sites.calibrated, batches, options.method))


def _convert(
    network: FloatNetwork, kind: Kind, path: Path, options: Quantization, calibrated: _Calibrated | None, say: Say
) -> Converted:
    notes: dict[str, Any] = {"kind": kind}
    if options.reduce_range and kind != "bf16":
        notes["reduce_range"] = True
    match kind:
        case "bf16":
            return _written(bfloat16_weights(network.graph(**notes)), kind, path)
        case "weights":
            return _written(int8_weights(network.graph(**notes), options.most_weight), kind, path)
        case "static" | "qat":
            assert calibrated is not None
            notes |= {"calibration": calibrated.drawn.said, "method": options.method}
            variables = network.variables
            if kind == "qat":
                notes |= {"steps": options.steps, "learning_rate": options.learning_rate}
                variables = _train(network, calibrated, options, say)
            model = quantize_model(
                network.graph(variables, **notes),
                calibrated.ranges,
                most_weight=options.most_weight,
                sites=calibrated.sites,
            )
            return _written(model, kind, path, calibrated.sites)
        case _:
            assert_never(kind)


def _train(network: FloatNetwork, calibrated: _Calibrated, options: Quantization, say: Say) -> dict[str, Any]:
    rounded, variables = rounded_network(
        network.model,
        network.variables,
        network.graph().graph,
        calibrated.sites,
        calibrated.ranges,
        options.most_weight,
    )
    say(f"trained with rounding: {options.steps:,} updates of {options.batch_size} images")
    return train_rounded(network.trained, rounded, variables, calibrated.images.records, options, say)


def _written(model: Any, kind: str, path: Path, sites: Sites | None = None) -> Converted:
    data = model.SerializeToString()
    try:
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    if sites is None:
        return Converted(kind, path, len(data))
    return Converted(kind, path, len(data), len(sites.linear), sites.left)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Accuracy and speed of a file in a runtime.

    Attributes:
        kind: ``float`` or the kind of quantization.
        runtime: the runtime.
        metric: the task's headline metric over the images; NaN without images.
        correct: number of correct predictions, for tasks that count them.
        examples: images in the measurement.
        same: share of images with the same class as the float file, for tasks with classes.
        images_per_second: the best of several rounds in which the files take turns.
        times_float: speed relative to the float file.
    """

    kind: str
    runtime: RuntimeChoice
    metric: float
    correct: int | None
    examples: int
    same: float | None
    images_per_second: float
    times_float: float


def measure_files(
    trained: TrainedRun,
    files: Sequence[Converted],
    batches: Sequence[Mapping[str, np.ndarray]],
    *,
    pixels: bool = False,
    threads: int | None = None,
    batch: int = 16,
    runtimes: Sequence[RuntimeChoice] | None = None,
) -> tuple[Converted, list[Measured]]:
    """Measure files next to the float network; in each runtime all take turns.

    Args:
        trained: the run.
        files: the result of :func:`quantize_run`.
        batches: images to measure on (:func:`.measure.batches_of`).
        pixels: as the files were written.
        threads: threads of the runtimes; None: their default.
        batch: images per timed call.
        runtimes: default: the installed ones.

    Returns:
        The float file, which is deleted again, and the rows, float first in each runtime.
    """
    installed: tuple[RuntimeChoice, ...] = ("onnxruntime", "openvino")
    runtimes = [name for name in installed if is_installed(name)] if runtimes is None else runtimes
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"os\.fork", category=RuntimeWarning)  # raised on import of OpenVINO
        model = FloatNetwork.of(trained, pixels=pixels).graph()
        plain = _written(model, "float", Path(folder) / "float.onnx")
        rows = []
        for runtime in runtimes:
            artefacts = [load_artefact(each.path, runtime, threads=threads) for each in (plain, *files)]
            rows += _measured(trained, (plain, *files), artefacts, batches, runtime, batch)
    return plain, rows


def _measured(
    trained: TrainedRun,
    files: Sequence[Converted],
    artefacts: Sequence[Artefact],
    batches: Sequence[Mapping[str, np.ndarray]],
    runtime: RuntimeChoice,
    batch: int,
) -> list[Measured]:
    from resnet_jax.deploy.quantize.measure import evaluate_artefact, images_per_second

    found = [evaluate_artefact(artefact, trained, batches) for artefact in artefacts]
    images = np.concatenate([np.asarray(each["image"]) for each in batches])
    speeds = images_per_second(artefacts, np.resize(images, (batch, *images.shape[1:])))
    headline, rows = trained.task.headline, []
    for file, result, speed in zip(files, found, speeds, strict=True):
        logits, plain = result.logits, found[0].logits
        classes = "correct" in result.sums and logits is not None and plain is not None
        rows.append(
            Measured(
                kind=file.kind,
                runtime=runtime,
                metric=float(result.metrics[headline]),
                correct=result.correct if "correct" in result.sums else None,
                examples=result.examples,
                same=float((logits.argmax(-1) == plain.argmax(-1)).mean()) if classes else None,  # pyright: ignore
                images_per_second=speed,
                times_float=speed / speeds[0],
            )
        )
    return rows
