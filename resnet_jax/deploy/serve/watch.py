"""Drift of the images that a server answers, as metrics and as log lines."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.deploy.drift import Distance, Reference
from resnet_jax.deploy.drift_watch import Windows, seen_of
from resnet_jax.deploy.serve.engine import Engine
from resnet_jax.deploy.serve.guard import AccessLog
from resnet_jax.deploy.serve.metrics import Metrics


class Watch:
    """Compares windows of the computed images with the reference.

    Args:
        engine: the engine whose outputs are watched.
        path: path of the reference.
        window: images per window.
        metrics: receive the distances.
        log: receives a line for each window with an alarm.

    Raises:
        UsageError: the reference belongs to other weights, or the window is too small.
        DataError: it cannot be read.
    """

    def __init__(self, engine: Engine, path: Path, window: int, metrics: Metrics, log: AccessLog):
        self._engine, self._metrics, self._log = engine, metrics, log
        self._windows = Windows(Reference.read(path, engine.digest), window, self._compared)
        for result in ("alarm", "as_reference"):
            metrics.drift_windows.labels(result)

    def __call__(self, found: Any, images: np.ndarray) -> None:
        """Add a batch; called in the computing thread."""
        self._windows.add(seen_of(self._engine, found, images))

    def _compared(self, distance: Distance) -> None:
        for kind, ratio in distance.ratios.items():
            self._metrics.drift.labels(kind).set(ratio)
        self._metrics.drift_images.set(distance.images)
        self._metrics.drift_windows.labels("alarm" if distance.alarms else "as_reference").inc()
        if distance.alarms:
            self._log.write(
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                event="drift",
                of=list(distance.alarms),
                images=distance.images,
                **{kind: round(ratio, 3) for kind, ratio in distance.ratios.items()},
            )
