"""The table of the propagation check over networks, on two of them."""

from __future__ import annotations

import json

import pytest

from experiments.propagation import main


@pytest.mark.slow
def test_one_passes_and_one_fails(tmp_path):
    main(["--names", "plain20_cifar", "plain56_cifar", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "propagation.json").read_text())["rows"]
    assert [(row["network"], row["blocks"], row["ok"]) for row in rows] == [
        ("plain20_cifar", 9, True), ("plain56_cifar", 27, False),
    ]  # fmt: skip
    assert rows[1]["gradient"]["total"] > 100 > rows[0]["gradient"]["total"]
    lines = (tmp_path / "propagation.md").read_text().splitlines()
    assert lines[2].endswith("| passes |")
    assert lines[3].endswith("| **fails** |")
