"""Networks as TensorFlow SavedModels, or LiteRT files, through ``jax.experimental.jax2tf``."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from resnet_jax.deploy.checking import BATCHES, difference, require_equal
from resnet_jax.deploy.function import NetworkFunction
from resnet_jax.deploy.metadata import Metadata, preprocessing_of
from resnet_jax.deploy.packages import is_installed, package
from resnet_jax.errors import RunError, UsageError
from resnet_jax.runs.trained import TrainedRun

if TYPE_CHECKING:
    from resnet_jax.deploy.export import ExportConfig, Exported

#: File name extension of LiteRT files.
LITERT = ".tflite"
#: File with the metadata of a SavedModel, next to its own files.
METADATA = "resnet_jax.json"
#: Name of the input of the signature ``serving_default``, and of its output where there is only one.
INPUT, OUTPUT = "input", "output"


def export_saved_model(trained: TrainedRun, out: Path, config: ExportConfig) -> Exported:
    """Write a network as a SavedModel directory, or as a LiteRT file if ``out`` ends with ``.tflite``, and check it.

    Inputs are channels last. The signature ``serving_default`` takes ``input`` and returns the outputs by name, or
    ``output``. A LiteRT file has one batch size, 1 unless ``config.batch`` is set, and no metadata.

    Raises:
        UsageError: TensorFlow is missing, or jax2tf cannot translate the network.
        CheckError: the file does not reproduce the network's outputs.
        RunError: ``out`` exists and is not a SavedModel.
    """
    from resnet_jax.deploy.export import Exported

    tf = package("tensorflow", "--format saved", "tensorflow-cpu")
    network = NetworkFunction.of(trained, fold=config.fold, pixels=config.pixels)
    said = preprocessing_of(trained, takes="pixels" if config.pixels else "normalized", layout="channels_last")
    metadata = Metadata.of(trained, said, config.licence)
    lite = out.suffix == LITERT
    batch = config.batch or (1 if lite else None)
    module = _module(tf, network, batch)
    partial = out.with_name(out.name + ".tmp")
    _remove(partial)
    try:
        if lite:
            partial.write_bytes(_litert(tf, module))
            run = _litert_runner(tf, partial)
        else:
            tf.saved_model.save(module, str(partial), signatures={"serving_default": module.serve})
            (partial / METADATA).write_text(json.dumps(metadata.as_texts(), indent=1), encoding="utf-8")
            run = _saved_runner(tf, partial)
        name = "LiteRT" if lite else "tensorflow"
        plain = NetworkFunction.of(trained, fold=False, pixels=config.pixels)
        batches = BATCHES if batch is None else (batch,)
        differences = {name: max(_difference(run, plain, count) for count in batches)}
        require_equal(differences, config.tolerance, str(out))
        if out.is_dir() and not (out / "saved_model.pb").is_file():
            raise RunError(f"{out} exists and is not a SavedModel: choose another --out")
        _remove(out)
        partial.rename(out)
    finally:
        _remove(partial)
    size = sum(file.stat().st_size for file in ([out] if lite else out.rglob("*")) if file.is_file())
    return Exported(out, metadata, differences, size, ("a LiteRT file keeps no metadata",) if lite else ())


def _module(tf: Any, network: NetworkFunction, batch: int | None) -> Any:
    """Return a ``tf.Module`` with the weights as variables and the signature ``serve``."""
    from jax.experimental import jax2tf

    shape = (batch, *network.sides, network.channels)
    polymorphic = None if batch is not None else f"(batch, {', '.join(str(side) for side in shape[1:])})"
    module = tf.Module()
    module.weights = tf.nest.map_structure(lambda leaf: tf.Variable(np.asarray(leaf)), network.variables)
    convert = jax2tf.convert(
        lambda variables, images: network(variables, images),
        polymorphic_shapes=[None, polymorphic],
        with_gradient=False,
    )

    def serve(images: Any) -> dict[str, Any]:
        found = convert(module.weights, images)
        return dict(found) if isinstance(found, Mapping) else {OUTPUT: found}

    signature = tf.TensorSpec(shape, tf.as_dtype(network.dtype), name=INPUT)
    try:
        module.serve = tf.function(serve, input_signature=[signature], autograph=False)
        module.serve.get_concrete_function()
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise UsageError(f"jax2tf does not translate this network: {first}") from error
    return module


def _saved_runner(tf: Any, path: Path) -> Any:
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda images: {name: each.numpy() for name, each in serve(**{INPUT: tf.constant(images)}).items()}


def _litert(tf: Any, module: Any) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        return converter.convert()
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise UsageError(f"LiteRT's converter does not translate this network: {first}") from error


def _litert_runner(tf: Any, path: Path) -> Any:
    """Return the interpreter of a LiteRT file: from ai_edge_litert, else from TensorFlow, which warns of its
    removal.
    """
    own = "ai_edge_litert"
    lite = package(f"{own}.interpreter", "--format saved", "ai-edge-litert") if is_installed(own) else tf.lite
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter is deprecated")
        interpreter = lite.Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    return lambda images: runner(**{name: images})


def _difference(run: Any, network: NetworkFunction, count: int) -> float:
    images = network.examples(count)
    ours = jax.device_get(jax.jit(lambda variables, x: network(variables, x))(network.variables, images))
    return difference(run(images), ours if isinstance(ours, Mapping) else {OUTPUT: ours})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
