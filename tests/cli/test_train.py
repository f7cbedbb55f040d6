"""A run from the command line: what it leaves, prints and returns; stopped, killed and resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.report.event_records import read_scalars
from resnet_jax.report.metrics_file import MetricsFile, read_metrics
from tests.cli.conftest import DEVICES, OPTIONS, last_json
from tests.tools import TINY, write_by_hand

ROOT = Path(__file__).resolve().parents[2]


def train_command(stripes, run_dir, *more):
    return ["train", "digits", *OPTIONS, "--data.source", f"npz:{stripes}", "--run-dir", str(run_dir), *more]


@pytest.fixture(scope="module")
def finished(stripes, tmp_path_factory):
    """An uninterrupted run: its directory and its summary."""
    from resnet_jax.cli.train import run

    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    return run_dir, run(train_command(stripes, run_dir, "--json")[1:])


def test_the_summary_has_what_a_program_needs(finished):
    run_dir, summary = finished
    assert summary["test_examples"] == 24
    assert summary["test_accuracy"] == summary["test_correct"] / 24 >= 0.6
    assert 0.0 <= summary["best_val_accuracy"] <= 1.0
    assert summary["steps"] == 2 * (84 // 16)
    assert summary["images_per_second"] > 0
    assert 0 < summary["first_step_seconds"] < summary["seconds"]
    assert len(summary["params_digest"]) == 64
    assert summary["run_dir"] == str(run_dir)


def test_the_run_directory_has_everything(finished):
    run_dir, summary = finished
    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        ".lock", ".position", ".written.json", "config.yaml", "data.json", "environment.json", "events.jsonl",
        "metrics.jsonl", "tensorboard", "checkpoints", "curves.png", "confusion.npz", "confusion.png", "summary.json",
    }  # fmt: skip
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"last", "best"}
    assert json.loads((run_dir / "summary.json").read_text()) == summary
    for name in ("curves.png", "confusion.png"):
        assert (run_dir / name).read_bytes().startswith(b"\x89PNG")
    assert any(path.name.startswith("events.out.tfevents") for path in (run_dir / "tensorboard").iterdir())
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["packages"]["jax"]
    assert len(environment["devices"]) == DEVICES
    card = json.loads((run_dir / "data.json").read_text())
    assert card["class_names"] == ["rows", "columns"]
    assert card["examples"] == {"train": 84, "val": 12, "test": 24}


def test_metrics_have_every_step_and_epoch(finished):
    rows = read_metrics(finished[0] / "metrics.jsonl")
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == list(range(1, 11))
    assert {"loss", "accuracy", "grad_norm", "learning_rate", "epoch"} <= set(steps[0])
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [(row["step"], row["epoch"]) for row in epochs] == [(5, 1.0), (10, 2.0)]
    assert {"val_loss", "val_accuracy", "loss", "accuracy"} <= set(epochs[0])


def test_a_finished_run_is_not_trained_or_tested_again(finished, stripes, command):
    run_dir, summary = finished
    before = (run_dir / "metrics.jsonl").stat().st_mtime_ns
    status, out, err = command(*train_command(stripes, run_dir, "--json"))
    assert status == 0
    assert last_json(out) == summary
    assert "finished" in err
    assert (run_dir / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_configuration_is_refused_with_the_difference(finished, stripes, command):
    status, _, err = command(*train_command(stripes, finished[0], "--optim.learning-rate", "0.2"))
    assert status == 1
    assert "optim.learning_rate: 0.1 -> 0.2" in err
    status, _, _ = command(*train_command(stripes, finished[0], "--train.log-every", "7 steps"))
    assert status == 0, "how a run is watched does not make it another one"


#: ``resnet-jax ARGV`` that kills itself after step 7, as soon as the checkpoint of step 5 is there.
KILLED = f"""
import os, signal, sys, time
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 8)
from resnet_jax.report.metrics_file import MetricsFile
from tests.tools import few_devices
on_step = MetricsFile.on_step
def killing(self, row):
    on_step(self, row)
    if row["step"] == 7:
        while not (Path(sys.argv[-1]) / "checkpoints" / "last" / "5").is_dir():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
MetricsFile.on_step = killing
from resnet_jax.cli import main
with few_devices({DEVICES}):
    main()
"""


def interrupt_after(patch, step, number):
    """Let this process get a signal right after it has logged a step, once."""
    on_step, sent = MetricsFile.on_step, []

    def interrupting(self, row):
        on_step(self, row)
        if row["step"] == step and not sent:
            sent.append(number)
            signal.raise_signal(number)

    patch.setattr(MetricsFile, "on_step", interrupting)


def logged(run_dir):
    """Return the rows of metrics.jsonl without what depends on the clock."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def scalars(run_dir):
    """Return (tag, step, value) of all its TensorBoard files, without what depends on the clock."""
    return [one for one in read_scalars(run_dir / "tensorboard") if one[0] != "epoch/images_per_second"]


def test_killed_and_stopped_and_resumed_it_ends_at_the_same_parameters(
    finished, stripes, tmp_path, command, programs, monkeypatch
):
    """SIGKILL in the second epoch, SIGTERM right after the next start, then on from its own config.yaml."""
    run_dir = tmp_path / "run"
    argv = train_command(stripes, run_dir, "--json")
    steps = sorted(Path(programs["JAX_COMPILATION_CACHE_DIR"]).glob("jit_train_step-*-cache"))
    assert steps
    killed = [sys.executable, "-c", KILLED, argv[0], argv[1], "--json", *argv[2:-1]]  # the directory is the last word
    done = subprocess.run(killed, capture_output=True, text=True, env=os.environ | programs, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = sorted(Path(programs["JAX_COMPILATION_CACHE_DIR"]).glob("jit_train_step-*-cache"))
    assert found == steps, "another process compiles the same step, and need not"
    assert not (run_dir / "summary.json").exists()
    metrics = run_dir / "metrics.jsonl"
    # what it logged after the checkpoint must not be taken for the next process's
    assert '"step": 6' in metrics.read_text()

    with monkeypatch.context() as patch:
        interrupt_after(patch, 6, signal.SIGTERM)
        status, _, err = command(*argv)
    assert status == 128 + signal.SIGTERM
    assert "Resuming after step 5 of 10" in err
    stopped = re.search(r"Stopped after step ([6-9]); the state is saved", err)
    assert stopped is not None, err
    assert "resnet-jax train digits" in err
    assert (run_dir / "curves.png").is_file()

    status, out, err = command("train", run_dir / "config.yaml", "--run-dir", run_dir, "--json")
    assert status == 0, err
    assert f"Resuming after step {stopped[1]} of 10" in err
    assert last_json(out)["params_digest"] == finished[1]["params_digest"]
    assert logged(run_dir) == logged(finished[0])
    assert scalars(run_dir) == scalars(finished[0])
    assert len(list((run_dir / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_data_without_a_recipe_is_looked_at_once_chosen_for_and_gone_on_with(
    finished, stripes, tmp_path, command, monkeypatch
):
    """What is typed goes before the choices, and the directory is the same for the same command."""
    monkeypatch.chdir(tmp_path)
    words = ["train", "--json", "--data", stripes, *TINY, "--train.length", "2 epochs", "--train.batch-size", "16"]
    words += ["--optim.learning-rate", "0.1", "--optim.schedule.warmup", "1 epochs"]  # else as the recipe has it
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, signal.SIGINT)
        status, _, err = command(*words, "--train.log-every", "1 steps")
    assert status == 130, err
    assert f"Examined npz:{stripes}: 120 images of 12x12, 3 channels, uint8; 2 classes of 60 to 60." in err
    assert re.search(r"model.name +resnet20_cifar +images of at most 64 pixels", err)
    assert re.search(r"train.length +2 epochs +given", err)
    assert re.search(r"data.augment +random_crop\(1\) +shifted by up to an eighth; not mirrored", err)
    status, out, err = command(*words)
    assert status == 0, err
    assert "its config.yaml is used, and the data is not examined again" in err
    assert "Resuming after step" in err
    summary = last_json(out)
    assert (summary["params_digest"], summary["run_dir"][:13]) == (finished[1]["params_digest"], "runs/stripes-")
    written = (tmp_path / summary["run_dir"] / "config.yaml").read_text()
    assert written.startswith("recipe: auto\n")
    assert "class_weights: none" in written


def test_data_beside_a_recipe_replaces_its_data(stripes, command, monkeypatch):
    given = []

    def fit(config, run_dir, *, data, **_):
        given.append((config.recipe, config.train.batch_size, data))
        raise UsageError("enough")

    monkeypatch.setattr("resnet_jax.runs.fit.fit", fit)
    command("train", "digits", "--data", stripes, "--train.batch-size", "8")
    assert given == [("digits", 8, str(stripes))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data"], "--data needs a path"),
        (["--data", "a", "--data=b"], "--data is given twice: a and b"),
        (["digits", "--data", "a", "--data.source", "b"], "both name the data"),
        (["--data", "a", "--data.source", "b"], "--data.source does not go with --data a"),
        (["--data", "nowhere.npz"], "nowhere.npz: there is no such file or folder"),
        (["."], "To train on the data in it: resnet-jax train --data ."),
        (["--seed", "1"], "or resnet-jax train --data PATH without one"),
    ],
)
def test_wrong_use_of_data_is_said(words, said, command):
    status, _, err = command("train", *words)
    assert (status != 0, said in err) == (True, True), err


@pytest.mark.slow
def test_several_steps_per_dispatch_stopped_in_an_epoch_and_resumed(stripes, tmp_path, command, monkeypatch):
    def train(name):
        return command(*train_command(stripes, tmp_path / name, "--train.steps-per-dispatch", "3", "--json"))

    status, whole, err = train("whole")
    assert status == 0, err
    assert re.findall(r"^epoch (\d)/2 ", err, re.MULTILINE) == ["1", "2"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, signal.SIGINT)
        status, _, err = train("resumed")
    assert (status, "after step 3" in err) == (130, True)
    status, resumed, err = train("resumed")
    assert (status, "Resuming after step 3 of 10" in err) == (0, True)
    assert last_json(resumed)["params_digest"] == last_json(whole)["params_digest"]
    assert logged(tmp_path / "whole") == logged(tmp_path / "resumed")
    steps = [row["step"] for row in logged(tmp_path / "whole") if row["kind"] == "train"]
    assert steps == list(range(1, 11))


@pytest.mark.slow
def test_float16_with_every_augmentation(stripes, tmp_path, command):
    """From a loss scale that is too large, so that the first steps are skipped."""
    more = ["--model.dtype", "float16", "--data.cutout", "3", "--data.mixup", "0.4", "--data.cutmix", "1"]
    more += ["--data.flip"]
    more += ["--train.loss-scale.initial", "16777216", "--train.length", "3 epochs", "--train.steps-per-dispatch", "4"]
    status, out, err = command(*train_command(stripes, tmp_path / "run", *more, "--json"))
    assert status == 0, err
    assert last_json(out)["steps"] == 15
    steps = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    skipped = steps[-1]["skipped"]
    assert 1 <= skipped < 15
    before = [0, *(row["skipped"] for row in steps[:-1])]
    assert {row["skipped"] - count for row, count in zip(steps, before, strict=True)} == {0, 1}
    assert steps[0]["skipped"] == 1
    assert [row["loss_scale"] for row in steps] == [2.0 ** (24 - count) for count in before]


def test_eval_repeats_the_test_result_and_knows_the_other_splits(finished, command):
    run_dir, summary = finished
    status, out, _ = command("eval", run_dir, "--json")
    assert status == 0
    result = last_json(out)
    assert (result["correct"], result["examples"]) == (summary["test_correct"], summary["test_examples"])
    assert result["accuracy"] == summary["test_accuracy"]
    assert result["loss"] == pytest.approx(summary["test_loss"], rel=1e-5)
    assert result["split"] == "test"
    for split, examples in (("val", 12), ("train", 84)):
        status, out, _ = command("eval", run_dir, "--split", split, "--json")
        assert (status, last_json(out)["examples"]) == (0, examples)


def test_predict_names_what_is_in_images(finished, stripes, tmp_path, command):
    import cv2

    with np.load(stripes) as data:
        for index in (0, 1):
            big = cv2.resize(data["x"][index], (48, 48), interpolation=cv2.INTER_NEAREST)  # brought to 12x12 again
            cv2.imwrite(str(tmp_path / f"{index}.png"), big)
    status, out, err = command("predict", finished[0], tmp_path / "0.png", tmp_path / "1.png", "--top", "2", "--json")
    assert status == 0
    predictions = last_json(out)
    assert [p["classes"][0] for p in predictions] == ["rows", "columns"]
    for prediction in predictions:
        assert sum(prediction["probabilities"]) == pytest.approx(1.0)
        assert prediction["probabilities"] == sorted(prediction["probabilities"], reverse=True)
    assert "rows" in err


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["eval", "RUN", "--split", "tset"], 2, "unknown split 'tset'; did you mean 'test'"),
        (["eval", "RUN", "--checkpoint", "newest"], 2, "unknown checkpoint 'newest'"),
        (["eval", "nowhere"], 2, "nowhere is not a run directory"),
        (["predict", "RUN"], 2, "name at least one image"),
        (["predict", "RUN", "missing.png"], 1, "cannot read missing.png"),
        (["predict", "RUN", __file__], 1, "test_train.py"),
        (["predict", "RUN", "x.png", "--top", "0"], 2, "top must be 1"),
    ],
)
def test_wrong_use_of_a_run(finished, command, argv, status, message):
    got, _, err = command(*[finished[0] if arg == "RUN" else arg for arg in argv])
    assert got == status
    assert message in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(stripes, tmp_path, command):
    run_dir = tmp_path / "run"
    status, _, err = command(*train_command(stripes, run_dir, "--optim.learning-rate", "1e30"))
    assert status == 1
    assert "diverged at step" in err
    assert "learning rate" in err
    assert not (run_dir / "summary.json").exists()
    rows = read_metrics(run_dir / "metrics.jsonl")
    assert all(row["loss"] is not None for row in rows if row["kind"] == "train")


@pytest.mark.slow
def test_early_stopping_and_the_best_state(stripes, tmp_path, command):
    status, out, _ = command(
        "train", "digits", *OPTIONS, "--data.source", f"npz:{stripes}", "--run-dir", tmp_path / "run", "--json",
        "--train.length", "8 epochs", "--train.early-stopping.patience", "1", "--train.select", "best",
        "--optim.learning-rate", "1e-9", "--optim.schedule.kind", "constant", "--optim.schedule.warmup", "None",
        "--train.ema.decay", "0.5",
    )  # fmt: skip
    assert status == 0
    summary = last_json(out)
    assert summary["finished"] == "early stopping"
    assert summary["steps"] < 40
    assert summary["tested"] == f"best, after step {summary['steps'] - 5}"
    status, out, _ = command("eval", tmp_path / "run", "--json")
    assert last_json(out)["correct"] == summary["test_correct"]


def test_a_run_in_use_is_not_trained_by_a_second_process(stripes, tmp_path, command):
    from resnet_jax.runs.directory import RunDirectory

    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with RunDirectory(run_dir).locked():
        status, _, err = command(*train_command(stripes, run_dir))
    assert status == 1
    assert "another process is training" in err


def test_data_that_changed_since_training_is_not_evaluated(finished, stripes, tmp_path, command):
    """Its division into splits would be another one, and the accuracy a wrong one."""
    moved = tmp_path / "run"
    shutil.copytree(finished[0], moved)
    other = tmp_path / "other.npz"
    with np.load(stripes) as data:
        np.savez(other, x=data["x"][:100], y=data["y"][:100], class_names=data["class_names"])
        np.savez(tmp_path / "renamed.npz", x=data["x"], y=data["y"], class_names=np.array(["row", "column"]))
    write_by_hand(moved / "config.yaml", (moved / "config.yaml").read_text().replace(str(stripes), str(other)))
    status, _, err = command("eval", moved)
    assert status == 1
    assert "is not what it was" in err
    status, out, err = command("eval", moved, "--data.source", f"npz:{other}", "--json")
    assert (status, last_json(out)["examples"]) == (0, 100)
    assert f"over all 100 images of npz:{other}" in err
    assert "test accuracy" not in err
    status, _, err = command("eval", moved, "--data.source", f"npz:{tmp_path / 'renamed.npz'}")
    assert status == 2
    assert "has no class 'row' (nearest: 'rows') and 1 more" in err


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("cross_entropy", [0.75, 0.25]), ("bce", [0.75, 0.5]), ("mse", [1.0, 0.0])],
)
def test_probabilities_are_those_of_the_loss(loss, expected):
    from resnet_jax.tasks.classification import Classification

    np.testing.assert_allclose(Classification(2, loss).probabilities(np.array([[np.log(3.0), 0.0]])), [expected])
