"""Load exported networks for use: an ONNX file in ONNX Runtime or OpenVINO, or a jax export.

An exported file is a program: load only files from people you trust.
"""

from __future__ import annotations

import abc
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import jax
import numpy as np

from resnet_jax.deploy.metadata import PREFIX, Metadata, Preprocessing
from resnet_jax.deploy.packages import is_installed, package
from resnet_jax.errors import DataError, UsageError, unknown
from resnet_jax.ops import native
from resnet_jax.runtime.paths import user_path

RuntimeChoice: TypeAlias = Literal["onnxruntime", "openvino", "jax"]
#: The files inside the zip file of a jax export.
PROGRAM, WEIGHTS, METADATA = "program.bin", "weights.safetensors", "metadata.json"
#: Metadata key of a jax export for one machine: the compiled code that it calls.
COMPILED = f"{PREFIX}compiled"


class Artefact(abc.ABC):
    """An exported network, ready to run.

    Attributes:
        path: path of the file.
        runtime: the runtime that runs it.
        metadata: the metadata in the file.
        batch: the only batch size that the file accepts; None: any.
        output_names: names of the outputs; one, ``output``, unless the network's head has several.
    """

    path: Path
    runtime: RuntimeChoice
    metadata: Metadata
    batch: int | None
    output_names: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs; may be empty."""
        return self.metadata.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """The input that its graph expects."""
        return self.metadata.preprocessing

    def outputs(self, images: np.ndarray) -> Any:
        """Return the network's outputs, float32 (N, ...), or a dict of such arrays, as :meth:`Inference.outputs` does.

        Args:
            images: (N, *sides, C) in the dtype of ``preprocessing``, normalized if ``preprocessing`` says so. A file
                with a fixed batch size gets them in batches of that size, the last one padded.

        Raises:
            UsageError: the images have another shape or dtype.
        """
        said, images = self.preprocessing, np.asarray(images)
        fits = images.shape[1:] == said.shape or (
            said.any_sides and images.ndim == len(said.shape) + 1 and images.shape[-1] == said.channels
        )
        if images.dtype != said.dtype or not fits:
            shape = ", ".join(str(side) for side in said.shape)
            raise UsageError(
                f"{self.path} takes {said.dtype} (N, {shape}), {said.takes}; got {images.dtype} {images.shape}"
            )
        if said.layout == "channels_first":
            images = np.moveaxis(images, -1, 1)
        parts = []
        size = self.batch or max(len(images), 1)
        for start in range(0, max(len(images), 1), size):
            part = images[start : start + size]
            missing = size - len(part)
            padded = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else part
            parts.append([np.asarray(each)[: len(part)] for each in self._run(np.ascontiguousarray(padded))])
        whole = [np.concatenate(each) for each in zip(*parts, strict=True)]
        return whole[0] if len(whole) == 1 else dict(zip(self.output_names, whole, strict=True))

    def outputs_of_pixels(self, images: np.ndarray) -> Any:
        """Return the outputs for stored values (N, *sides, C), such as uint8 pixels, whatever input the graph takes.

        Raises:
            UsageError: as :meth:`outputs`, or the normalization is not known.
        """
        said = self.preprocessing
        return self.outputs(images if said.takes == "pixels" else said.normalized(images))

    @abc.abstractmethod
    def _run(self, inputs: np.ndarray) -> Sequence[Any]:
        """Return the outputs, in the order of ``output_names``, for inputs in the graph's layout."""


def load_artefact(
    path: str | Path,
    runtime: RuntimeChoice | None = None,
    *,
    threads: int | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> Artefact:
    """Load an exported network.

    Args:
        path: a file written by ``resnet-jax export --format onnx`` or ``jax``, or by ``resnet-jax quantize``.
        runtime: the runtime to use; None: for an ONNX file, ONNX Runtime if it is installed, otherwise OpenVINO.
        threads: threads of ONNX Runtime or OpenVINO per call; None: the runtime's default.
        providers: execution providers of ONNX Runtime, in order of preference.

    Raises:
        DataError: the file does not exist or has none of these formats.
        UsageError: the runtime is not installed or does not run such files.
    """
    path = user_path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; `resnet-jax export` writes one")
    if runtime is not None and runtime not in get_args(RuntimeChoice):
        raise unknown("runtime", runtime, get_args(RuntimeChoice))
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be 1 or more, got {threads}")
    if zipfile.is_zipfile(path):
        if runtime not in (None, "jax"):
            raise UsageError(f"{path} is a jax export, which {runtime} does not run: leave the runtime out")
        if threads is not None:
            raise UsageError("XLA computes with all processors of the process: threads applies to ONNX files")
        return JaxArtefact(path)
    if runtime == "jax":
        raise UsageError(f"{path} is not a jax export: use runtime onnxruntime or openvino")
    if runtime is None:
        runtime = "openvino" if is_installed("openvino") and not is_installed("onnxruntime") else "onnxruntime"
    if runtime == "onnxruntime":
        return OnnxRuntimeArtefact(path, threads, providers)
    return OpenVinoArtefact(path, threads)


class OnnxRuntimeArtefact(Artefact):
    """An ONNX file in ONNX Runtime; see :func:`load_artefact`."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int | None, providers: Sequence[str]) -> None:
        ort = package("onnxruntime", f"running {path.name}")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        try:
            self._session = ort.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:
            raise _not_read(path, "ONNX Runtime", error) from error
        found = self._session.get_modelmeta().custom_metadata_map
        self.path, self.metadata = path, Metadata.read(found, path)
        (given,) = self._session.get_inputs()
        self._input, first = given.name, given.shape[0]
        self.batch = first if isinstance(first, int) else None
        self.output_names = tuple(each.name for each in self._session.get_outputs())

    def _run(self, inputs: np.ndarray) -> Sequence[Any]:
        return self._session.run(list(self.output_names), {self._input: inputs})


class OpenVinoArtefact(Artefact):
    """An ONNX file in OpenVINO, on the CPU, in float32; see :func:`load_artefact`."""

    runtime = "openvino"

    def __init__(self, path: Path, threads: int | None) -> None:
        openvino = package("openvino", f"running {path.name}")
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # otherwise processors with bfloat16 would use it
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            model = core.read_model(str(path))
            compiled = core.compile_model(model, "CPU", options)
        except Exception as error:
            raise _not_read(path, "OpenVINO", error) from error
        self.path, self.metadata = path, Metadata.read(_onnx_texts(model), path)
        first = compiled.input(0).partial_shape[0]
        self.batch = first.get_length() if first.is_static else None
        results = (each.get_friendly_name() for each in model.get_results())  # a tensor may have several names
        self.output_names = tuple(name.removesuffix("/sink_port_0") for name in results)
        self._request = compiled.create_infer_request()

    def _run(self, inputs: np.ndarray) -> Sequence[Any]:
        found = self._request.infer([inputs], share_inputs=True)
        return [np.array(found[index]) for index in range(len(self.output_names))]


class JaxArtefact(Artefact):
    """A jax export: a zip file with a program, its weights and its metadata.

    Attributes:
        this_machine: whether it calls the code compiled for this processor.
    """

    runtime = "jax"

    def __init__(self, path: Path) -> None:
        from jax import export
        from safetensors.numpy import load

        try:
            with zipfile.ZipFile(path) as file:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
                    raise ValueError("its files are compressed")  # so that a small file cannot expand to a large one
                texts = json.loads(file.read(METADATA))
                exported = export.deserialize(bytearray(file.read(PROGRAM)))
                weights = load(file.read(WEIGHTS))
        except Exception as error:
            raise DataError(
                f"{path}: not a jax export as `resnet-jax export --format jax` writes it: {error}"
            ) from error
        self.path, self.metadata = path, Metadata.read(texts, path)
        self.this_machine = COMPILED in texts
        if self.this_machine and texts[COMPILED] != native.identity():
            raise DataError(
                f"{path} calls code that was compiled for another processor, or by another version or compiler than "
                "here: export the run here, or without --this-machine"
            )
        first = exported.in_avals[-1].shape[0]
        self.batch = first if isinstance(first, int) else None
        self._weights, self._call = jax.device_put(weights), jax.jit(exported.call)
        tree = jax.tree.unflatten(exported.out_tree, range(exported.out_tree.num_leaves))
        self.output_names = tuple(sorted(tree)) if isinstance(tree, dict) else ("output",)

    def _run(self, inputs: np.ndarray) -> Sequence[Any]:
        return jax.tree.leaves(self._call(self._weights, inputs))


def _onnx_texts(model: Any) -> dict[str, str]:
    """Return the metadata of an ONNX file as OpenVINO stores them: in ``rt_info``, under ``framework``."""
    if not model.has_rt_info(["framework"]):
        return {}
    return {name: str(value) for name, value in model.get_rt_info(["framework"]).value.items()}


def _not_read(path: Path, runtime: str, error: Exception) -> DataError:
    first = str(error).strip().partition("\n")[0]
    return DataError(f"{path}: {runtime} does not read it: {first}")
