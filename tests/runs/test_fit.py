"""A run whose pictures fail, which becomes longer, or which learns nothing: on one block and 8x8 digits."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import signal

import numpy as np
import pytest
from rich.console import Console

from resnet_jax.data.records import ArrayRecords
from resnet_jax.data.source import load_dataset
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models import ResNetConfig
from resnet_jax.models.rows import MODELS, NamedModel
from resnet_jax.report.metrics_file import MetricsFile, read_metrics
from resnet_jax.report.tensorboard import TensorBoard
from resnet_jax.runs.arrays import as_dataset
from resnet_jax.runs.auto import begin
from resnet_jax.runs.chosen import choose_images
from resnet_jax.runs.data import load_images
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.evaluate import evaluate_run
from resnet_jax.runs.fit import fit
from resnet_jax.runs.outcome import Summary
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.training.loop import Interrupted
from resnet_jax.training.observers import Observer


@pytest.fixture(scope="module", autouse=True)
def tiny_network():
    """A network of one block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", NamedModel(ResNetConfig((1,), (8,), stem="cifar"), 8, "these tests"))
        yield


def config(epochs=1, rate=0.05):
    base = load_recipe("digits")
    return dataclasses.replace(
        base,
        model=base.model.replace(name="tiny"),
        train=dataclasses.replace(base.train, length=f"{epochs} epochs", batch_size=128),
        optim=dataclasses.replace(base.optim, learning_rate=rate),
    )


def run(run_dir, **choices):
    """Return the summary and what was printed."""
    file = io.StringIO()
    try:
        return fit(config(**choices), run_dir, console=Console(file=file, width=2000)).summary, file.getvalue()
    except (Interrupted, RunError) as error:
        error.printed = file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
        raise


def broken(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def unpictured(tmp_path_factory):
    """A run of which no view could be made."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_curves", "plot_confusion"):
            patch.setattr(f"resnet_jax.runs.outcome.{name}", broken)
        patch.setattr(TensorBoard, "on_start", broken)
        summary, printed = run(path)
    return path, summary, printed


@pytest.mark.slow
def test_a_result_is_not_lost_to_its_pictures(unpictured):
    path, summary, printed = unpictured
    assert json.loads((path / "summary.json").read_text()) == summary.to_json()
    assert Summary.from_json(summary.to_json()) == summary
    assert "warning: curves.png was not drawn: OSError: [Errno 28] No space left on device" in printed
    assert "warning: confusion.png was not drawn" in printed
    assert printed.count("warning: TensorBoard goes no further") == 1
    assert printed.index("test accuracy") < printed.index("warning: curves.png")
    assert "params sha256" in printed
    assert not (path / "curves.png").exists()


def test_the_result_is_in_its_file_before_it_is_said_and_said_where_it_cannot_be_written(unpictured, monkeypatch):
    path, summary, _ = unpictured
    (path / "summary.json").rename(path / "aside.json")

    def gone(*_):
        raise BrokenPipeError(32, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr("resnet_jax.runs.fit.conclude", gone)
        with pytest.raises(BrokenPipeError):
            run(path)
    assert json.loads((path / "summary.json").read_text())["params_digest"] == summary.params_digest
    (path / "summary.json").unlink()
    (path / "summary.json").mkdir()
    file = io.StringIO()
    with pytest.raises(OSError, match="directory"):
        fit(config(), path, console=Console(file=file, width=2000))
    assert f"test accuracy {summary.test_accuracy:.2%}" in file.getvalue()
    (path / "summary.json").rmdir()
    (path / "aside.json").rename(path / "summary.json")


def test_a_warm_up_that_does_not_fit_is_shortened_and_said(unpictured):
    assert "warm-up '1 epochs' becomes '1 steps', in proportion: this run makes 9 of the 135 updates" in unpictured[2]
    assert "warmup: 1 steps" in (unpictured[0] / "config.yaml").read_text()


def test_a_run_of_few_updates_is_not_called_stuck(unpictured):
    summary = unpictured[1]
    assert summary.stuck is None
    assert summary.stuck_reason == "9 updates are too few to say whether it learns"


def test_typed_again_the_missing_pictures_are_drawn_and_one_that_fails_is_a_warning(unpictured, monkeypatch):
    path, summary, _ = unpictured
    for name in ("curves.png", "confusion.png"):
        (path / name).unlink(missing_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr("resnet_jax.runs.outcome.plot_curves", broken)
        again, printed = run(path)
    assert again == summary
    assert "This run is finished" in printed
    assert "warning: curves.png was not drawn" in printed
    assert "drawn again" in printed
    _, printed = run(path)
    assert "curves.png" in printed
    for name in ("curves.png", "confusion.png"):
        assert (path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_ctrl_c_keeps_its_message_where_the_picture_fails_and_a_longer_run_resumes(unpictured, tmp_path, monkeypatch):
    """Stopped in the middle of the extension, it ends as the one that was not."""
    import shutil

    path, summary, _ = unpictured
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for copy in (whole, stopped):
        shutil.copytree(path, copy)
    longer, printed = run(whole, epochs=2)
    assert "Continuing a run of 9 updates: 9 are done, and now 18 are requested (2 epochs)" in printed
    assert "The result after 9 updates is kept in summary-9.json" in printed
    assert "They were evaluated before, after 9 updates" in printed
    assert longer.steps == 18
    assert json.loads((whole / "summary-9.json").read_text())["params_digest"] == summary.params_digest
    assert longer.params_digest != summary.params_digest
    epochs = [row["step"] for row in read_metrics(whole / "metrics.jsonl") if row["kind"] == "epoch"]
    assert epochs == [9, 18]
    assert "length: 2 epochs" in (whole / "config.yaml").read_text()
    with pytest.raises(RunError, match="it can become longer, but not shorter"):
        run(whole, epochs=1)

    on_step = MetricsFile.on_step

    def interrupting(self, row):
        on_step(self, row)
        if row["step"] == 12:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "on_step", interrupting)
        patch.setattr("resnet_jax.runs.outcome.plot_curves", broken)
        with pytest.raises(Interrupted) as caught:
            run(stopped, epochs=2)
    assert "warning: curves.png was not drawn" in caught.value.printed
    assert not (stopped / "summary.json").exists()
    resumed, printed = run(stopped, epochs=2)
    assert "Resuming after step 1" in printed
    assert resumed.params_digest == longer.params_digest
    assert resumed.best_val_accuracy == longer.best_val_accuracy


@pytest.mark.slow
def test_a_run_that_ends_at_chance_is_said_to_be_stuck(tmp_path, monkeypatch):
    monkeypatch.setattr("resnet_jax.training.stuck.MIN_UPDATES", 1)
    summary, printed = run(tmp_path / "run", rate=1e-12)
    if summary.test_accuracy > 0.14:
        pytest.skip("the initial network happens to be better than chance")
    assert summary.stuck is True
    assert "This run is stuck: after 9 updates it does no better than chance" in printed.strip().splitlines()[-1]
    _, printed = run(tmp_path / "run", rate=1e-12)
    assert "This run is stuck" in printed


class Told(Observer):
    """Remembers what it is told."""

    def __init__(self):
        self.calls = []

    def on_start(self, facts):
        self.calls.append(("start", facts.start_step, facts.total_steps))

    def on_step(self, row):
        self.calls.append(("step", row["step"]))

    def on_epoch(self, row):
        self.calls.append(("epoch", row["step"]))

    def on_end(self, summary):
        self.calls.append(("end", summary["steps"]))

    def close(self):
        self.calls.append(("close",))


@pytest.mark.slow
def test_fit_tells_observers_and_returns_summary_history_and_network(tmp_path):
    """One that raises is said and left out; the run is finished, and asked for again it returns the same."""

    class Failing:
        def on_step(self, row):
            raise ValueError("no more")

    told, said = Told(), io.StringIO()
    choices = dataclasses.replace(config(epochs=2).train, log_every="3 steps", validate_every="5 steps", observers=())
    chosen = dataclasses.replace(config(), train=choices)
    found = fit(chosen, tmp_path, console=Console(file=said, width=2000), observers=[Failing(), told])
    assert told.calls == [
        ("start", 0, 18),
        *(("step", step) for step in range(1, 10)), ("epoch", 9),
        *(("step", step) for step in range(10, 19)), ("epoch", 18),
        ("end", 18), ("close",),
    ]  # fmt: skip
    assert said.getvalue().count("warning: Failing goes no further: ValueError: no more. Training continues") == 1
    assert not (tmp_path / "tensorboard").exists()
    assert [row["step"] for row in found.history.epochs] == [9, 18]
    assert [row["step"] for row in found.history.steps] == [3, 6, 9, 12, 15, 18]
    assert [row["step"] for row in found.history.validations] == [5, 10, 15]
    assert {"val_loss", "val_accuracy"} <= set(found.history.validations[0])
    assert "val_loss" not in found.history.epochs[0]
    assert found.trained is found.trained
    assert found.trained.step == found.summary.steps == 18
    again = fit(chosen, tmp_path, observers=[told])
    assert (again.summary, again.history) == (found.summary, found.history)
    assert told.calls[-1] == ("close",)


def test_an_observer_that_there_is_not_is_refused_before_anything_is_written(tmp_path):
    chosen = dataclasses.replace(config(), train=dataclasses.replace(config().train, observers=("wandbb",)))
    with pytest.raises(UsageError, match="unknown observer 'wandbb'; did you mean 'wandb'"):
        fit(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_arrays_are_divided_trained_evaluated_and_needed_again(tmp_path):
    """As the same arrays in a file; others are refused, also when the run is finished."""
    dataset = load_dataset("digits").splits["all"]
    assert isinstance(dataset, ArrayRecords)
    x, y = dataset.images[:400], dataset.labels[:400]
    found, path = fit(config(), tmp_path / "run", data=(x, y)), tmp_path / "run"
    np.savez(tmp_path / "digits.npz", x=x, y=y)
    data = dataclasses.replace(config().data, source=f"npz:{tmp_path}/digits.npz")
    assert found.trained.card == load_images(dataclasses.replace(config(), data=data)).card
    assert "source: arrays" in (path / "config.yaml").read_text()
    assert fit(config(), path, data={"image": x, "label": y}).summary == found.summary
    for other in ((x, (y + 1) % 10), (x[:, :6], y), (x[:390], y[:390])):
        with pytest.raises(RunError, match=r"the arrays are not those that .*run was trained on"):
            fit(config(), path, data=other)
    with pytest.raises(UsageError, match=r"give it again, fit\(config, data=\(x, y\)\) or evaluate_run\(path, data="):
        evaluate_run(path)
    own = evaluate_run(path, data=(x, y))
    assert (own.correct, own.own, own.what) == (found.summary.test_correct, True, "the test split")
    others = choose_images(found.trained, "test", dataset=as_dataset((x[:50], y[:50])))
    assert (len(others.records), others.own, others.what) == (50, False, "all 50 images of arrays")
    with pytest.raises(UsageError, match="both name the images"):
        evaluate_run(path, source="digits", data=(x, y))


def test_arrays_or_a_path_alone_are_enough(tmp_path, monkeypatch):
    """All else is chosen, once: what the directory holds decides then."""
    monkeypatch.chdir(tmp_path)
    rng, y = np.random.default_rng(0), np.arange(24) % 2
    x = (rng.normal(size=(24, 12, 1)) + 2 * y[:, None, None]).astype(np.float32)
    monkeypatch.setattr("resnet_jax.runs.defaults.MOST_EPOCHS", 1)
    monkeypatch.setattr("resnet_jax.runs.defaults.FEWEST_EPOCHS", 1)
    monkeypatch.setattr("resnet_jax.runs.defaults._network", lambda *_: {"model.name": ("tiny", "quick")})
    said = io.StringIO()
    found = fit((x, y), console=Console(file=said, width=2000))
    assert found.summary.run_dir.startswith("runs/arrays-")
    assert "Examined arrays: 24 signals of 12, 1 channel, float32; 2 classes of 12 to 12." in said.getvalue()
    assert re.search(r"train.batch_size +8 +2 updates per epoch of 17", said.getvalue())
    monkeypatch.setattr("resnet_jax.runs.defaults.MOST_EPOCHS", 9)
    again = fit((x, y), console=Console(file=said, width=2000))
    assert again.summary == found.summary
    assert "its config.yaml is used, and the data is not examined again" in said.getvalue()
    np.savez("signals.npz", x=x, y=y)
    monkeypatch.setattr("resnet_jax.runs.defaults.MOST_EPOCHS", 1)
    of_file = begin("signals.npz")
    assert with_values(of_file.config, {"data.source": "arrays"}) == found.trained.config
    assert of_file.run_dir.name.startswith("signals-")
    with pytest.raises(UsageError, match=r"write fit\(data\), or fit\(config, data=...\)"):
        fit((x, y), data=(x, y))  # pyright: ignore


@pytest.mark.slow
def test_a_run_that_its_time_limit_ended_is_tested_and_goes_on_with_a_larger_one(tmp_path):
    """What it ends with then is what a run without a limit ends with."""

    def limited(limit):
        return dataclasses.replace(config(), train=dataclasses.replace(config(epochs=3).train, limit=limit))

    said = io.StringIO()
    first = fit(limited("0.001 s"), tmp_path / "run", console=Console(file=said, width=2000)).summary
    assert (first.finished, first.steps) == ("time limit", 1)
    assert fit(limited("0.001 s"), tmp_path / "run").summary == first
    with pytest.raises(RunError, match=r"ended by its time limit of 0\.001 seconds after 1 updates: give a larger"):
        fit(limited("0.0005 s"), tmp_path / "run")
    whole = fit(limited(None), tmp_path / "run").summary
    assert (whole.finished, whole.steps) == ("steps", 27)
    assert whole.params_digest == fit(limited(None), tmp_path / "whole").summary.params_digest
