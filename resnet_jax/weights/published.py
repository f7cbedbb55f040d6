"""Published weights by name: their network, where to find them, and how to prepare their images.

The table is ``published.csv``, with one line for each. ``experiments/published_weights.py`` creates it from what
torchvision, timm and two repositories of CIFAR networks state. Names of timm are timm's (``resnet50.a1_in1k``), those
of torchvision are its enumerations' (``resnet50.imagenet1k_v2``). Accuracies are what the source states for the line's
size, resize and interpolation, on the ImageNet validation images or the CIFAR test images; only those that
``docs/weights.md`` says were measured here. A file's checksum is complete if known; otherwise it is the first digits,
which its name carries, or empty.
"""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import functools
import json
import posixpath
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from resnet_jax.errors import UsageError, unknown

WHOLE = 64
"""Digits of a complete SHA-256."""

HUB = "https://huggingface.co"


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights that others published.

    Attributes:
        name: name of the weights.
        model: our network, a name of :func:`resnet_jax.list_models`.
        choices: changes to it.
        format: naming scheme of the tensors, a key of :data:`resnet_jax.weights.conventions.FORMATS`.
        url: URL of a file; "" if it is only on the hub.
        hub: ``owner/repository/file`` on the hub; "" if it is not there.
        sha256: SHA-256 of the file at ``url``: 64 digits, or as many as are known.
        licence: license as stated by the authors; "" if not stated.
        classes: ``imagenet-1k``, ``imagenet-21k``, ``cifar10`` or ``cifar100``.
        mean: per channel, of x / 255.
        std: per channel, of x / 255.
        image_size: side in pixels for the stated accuracy.
        resize: length in pixels to which the shorter side is resized before the center crop.
        interpolation: interpolation method, as ``data.interpolation``.
        top1: published top-1 accuracy in percent; None if there is none.
        top5: the same for top-5.
        trained_at: side in pixels in training, if stated.
        source: source of all this.
    """

    name: str
    model: str
    choices: Mapping[str, Any]
    format: str
    url: str
    hub: str
    sha256: str
    licence: str
    classes: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    resize: int
    interpolation: str
    top1: float | None
    top5: float | None
    trained_at: int | None
    source: str

    @property
    def place(self) -> str:
        """The URL to download from: that of the file with a known checksum, otherwise the hub's."""
        return self.url or self.on_hub

    @property
    def on_hub(self) -> str:
        """The URL of the file on the hub; "" if it is not there."""
        *repository, file = self.hub.rpartition("/")
        return f"{HUB}/{repository[0]}/resolve/main/{file}" if self.hub else ""

    @property
    def file(self) -> str:
        """Name of the file."""
        return posixpath.basename(urlsplit(self.place).path)

    @property
    def about_checksum(self) -> str:
        """How far a file can be verified, in a few words."""
        if len(self.sha256) == WHOLE:
            return "sha256"
        return f"first {len(self.sha256)} digits of sha256" if self.sha256 else "none published"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**plain, "choices": dict(self.choices), "mean": list(self.mean), "std": list(self.std)}


@functools.cache
def published() -> Mapping[str, Published]:
    """Return all published weights by name, in the order of the table."""
    text = resources.files("resnet_jax.weights").joinpath("published.csv").read_text("utf-8")
    rows = (_row(raw) for raw in csv.DictReader(text.splitlines()))
    return MappingProxyType({row.name: row for row in rows})


def find_published(name: str) -> Published:
    """Return the weights called ``name``.

    Raises:
        UsageError: there are none; the message suggests the nearest name.

    >>> find_published("resnet50.a1_in1k").image_size
    288
    """
    rows = published()
    if name in rows:
        return rows[name]
    of_model = [each for each, row in rows.items() if name in (row.model, each.partition(".")[0])]
    if of_model:
        raise UsageError(f"there are {len(of_model)} weights of {name}: {', '.join(of_model)}; name one of them")
    raise unknown("weights", name, list(rows), "`resnet-jax weights list`")


def list_weights(pattern: str = "*") -> list[Published]:
    """Return the weights whose name, network, classes or license match a shell-style pattern, or contain it.

    >>> [row.name for row in list_weights("resnet18.a?_in1k")]
    ['resnet18.a1_in1k', 'resnet18.a2_in1k', 'resnet18.a3_in1k']
    """
    found = []
    for row in published().values():
        texts = (row.name, row.model, row.classes, row.licence)
        if any(pattern in text or fnmatch.fnmatch(text, pattern) for text in texts):
            found.append(row)
    return found


def _row(raw: Mapping[str, str]) -> Published:
    choices = json.loads(raw["choices"] or "{}")
    whole = {"image_size", "resize", "trained_at"}
    values: dict[str, Any] = dict(raw)
    values["choices"] = {key: tuple(value) if isinstance(value, list) else value for key, value in choices.items()}
    for name in ("mean", "std"):
        values[name] = tuple(float(value) for value in raw[name].split())
    for name in ("image_size", "resize", "trained_at", "top1", "top5"):
        values[name] = None if not raw[name] else int(raw[name]) if name in whole else float(raw[name])
    return Published(**values)
