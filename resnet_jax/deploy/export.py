"""Networks of run directories as files for other programs, each checked against the network before it is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

from resnet_jax.deploy.artefact import RuntimeChoice, load_artefact
from resnet_jax.deploy.checking import BATCHES, largest_difference, require_equal
from resnet_jax.deploy.function import NetworkFunction
from resnet_jax.deploy.jax_file import write_jax_export
from resnet_jax.deploy.metadata import Metadata, preprocessing_of
from resnet_jax.deploy.packages import is_installed, package
from resnet_jax.deploy.safetensors_file import write_weights
from resnet_jax.errors import RunError, UsageError
from resnet_jax.fields import AtLeast1, Positive, check_fields
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.runtime.files import replacing
from resnet_jax.runtime.paths import user_path

FormatChoice: TypeAlias = Literal["onnx", "jax", "saved", "safetensors"]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """How a network is exported."""

    format: FormatChoice = "onnx"
    """onnx; jax (StableHLO for CPU, CUDA and TPU with the weights, a zip file); saved (a TensorFlow SavedModel, or
    LiteRT where the file ends with .tflite); or safetensors (the weights alone)."""
    fold: bool = True
    """Fold batch norm into the convolutions before it: the same function, computed faster. Not of safetensors."""
    pixels: bool = False
    """The graph takes stored values, such as uint8 pixels (N, height, width, channels), and normalizes them itself;
    else normalized float32: of onnx (N, channels, height, width), else channels last."""
    any_size: bool = False
    """onnx: the graph takes inputs of other sides too; not of networks that find boxes."""
    batch: AtLeast1 | None = None
    """Examples of a batch; None leaves it open."""
    names: str = "ours"
    """safetensors: whose names the tensors have: ours, or torchvision, timm, cifar, transformers, pytorchcv, fixup."""
    licence: str = ""
    """Of the weights, as you state it; it is kept in the file."""
    tolerance: Positive = 1e-5
    """Largest difference of an output that is allowed, as a share of the largest output."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and what a format does not use."""
        check_fields(self)
        used = {"names": ("safetensors",), "any_size": ("onnx",)}
        if self.format == "safetensors":
            used |= dict.fromkeys(("fold", "pixels", "batch", "tolerance"), ("onnx", "jax", "saved"))
        for field, formats in used.items():
            if self.format not in formats and getattr(self, field) != getattr(ExportConfig, field):
                raise UsageError(f"{field} is not used by format {self.format}, but by {', '.join(formats)}")


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: of it.
        metadata: what it says of itself.
        differences: from the network, by runtime: the largest of any output, as a share of the largest output.
        size: bytes.
        notes: what a person should know of it.
    """

    path: Path
    metadata: Metadata
    differences: dict[str, float]
    size: int
    notes: tuple[str, ...] = ()


def export_run(trained: TrainedRun, out: str | Path, config: ExportConfig | None = None) -> Exported:
    """Write the network of a run for another program, and check what was written: it is not kept if it differs.

    Outputs are the network's own, before softmax and the like, in float32.

    Args:
        trained: as :func:`resnet_jax.runs.trained.load_run` gives it.
        out: the file; one that is there is replaced, but only by one that passed.
        config: how.

    Raises:
        UsageError: a package is missing, or the network has no such form.
        CheckError: what was written does not give the network's outputs.
        RunError: the file cannot be written.
    """
    config, out = config or ExportConfig(), user_path(out)
    try:
        match config.format:
            case "safetensors":
                return _weights(trained, out, config)
            case "onnx":
                return _onnx(trained, out, config)
            case "jax":
                return _jax(trained, out, config)
            case "saved":
                from resnet_jax.deploy.saved_model import export_saved_model

                return export_saved_model(trained, out, config)
            case _:
                assert_never(config.format)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error


def _onnx(trained: TrainedRun, out: Path, config: ExportConfig) -> Exported:
    from resnet_jax.deploy.onnx.network import Input, write_network

    onnx = package("onnx", "--format onnx")
    runtimes: list[RuntimeChoice] = [name for name in ("onnxruntime", "openvino") if is_installed(name)]
    if not runtimes:
        package("onnxruntime", "checking an ONNX file")
    network = NetworkFunction.of(trained, fold=config.fold, pixels=config.pixels)
    said = preprocessing_of(
        trained,
        takes="pixels" if config.pixels else "normalized",
        layout="channels_last" if config.pixels else "channels_first",
        any_sides=config.any_size,
    )
    given = Input(
        network.sides, config.any_size, config.batch, network.stored if config.pixels else None,
        said.scale, said.mean, said.std, network.downscale,
    )  # fmt: skip
    metadata = Metadata.of(trained, said, config.licence)
    written = write_network(network.model.config, network.variables, given, metadata.as_texts())
    with replacing(out) as partial:
        partial.write_bytes(written.model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(partial), full_check=True)
        return _checked(trained, partial, out, config, runtimes)


def _jax(trained: TrainedRun, out: Path, config: ExportConfig) -> Exported:
    network = NetworkFunction.of(trained, fold=config.fold, pixels=config.pixels)
    said = preprocessing_of(trained, takes="pixels" if config.pixels else "normalized", layout="channels_last")
    with replacing(out) as partial:
        write_jax_export(network, Metadata.of(trained, said, config.licence), partial, config.batch)
        return _checked(trained, partial, out, config, ["jax"])


def _checked(
    trained: TrainedRun, partial: Path, out: Path, config: ExportConfig, runtimes: list[RuntimeChoice]
) -> Exported:
    """Compare a file that was written with the network itself, batch norm not folded."""
    network = NetworkFunction.of(trained, fold=False, pixels=config.pixels)
    batches, differences, metadata = BATCHES if config.batch is None else (config.batch,), {}, None
    for runtime in runtimes:
        artefact = load_artefact(partial, runtime)
        metadata, differences[runtime] = artefact.metadata, largest_difference(artefact, network, batches)
    require_equal(differences, config.tolerance, str(out))
    assert metadata is not None  # there is a runtime
    return Exported(out, metadata, differences, partial.stat().st_size)


def _weights(trained: TrainedRun, out: Path, config: ExportConfig) -> Exported:
    said = preprocessing_of(trained, takes="normalized", layout="channels_last")
    metadata = Metadata.of(trained, said, config.licence)
    with replacing(out) as partial:
        tensors = write_weights(trained, metadata, partial, config.names)
        return Exported(out, metadata, {}, partial.stat().st_size, (f"{tensors} tensors, named as {config.names}",))
