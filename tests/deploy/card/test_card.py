"""The card's figures are eval's, of the pretrained ResNet-20, and its files hold what they should."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml

from resnet_jax.cli.main import run
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.foreign import import_weights
from tests.tools import few_devices


@pytest.fixture(scope="module")
def cards(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    weights = shared_data / "pytorch-cifar-resnets" / "resnet20-12fca82f.th"
    import_weights(weights, ModelSpec("resnet20_cifar"), folder / "run")
    with np.load(shared_data / "cifar10-test-lossless-1017.npz") as data:
        np.savez(folder / "val.npz", x=data["x"][:100], y=data["y"][:100])
        np.savez(folder / "test.npz", x=data["x"][100:250], y=data["y"][100:250])
    return folder


@pytest.mark.slow
def test_the_card(cards, capsys):
    with few_devices(1):
        words = ["--split", "all", "--source", f"npz:{cards / 'test.npz'}", "--val-source", f"npz:{cards / 'val.npz'}"]
        assert run(["card", str(cards / "run"), *words, "--licence", "bsd-2-clause", "--json"]) == 0
        card = json.loads(capsys.readouterr().out.splitlines()[-1])
        source = f"npz:{cards / 'test.npz'}"
        assert run(["eval", str(cards / "run"), "--split", "all", "--data.source", source, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out.splitlines()[-1])
    metrics = {each["name"]: each for each in card["metrics"]}
    assert metrics["accuracy"]["value"] == evaluated["accuracy"] == evaluated["correct"] / 150
    assert metrics["accuracy"]["low"] < evaluated["accuracy"] < metrics["accuracy"]["high"]
    assert metrics["ece"]["value"] == pytest.approx(card["calibration"]["before"]["ece"], abs=1e-6)
    assert metrics["cross_entropy"]["value"] == pytest.approx(evaluated["loss"], rel=1e-5)
    assert card["calibration"]["temperature"] > 1
    assert card["calibration"]["after"]["loss"] < card["calibration"]["before"]["loss"]
    assert sum(each["examples"] for each in card["classes"]) == card["examples"] == 150
    right = sum(round(each["recall"] * each["examples"]) for each in card["classes"])
    assert right == evaluated["correct"]
    assert [form["name"] for form in card["forms"]] == ["this package (float32)"]

    folder = cards / "run" / "card"
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "bsd-2-clause"
    assert front["model-index"][0]["results"][0]["metrics"][0] == {"type": "accuracy", "value": evaluated["accuracy"]}
    for heading in ("Data", "Recipe", "Calibration", "Speed and size", "Known limits", "License", "How to load it"):
        assert f"## {heading}" in text
    assert "![Gradient through depth](gradient.png)" in text
    pictures = re.findall(r"!\[[^\]]*\]\((.*?)\)", text)
    assert len(pictures) == 4
    assert all((folder / name).stat().st_size > 5000 for name in pictures)
    assert len(card["depth"]["grad_norm"]) == len(card["depth"]["blocks"]) == 9
    compile(text.split("```python")[1].split("```")[0], "card", "exec")
    page = (folder / "report.html").read_text()
    for path in folder.iterdir():  # no folder of the machine
        assert str(cards).encode() not in path.read_bytes(), path.name
    assert 'id="figure-reliability"' in page
    assert (folder / "reliability.png").stat().st_size > 5000
    assert json.loads((folder / "card.json").read_text())["digest"] == card["digest"]
