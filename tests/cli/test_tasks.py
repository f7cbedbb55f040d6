"""Several labels, values and yes or no by the command line: trained, evaluated, predicted; checked by scikit-learn."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import last_json
from tests.tools import TINY

FILE = Path(__file__).parents[2] / "experiments" / "composed_digits.py"
#: Two epochs of six steps, of the smallest network.
SHORT = (*TINY, "--train.length", "2 epochs", "--train.batch-size", "32", "--train.log-every", "1 steps")
COUNT = 300
HEADLINES = {"labels": "map", "weight": "r2", "yes_no": "accuracy"}


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("composed_digits", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def problems(experiment):
    return {problem.name: problem for problem in experiment.problems(COUNT)}


def studied(experiment, problem, folder, command, *, manifest=False, options=()):
    """Write both sources of a problem and study one of them; the files of the manifest are predicted."""

    def run(words):
        status, out, err = command(*words, "--json")
        assert status == 0, err
        return last_json(out)

    arrays, files = experiment.write_arrays(problem, folder), experiment.write_manifest(problem, folder)
    return experiment.study(problem, files if manifest else arrays, folder, run, (*SHORT, *options))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name != "labels" else name for name in HEADLINES]
)
@pytest.mark.slow
def test_every_metric_of_arrays_is_that_of_scikit_learn(name, experiment, problems, tmp_path, command):
    result = studied(experiment, problems[name], tmp_path, command)
    assert result.difference < 1e-5
    assert result.predicted < 1e-5
    assert (result.summary["task"], result.summary["headline"]) == (result.evaluated["task"], HEADLINES[name])
    run = tmp_path / f"run-{name}-npz"
    assert (run / "curves.png").is_file()
    assert (run / ("confusion.png" if name == "yes_no" else "predictions.png")).is_file()
    stored = json.loads((run / "summary.json").read_text())
    assert stored["metrics"] == pytest.approx(result.evaluated["metrics"], rel=1e-5)
    assert stored[f"test_{HEADLINES[name]}"] == stored["metrics"][HEADLINES[name]]
    if name == "labels":
        other_sources(run, problems[name], experiment, tmp_path, command)


def other_sources(run, problem, experiment, folder, command):
    """Evaluate on a table with the labels in another order and the last of them nowhere."""
    table = folder / "other.csv"
    with (folder / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if "9" not in row["labels"].split(";")][:40]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("path", "labels"))
        writer.writeheader()
        writer.writerows({"path": row["path"], "labels": row["labels"]} for row in rows)
    status, out, err = command(
        "eval", run, "--data.source", f"manifest:{table}", "--split", "all", "--logits", folder / "o.npy", "--json"
    )
    assert status == 0, err
    found = last_json(out)
    assert "taken to be in none of its examples: 9" in " ".join(found["said"])
    labels = np.array([[name in row["labels"].split(";") for name in problem.names] for row in rows])
    outputs = np.load(folder / "o.npy")
    assert found["metrics"]["map"] == pytest.approx(
        experiment.scikit_learn(problem, labels[:, :9], outputs[:, :9], {})["map"], rel=1e-5
    )
    assert any("9" in said and "map leaves them out" in said for said in found["said"])
    status, _, err = command("eval", run, "--data.source", "digits")
    assert status == 2
    assert "have a class each, and the network" in err


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADLINES)
def test_every_metric_of_a_table_of_files_is_that_of_scikit_learn(name, experiment, problems, tmp_path, command):
    result = studied(experiment, problems[name], tmp_path, command, manifest=True)
    assert max(result.difference, result.predicted) < 1e-5


@pytest.mark.slow
def test_an_ablation_of_values_is_told_and_drawn_by_its_headline(experiment, problems, tmp_path, command):
    source = experiment.write_arrays(problems["weight"], tmp_path)
    words = ("ablate", "digits", "--data.source", source, "--data.augment", *SHORT[:-2], "--seeds", "0,1")
    status, out, err = command(*words, "--model.norm", "batch,none", "--out", tmp_path / "out", "--json")
    assert status == 0, err
    assert "val r2" in err
    assert "accuracy" not in err
    result = last_json(out)
    assert {cell["metric"] for cell in result["cells"]} == {"r2"}
    assert "test r2" in (tmp_path / "out" / "table.md").read_text()
