"""Export networks of run directories for other programs. Each file is checked against the network before it is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import assert_never

from resnet_jax.deploy.artefact import RuntimeChoice, load_artefact
from resnet_jax.deploy.checking import BATCHES, largest_difference, require_equal
from resnet_jax.deploy.export_options import ExportConfig
from resnet_jax.deploy.function import NetworkFunction
from resnet_jax.deploy.jax_file import write_jax_export
from resnet_jax.deploy.metadata import Metadata, preprocessing_of
from resnet_jax.deploy.packages import is_installed, package
from resnet_jax.deploy.safetensors_file import write_weights
from resnet_jax.errors import RunError
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.runtime.files import replacing
from resnet_jax.runtime.paths import user_path


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: path of the file.
        metadata: the metadata in the file.
        differences: largest difference of any output from the network's by runtime, relative to the largest output.
        size: bytes.
        notes: remarks for the user.
    """

    path: Path
    metadata: Metadata
    differences: dict[str, float]
    size: int
    notes: tuple[str, ...] = ()


def export_run(trained: TrainedRun, out: str | Path, config: ExportConfig | None = None) -> Exported:
    """Export the network of a run for another program and check the file, which is not kept if its outputs differ.

    The outputs are the network's own, before softmax and the like, in float32.

    Args:
        trained: a run as :func:`resnet_jax.runs.trained.load_run` returns it.
        out: the file to write. An existing file is replaced only by one that passes the check.
        config: the options.

    Raises:
        UsageError: a package is missing, or the network cannot be exported in this form.
        CheckError: the file does not reproduce the network's outputs.
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
        metadata = Metadata.of(trained, said, config.licence)
        write_jax_export(network, metadata, partial, config.batch, this_machine=config.this_machine)
        return _checked(trained, partial, out, config, ["jax"])


def _checked(
    trained: TrainedRun, partial: Path, out: Path, config: ExportConfig, runtimes: list[RuntimeChoice]
) -> Exported:
    """Compare a written file with the network itself, without folding batch norms."""
    network = NetworkFunction.of(trained, fold=False, pixels=config.pixels)
    batches, differences, metadata = BATCHES if config.batch is None else (config.batch,), {}, None
    for runtime in runtimes:
        artefact = load_artefact(partial, runtime)
        metadata, differences[runtime] = artefact.metadata, largest_difference(artefact, network, batches)
    require_equal(differences, config.tolerance, str(out))
    assert metadata is not None  # there is at least one runtime
    return Exported(out, metadata, differences, partial.stat().st_size)


def _weights(trained: TrainedRun, out: Path, config: ExportConfig) -> Exported:
    said = preprocessing_of(trained, takes="normalized", layout="channels_last")
    metadata = Metadata.of(trained, said, config.licence)
    with replacing(out) as partial:
        tensors = write_weights(trained, metadata, partial, config.names)
        return Exported(out, metadata, {}, partial.stat().st_size, (f"{tensors} tensors, named as {config.names}",))
