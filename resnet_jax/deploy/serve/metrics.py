"""Counters of the server, in Prometheus format."""

from __future__ import annotations

import time
from collections.abc import Callable

from resnet_jax.deploy.packages import package

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
PATHS = ("/", "/predict", "/explain", "/healthz", "/info", "/metrics", "/openapi.json")


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        prometheus = package("prometheus_client", "resnet-jax serve", "prometheus-client")
        self._prometheus = prometheus
        self.registry = registry = prometheus.CollectorRegistry()
        counter, gauge, histogram = prometheus.Counter, prometheus.Gauge, prometheus.Histogram
        name = "resnet_jax_"
        self._requests = counter(name + "requests", "Requests answered", ["path", "status"], registry=registry)
        self._seconds = histogram(
            name + "request_seconds", "Time from the head of a request to the end of its answer", ["path"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.images = counter(name + "images", "Images answered or rejected", ["result"], registry=registry)
        self.batches = histogram(name + "batch_images", "Images per batch", buckets=IMAGES, registry=registry)
        self.padded = counter(name + "padding", "Padding in batches, in images", registry=registry)
        self.batch_seconds = histogram(
            name + "batch_seconds", "Computing a batch", ["size"], buckets=SECONDS, registry=registry
        )
        self.queue = gauge(name + "queue_images", "Images waiting or being computed", registry=registry)
        self.held = gauge(name + "body_bytes", "Bytes of request bodies in memory", registry=registry)
        self.connections = gauge(name + "connections", "Open connections", registry=registry)
        self.refused = counter(name + "refused_connections", "Connections beyond the limit", registry=registry)
        self.closed = counter(name + "slow_connections", "Connections closed for being too slow", registry=registry)
        self.ready = gauge(name + "ready", "1 once every batch size is compiled", registry=registry)
        self.drift = gauge(
            name + "drift_ratio",
            "Distance of the latest images from the reference, over its threshold: above 1 is an alarm",
            ["of"],
            registry=registry,
        )
        self.drift_images = gauge(name + "drift_images", "Images behind drift_ratio", registry=registry)
        self.drift_windows = counter(
            name + "drift_windows", "Windows of images compared", ["result"], registry=registry
        )
        prometheus.ProcessCollector(registry=registry)
        self._began = time.time()
        for result in ("answered", "failed"):
            self.images.labels(result)

    def follow(self, queue: Callable[[], float], held: Callable[[], float], connections: Callable[[], float]) -> None:
        """Read these functions whenever the metrics are requested."""
        self.queue.set_function(queue)
        self.held.set_function(held)
        self.connections.set_function(connections)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        path = path if path in PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, images: int, size: int, seconds: float) -> None:
        """Count a batch."""
        self.batches.observe(images)
        self.padded.inc(size - images)
        self.batch_seconds.labels(str(size)).observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """Return all metrics as text, and their content type."""
        return self._prometheus.generate_latest(self.registry), self._prometheus.CONTENT_TYPE_LATEST
