"""Runs whose labels are no classes: built, trained, evaluated, drawn and predicted through their task."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn import metrics as sk

from resnet_jax.data.records import ArrayRecords
from resnet_jax.data.split import Splits
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.report.plots import plot_curves
from resnet_jax.runs.build import build_model, build_parts, build_task, iterate_feed, training_feed
from resnet_jax.runs.config import DataConfig, RunConfig, config_to_yaml
from resnet_jax.runs.data import RunData
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.outcome import Pictures, Summary, outcome_of
from resnet_jax.runs.predict import Predictor
from resnet_jax.runs.recipes import config_from_dict, parse_config
from resnet_jax.runs.trained import TrainedRun
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.optimizers import OptimConfig

RNG = np.random.default_rng(0)
COUNT = 96


def images_of(kind):
    """Images of 8x8 of which each quarter is bright or dark; what is asked of them goes by that."""
    quarters = RNG.uniform(size=(COUNT, 2, 2))
    pixels = np.kron(quarters, np.ones((4, 4))) * 200 + RNG.uniform(0, 40, (COUNT, 8, 8))
    match kind:
        case "multi-label":
            labels, names = (quarters.reshape(COUNT, 4)[:, :3] > 0.5).astype(np.float32), ("north", "east", "west")
        case "value":
            labels = np.stack([500 + 100 * quarters.mean((1, 2)), quarters[:, 0, 0] * 1e-2], axis=1).astype(np.float32)
            names = ("mean", "corner")
        case _:
            labels, names = (quarters[:, 0, 0] > 0.5).astype(np.int32), ("dark", "bright")
    return pixels.astype(np.uint8), labels, names


def built(kind, task, **model):
    pixels, labels, names = images_of(kind)
    parts = [ArrayRecords(pixels[part], labels[part]) for part in (slice(64), slice(64, None))]
    train = np.asarray(labels[:64], np.float64).reshape(64, -1)
    card = DatasetInfo(
        names,
        (8, 8, 1),
        (0.5,),
        (0.25,),
        {"train": 64, "test": 32},
        label_kind=kind,
        label_counts=() if kind == "value" else tuple(int(n) for n in _counts(labels[:64])),
        target_mean=tuple(train.mean(0)) if kind == "value" else (),
        target_std=tuple(train.std(0)) if kind == "value" else (),
    )
    config = RunConfig(
        model=ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(8,), stem="cifar", norm="none", **model),
        data=DataConfig(source="these tests"),
        train=TrainConfig("1 epochs", batch_size=32),
        optim=OptimConfig(name="adamw", learning_rate=0.01),
        task=task,
    )
    return config, RunData(Splits(parts[0], None, parts[1]), Geometry(None), card)


def _counts(labels):
    return labels.sum(0) if labels.ndim > 1 else np.bincount(labels, minlength=2)


CASES = {
    "multi-label": (TaskConfig(positive_weights="balanced", threshold=(0.4,)), "map", 3),
    "value": (TaskConfig(loss="huber", huber_delta=0.5), "r2", 2),
    "class": (TaskConfig(kind="binary", positive_weights="balanced"), "accuracy", 1),
}


@pytest.fixture(scope="module", params=sorted(CASES))
def trained(request):
    kind = request.param
    task, headline, outputs = CASES[kind]
    config, images = built(kind, task)
    parts = build_parts(config, images, make_mesh(jax.devices()[:1]))
    assert (parts.task.headline, parts.model.config.num_classes) == (headline, outputs)
    step, state, losses = jax.jit(parts.step), parts.new_state(), []
    test = images.splits.test
    assert test is not None
    for _ in range(30):
        for batch in iterate_feed(training_feed(config, images), config, 0, 2):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0]
    return config, images, parts, state, parts.evaluate(state.eval_variables, test)


def test_a_test_has_the_metrics_of_scikit_learn(trained):
    _, images, parts, _, result = trained
    labels = images.splits.test.labels
    if parts.task.kind == "multilabel":
        assert result.metrics["map"] == pytest.approx(sk.average_precision_score(labels, result.rows["score"]))
        assert result.metrics["map"] > 0.8
    elif parts.task.kind == "regression":
        assert result.metrics["r2"] == pytest.approx(sk.r2_score(labels, result.rows["prediction"]), rel=1e-5)
        assert result.metrics["r2"] > 0.4
    else:
        assert result.metrics["auc"] == pytest.approx(sk.roc_auc_score(labels, result.rows["score"]))
        assert result.accuracy > 0.7


def test_predictions_are_in_the_words_and_units_of_the_data(trained):
    config, images, parts, state, result = trained
    run = TrainedRun(config, images.card, parts.model, state.eval_variables, 60, Path("run"))
    predictor = Predictor(run)
    found = list(predictor.predict(list(images.splits.test.images)))
    match parts.task.kind:
        case "regression":
            got = np.array([prediction.values for prediction in found])
            np.testing.assert_allclose(got, result.rows["prediction"], rtol=1e-4, atol=1e-5)
            assert found[0].classes == ("mean", "corner")
            with pytest.raises(UsageError, match="regression of run has no probabilities"):
                predictor.probabilities(images.splits.test.images)
        case "multilabel":
            over = 1 / (1 + np.exp(-result.rows["score"])) > 0.4
            for prediction, labels in zip(found, over, strict=True):
                assert set(prediction.classes) == {images.card.class_names[k] for k in np.flatnonzero(labels)}
        case _:
            assert [p.classes[0] == "bright" for p in found] == result.rows["prediction"].astype(bool).tolist()
            assert all(sum(p.probabilities) == pytest.approx(1) for p in found)


def test_a_run_is_summed_up_and_drawn_in_terms_of_its_task(trained, tmp_path):
    config, images, parts, _, result = trained
    run = RunDirectory.open(tmp_path / "run", config)
    run.write_data(images.card)
    assert run.read_data() == images.card
    rows = [{"kind": "epoch", "step": n, "epoch": n, "loss": 1.0 / n} for n in (1, 2)]
    for row in rows:
        row |= {"val_loss": 1.0, f"val_{parts.task.headline}": 0.5}
        row |= parts.task.train_metrics(
            dict.fromkeys(("correct", "right", "predicted", "true", "squared_error"), 8.0), 32
        )
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = []
    Pictures(run, config, said.append).draw_all(result)
    assert said == []
    picture = run.confusion if parts.task.kind == "binary" else run.predictions
    assert (picture.stat().st_size > 1000, run.curves.stat().st_size > 1000) == (True, True)
    picture.unlink()
    Pictures(run, config, said.append).draw_missing()
    assert said == [f"drawn again: {picture}"]
    fields = {"steps": 60, "finished": "steps", "tested": "last", "images_per_second": None, "seconds": 1.0}
    summary = Summary(
        **outcome_of(parts.task, result, 0.5, images.card.class_names),
        **fields,
        params_digest="",
        run_dir=str(run.path),
    )
    stored = json.loads(json.dumps(summary.to_json()))
    assert Summary.from_json(stored).to_json() == summary.to_json()
    assert stored[f"test_{parts.task.headline}"] == result.metrics[parts.task.headline]
    assert ("test_correct" in stored) == (parts.task.headline == "accuracy")
    assert stored["metrics"].keys() == result.metrics.keys()
    assert stored[f"best_val_{parts.task.headline}"] == 0.5


def test_curves_of_a_loss_alone_are_drawn(tmp_path):
    rows = [{"kind": "epoch", "step": 1, "epoch": 1, "loss": 1.0, "val_loss": 1.0}]
    plot_curves(rows, tmp_path / "curves.png", title="x", headline="loss", mode="min")
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.parametrize(
    ("kind", "task", "model", "message"),
    [
        ("value", TaskConfig(kind="classification"), {}, "numbers: task.kind regression goes with them"),
        ("multi-label", TaskConfig(kind="regression"), {}, "rows of 0 and 1: task.kind multilabel"),
        ("class", TaskConfig(kind="regresion"), {}, "did you mean 'regression'"),
        (
            "class",
            TaskConfig(huber_delta=2.0),
            {},
            "task.huber_delta 2.0 is not used by task.kind classification, but by",
        ),
        ("value", TaskConfig(huber_delta=2.0), {}, "task.huber_delta 2 is of task.loss huber, not of mse"),
        ("value", TaskConfig(label_smoothing=0.1), {}, "task.label_smoothing 0.1 is not used by task.kind regression"),
        ("value", TaskConfig(loss="bce"), {}, "unknown task.loss of task.kind regression 'bce'"),
        ("class", TaskConfig(class_weights=(1.0,)), {}, "task.class_weights has 1 numbers for 2 classes"),
        ("class", TaskConfig(kind="binary", threshold=(0.1, 0.2)), {}, "must be one number"),
        ("multi-label", TaskConfig(threshold=(0.1, 0.2)), {}, "2 thresholds do not go with 3 labels"),
        ("value", TaskConfig(), {"num_classes": 3}, "model.num_classes 3 is too many: the data has 2 targets"),
        ("multi-label", TaskConfig(), {"num_classes": 2}, "model.num_classes 2 is too few: the data has 3 labels"),
    ],
)
def test_a_task_that_does_not_go_with_the_data_is_refused_with_the_reason(kind, task, model, message):
    config, images = built(kind, task, **model)
    with pytest.raises(UsageError, match=message):
        build_model(config, images.card)


def test_one_output_of_two_classes_says_yes_or_no():
    config, images = built("class", TaskConfig(), num_classes=1)
    assert build_task(config, images.card).kind == "binary"


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    config, images = built("class", TaskConfig(class_weights="balanced"))
    labels = images.splits.train.labels
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    task = build_task(config, images.card)
    assert isinstance(task, Classification)
    np.testing.assert_allclose(task.class_weights, expected)
    card = dataclasses.replace(images.card, label_counts=(64, 0))
    with pytest.raises(UsageError, match="class bright has no training example"):
        build_task(config, card)


def test_old_spellings_of_the_loss_are_read():
    old = {"recipe": "x", "train": {"loss": "bce", "label_smoothing": 0.1}}
    assert config_from_dict(old, where="x").task == TaskConfig(loss="bce", label_smoothing=0.1)
    assert config_from_dict({"train": {"loss": "cross_entropy"}}, where="x").task == TaskConfig()
    config = RunConfig(task=TaskConfig(class_weights=(1.0, 2.0), threshold=(0.2, 0.3)))
    assert parse_config(config_to_yaml(config), where="x") == config


@pytest.mark.parametrize("raw", [{"threshold": [1.0]}, {"label_smoothing": 1.0}, {"huber_delta": 0.0}])
def test_settings_out_of_range_are_refused(raw):
    with pytest.raises(UsageError, match=next(iter(raw))):
        config_from_dict({"task": raw}, where="x")
