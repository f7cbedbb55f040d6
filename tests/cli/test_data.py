"""resnet-jax data: copies and prepared sets, from the command line to a training that reads them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from resnet_jax.data import load_dataset
from tests.tools import TINY


def test_convert_says_what_it_wrote(command, tmp_path):
    out = tmp_path / "digits.array_record"
    status, text, err = command("data", "convert", "digits", str(out))
    assert (status, err) == (0, "")
    first, second = text.splitlines()
    assert first.startswith(f"{out}: 1,797 all examples of digits (arrays), 0.3 MB in ")
    assert second == f"open it as array_record:{out}"
    status, text, err = command("data", "convert", "digits", str(out), "--overwrite", "--json")
    result = json.loads(text)
    assert result["examples"] == {"all": 1797}
    assert result["opens_as"] == f"array_record:{out}"
    status, text, err = command("data", "convert", "digits", str(out))
    assert (status, text) == (2, "")
    assert err.startswith(f"error: {out} is there already; --overwrite replaces it")


@pytest.mark.slow
def test_a_network_is_trained_on_a_copy_as_on_the_source(command, tmp_path):
    out = tmp_path / "digits.array_record"
    command("data", "convert", "digits", str(out))
    found = []
    for number, source in enumerate(("digits", f"array_record:{out}")):
        argv = ("train", "digits", "--data.source", source, "--run-dir", str(tmp_path / f"run{number}"))
        status, text, err = command(*argv, "--train.length", "20 steps", *TINY, "--json")
        assert status == 0, err
        found.append(json.loads(text.splitlines()[-1]))
    same = [
        {key: value for key, value in one.items() if key in ("test_loss", "test_accuracy", "steps")} for one in found
    ]
    assert same[0] == same[1]
    assert same[0]["steps"] == 20


def test_a_path_alone_says_what_to_type(command, tmp_path):
    command("data", "convert", "digits", str(tmp_path / "x"))
    status, _, err = command("data", "convert", str(tmp_path / "x"), str(tmp_path / "y"))
    assert status == 2
    assert f"it is an ArrayRecord file: if `resnet-jax data convert` wrote it, write array_record:{tmp_path}/x" in err


def test_prepare_from_arrays(command, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=rng.integers(0, 256, (20, 28, 28), np.uint8), y=np.arange(20) % 10)
    argv = (
        "data",
        "prepare",
        "mnist",
        "--from",
        f"npz:{tmp_path}/a.npz",
        "--data-dir",
        str(tmp_path / "sets"),
        "--json",
    )
    status, text, err = command(*argv)
    assert status == 0, err
    result = json.loads(text)
    assert (result["name"], result["examples"], result["already"]) == ("mnist/3.0.1", {"train": 20}, False)
    records = load_dataset(result["opens_as"]).splits["all"]
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal([records[i]["image"][..., 0] for i in range(20)], arrays["x"])
    status, text, err = command(*argv)
    assert (status, text) == (2, "")
    assert "mnist is prepared already in" in err
    status, text, _ = command("data", "prepare", "mnist", "--data-dir", str(tmp_path / "sets"))
    assert status == 0
    assert text.startswith("mnist/3.0.1 is prepared already in ")
