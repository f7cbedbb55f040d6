"""The ablate verb: what it refuses, and a process killed in the middle of a cell."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from resnet_jax.report.metrics_file import read_metrics
from tests.cli.conftest import DEVICES, last_json
from tests.tools import TINY

ROOT = Path(__file__).resolve().parents[2]

#: ``resnet-jax ARGV`` that kills itself after the second epoch, as soon as the checkpoint of the first is there.
KILLED = f"""
import os, signal, sys, time
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 8)
from resnet_jax.ablation.observers import CellRows
from tests.tools import few_devices
on_members = CellRows.on_members
def killing(self, rows):
    on_members(self, rows)
    if any(row["step"] == 18 for row in rows.values()):
        while not list(Path(sys.argv[-1]).glob("cells/*/checkpoints/*/last/9")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
CellRows.on_members = killing
from resnet_jax.cli import main
with few_devices({DEVICES}):
    main()
"""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name a recipe first"),
        (["--model.norm", "batch,none"], "name a recipe first"),
        (["digist"], "unknown recipe 'digist'; did you mean 'digits'"),
        (["digits", "--model.nrom", "batch,none"], "--model.norm"),
        (["digits", "--train.length", "1 epochs,x"], "train.length"),
        (["digits", "--optim.nesterov=yes,maybe"], "optim.nesterov"),
        (["digits", "--agc", "maybe"], "(--agc maybe)"),
        (["digits", "--agc", "off,on", "--optim.agc", "None,0.1"], "optim.agc is given twice"),
        (["digits", "--seeds", "0"], "(--seeds 0)"),
        (["digits", "--seed", "3"], "give --seeds"),
        (["digits", "--cells", "missing.yaml"], "cannot read missing.yaml"),
        (["digits", "--members-at-once", "0"], "members_at_once must be 1 or more, got 0 (--members-at-once)"),
        (["digits", "--train.length", "0 epochs"], "train.length must be more than nothing"),
    ],
)
def test_wrong_usage_is_status_2_and_leaves_nothing(argv, message, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = command("ablate", *argv)
    assert status == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_incompatible_cells_are_listed_with_status_2(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--model.residual", "plain,fixup", "--agc", "off,on"]
    status, _, err = command("ablate", "digits", *argv, "--optim.schedule.warmup", "0 steps")
    assert status == 2
    assert "2 of 4 cells cannot be built; nothing was trained" in err
    assert "residual-fixup_agc-off: these choices do not go together: residual fixup replaces normalization" in err
    assert "residual-fixup_agc-on:" in err
    assert not list(tmp_path.iterdir())


def test_help_names_the_verb_and_its_options(command):
    status, out, _ = command("ablate", "--help")
    assert status == 0
    for option in ("--seeds", "--agc", "--cells", "--skip-incompatible", "--members-at-once", "--out"):
        assert option in out


def table_without_seconds(folder):
    rows = csv.DictReader((folder / "table.csv").read_text().splitlines())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_killed_in_the_middle_of_a_cell_it_gives_the_same_table(tmp_path, command, programs):
    """The end has the bits of the ablation that nobody disturbed."""
    (tmp_path / "cells.yaml").write_text("GN: {model.norm: group, model.norm_groups: 4}\n")
    argv = [
        *("ablate", "digits", "--json", *TINY, "--cells", str(tmp_path / "cells.yaml"), "--agc", "on"),
        *("--seeds", "3,7", "--train.length", "3 epochs", "--train.batch-size", "128", "--out"),
    ]
    status, printed, err = command(*argv, tmp_path / "whole")
    assert status == 0, err
    whole = last_json(printed)
    assert [cell["labels"] for cell in whole["cells"]] == [{"cell": "GN", "agc": "on"}]
    assert "cell 1 of 1: GN, agc on" in err
    assert "| GN | on |" in err

    out = tmp_path / "killed"
    folder = out / "cells" / "GN_agc-on"
    process = [sys.executable, "-c", KILLED, *argv, str(out)]
    done = subprocess.run(process, capture_output=True, text=True, env=os.environ | programs, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (folder / "result.json").exists()
    # rows after the checkpoint, one of them cut off: neither must stay
    metrics = folder / "metrics.jsonl"
    assert '"step": 18' in metrics.read_text()
    with metrics.open("a") as file:
        file.write('{"kind": "epoch", "seed": 3, "step": 107}\n{"kind": "epo')

    status, printed, err = command(*argv, out)
    assert status == 0, err
    assert "resuming after step 9" in err
    result = last_json(printed)
    assert [c["members"] for c in result["cells"]] == [c["members"] for c in whole["cells"]], "digests: every bit"
    assert table_without_seconds(out) == table_without_seconds(tmp_path / "whole")
    assert read_metrics(metrics) == read_metrics(tmp_path / "whole" / "cells" / "GN_agc-on" / "metrics.jsonl")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["model"]["norm"], config["optim"]["agc"]) == ("group", 0.01)
    assert json.loads((folder / "result.json").read_text())["values"] == result["cells"][0]["values"]


def test_a_new_ablation_has_no_data_that_moved(command, tmp_path):
    status, _, err = command(
        "ablate", "digits", "--data.moved-to", "npz:x.npz", "--model.norm", "batch,none", "--out", tmp_path / "new"
    )
    assert (status, "there is none in" in err) == (2, True), err
    assert not (tmp_path / "new").exists()
