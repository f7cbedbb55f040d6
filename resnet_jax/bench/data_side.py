"""Our sides of ``resnet-jax bench data``: examples per second that reach the program, each side in its own process.

A round starts the side's stream, lets batches pass until everything prefetched is used up, counts what arrives in a
given number of seconds, and stops the stream, so that nothing is made while another side is measured.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from resnet_jax.bench.host_flip import HostFlip
from resnet_jax.bench.ours import cores
from resnet_jax.data.in_memory import materialize
from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.data.records import Source
from resnet_jax.data.source import load_dataset
from resnet_jax.data.transform import Geometry, random_resized_box
from resnet_jax.runtime.ahead import in_threads
from resnet_jax.runtime.malloc import keep_freed_memory

PREFETCH = 4
"""Number of prefetched batches."""
FOREVER = 1 << 40
DISPATCHED = 16
"""Updates per call of the resident side."""


class DataSide:
    """A stream of batches that is started and stopped for each round."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.images = spec, spec["batch"]
        channels = 1 if spec["kind"] == "mnist" else 3
        self.records: Source = load_dataset(spec["source"], channels=channels, least_classes=1).splits["all"]
        self.geometry = (
            Geometry(224, "random_resized", after=(HostFlip(),)) if spec["kind"] == "imagenet" else Geometry()
        )
        self.facts = {
            "examples": len(self.records),
            "cores": cores(),
            "versions": {name: importlib.metadata.version(name) for name in ("numpy", "opencv-python-headless")},
        }

    def dispatch(self) -> None:
        """Read one example, to warm up."""
        self.records[0]

    def wait(self) -> None:
        """Do nothing, since nothing is in flight."""

    def measure(self, seconds: float) -> dict[str, float]:
        """Return the number of examples that arrive in about this many seconds, and the memory of this process."""
        with contextlib.closing(self.stream()) as stream:
            for _ in range(self.spec["workers"] * self.spec["threads"] + 2 * PREFETCH):
                next(stream)
            count, began = 0, time.perf_counter()
            while (took := time.perf_counter() - began) < seconds:
                count += next(stream)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"images": count, "seconds": took, "peak_bytes": peak}

    def stream(self) -> Any:
        """Yield the number of examples that have arrived, each time some have."""
        raise NotImplementedError

    def batches(self, records: Source | None = None) -> TrainBatches:
        """Return the training batches."""
        return TrainBatches(records or self.records, self.images, seed=0, geometry=self.geometry)


class Host(DataSide):
    """Our pipeline, up to arrays on the host: in threads, or in worker processes with as many threads in total."""

    def stream(self) -> Iterator[int]:
        """Yield batches as they arrive."""
        threads, workers = (1, self.spec["threads"]) if self.spec["side"] == "workers" else (self.spec["threads"], 0)
        made = self.batches().iterate(0, FOREVER, threads=threads, workers=workers, prefetch=PREFETCH)
        with contextlib.closing(made):
            for batch in made:
                yield len(batch["index"])


class Bare(DataSide):
    """The cost of reading, decoding and cropping alone: OpenCV called in threads, without batching or checks."""

    def stream(self) -> Iterator[int]:
        """Yield when a thread has finished a batch of files."""
        import cv2

        from resnet_jax.data.encoded import encoder_of

        found = encoder_of(self.records)
        assert found is not None
        encoded, channels = found
        flag = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
        crops, count = self.spec["kind"] == "imagenet", len(self.records)

        def make(number: int) -> int:
            rng = np.random.default_rng(number)
            for index in rng.integers(0, count, self.images).tolist():
                image = cv2.imdecode(np.frombuffer(encoded(index), np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
                assert image is not None
                if crops:
                    top, left, height, width = random_resized_box(image.shape[0], image.shape[1], rng)
                    how = cv2.INTER_AREA if height >= 224 and width >= 224 else cv2.INTER_LINEAR
                    cv2.resize(image[top : top + height, left : left + width], (224, 224), interpolation=how)
            return self.images

        return in_threads(make, range(FOREVER), self.spec["threads"], PREFETCH)


class Grain(DataSide):
    """The same transforms as a plain Grain pipeline: one element per example, batched by Grain, in as many threads."""

    def stream(self) -> Iterator[int]:
        """Yield batches as they arrive."""
        import grain

        view = self.batches()._view

        def example(index: int) -> dict[str, np.ndarray]:
            return {**view.example(index, 0), "label": self.records.labels[index]}

        data = grain.MapDataset.range(len(self.records)).seed(0).shuffle().repeat().map(example).batch(self.images)
        options = grain.ReadOptions(num_threads=self.spec["threads"], prefetch_buffer_size=PREFETCH)
        for batch in data.to_iter_dataset(options):
            yield len(batch["label"])


class Step(DataSide):
    """Up to a compiled program on the device, which sums the pixels: streamed, from the host's memory, or resident.

    Streamed images are decoded on demand; from memory, batches are gathered on the host and sent; resident, they are
    gathered on the device, several updates per call, as in :mod:`resnet_jax.training.dispatch`.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        if spec["side"] != "streamed":
            self.records = materialize(self.records, self.geometry, training=True)

    def stream(self) -> Iterator[int]:
        """Yield when a call is done, except for the few in flight."""
        import jax
        import jax.numpy as jnp

        from resnet_jax.training.dispatch import chunks, compile_multi_step, put_resident
        from resnet_jax.training.placement import Placement

        placement, batches, state = Placement.of(), self.batches(), jnp.zeros((), jnp.float32)

        def step(state: jax.Array, batch: dict[str, jax.Array]) -> Any:
            total = jnp.sum(batch["image"], dtype=jnp.int32).astype(jnp.float32)
            return state + total * 1e-9 + jnp.sum(batch["label"]).astype(jnp.float32), {"total": total}

        if self.spec["side"] != "resident":
            jitted = jax.jit(step, donate_argnums=0)
            threads = self.spec["threads"] if self.spec["side"] == "streamed" else 0
            made = batches.iterate(0, FOREVER, threads=threads, prefetch=PREFETCH)
            with contextlib.closing(made):
                for batch in made:
                    state, _ = jitted(state, placement.shard(batch))
                    jax.block_until_ready(state)
                    yield self.images
            return
        program = compile_multi_step(step, placement)
        data = put_resident(batches.resident(), placement)
        calls = ((first, DISPATCHED) for first in range(0, FOREVER, DISPATCHED))
        for chunk in chunks(batches.order, calls, DISPATCHED, placement):
            state, _ = program(state, data, chunk)
            jax.block_until_ready(state)
            yield DISPATCHED * self.images


SIDES = {
    "threads": Host,
    "workers": Host,
    "bare": Bare,
    "grain": Grain,
    "streamed": Step,
    "memory": Step,
    "resident": Step,
}


def prepare(spec: dict[str, Any]) -> DataSide:
    """Open the images, in a process that keeps its memory as the command line's does; see :mod:`.serve`."""
    keep_freed_memory()
    return SIDES[spec["side"]](spec)
