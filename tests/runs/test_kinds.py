"""Networks for several labels, values, yes or no, and other than images: evaluated, exported, analysed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.depth.lesion import delete_blocks
from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.analysis import AnalysisConfig, run_target
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.evaluate import evaluate_run, load_run
from resnet_jax.runs.export import export_weights
from resnet_jax.runs.foreign import import_weights
from resnet_jax.runs.images import ImagePreparation, prepared
from resnet_jax.runs.predict import Predictor
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.training.config import TrainConfig
from tests.tools import write_run

COUNT = 40
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (COUNT, 8, 8, 1), np.uint8)
CASES = {
    "rows": ({"y": (RNG.random((COUNT, 3)) < 0.5).astype(np.float32), "label_names": np.array(["a", "b", "c"])}, {}),
    "value": ({"y": RNG.normal(50, 9, COUNT).astype(np.float32), "target_names": np.array(["age"])}, {"loss": "l1"}),
    "yes": (
        {"y": np.arange(COUNT) % 2, "class_names": np.array(["no", "yes"])},
        {"kind": "binary", "threshold": (0.3,)},
    ),
}


def made(path: Path, arrays, task=None, x=IMAGES, **model):
    """Write a run with random weights on arrays; return its directory and the source."""
    np.savez(path / "data.npz", x=x, **arrays)
    spec: dict = {"stage_sizes": (1,), "widths": (4,), **model}
    source = f"npz:{path / 'data.npz'}"
    config = RunConfig(
        model=ModelSpec("resnet20_cifar", **spec),
        data=DataConfig(source),
        train=TrainConfig(batch_size=8),
        task=TaskConfig(**task or {}),
    )
    write_run(path / "run", config)
    return path / "run", source


@pytest.mark.parametrize("name", ["rows", pytest.param("value", marks=pytest.mark.slow), "yes"])
def test_exported_weights_say_what_the_outputs_mean(name, tmp_path):
    arrays, task = CASES[name]
    run, _ = made(tmp_path, arrays, task)
    trained = load_run(run)
    export_weights(run, tmp_path / "net.safetensors", format="cifar")
    import_weights(tmp_path / "net.safetensors", ModelSpec(""), tmp_path / "again")
    again = load_run(tmp_path / "again")
    assert again.task == trained.task
    pixels = list(IMAGES[:4])
    assert list(Predictor(again).predict(pixels)) == list(Predictor(trained).predict(pixels))


def test_a_task_that_is_not_registered_here_is_refused_at_import(tmp_path, monkeypatch):
    run, _ = made(tmp_path, CASES["yes"][0])
    monkeypatch.setattr("resnet_jax.tasks.classification.Classification.kind", "mine")
    export_weights(run, tmp_path / "net.safetensors", format="cifar")
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"those of task mine, which was registered in Python.*--imports"):
        import_weights(tmp_path / "net.safetensors", ModelSpec(""), tmp_path / "again")


@pytest.mark.parametrize("name", ["rows", *(pytest.param(name, marks=pytest.mark.slow) for name in ("value", "yes"))])
@pytest.mark.slow
def test_depth_takes_the_loss_of_the_run_and_labels_of_its_kind(name, tmp_path):
    arrays, task = CASES[name]
    run, _ = made(tmp_path, arrays, task)
    for source in (None, "random"):
        config = AnalysisConfig(batch=8)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
        target = run_target(run, config)
        outputs = jnp.ones((8, target.model.config.num_classes), jnp.float32)
        assert np.isfinite(target.loss(outputs, target.labels)).all()
        found = delete_blocks(target.model, target.variables, target.images, target.labels, **target.judged)
        assert np.isfinite(found.loss).any()
        assert np.isnan(found.whole_accuracy) == (name != "yes"), "only a yes or no is right or wrong"


def test_names_of_one_value_are_one_name(tmp_path):
    run, _ = made(tmp_path, CASES["value"][0])
    (tmp_path / "names.txt").write_text("years\n")
    trained = prepared(load_run(run), ImagePreparation(), tmp_path / "names.txt")
    assert Predictor(trained).class_names == ("years",)


def test_signals_are_evaluated_and_image_files_refused(tmp_path):
    signals = RNG.normal(size=(COUNT, 16, 2)).astype(np.float32)
    run, _ = made(tmp_path, {"y": np.arange(COUNT) % 2}, x=signals)
    trained = load_run(run)
    assert evaluate_run(trained).examples == 8
    np.savez(tmp_path / "other.npz", x=signals[:10], y=np.arange(10) % 2)
    assert evaluate_run(trained, "all", source=f"npz:{tmp_path / 'other.npz'}").examples == 10
    with pytest.raises(UsageError, match=r"inputs of 1 dimensions and 2 channels; image files have 2, and 1 or 3"):
        Predictor(trained)


def test_image_files_are_refused_by_a_network_for_other_numbers(tmp_path):
    run, _ = made(tmp_path, {"y": np.arange(COUNT) % 2}, x=RNG.normal(size=(COUNT, 8, 8, 1)).astype(np.float32))
    with pytest.raises(UsageError, match="trained on float32, and image files are read as uint8"):
        Predictor(load_run(run))


def test_an_analysis_shows_the_network_what_a_training_does(tmp_path):
    np.savez(tmp_path / "data.npz", x=IMAGES, y=np.arange(COUNT) % 2)
    spec = ModelSpec("resnet20_cifar", stage_sizes=(1,), widths=(4,))
    data = DataConfig(f"npz:{tmp_path / 'data.npz'}", downscale=2)
    config = RunConfig(model=spec, data=data, train=TrainConfig(batch_size=8))
    write_run(tmp_path / "run", config)
    assert run_target(tmp_path / "run", AnalysisConfig(batch=8)).images.shape == (8, 4, 4, 1)
