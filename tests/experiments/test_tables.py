"""Results as data: the CSV files and the tables of README and docs are those that the results make."""

from __future__ import annotations

import csv

import pytest

from experiments import tables
from resnet_jax.models import MODELS, count, create_model, list_models


def test_every_table_is_what_the_results_say():
    files = tables.made(counts=False)
    assert {path.name for path in files} == {"recipes.csv", "speed.csv", "README.md", "recipes.md", "zoo.md"}
    stale = [path.name for path, text in files.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "python experiments/tables.py writes them anew"


def test_every_network_has_a_row_with_its_size():
    with (tables.RESULTS / "networks.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    assert list(rows) == list_models("*")
    for name in ("resnet20_cifar", "vdcnn9"):
        sizes = count(create_model(name), MODELS[name].input_shape)
        found = (rows[name]["parameters"], rows[name]["statistics"], rows[name]["multiply_adds"])
        assert found == (str(sizes.params), str(sizes.batch_stats), str(sizes.macs))


def test_a_page_without_the_place_of_a_table_is_named():
    with pytest.raises(SystemExit, match="no place for the table speed"):
        tables.inserted("a page\n", "speed", "| a |\n")
