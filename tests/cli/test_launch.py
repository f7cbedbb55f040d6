"""``launch`` and the verbs of one process, without starting any."""

from __future__ import annotations

import os

import pytest

from resnet_jax.cli import several
from resnet_jax.cli.several import several_processes
from resnet_jax.runtime import launcher
from resnet_jax.runtime.distributed import Launch


def test_launch_takes_its_command_behind_dashes(command, monkeypatch):
    given = []
    monkeypatch.setattr(launcher, "launch", lambda words, count, devices: given.append((words, count, devices)) or 7)
    assert command("launch", "--local", "2", "--devices-per-process", "3", "--", "train", "digits", "--json")[0] == 7
    assert given == [(["train", "digits", "--json"], 2, 3)]
    for words in (["--local", "2"], ["--local", "2", "--"], ["--local", "2", "train"], ["--local", "0", "--", "train"]):
        status, _, err = command("launch", *words)
        assert status == 2
        assert "launch" in err
    assert len(given) == 1


@pytest.mark.parametrize("argv", [["models"], ["--json", "data", "check", "digits"], ["train", "--help"]])
def test_a_verb_of_one_process_runs_in_the_first(monkeypatch, capsys, argv):
    monkeypatch.setenv("RESNET_JAX_DISTRIBUTED", "on")
    monkeypatch.setattr(several, "initialize_processes", None)
    for index in range(2):
        monkeypatch.setattr(several, "find_launch", lambda index=index: Launch("slurm", 2, index))
        with several_processes(argv) as works:
            assert works is (index == 0)
        said = capsys.readouterr().err
        verb = next(word for word in argv if not word.startswith("-"))
        line = f"{verb} runs in one process: number 1 of 2 has nothing to do\n"
        assert said == (line if index and "--help" not in argv else "")
        assert os.environ["RESNET_JAX_DISTRIBUTED"] == "off"  # what it starts is alone too
