"""Published weights by name: which network they are of, where they lie, and how their images are prepared.

The table is ``published.csv``, a line for each; ``experiments/published_weights.py`` makes it of what torchvision, timm
and two repositories of CIFAR nets say. Names of timm are timm's (``resnet50.a1_in1k``), those of torchvision its
enumerations' (``resnet50.imagenet1k_v2``). Accuracy is what the source says of the size, resize and interpolation of
the line, on the ImageNet validation images or the CIFAR test images; nothing of it was measured here but what
``docs/weights.md`` says. A file's checksum is whole where it is known, else the first digits that its name carries, or
nothing.
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
"""Digits of a whole SHA-256."""

HUB = "https://huggingface.co"


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights that others published.

    Attributes:
        name: of the weights.
        model: our network, a name of :func:`resnet_jax.list_models`.
        choices: what is changed in it.
        format: whose names the tensors have, a key of :data:`resnet_jax.weights.conventions.FORMATS`.
        url: of a file; "" where there is none but on the hub.
        hub: ``owner/repository/file`` on the hub; "" where there is none.
        sha256: of the file at ``url``: 64 digits, or as many as are known.
        licence: as their authors state it; "" where they do not.
        classes: ``imagenet-1k``, ``imagenet-21k``, ``cifar10`` or ``cifar100``.
        mean: per channel, of x / 255.
        std: per channel, of x / 255.
        image_size: side in pixels that the accuracy is of.
        resize: pixels that the shorter side is brought to, before the centre is cut out.
        interpolation: how, as ``data.interpolation``.
        top1: published accuracy in percent; None where none is.
        top5: the same of the five likeliest classes.
        trained_at: side that they were trained at, where the source says it.
        source: who says all this.
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
        """The URL that is fetched: of the file with a known checksum, else on the hub."""
        return self.url or self.on_hub

    @property
    def on_hub(self) -> str:
        """The URL of the file on the hub; "" where there is none."""
        *repository, file = self.hub.rpartition("/")
        return f"{HUB}/{repository[0]}/resolve/main/{file}" if self.hub else ""

    @property
    def file(self) -> str:
        """Name of the file."""
        return posixpath.basename(urlsplit(self.place).path)

    @property
    def about_checksum(self) -> str:
        """How far a file can be compared, in a few words."""
        if len(self.sha256) == WHOLE:
            return "sha256"
        return f"first {len(self.sha256)} digits of sha256" if self.sha256 else "none published"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**plain, "choices": dict(self.choices), "mean": list(self.mean), "std": list(self.std)}


@functools.cache
def published() -> Mapping[str, Published]:
    """Return all of them by name, in the order of the table."""
    text = resources.files("resnet_jax.weights").joinpath("published.csv").read_text("utf-8")
    rows = (_row(raw) for raw in csv.DictReader(text.splitlines()))
    return MappingProxyType({row.name: row for row in rows})


def find_published(name: str) -> Published:
    """Return the weights called ``name``.

    Raises:
        UsageError: nobody is; it names the nearest.

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
    """Return the weights whose name, network, classes or licence match a shell-style pattern, or contain it.

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
