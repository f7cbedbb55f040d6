from __future__ import annotations

import dataclasses
import json

import pytest

from resnet_jax.errors import DataError
from resnet_jax.weights.notes import KEY, Notes, read_notes

NOTES = Notes(
    model="resnet20_cifar",
    choices={"activation": "silu", "widths": (4, 8), "num_classes": 2},
    class_names=("Dürer [1471]", "b: c"),
    image_shape=(12, 12, 3),
    crop="none",
    mean=(0.5, 0.25, 0.125),
    std=(0.1, 0.2, 0.3),
    loss="bce",
)


def test_there_and_back():
    assert read_notes(NOTES.as_metadata(), "net") == NOTES
    assert read_notes({"format": "pt"}, "net") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps({**dataclasses.asdict(NOTES), "more": 1}),
        json.dumps({**dataclasses.asdict(NOTES), "class_names": [1]}),
        json.dumps({**dataclasses.asdict(NOTES), "mean": "0.5"}),
        json.dumps({**dataclasses.asdict(NOTES), "model": None}),
    ],
)
def test_others_are_refused(text):
    with pytest.raises(DataError, match="net: the text 'resnet_jax' in it is not as"):
        read_notes({KEY: text}, "net")
