"""``data show``: a word, options, a picture."""

from __future__ import annotations

import json

import pytest

from resnet_jax.cli.main import run


def test_a_recipe_is_drawn_with_what_was_changed(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    words = ["--count", "2", "--data.augment", "flip", "--data.fold", "2/5", "--out", str(out), "--json"]
    assert run(["data", "show", "digits", *words]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["title"] == "Examples as stored and as the network sees them: recipe digits: digits, train"
    assert "on the device flip, normalized by mean" in found["lines"][1]
    assert "val is fold 2/5" in found["lines"][2]
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "name a recipe, a run directory or a data source first"),
        (["nowhere/at/all"], "there is no such file or folder"),
        (["digits", "--out", "sheet.pdf"], "the picture is a PNG; write sheet.png"),
        (["digits", "--count", "0"], "count must be in [1, 200], got 0"),
        (["digits", "--split", "tets"], "there is no split 'tets': there are train, val, test"),
    ],
)
def test_what_cannot_be_drawn_is_said(argv, said, capsys):
    assert run(["data", "show", *argv]) == 2 or "nowhere" in argv[0]
    assert said in capsys.readouterr().err
