"""A source from outside the package, as documentation: the part between the lines is all that it takes."""

from __future__ import annotations

from pathlib import Path

# ---- in a file of your own -------------------------------------------------------------------------------------------
import numpy as np

from resnet_jax.data import Dataset, Field, load_dataset, register_source


class Sines:
    """Noisy sines, made when they are asked for: slow ones and fast ones."""

    def __init__(self, count):
        self.spec = {"image": Field((64, 1), "float32", "signal")}
        self.labels = np.arange(count, dtype=np.int32) % 2

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        time = np.linspace(0, 6, 64, dtype=np.float32)
        noise = np.random.default_rng(index).normal(size=64) / 4
        return {"image": (np.sin((1 + self.labels[index]) * time) + noise).astype(np.float32)[:, None]}

    def describe(self, index):
        return f"sine {index}"


@register_source("sines")
def load_sines(location, reading):
    return Dataset(f"sines:{location}", {"all": Sines(int(location))}, ("slow", "fast"))


# ----------------------------------------------------------------------------------------------------------------------

import pytest  # noqa: E402

from resnet_jax.data.registry import KINDS, find_source  # noqa: E402
from resnet_jax.errors import UsageError  # noqa: E402
from resnet_jax.runs.config import DataConfig, RunConfig  # noqa: E402
from resnet_jax.runs.data import load_images  # noqa: E402


def test_a_source_of_ones_own_is_opened_divided_described_and_held_in_memory():
    images = load_images(RunConfig(data=DataConfig(source="sines:40")))
    assert images.card.image_shape == (64, 1)
    assert images.card.image_dtype == "float32"
    assert images.card.examples == {"train": 28, "val": 4, "test": 8}
    assert images.card.class_names == ("slow", "fast")
    assert abs(images.card.mean[0]) < 0.5


def test_it_is_named_where_kinds_are_listed_and_its_lines_are_few():
    with pytest.raises(UsageError, match="'sines:' is not complete; write sines:LOCATION"):
        load_dataset("sines:")
    with pytest.raises(UsageError, match="did you mean 'sines'"):
        load_dataset("sine:3")
    assert "sines" in KINDS
    text = Path(__file__).read_text(encoding="utf-8").split("# ---")
    assert len([line for line in text[1].splitlines()[1:] if line.strip()]) <= 25


def test_a_name_belongs_to_one_source_and_ours_are_registered_alike():
    found = find_source("digits")
    assert found is not None
    assert found.form == "digits"
    for kind in ("sines", "folder"):
        with pytest.raises(UsageError, match=f"there is a source called '{kind}' already"):
            register_source(kind)(lambda location, **_: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match="'my-kind' cannot name a source: letters, digits and underscores"):
        register_source("my-kind")(lambda location, **_: None)  # type: ignore[arg-type,return-value]
