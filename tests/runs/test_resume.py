"""Killed, interrupted and resumed, a run equals the one that was not, bit for bit: every mode, task and source.

A kill is an exception that nothing catches, after some step: nothing is saved then, and the files are as they were. The
resumed session is interrupted, saves at once, and the third one ends the run.
"""

from __future__ import annotations

import io
import json
import signal
import warnings
import wave
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from rich.console import Console

from resnet_jax.data.pipeline import TrainBatches
from resnet_jax.errors import UsageError
from resnet_jax.models import ResNetConfig
from resnet_jax.models.rows import MODELS, NamedModel
from resnet_jax.report.event_records import read_scalars
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runtime.events import read_events
from resnet_jax.tasks.classification import Classification
from resnet_jax.training.feeds import SingleSteps
from resnet_jax.training.interrupt import Interrupted
from resnet_jax.training.loop import train
from resnet_jax.training.observers import Observer
from resnet_jax.training.plan import Plan
from resnet_jax.training.progress import Progress
from resnet_jax.training.session import Session
from resnet_jax.training.spikes import Spiked, Spikes
from resnet_jax.training.state import TrainState

COUNT = 96


@pytest.fixture(scope="module", autouse=True)
def tiny_network():
    """A network of one block, for images and for signals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", NamedModel(ResNetConfig((1,), (4,), stem="cifar"), 8, "these tests"))
        yield


class Killed(BaseException):
    """The process is gone."""


class Ending(Observer):
    """Ends the session when it is told of a step: by a signal, or as a kill would."""

    def __init__(self, step: int, *, killed: bool) -> None:
        self._step, self._killed, self._done = step, killed, False

    def on_step(self, row):
        if row["step"] == self._step and not self._done:
            self._done = True
            if self._killed:
                raise Killed
            signal.raise_signal(signal.SIGINT)


def config_of(**values: Any) -> RunConfig:
    """Twelve steps of 16 of 67 images, validated every 4 and saved every 3; other fields as given."""
    base = {
        "model.name": "tiny",
        "data.source": "arrays",
        "train.length": "12 steps",
        "train.batch_size": 16,
        "train.validate_every": "4 steps",
        "train.save_every": "3 steps",
        "train.save_share": 1.0,
        "train.log_every": "1 steps",
        "optim.schedule.warmup": None,
    }
    return with_values(load_recipe("digits"), base | {name.replace("__", "."): value for name, value in values.items()})


def pixels(seed=0, shape=(8, 8, 1)):
    """Images of which a corner is bright or dark, and which it is."""
    rng = np.random.default_rng(seed)
    bright = rng.uniform(size=COUNT)
    images = rng.uniform(0, 60, (COUNT, *shape))
    images[:, :4, :4] += 190 * bright[:, None, None, None]
    return images.astype(np.uint8), bright


def classes(**_):
    images, bright = pixels()
    return images, (bright > 0.5).astype(np.int32)


def labels_of_several(**_):
    images, bright = pixels()
    return images, np.stack([bright > 0.3, bright > 0.5, bright > 0.7], axis=1).astype(np.float32)


def values(**_):
    images, bright = pixels()
    return images, bright.astype(np.float32)


def npz(folder: Path):
    images, labels = classes()
    np.savez(folder / "images.npz", x=images, y=labels)
    return {"data.source": f"npz:{folder / 'images.npz'}"}


def image_folder(folder: Path, broken: int | None = None):
    import cv2

    images, labels = classes()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / "images" / "ab"[label] / f"{number:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), image[..., 0])
        if number == broken:
            place.write_bytes(place.read_bytes()[:60])
    return {"data.source": f"folder:{folder / 'images'}", "data.augment": ("random_resized_crop", "flip"),
            "data.image_size": 8}  # fmt: skip


def image_folder_with_a_broken_one(folder: Path):
    return image_folder(folder, broken=5) | {"data.on_corrupt": "skip", "data.max_corrupt": 0.5}


def array_record(folder: Path):
    from resnet_jax.cli.main import run

    source = npz(folder)["data.source"]
    assert run(["data", "convert", source, str(folder / "images.array_record")]) == 0
    return {"data.source": f"array_record:{folder / 'images.array_record'}"}


def sounds(folder: Path):
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        place = folder / "sounds" / "ab"[number % 2] / f"{number:03}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        tone = np.sin(np.arange(64) * (0.3 + 0.5 * (number % 2))) + rng.normal(0, 0.2, 64)
        with wave.open(str(place), "wb") as file:
            file.setparams((1, 2, 8000, 64, "NONE", ""))
            file.writeframes((tone * 8000).astype("<i2").tobytes())
    return {"data.source": f"wav:{folder / 'sounds'}", "data.signal_length": 64}


def saved(run_dir: Path) -> dict[str, np.ndarray]:
    """Return every leaf of the last state by name, and the progress without times."""
    newest = max((run_dir / "checkpoints" / "last").iterdir(), key=lambda path: int(path.name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Orbax's, of shardings that are not given
        loaded: Any = ocp.load_checkpointables(str(newest), {"state": None, "progress": None})
    leaves = jax.tree_util.tree_flatten_with_path(loaded["state"])[0]
    found = {jax.tree_util.keystr(path): _bits(leaf) for path, leaf in leaves}
    timed = ("seconds", "timed_examples", "elapsed", "records")
    progress = {name: value for name, value in loaded["progress"].items() if name not in timed}
    return {"step": np.asarray(int(newest.name)), **found, "progress": np.asarray(json.dumps(progress, sort_keys=True))}


def _bits(leaf: Any) -> np.ndarray:
    leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.asarray(leaf)


def rows_of(run_dir: Path):
    rows = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


def scalars(run_dir: Path):
    return sorted(entry for entry in read_scalars(run_dir / "tensorboard") if "images_per_second" not in entry[0])


def assert_same(one: Path, other: Path) -> None:
    """Compare everything that two runs leave: states, rows, scalars, gradients through depth."""
    ours, theirs = saved(one), saved(other)
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        assert leaf.dtype == theirs[name].dtype, name
        assert leaf.tobytes() == theirs[name].tobytes(), name
    assert rows_of(one) == rows_of(other)
    assert scalars(one) == scalars(other)
    assert len({entry[:2] for entry in scalars(one)}) == len(scalars(one)), "a scalar twice"
    if (one / "depth.jsonl").exists():
        assert (one / "depth.jsonl").read_bytes() == (other / "depth.jsonl").read_bytes()
    results = [json.loads((path / "summary.json").read_text()) for path in (one, other)]
    for result in results:
        for name in ("run_dir", "seconds", "images_per_second", "first_step_seconds"):
            result.pop(name)
    assert results[0] == results[1]


def killed_and_resumed(config: RunConfig, tmp_path: Path, data: Any, kill: int, stop: int) -> tuple[Path, Path]:
    """Train without and with a kill and an interruption; return both directories."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(config, whole, data=data)
    with pytest.raises(Killed):
        fit(config, broken, data=data, observers=[Ending(kill, killed=True)])
    with pytest.raises(Interrupted):
        fit(config, broken, data=data, observers=[Ending(stop, killed=False)])
    fit(config, broken, data=data)
    return whole, broken


MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"train__accumulate": 2},
    "dispatch": {"train__steps_per_dispatch": 4},
    "ema": {"train__ema__decay": 0.9, "optim__name": "adamw", "optim__momentum": None, "optim__nesterov": None},
    "swa": {"train__ema__kind": "swa", "train__ema__start": "4 steps", "train__ema__every": "3 steps"},
    "float16": {"model__dtype": "float16", "train__loss_scale__initial": 2.0**22, "train__loss_scale__growth_every": 3},
    "probes": {"train__depth_every": "2 steps", "train__accumulate": 2},
    "early stopping": {"train__early_stopping__patience": 2, "train__validate_every": "2 steps"},
    "best": {"train__select": "best"},
    "balance": {"data__balance": "classes", "data__repeats": 2},
    "stages": {"data__sizes": ("4@0%", "8@50%"), "data__augment": ("random_crop(1)",)},
    "threads": {"data__augment": ("random_resized_crop", "random_crop(1)"), "data__threads": 2, "data__image_size": 8},
    "workers": {"data__augment": ("random_resized_crop",), "data__workers": 1, "data__image_size": 8},
    "dropout": {"model__drop_path": 0.3, "data__mixup": 0.4},
}
TASKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "multilabel": (labels_of_several, {}),
    "regression": (values, {}),
    "binary": (classes, {"task__kind": "binary"}),
}
SOURCES = [npz, image_folder, image_folder_with_a_broken_one, array_record, sounds]


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(MODES))
def test_every_mode(mode, tmp_path):
    kill, stop = (3, 4) if mode == "early stopping" else (5, 8)  # it may stop after step 6
    assert_same(*killed_and_resumed(config_of(**MODES[mode]), tmp_path, classes(), kill, stop))


@pytest.mark.slow
def test_two_updates_a_call_with_averages_killed_and_resumed_and_how_much_was_made_again(tmp_path):
    """And each session says what it did."""
    config = config_of(train__ema__decay=0.9, train__steps_per_dispatch=2)
    whole, broken = killed_and_resumed(config, tmp_path, classes(), 5, 8)
    assert_same(whole, broken)
    events = read_events(broken / "events.jsonl")
    facts = [(event["event"], event.get("step"), event.get("repeated")) for event in events]
    facts = [fact for fact in facts if fact[0] not in ("save", "interval")]
    assert facts == [
        ("start", None, None), ("stop", 5, None),
        ("start", None, None), ("restore", 3, 2), ("stop", events[-3]["step"], None),
        ("start", None, None), ("restore", facts[4][1], 0), ("end", 12, None),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS))
def test_every_task(task, tmp_path):
    make, choices = TASKS[task]
    assert_same(*killed_and_resumed(config_of(**choices), tmp_path, make(), 7, 9))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_every_source(source, tmp_path):
    config = with_values(config_of(), source(tmp_path))
    assert_same(*killed_and_resumed(config, tmp_path, None, 4, 7))


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(1, 13))
def test_a_kill_after_any_step(moment, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(config_of(), whole, data=classes())
    with pytest.raises(Killed):
        fit(config_of(), broken, data=classes(), observers=[Ending(moment, killed=True)])
    fit(config_of(), broken, data=classes())
    assert_same(whole, broken)


SPIKES: dict[str, Any] = {"train__spikes__factor": 3.0, "train__spikes__window": 4, "model__norm": "none"}


@pytest.fixture
def bad_batch(monkeypatch):
    """The eighth batch of the first order is spoiled: its inputs are far too large."""
    batch = TrainBatches.batch

    def spoiled(self, step):
        found = batch(self, step)
        if step == 7 and self._salt == 0:
            found["image"] = found["image"] * np.float32(100)
        return found

    monkeypatch.setattr(TrainBatches, "batch", spoiled)


def floats():
    images, labels = classes()
    return images.astype(np.float32) / 255, labels


@pytest.mark.slow
def test_a_loss_spike_sends_the_run_back_and_it_recovers(bad_batch, tmp_path):
    """Every row is there once; the order differs from where it went back to on, and the network is not spoiled."""
    said = io.StringIO()
    fit(config_of(**SPIKES), tmp_path / "run", data=floats(), console=Console(file=said, width=1000))
    (event,) = (event for event in read_events(tmp_path / "run" / "events.jsonl") if event["event"] == "rollback")
    assert (event["step"], event["to"], event["order_from"], event["number"]) == (8, 6, 6, 1)
    assert event["loss"] > 3 * event["median"]
    assert "Loss spike: the loss rose to" in said.getvalue()
    assert "Back to step 6, and from step 6 on in another order (1 of at most 3 times)." in said.getvalue()
    rows = [row for row in rows_of(tmp_path / "run") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert max(row["loss"] for row in rows) < event["loss"] / 2
    assert len({entry[:2] for entry in scalars(tmp_path / "run")}) == len(scalars(tmp_path / "run"))
    assert json.loads(str(saved(tmp_path / "run")["progress"]))["rollbacks"] == [6]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("endings", "more"),
    [
        ([(7, True), (9, False)], {}),  # before the spike, and on the way after it
        ([(6, False)], {}),  # the newest checkpoint is later than the one to go back to
        ([(6, False), (9, True)], {"train__ema__decay": 0.9, "train__accumulate": 2}),
        ([(7, True), (8, False)], {"train__save_every": "12 steps", "train__select": "best"}),  # none but the start
    ],
)
def test_a_run_that_went_back_is_resumed_exactly(endings, more, bad_batch, tmp_path):
    config, whole, broken = config_of(**SPIKES, **more), tmp_path / "whole", tmp_path / "broken"
    fit(config, whole, data=floats())
    for step, killed in endings:
        with pytest.raises(Killed if killed else Interrupted):
            fit(config, broken, data=floats(), observers=[Ending(step, killed=killed)])
    fit(config, broken, data=floats())
    assert_same(whole, broken)


def test_no_more_often_than_is_allowed_and_not_in_a_population():
    """A loss that stays high ends in training on; members cannot go back one by one."""
    plan = Plan(12, 4, spikes=Spikes(factor=2.0, window=3, rollbacks=1))
    session = Session(plan, Classification(), Progress(rollbacks=(4,)), [], population=False)
    for step, loss in enumerate([1.0, 1.0, 1.0, 9.0], 1):
        session._look_for_spike(step, loss)
    session = Session(plan, Classification(), Progress(losses=(1.0, 1.0, 1.0)), [], population=False)
    with pytest.raises(Spiked, match=r"rose to 9 at step 9, from a median of 1") as caught:
        session._look_for_spike(9, 9.0)
    assert (caught.value.to, caught.value.rollbacks) == (8, (8,))
    step_alone: Any = None  # not called
    states = TrainState(jnp.zeros(2, jnp.int32), {}, {}, {}, jax.random.split(jax.random.key(0)))
    with pytest.raises(UsageError, match=r"train\.spikes goes with a run alone"):
        train(states, plan=plan, feed=SingleSteps(step_alone, lambda *_: iter(())))
