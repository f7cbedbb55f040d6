"""Several tasks as one: losses and metrics are those of each alone, over the examples that have its target."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.tasks import Classification, TaskConfig, TaskFacts, make_task
from resnet_jax.tasks.facts import TargetFacts
from resnet_jax.tasks.heads import fields_of_heads, parse_heads
from resnet_jax.tasks.multitask import Multitask, Part
from resnet_jax.tasks.regression import Regression
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.step import make_eval_step
from tests.tasks.test_tasks import MESH, Through

RNG = np.random.default_rng(3)
COUNT = 40
ODD = np.where(np.arange(COUNT) % 5 == 0, -1, RNG.integers(0, 2, COUNT)).astype(np.int32)
SIZE = np.where(np.arange(COUNT) % 3 == 0, np.nan, RNG.normal(size=COUNT)).astype(np.float32)
LABEL = RNG.integers(0, 7, COUNT).astype(np.int32)
TASK = Multitask(
    10,
    (
        Part("digit", "label", Classification(7), names=tuple("0123456")),
        Part("odd", "label_odd", Classification(2), 0.5, ("even", "odd")),
        Part("size", "value_size", Regression(1, std=(2.0,), mean=(0.1,)), 3.0, ("size",), "value"),
    ),
)
OUTPUTS: Any = {
    name: RNG.normal(size=(COUNT, k)).astype(np.float32) for name, k in (("digit", 7), ("odd", 2), ("size", 1))
}
BATCH: Any = {"label": LABEL, "label_odd": ODD, "value_size": SIZE}


def summed(values):
    """Sums over the examples, as an evaluation has them."""
    return np.asarray(np.asarray(values).sum(axis=0, dtype=np.float64))


def test_losses_are_those_of_the_examples_that_have_a_target():
    losses = TASK.task_losses(OUTPUTS, BATCH)
    labelled: Any = {"label": ODD[ODD >= 0]}
    own = Classification(2).loss(OUTPUTS["odd"][ODD >= 0], labelled)
    np.testing.assert_allclose(losses["odd"][ODD >= 0], 0.5 * own, rtol=1e-6)
    assert (losses["odd"][ODD < 0] == 0).all()
    known = ~np.isnan(SIZE)
    np.testing.assert_allclose(
        losses["size"][known], 3 * (OUTPUTS["size"][known, 0] - (SIZE[known] - 0.1) / 2) ** 2, rtol=1e-5
    )
    assert (losses["size"][~known] == 0).all()
    np.testing.assert_allclose(TASK.loss(OUTPUTS, BATCH), sum(losses.values()), rtol=1e-6)


def test_metrics_are_those_of_each_task_alone_over_what_it_has():
    sums = {name: summed(each) for name, each in TASK.eval_sums(OUTPUTS, BATCH).items()}
    rows = {name: np.asarray(each) for name, each in TASK.eval_rows(OUTPUTS, BATCH).items()}
    metrics = TASK.eval_metrics(sums, rows, COUNT)
    for part, target in zip(TASK.parts, (LABEL, ODD, SIZE), strict=True):
        known = ~np.isnan(target) if target.dtype.kind == "f" else target >= 0
        own_batch: Any = {"label": target[known]}
        outputs = OUTPUTS[part.name][known]
        own = {n: summed(each) for n, each in part.task.eval_sums(outputs, own_batch).items()}
        kept = {name: np.asarray(each) for name, each in part.task.eval_rows(outputs, own_batch).items()}
        for name, value in part.task.eval_metrics(own, kept, int(known.sum())).items():
            assert metrics[f"{part.name}/{name}"] == pytest.approx(value, rel=1e-6), (part.name, name)
    headlines = [metrics["digit/accuracy"], metrics["odd/accuracy"], metrics["size/r2"]]
    assert metrics["score"] == pytest.approx(np.mean(headlines))
    trained = TASK.train_metrics(
        {n: float(np.asarray(e).sum()) for n, e in TASK.train_sums(OUTPUTS, BATCH).items()}, COUNT
    )
    assert trained["odd/accuracy"] == pytest.approx(metrics["odd/accuracy"])
    assert trained["size/loss"] == pytest.approx(metrics["size/loss"])


@pytest.mark.slow
def test_evaluation_in_batches_counts_padding_nowhere():
    batches = []
    for start in range(0, COUNT, 16):
        rows = np.arange(start, start + 16) % COUNT
        part = {name: values[rows] for name, values in BATCH.items()}
        part["image"] = np.concatenate([OUTPUTS[name][rows] for name in ("digit", "odd", "size")], axis=1)
        batches.append({**part, "mask": np.arange(start, start + 16) < COUNT})

    class Cut(Through):
        def __call__(self, x, *, train):
            return {"digit": x[:, :7], "odd": x[:, 7:9], "size": x[:, 9:]}

    step = make_eval_step(Cut(), task=TASK)
    found = evaluate(step, {}, batches, mesh=MESH, task=TASK)
    sums = {name: summed(each) for name, each in TASK.eval_sums(OUTPUTS, BATCH).items()}
    rows = {name: np.asarray(each) for name, each in TASK.eval_rows(OUTPUTS, BATCH).items()}
    expected = TASK.eval_metrics(sums, rows, COUNT)
    assert found.metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-5), name


def test_a_task_of_which_no_example_has_a_target_is_said_and_left_out_of_the_score():
    batch = {**BATCH, "label_odd": np.full(COUNT, -1, np.int32)}
    sums = {name: summed(each) for name, each in TASK.eval_sums(OUTPUTS, batch).items()}
    rows = {name: np.asarray(each) for name, each in TASK.eval_rows(OUTPUTS, batch).items()}
    metrics = TASK.eval_metrics(sums, rows, COUNT)
    assert "odd/accuracy" not in metrics
    assert metrics["score"] == pytest.approx((metrics["digit/accuracy"] + metrics["size/r2"]) / 2)
    assert TASK.eval_notes(TASK.eval_details(sums, rows, COUNT)) == ("odd: no example has a target",)


def test_what_it_says_of_examples():
    said = TASK.predict(OUTPUTS, 5)
    names = TASK.answer_names(())
    assert names == (*(f"digit {k}" for k in range(7)), "odd even", "odd odd", "size")
    assert names[said[0][0][0]] == f"digit {OUTPUTS['digit'][0].argmax()}"
    assert said[0][-1][1] == pytest.approx(float(OUTPUTS["size"][0, 0] * 2 + 0.1))
    images = {**BATCH, "image": np.zeros((COUNT, 2, 2, 1))}
    assert TASK.true_captions(images)[0] == f"digit {LABEL[0]}, odd ?\nsize ?"
    assert TASK.predicted_fields(OUTPUTS)["caption"][0].startswith(f"digit {OUTPUTS['digit'][0].argmax()}, odd ")


def test_targets_that_cannot_be_are_refused_with_the_head():
    TASK.check(BATCH)
    with pytest.raises(UsageError, match="head odd: label 2 of example 1 "):
        TASK.check({**BATCH, "label_odd": np.where(np.arange(COUNT) == 1, 2, ODD)})
    with pytest.raises(UsageError, match="no field label_odd, which head odd learns"):
        TASK.check({"label": LABEL})


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ((), "needs task.heads, such as digit:10"),
        (("digit:ten",), "need NAME:WHAT"),
        (("digit:1",), "a yes or no is digit:binary"),
        (("a:2", "a:3"), "a is given twice"),
        (("image:2",), "image is a name that batches"),
        (("a:2", "b:2"), "task.heads a:2 b:2: the examples have no fields of these names"),
        (("digit=lable:2",), "the examples have no field lable; .* did you mean label"),
    ],
)
def test_heads_that_cannot_be_read_are_refused(heads, message):
    with pytest.raises(UsageError, match=message):
        fields_of_heads(parse_heads(heads), ["image", "label_odd"])


FACTS = TaskFacts(
    names=("0", "1", "2"),
    examples=9,
    counts=(3, 3, 3),
    targets={
        "label_odd": TargetFacts(names=("0", "1"), examples=8, counts=(4, 4)),
        "value_size": TargetFacts("value", ("size",), 7, (), (2.0,), (0.5,)),
        "tags": TargetFacts("multi-label", ("0", "1", "2"), 9, (1, 2, 3)),
    },
)


def test_tasks_are_made_of_what_is_known_of_their_fields():
    config = TaskConfig(heads=("digit:3", "odd:2", "size:value", "tags:labels"), weights=(1.0, 2.0, 3.0, 4.0))
    task = make_task(config, FACTS)
    assert isinstance(task, Multitask)
    assert task.head_outputs == ("digit:3", "odd:2", "size:1", "tags:3")
    assert [part.task.kind for part in task.parts] == ["classification", "classification", "regression", "multilabel"]
    assert [part.weight for part in task.parts] == [1.0, 2.0, 3.0, 4.0]
    assert task.num_outputs == 9
    regression = task.parts[2].task
    assert isinstance(regression, Regression)
    assert (regression.mean, regression.std) == ((2.0,), (0.5,))
    binary = make_task(TaskConfig(heads=("odd:binary", "digit")), FACTS)
    assert isinstance(binary, Multitask)
    assert [part.task.kind for part in binary.parts] == ["binary", "classification"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TaskConfig(heads=("digit:2",)), "task.heads digit:2: label has 3 classes"),
        (TaskConfig(heads=("size:3",)), "value_size has numbers to predict"),
        (TaskConfig(heads=("odd:value",)), "task.heads odd:value: task.kind regression needs labels"),
        (TaskConfig(heads=("digit:3", "odd:2"), weights=(1.0,)), "1 numbers for 2 heads"),
        (TaskConfig(heads=("digit:3",), headline="odd"), "task.headline odd is no head"),
        (TaskConfig(heads=("digit:3",), huber_delta=2.0), "huber_delta 2.0 is not used by task.kind multitask"),
        (TaskConfig(kind="classification", heads=("digit:3",)), "heads .* is not used by task.kind classification"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(config, message):
    with pytest.raises(UsageError, match=message):
        make_task(config, FACTS)


def test_views_are_averaged_as_each_task_does():
    outputs = {name: jnp.stack([each, each + 1]) for name, each in OUTPUTS.items()}
    found = TASK.mean_outputs(outputs)
    np.testing.assert_allclose(found["size"], OUTPUTS["size"] + 0.5, rtol=1e-6)
    own = Classification(2).mean_outputs(outputs["odd"])
    np.testing.assert_array_equal(found["odd"], own)
