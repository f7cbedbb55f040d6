"""PyTorch's side of ``resnet-jax bench data``: ImageFolder, torchvision's transforms on Pillow images, DataLoader.

It imports nothing of this project; ``resnet_jax/bench/serve.py`` loads it in an interpreter that has torch and
torchvision. Batches are uint8 and not normalized, as on the other sides. Its workers are processes, as many as the
other sides have threads.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import resource
import time
from typing import Any

import torch
import torchvision
from PIL import Image
from torchvision import transforms


def _rgb(path: str) -> Image.Image:
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def _grey(path: str) -> Image.Image:
    with open(path, "rb") as file:
        return Image.open(file).convert("L")


class Side:
    """A DataLoader that is started and stopped for each round."""

    def __init__(self, spec: dict[str, Any]):
        """Open the folder."""
        self.images, self.workers = spec["batch"], spec["threads"]
        steps = [transforms.PILToTensor()]
        if spec["kind"] == "imagenet":
            steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *steps]
        loader = _grey if spec["kind"] == "mnist" else _rgb
        self.data = torchvision.datasets.ImageFolder(spec["folder"], transforms.Compose(steps), loader=loader)
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": Image.__version__}
        self.facts = {"examples": len(self.data), "versions": versions}

    def dispatch(self) -> None:
        """Read one example, to warm up."""
        self.data[0]

    def wait(self) -> None:
        """Nothing is on its way."""

    def measure(self, seconds: float) -> dict[str, float]:
        """Return the examples that arrive in about so many seconds, after what is made ahead is used up."""
        loader = torch.utils.data.DataLoader(
            self.data, self.images, sampler=_Endless(len(self.data)), num_workers=self.workers, drop_last=True
        )
        stream = iter(loader)
        for _ in range(2 * self.workers + 8):
            next(stream)
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            count += len(next(stream)[1])
        del stream
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"images": count, "seconds": took, "peak_bytes": peak}


class _Endless(torch.utils.data.Sampler):
    """Positions with replacement, without end."""

    def __init__(self, count: int):
        """Take how many there are."""
        self.count = count

    def __iter__(self):
        """Yield positions."""
        while True:
            yield from torch.randint(self.count, (1024,)).tolist()


def prepare(spec: dict[str, Any]) -> Side:
    """Open the folder."""
    return Side(spec)
