"""A server in this process around a network that needs no compiler, or in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np

from resnet_jax.data.decode import decode_image
from resnet_jax.data.transform import Geometry
from resnet_jax.deploy.serve.app import Service
from resnet_jax.deploy.serve.engine import Engine, Ready
from resnet_jax.deploy.serve.guard import AccessLog, Guard
from resnet_jax.deploy.serve.metrics import Metrics
from resnet_jax.deploy.serve.options import Batching, Limits
from resnet_jax.deploy.serve.problems import not_readable
from resnet_jax.errors import DataError
from resnet_jax.runs.predict import Prediction

COLOURS = ("red", "green", "blue")


class ColourEngine(Engine):
    """Says how red, green and blue an image is."""

    name, task, digest, classes, dtype = "colours", "classification", "0" * 64, COLOURS, "uint8"
    shape: tuple[int, int, int] = (8, 8, 3)
    sizes: tuple[int, ...] = (1, 4)

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.batches = seconds, []

    def _ready(self, image):
        try:
            stored = decode_image(image, 3, "image ") if isinstance(image, bytes) else image
        except DataError as error:
            raise not_readable(str(error).removeprefix("image : ")) from error
        return Ready(Geometry(8).eval_image(stored), (stored.shape[0], stored.shape[1]))

    def compute(self, images: np.ndarray) -> Any:
        self.batches.append(len(images))
        time.sleep(self.seconds)
        return images.astype(np.float64).mean(axis=(1, 2))

    def prediction(self, row, sides, top):
        order = np.argsort(-row)[:top].tolist()
        shares = row / max(row.sum(), 1e-9)
        return Prediction("", tuple(COLOURS[k] for k in order), tuple(float(shares[k]) for k in order))

    def info(self):
        return {
            "network": self.name, "task": "classification", "digest": self.digest, "classes": list(COLOURS),
            "preprocessing": {"height": 8, "width": 8}, "runtime": "numpy",
        }  # fmt: skip


class Here:
    """A server in this process."""

    def __init__(self, service: Service, client: httpx.AsyncClient, app: Any):
        self.service, self.client, self.app = service, client, app
        self.post, self.get = client.post, client.get


@contextlib.asynccontextmanager
async def here(
    engine: Engine | None = None,
    *,
    limits: Limits | None = None,
    token: bytes | None = None,
    host: str = "127.0.0.1",
    log: AccessLog | None = None,
    warm: bool = True,
    **how: Any,
) -> AsyncIterator[Here]:
    """Start a server in this process, and stop it."""
    engine = engine or ColourEngine()
    batching = Batching(engine.sizes, wait_ms=20)
    service = Service(engine, batching, limits or Limits(), Metrics(), **how)
    if warm:
        service.warm()
    app = Guard(service.application(), service.metrics, token=token, host=host, log=log or AccessLog())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        try:
            yield Here(service, client, app)
        finally:
            service.stop(5.0)


def image(colour: str, kind: str = ".png", sides: tuple[int, int] = (8, 8)) -> bytes:
    """Return an image file of one colour."""
    pixels = np.zeros((*sides, 3), np.uint8)
    pixels[..., 2 - COLOURS.index(colour)] = 200  # OpenCV writes BGR
    return cv2.imencode(kind, pixels)[1].tobytes()


def run(coroutine: Any) -> Any:
    """Run a coroutine."""
    return asyncio.run(coroutine)


class There:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen, port: int, folder: Path):
        self.process, self.port, self._folder = process, port, folder
        self.url = f"http://127.0.0.1:{port}"

    @property
    def errors(self) -> str:
        """What it wrote to standard error."""
        return (self._folder / "err").read_text()

    def resident(self) -> int:
        """Return the bytes of memory that it has."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) * 1024

    def stop(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextlib.contextmanager
def there(command: list[str], folder: Path, seconds: float = 120, **environment: str) -> Iterator[There]:
    """Start a server in a process, and wait until it is ready."""
    env = {**os.environ, **environment}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen([sys.executable, *command], stdout=out, stderr=err, env=env)
    try:
        until, text = time.monotonic() + seconds, ""
        while "Ready" not in text:
            assert process.poll() is None, (folder / "err").read_text()
            assert time.monotonic() < until, text
            time.sleep(0.05)
            text = (folder / "out").read_text()
        yield There(process, int(re.findall(r"Ready: .*:(\d+)", text)[0]), folder)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
