"""A run that diverges says where: the step, its examples, and the first thing in the network that was not finite."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from resnet_jax.data.records import ArrayRecords
from resnet_jax.data.split import Splits
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import RunError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.runs.build import build_parts
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.data import RunData
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.faults import find_fault, make_report
from resnet_jax.runs.fit import fit
from resnet_jax.runtime.events import read_events
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.diverged import Diverged
from resnet_jax.training.feeds import host_batch
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.optimizers import OptimConfig
from tests.runs.test_resume import classes, config_of, tiny_network  # noqa: F401

HUGE = 3e38


class Named(ArrayRecords):
    """Examples that have file names."""

    def describe(self, index: int) -> str:
        return f"image-{index}.png"


def job_of(devices: int = 1, **train: Any) -> Any:
    """What a fault needs of a job: regression on 8x8 floats by a network of two blocks without norms."""
    rng = np.random.default_rng(0)
    images, targets = rng.normal(size=(48, 8, 8, 1)).astype(np.float32), rng.normal(size=48).astype(np.float32)
    card = DatasetInfo(
        ("target",), (8, 8, 1), (0.0,), (1.0,), {"train": 48, "test": 48}, image_dtype="float32", label_kind="value",
        target_mean=(0.0,), target_std=(1.0,),
    )  # fmt: skip
    config = RunConfig(
        model=ModelSpec("resnet20_cifar", stage_sizes=(1, 1), widths=(4, 4), stem="cifar", norm="none"),
        data=DataConfig(source="these tests", threads=0),
        train=TrainConfig("6 steps", batch_size=16, **train),
        optim=OptimConfig(learning_rate=0.01),
        task=TaskConfig(loss="mse"),
    )
    records = Named(images, targets)
    data = RunData(Splits(records, None, records), Geometry(None), card)
    parts = build_parts(config, data, make_mesh(jax.local_devices()[:devices]))
    return SimpleNamespace(parts=parts, config=config, images=data, feed=parts.make_feed())


def diverged(step=2, loss=float("nan"), grad_norm=float("nan"), **more):
    return Diverged(step, {"loss": loss, "grad_norm": grad_norm}, 0, **more)


@pytest.fixture(scope="module")
def job():
    return job_of()


def scaled(state, name, factor):
    """Return the state with one parameter multiplied."""
    paths = jax.tree_util.tree_flatten_with_path(state.params)[0]
    assert any(name == "/".join(part.key for part in path) for path, _ in paths), name

    def change(path, leaf):
        return leaf * factor if "/".join(part.key for part in path) == name else leaf

    return state.replace(params=jax.tree_util.tree_map_with_path(change, state.params))


def test_an_input_or_a_label_that_is_not_finite_is_named_by_its_example(job):
    batch = host_batch(job.feed, 1)
    for name, kind in (("image", "input"), ("label", "label")):
        bad = {**batch, name: batch[name].copy()}
        bad[name][3] = np.inf
        fault, profile = find_fault(job, diverged(), bad, job.parts.new_state())
        assert (fault.kind, fault.where, fault.rows, profile) == (kind, name, (3,), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnet_jax.runs.faults.host_batch", lambda *_: bad)
        report = make_report(job, diverged(), job.parts.new_state(), "as before the step")
    index = int(batch["index"][3])
    assert report["said"] == f"the label of 1 of its 16 examples is not finite: image-{index}.png"
    assert report["examples"][3] == {"row": 3, "index": index, "epoch": 0, "example": f"image-{index}.png"}
    json.dumps(report, allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "kind", "where", "said"),
    [
        ({"stem/conv/kernel": HUGE}, "activation", "stem", "in the stem"),
        ({"stage2/block0/branch/conv1/kernel": HUGE}, "activation", "stage2/block0", "(its branch)"),
        ({"stem/conv/kernel": 1e3, "head/kernel": HUGE}, "activation", "head", "outputs are not"),
        ({"head/kernel": 1e23}, "loss", "loss", "all activations are finite, the loss of"),
        ({"stem/conv/kernel": 1e27, "head/kernel": 1e-12}, "gradient", "head/kernel", "gradient of a parameter"),
        ({"head/bias": np.nan}, "parameters", "params/head/bias", "before the step already"),
        ({}, "none", "", "everything in it is finite"),
    ],
)
def test_the_first_thing_that_is_not_finite_is_found(job, change, kind, where, said):
    state = job.parts.new_state()
    for name, factor in change.items():
        state = scaled(state, name, factor)
        if name == "head/kernel" and factor < 1e30:
            state = scaled(state, "stage1/block0/branch/conv1/kernel", 0.0)
            state = scaled(state, "stage2/block0/branch/conv1/kernel", 0.0)
    fault, profile = find_fault(job, diverged(grad_norm=1.0), host_batch(job.feed, 1), state)
    assert profile is not None
    assert (fault.kind, fault.where) == (kind, where), fault
    assert said in fault.said
    assert profile.names == ("stage1/block0", "stage2/block0")


@pytest.mark.slow
def test_an_update_too_large_is_told_from_its_gradients(job):
    parts = job.parts.__class__(**{**vars(job.parts), "tx": optax.sgd(HUGE)})
    other: Any = SimpleNamespace(**{**vars(job), "parts": parts})
    state = parts.new_state()
    state = scaled(state.replace(opt_state=parts.tx.init(state.params)), "head/kernel", 1e3)
    fault, _ = find_fault(other, diverged(grad_norm=1.0), host_batch(job.feed, 1), state)
    assert fault.kind == "update"
    assert "loss and gradients are finite" in fault.said


@pytest.mark.slow
def test_a_batch_in_parts_and_on_two_devices_is_profiled_as_the_step_computes_it():
    """The profile's gradients are those of the train step: their norm is its grad_norm."""
    job = job_of(devices=2, accumulate=2)
    batch, state = host_batch(job.feed, 0), job.parts.new_state()
    _, metrics = jax.jit(job.parts.step)(state, batch)
    fault, profile = find_fault(job, diverged(step=1, grad_norm=1.0), batch, state)
    assert fault.kind == "none"
    assert profile is not None
    np.testing.assert_allclose(profile.losses.mean(), float(metrics["loss"]), rtol=1e-5)
    largest = max(float(pair[0]) for pair in profile.parameters.values())
    assert largest <= float(metrics["grad_norm"])
    assert largest > 0


def test_a_run_that_diverges_leaves_fault_json_and_says_where(tmp_path):
    """The state before the step is made again where others were made since."""
    said, config = io.StringIO(), config_of(optim__learning_rate=1e30, train__max_rejected=1)
    with pytest.raises(RunError, match=r"diverged at step \d.*not finite is in .*fault\.json") as caught:
        fit(config, tmp_path / "run", data=classes(), console=Console(file=said, width=1000))
    fault = json.loads((tmp_path / "run" / "fault.json").read_text())
    events = read_events(tmp_path / "run" / "events.jsonl")
    rejected = [event["step"] for event in events if event["event"] == "reject"]
    assert rejected == [fault["step"] - 1, fault["step"]]
    assert (events[-1]["event"], fault["rejected_in_a_row"]) == ("stop", 2)
    assert fault["state"].startswith("as before the step")
    assert (fault["kind"], fault["blocks"][0]["block"]) == ("activation", "stage1/block0")
    assert len(fault["examples"]) == 16
    assert "Look at: the learning rate" in str(caught.value)


@pytest.mark.slow
def test_a_float16_run_whose_loss_scale_comes_down_to_its_minimum_ends_and_says_so(tmp_path):
    """After an update that float16 cannot hold every step overflows: the scale is halved, and then it ends."""
    config = config_of(
        model__dtype="float16",
        optim__learning_rate=1e30,
        train__loss_scale__initial=8.0,
        train__loss_scale__minimum=1.0,
    )
    with pytest.raises(Diverged) as caught:
        fit(config, tmp_path / "run", data=classes())
    error, said = caught.value, str(caught.value)
    assert (error.step, error.loss_scale) == (5, 1.0), "one update, and overflows at 8, 4 and 2 that are only skipped"
    assert "training diverged at step 5" in said
    assert "with the loss scale down at 1. " in said
    assert "The first activation that is not finite is in" in said
    assert "the range of float16, which ends at 65,504 (model.dtype bfloat16)" in said
    fault = json.loads((tmp_path / "run" / "fault.json").read_text())
    assert (fault["loss_scale"], fault["step"], fault["rejected_in_a_row"]) == (1.0, 5, 1)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert [(row["loss_scale"], row["skipped"]) for row in rows] == [(8.0, 0), (8.0, 1), (4.0, 2), (2.0, 3)]
    assert all(row["loss"] is None for row in rows[1:]), "not finite"


def test_the_error_has_the_state_and_what_has_changed_it_since():
    """Updates in flight are made before the host reads that one was rejected."""
    from resnet_jax.training.feeds import SingleSteps
    from resnet_jax.training.loop import train
    from resnet_jax.training.plan import Plan
    from tests.training.test_loop import batches, fake_step, new_state

    with pytest.raises(Diverged) as caught:
        train(new_state(), plan=Plan(20, 20), feed=SingleSteps(fake_step(bad_at=6), batches))
    error = caught.value
    assert (error.step, error.member, error.made_after) == (6, None, int(error.state.step) - 6)
    assert error.made_after == 3
    assert jnp.isfinite(error.state.params["w"]).all()
