"""Measure a converted file in its runtime: the task's metrics, and its throughput next to another file's."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.deploy.artefact import Artefact
from resnet_jax.errors import DataError
from resnet_jax.runs.build import evaluation_feed
from resnet_jax.runs.chosen import Chosen
from resnet_jax.runs.evaluate import evaluation_config
from resnet_jax.runs.sizes import bring_to_size
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.training.evaluation import Evaluation, EvaluationSums
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.step import make_eval_step

BATCH = 16
"""Images per timed call."""


class _Answers:
    """Stands in for a network and returns the runtime's outputs."""

    def apply(self, outputs: Any, _images: Any, *, train: bool) -> Any:
        del train
        return outputs


def batches_of(trained: TrainedRun, chosen: Chosen) -> list[Mapping[str, np.ndarray]]:
    """Return the images as evaluation reads them: stored values at the network's size, labels, mask.

    Raises:
        DataError: an image is unreadable.
        UsageError: the images do not fit the network.
    """
    records, _ = bring_to_size(
        trained, chosen.records, trained.config.data.unreadable(chosen.split, len(chosen.records))
    )
    return list(evaluation_feed(evaluation_config(trained, make_mesh()), records))


def evaluate_artefact(
    artefact: Artefact, trained: TrainedRun, batches: Iterable[Mapping[str, np.ndarray]]
) -> Evaluation:
    """Return the task's result over images, computed by the file in its runtime; ``rows`` contains ``logits``.

    Args:
        artefact: the converted file.
        trained: the run that it was made from, for its task.
        batches: the result of :func:`batches_of`.

    Raises:
        DataError: there are no images.
    """
    task = trained.task
    step = jax.jit(make_eval_step(_Answers(), task=task, logits=True))  # pyright: ignore[reportArgumentType]
    sums, count = EvaluationSums(task), 0
    for batch in batches:
        sums.add(batch, jax.device_get(step(artefact.outputs_of_pixels(np.asarray(batch["image"])), batch)))
        count += 1
    if not count:
        raise DataError("there are no images to measure on")
    return sums.result()


def images_per_second(
    artefacts: Sequence[Artefact], images: np.ndarray, *, rounds: int = 7, seconds: float = 0.1
) -> list[float]:
    """Return the images per second of each file: the best of several rounds in which they take turns.

    Args:
        artefacts: files in one runtime.
        images: a batch (N, H, W, C) of stored values.
        rounds: number of turns of each file.
        seconds: minimum duration of a turn, which has at least one call.
    """
    given = [
        images if artefact.preprocessing.takes == "pixels" else artefact.preprocessing.normalized(images)
        for artefact in artefacts
    ]
    best = [0.0] * len(artefacts)
    for _ in range(rounds):
        for place, (artefact, batch) in enumerate(zip(artefacts, given, strict=True)):
            artefact.outputs(batch)
            calls, began = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - began < seconds:
                artefact.outputs(batch)
                calls += 1
            best[place] = max(best[place], calls * len(images) / (time.perf_counter() - began))
    return best


@dataclasses.dataclass(frozen=True)
class Processor:
    """The processor of this machine.

    Attributes:
        name: the name it reports.
        instructions: which of avx2, avx512f, avx512_vnni, avx_vnni and amx_int8 it has; the last three multiply 8-bit
            numbers without saturating.
    """

    name: str
    instructions: tuple[str, ...]

    @property
    def saturates(self) -> bool:
        """Whether 8-bit products may saturate: an x86 processor without VNNI."""
        return "avx2" in self.instructions and not any("vnni" in each for each in self.instructions)

    @classmethod
    def here(cls) -> Processor:
        """Read them on Linux; elsewhere only the name is known."""
        wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
        try:
            text = Path("/proc/cpuinfo").read_text()
        except OSError:
            return cls(platform.processor() or platform.machine(), ())
        lines = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
        known = {key.strip(): value.strip() for key, value in lines.items()}
        flags = known.get("flags", "").split()
        return cls(known.get("model name", platform.machine()), tuple(name for name in wanted if name in flags))
