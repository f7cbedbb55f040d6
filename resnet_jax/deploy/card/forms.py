"""The forms of a network, the run's own and exported files: their size, and their speed on this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.data.example import OTHER
from resnet_jax.deploy.artefact import load_artefact
from resnet_jax.errors import ResNetJaxError, UsageError
from resnet_jax.models.count import count
from resnet_jax.runs.preparation import eval_preprocess
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.runtime.cache import processor
from resnet_jax.training.predict_step import make_predict_step

TIMED = (".onnx", ".jaxexport", ".jax")
WEIGHED = {
    ".safetensors": "weights alone, not run here",
    ".tflite": "LiteRT, not run here",
    ".pb": "SavedModel, not run here",
}
BATCHES = (1, 16)


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of the network: its size, and the time of one image and of sixteen on this machine in milliseconds."""

    name: str
    megabytes: float
    one: float | None
    sixteen: float | None
    said: str = ""


def forms_of(trained: TrainedRun, folder: Path, more: Sequence[Path] = ()) -> tuple[Form, ...]:
    """Return the network on this machine, and every exported file in its directory and in ``more``, with size and time.

    Raises:
        UsageError: one of ``more`` does not exist or is not an exported file.
    """
    parameters = (count(trained.model, trained.card.image_shape).params * 4) / 1e6
    found = [Form("this package (float32)", parameters, *_here(trained))]
    known = sorted(path for path in folder.iterdir() if path.suffix in TIMED or path.suffix in WEIGHED)
    known += sorted(path.parent for path in folder.glob("*/saved_model.pb"))
    for path in more:
        if not path.exists():
            raise UsageError(f"there is no file {path} to measure")
        if path.suffix not in (*TIMED, *WEIGHED) and not (path / "saved_model.pb").is_file():
            raise UsageError(
                f"{path} is not an exported file: {', '.join((*TIMED, *WEIGHED))} or a SavedModel's folder"
            )
    outside = [path for path in more if path.resolve() not in {each.resolve() for each in known}]
    return (*found, *(_exported(path, trained) for path in (*known, *outside)))


def _exported(path: Path, trained: TrainedRun) -> Form:
    parts = [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]
    size = sum(part.stat().st_size for part in parts) / 1e6
    if path.is_dir() or path.suffix in WEIGHED:
        return Form(path.name, size, None, None, WEIGHED.get(path.suffix, WEIGHED[".pb"]))
    try:
        artefact = load_artefact(path)
        return Form(path.name, size, *_times(artefact.outputs_of_pixels, _images(trained)), artefact.runtime)
    except ResNetJaxError as error:
        return Form(path.name, size, None, None, str(error).replace(str(path), path.name))


def _here(trained: TrainedRun) -> tuple[float, float]:
    """Return the times of the network on this machine: for images as in ``predict``, for other inputs as in
    ``eval``.
    """
    from resnet_jax.runs.inference import Inference

    try:
        return _times(Inference(trained, BATCHES).outputs, _images(trained))
    except UsageError:
        step = jax.jit(make_predict_step(trained.model, preprocess=eval_preprocess(trained.model, trained.card)))

        def outputs(images: np.ndarray) -> Any:
            batch: dict[str, Any] = {"image": images}
            if (other := trained.card.other) is not None:
                batch[OTHER] = np.zeros((len(images), *other.shape), other.dtype)
            return jax.block_until_ready(step(trained.variables, batch))

        return _times(outputs, _images(trained))


def _images(trained: TrainedRun) -> Callable[[int], np.ndarray]:
    shape, dtype = trained.card.image_shape, trained.card.image_dtype
    return lambda batch: np.zeros((batch, *shape), dtype)


def _times(outputs: Any, images: Callable[[int], np.ndarray], repeats: int = 5) -> tuple[float, float]:
    """Return the milliseconds for one and for sixteen images: the median of a few calls after an untimed one."""
    found = []
    for batch in BATCHES:
        given = images(batch)
        outputs(given)
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            outputs(given)
            times.append(time.perf_counter() - begun)
        found.append(1000 * float(np.median(times)))
    return found[0], found[1]


def machine() -> str:
    """Return the name of the processor, and its widest vector instructions."""
    lines = dict(line.replace("\t", "").split(": ", 1) for line in processor().splitlines() if ": " in line)
    flags = lines.get("flags", "").split()
    vectors = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")
    return ", ".join(part for part in (lines.get("model name", processor().splitlines()[0]), vectors) if part)
