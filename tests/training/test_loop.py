"""The loop on a counting 'step': what is fed, fetched, evaluated, saved and reported, and when it stops."""

from __future__ import annotations

import json
import signal
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import RunError, UsageError
from resnet_jax.training.cadence import Cadence
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.evaluation import Evaluation, evaluate
from resnet_jax.training.feeds import SingleSteps
from resnet_jax.training.interrupt import StopRequest, stop_on_signals
from resnet_jax.training.loop import Interrupted, train
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.observers import Observer
from resnet_jax.training.plan import Plan, Saving
from resnet_jax.training.progress import EpochSums, MemberProgress, Progress
from resnet_jax.training.state import TrainState

MESH = make_mesh(jax.devices()[:1])


class Log:
    def __init__(self):
        self.steps, self.epochs = [], []

    def on_step(self, row):
        self.steps.append(row)

    def on_epoch(self, row):
        self.epochs.append(row)


def new_state(step=0):
    return TrainState(jnp.int32(step), {"w": jnp.zeros(2)}, {}, {}, jax.random.key(0))


def fake_step(bad_at=None):
    """A step whose parameters are the sum of the batches seen, and whose loss is the step's number."""

    def step(state, batch):
        number = int(state.step) + 1
        metrics = {"loss": number, "correct": 1, "count": 2, "grad_norm": 3, "rejected": number == bad_at}
        params = {"w": state.params["w"] + batch["x"].sum()}
        new = state.replace(step=jnp.int32(number), params=params)
        return new, {name: jnp.float32(value) for name, value in metrics.items()}

    return step


def batches(start, stop):
    return ({"x": np.full(2, step + 1, np.float32)} for step in range(start, stop))


def accuracies(*values):
    results = iter(values)

    def run(state):
        correct = next(results)
        return Evaluation(loss=0.5, examples=100, metrics={"accuracy": correct / 100})

    return run


def run(state=None, *, plan=None, step=None, **options):
    log = Log()
    plan = plan or Plan(total_steps=10, steps_per_epoch=4)
    result = train(
        state or new_state(), plan=plan, feed=SingleSteps(step or fake_step(), batches),
        observers=(log,), **options,
    )  # fmt: skip
    return *result, log


def test_every_step_is_reported_once_and_in_order():
    state, progress, log = run()
    assert [row["step"] for row in log.steps] == list(range(1, 11))
    assert [row["loss"] for row in log.steps] == list(range(1, 11))
    assert log.steps[0] == {"step": 1, "epoch": 0.25, "loss": 1, "accuracy": 0.5, "grad_norm": 3}
    assert (int(state.step), progress.finished) == (10, "steps")
    np.testing.assert_array_equal(state.params["w"], 2.0 * sum(range(1, 11)))


def test_epochs_end_where_they_should_and_the_last_may_be_short():
    _, _, log = run()
    assert [(row["step"], row["epoch"]) for row in log.epochs] == [(4, 1.0), (8, 2.0), (10, 2.5)]
    assert [row["loss"] for row in log.epochs] == [2.5, 6.5, 9.5]  # means over each epoch's own steps


def test_validation_every_so_many_epochs_and_at_the_end():
    plan = Plan(total_steps=20, steps_per_epoch=4, validate=Cadence(period=8))
    _, progress, log = run(plan=plan, evaluate=accuracies(50, 70, 60))
    assert [row.get("val_accuracy") for row in log.epochs] == [None, 0.5, None, 0.7, 0.6]
    assert (progress.members[0].watch.best, progress.members[0].watch.evaluations) == (0.7, 3)


def test_early_stopping_and_that_a_finished_run_stays_finished(tmp_path):
    plan = Plan(total_steps=40, steps_per_epoch=4, early_stopping=EarlyStopping(patience=2))
    with Checkpoints(tmp_path) as checkpoints:
        state, progress, log = run(plan=plan, evaluate=accuracies(50, 70, 60, 70), checkpoints=checkpoints)
    assert (progress.finished, int(state.step), len(log.epochs)) == ("early stopping", 16, 4)
    again, _, log = run(state, plan=plan, progress=progress)
    assert (int(again.step), log.steps) == (16, [])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps("best") == [8]
        assert checkpoints.steps("last") == [12, 16]


def test_the_best_state_is_that_of_its_validation(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        run(evaluate=accuracies(50, 70, 60), checkpoints=checkpoints)
    with Checkpoints(tmp_path) as checkpoints:
        best, _ = checkpoints.restore("best", new_state())
    np.testing.assert_array_equal(best.params["w"], 2.0 * sum(range(1, 9)))


@pytest.mark.parametrize("at", [3, 4, 7])
def test_stopped_and_resumed_is_as_if_never_stopped(tmp_path, at):
    """Also in the middle of an epoch: state, epoch means and validation history are those of one run."""
    whole = run(evaluate=accuracies(50, 70, 60))
    stop = StopRequest()

    def stopping(start, end):
        for step, batch in zip(range(start, end), batches(start, end), strict=True):
            if step + 1 == at:
                stop.signal = signal.SIGINT
            yield batch

    log, values = Log(), accuracies(50, 70, 60)
    plan = Plan(total_steps=10, steps_per_epoch=4)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(Interrupted, match=f"after step {at}"):
        train(
            new_state(), plan=plan, feed=SingleSteps(fake_step(), stopping), evaluate=values,
            checkpoints=checkpoints, observers=(log,), stop=stop,
        )  # fmt: skip
    with Checkpoints(tmp_path) as checkpoints:
        state, saved = checkpoints.restore("last", new_state())
    state, progress, rest = run(state, progress=Progress.from_json(saved), evaluate=values)
    assert log.steps + rest.steps == whole[2].steps
    without_rate = [
        [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
        for rows in (log.epochs + rest.epochs, whole[2].epochs)
    ]
    assert without_rate[0] == without_rate[1]
    assert progress.members[0].watch == whole[1].members[0].watch
    np.testing.assert_array_equal(state.params["w"], whole[0].params["w"])


def test_a_diverged_step_stops_the_run_by_its_number(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(RunError, match=r"diverged at step 6.*learning rate"):
        run(step=fake_step(bad_at=6), checkpoints=checkpoints)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps("last") == [4]


def test_an_error_while_feeding_comes_out_and_closes_the_feed():
    closed = []

    def failing(start, stop):
        try:
            yield from batches(start, 3)
            raise OSError("disk on fire")
        finally:
            closed.append(True)

    with pytest.raises(OSError, match="disk on fire"):
        train(new_state(), plan=Plan(10, 4), feed=SingleSteps(fake_step(), failing))
    assert closed == [True]


def test_progress_survives_json():
    watch = EarlyStopping(2).update(EarlyStopping(2).init(), 0.5)
    member = MemberProgress(EpochSums(1.5, 3, {"correct": 2}), watch, best_step=7, rejected=1)
    stopped = MemberProgress(finished="early stopping", finished_at=4)
    progress = Progress((member, stopped), 1.25, 10, 2.5)
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress
    assert Progress().images_per_second is None
    assert progress.images_per_second == 8.0


def test_signals_become_a_request_and_the_second_acts_as_before():
    with stop_on_signals() as request:
        assert not request
        signal.raise_signal(signal.SIGINT)
        assert request.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_evaluation_adds_up_exactly():
    def step(_variables, batch):
        prediction = batch["image"].astype(jnp.int32)
        hit = (prediction == batch["label"]) & batch["mask"]
        loss, count = jnp.where(batch["mask"], 0.5, 0.0).sum(), batch["mask"].sum()
        bins = {name: jnp.ones(15) for name in ("bin_count", "bin_confidence", "bin_correct")}
        rows = {"label": batch["label"], "prediction": prediction}
        return {"loss_sum": loss, "sums": {"correct": hit.sum(), **bins}, "count": count, "rows": rows}

    def batch(image, label, mask):
        return {"image": np.array(image), "label": np.array(label), "mask": np.array(mask, bool)}

    data = [batch([0, 1], [0, 2], [1, 1]), batch([2, 0], [2, 0], [1, 0])]
    result = evaluate(step, None, data, mesh=MESH, num_classes=3)
    assert (result.correct, result.examples, result.loss) == (2, 3, 0.5)
    np.testing.assert_array_equal(result.confusion, [[1, 0, 0], [0, 0, 0], [0, 1, 1]])
    with pytest.raises(ValueError, match="empty"):
        evaluate(step, None, [], mesh=MESH, num_classes=3)


def test_validation_within_an_epoch_is_told_apart_and_epochs_keep_their_means():
    validations = []

    class Told(Observer):
        def on_validation(self, row):
            validations.append(row)

    plan = Plan(total_steps=10, steps_per_epoch=4, validate=Cadence(period=3))
    log = Log()
    train(
        new_state(), plan=plan, feed=SingleSteps(fake_step(), batches), evaluate=accuracies(50, 70, 60, 40),
        observers=[log, Told()],
    )  # fmt: skip
    assert [(row["step"], row["val_accuracy"]) for row in validations] == [(3, 0.5), (6, 0.7), (9, 0.6)]
    assert validations[0] == {"step": 3, "epoch": 0.75, "val_loss": 0.5, "val_accuracy": 0.5}
    assert [(row["step"], row["loss"], row.get("val_accuracy")) for row in log.epochs] == [
        (4, 2.5, None), (8, 6.5, None), (10, 9.5, 0.4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("every", "saved"), [(None, [8, 10]), (Cadence(period=3), [9, 10]), (Cadence(seconds=1e6), [10])]
)
def test_saving_has_a_cadence_of_its_own(tmp_path, every, saved):
    """The two newest are kept; without one of its own it goes with validation, every epoch."""
    plan = Plan(total_steps=10, steps_per_epoch=4, saving=Saving(every))
    with Checkpoints(tmp_path) as checkpoints:
        run(plan=plan, evaluate=accuracies(50, 70, 60), checkpoints=checkpoints)
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.steps("last"), checkpoints.steps("best")) == (saved, [8])


def test_a_time_limit_ends_the_run_as_its_last_step_would(tmp_path, monkeypatch):
    """Over all sessions: what was spent before counts. The state is validated and saved, and the run stays finished."""
    now = iter(range(1000))
    clock = SimpleNamespace(monotonic=lambda: float(next(now)), perf_counter=time.perf_counter)
    monkeypatch.setattr("resnet_jax.training.session.time", clock)
    plan = Plan(total_steps=1000, steps_per_epoch=4, seconds=50.0)
    with Checkpoints(tmp_path) as checkpoints:
        before = Progress(elapsed=44.5)
        state, progress, log = run(plan=plan, evaluate=accuracies(50, 70, 60), checkpoints=checkpoints, progress=before)
        assert checkpoints.steps("last")[-1] == int(state.step)
    assert progress.finished == "time limit"
    assert int(state.step) < 8
    assert log.epochs[-1]["step"] == int(state.step)
    assert "val_accuracy" in log.epochs[-1]
    assert run(state, plan=plan, progress=progress)[1] == progress


def test_the_task_says_what_the_metrics_mean_and_what_is_best(tmp_path):
    class Regression:
        headline, mode = "rmse", "min"

        def train_metrics(self, sums, count):
            return {"rmse": (sums["squares"] / count) ** 0.5}

    def step(state, batch):
        state, metrics = fake_step()(state, batch)
        return state, {**metrics, "squares": jnp.float32(8), "correct": jnp.float32(1)}

    values = iter((3.0, 2.0, 2.5))
    log = Log()
    _, progress = train(
        new_state(), plan=Plan(10, 4), feed=SingleSteps(step, batches), task=Regression(), observers=[log],
        evaluate=lambda _: Evaluation(rmse := next(values), 1, {"rmse": rmse, "r2": 0.5}),
    )  # fmt: skip
    assert log.steps[0]["rmse"] == 2.0
    assert (log.epochs[0]["rmse"], log.epochs[0]["val_rmse"], log.epochs[0]["val_r2"]) == (2.0, 3.0, 0.5)
    assert (progress.members[0].watch.best, progress.members[0].best_step) == (2.0, 8)


def test_validation_by_the_clock_is_refused():
    with pytest.raises(UsageError, match="validation goes by steps, epochs or a share of the run"):
        Plan(10, 4, validate=Cadence(seconds=60))


def test_a_clock_that_is_set_forward_and_back_decides_nothing(tmp_path, monkeypatch):
    """Neither a time limit nor a save goes by the time of day, which is set between steps here."""
    real, ahead = time.time, [0.0]
    monkeypatch.setattr("time.time", lambda: real() + ahead[0])

    def setting(start, stop):
        for step, batch in zip(range(start, stop), batches(start, stop), strict=True):
            ahead[0] = {3: 86_400.0, 6: -86_400.0}.get(step, ahead[0])
            yield batch

    plan = Plan(total_steps=10, steps_per_epoch=4, seconds=3600.0, saving=Saving(Cadence(seconds=3600.0)))
    with Checkpoints(tmp_path) as checkpoints:
        state, progress = train(
            new_state(), plan=plan, feed=SingleSteps(fake_step(), setting), checkpoints=checkpoints
        )  # fmt: skip
        assert checkpoints.steps("last") == [10]
    assert (int(state.step), progress.finished) == (10, "steps")
    assert 0 <= progress.seconds <= progress.elapsed < 3600
