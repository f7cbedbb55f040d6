"""Runs on volumes and on images of many bands: pictures, predictions, starts, and what is refused."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from resnet_jax import RunConfig, fit
from resnet_jax.data.augmentations.flip import Flip
from resnet_jax.depth.lesion import delete_blocks
from resnet_jax.errors import UsageError
from resnet_jax.report.example_axes import Style, draw_example
from resnet_jax.runs.analysis import AnalysisConfig, profile_target, run_target
from resnet_jax.runs.default_augment import require_mirrors_keep_classes
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.evaluate import evaluate_run, load_run
from resnet_jax.runs.predict import Predictor
from tests.runs.test_kinds import made

RNG = np.random.default_rng(0)
COUNT = 40
TINY = {
    "model.name": "resnet20_cifar", "model.stage_sizes": [1], "model.widths": [4], "train.batch_size": 8,
    "train.length": "2 steps", "optim.name": "sgd", "optim.learning_rate": 0.05,
}  # fmt: skip


@pytest.mark.slow
def test_depth_instruments_take_a_network_of_volumes(tmp_path):
    arrays = {"y": np.arange(COUNT) % 2, "meaning": np.array("volume")}
    run, _ = made(tmp_path, arrays, x=RNG.integers(0, 256, (COUNT, 4, 4, 4, 1), np.uint8))
    target = run_target(run, AnalysisConfig(batch=8))
    found = profile_target(target)
    assert np.isfinite(found.grad_norm).all()
    assert (found.grad_norm > 0).all()
    lesions = delete_blocks(target.model, target.variables, target.images, target.labels, **target.judged)
    assert 0 <= lesions.whole_accuracy <= 1


@pytest.mark.parametrize(
    ("axes", "rank", "names", "refused"),
    [
        ((-1,), 3, ("left_kidney", "right_kidney", "liver"), True),
        ((-2,), 3, ("left_kidney", "right_kidney"), False),
        ((-3,), 4, ("Left", "Right"), True),
        ((-1,), 4, ("left_kidney", "right_lung"), False),
        ((-1,), 4, ("normal", "mass"), False),
    ],
)
def test_mirrors_that_make_one_class_another_are_refused(axes, rank, names, refused):
    if refused:
        with pytest.raises(UsageError, match=f"{names[0]} one of {names[1]}"):
            require_mirrors_keep_classes([Flip(axes)], names, rank)
    else:
        require_mirrors_keep_classes([Flip(axes)], names, rank)
    require_mirrors_keep_classes([], names, rank)


def test_the_bands_that_are_asked_for_are_drawn():
    from matplotlib.figure import Figure

    image = np.zeros((4, 4, 6), np.uint16)
    image[..., 3], image[..., 0] = 1000, 500
    figure = Figure()
    style = Style((), {"image": "image"}, 0.0, 1000.0, bands=(3, 2, 1))
    draw_example(figure, figure.add_gridspec(1, 1)[0], {"image": image}, style, title="", caption="")
    (shown,) = figure.axes[0].get_images()
    assert np.asarray(shown.get_array())[0, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.slow
def test_a_run_on_volumes_draws_them_and_starts_from_images(tmp_path):
    flat, labels = RNG.integers(0, 256, (COUNT, 8, 8, 3), np.uint8), np.arange(COUNT) % 2
    fit(with_values(RunConfig(), TINY), tmp_path / "flat", data=(flat, labels))
    volumes = {"x": np.repeat(flat[:, None, ..., :1], 6, axis=1), "y": labels, "meaning": np.array("volume")}
    start = {"init_from": str(tmp_path / "flat"), "init_inflate": "centre", "init_stem": "mean"}
    fit(with_values(RunConfig(), {**TINY, **start}), tmp_path / "run", data=volumes)
    with np.load(tmp_path / "run" / "examples.npz") as kept:
        assert set(kept["caption"].tolist()) <= {"0", "1"}
        assert all(text.endswith("%") for text in kept["said/caption"].tolist())
    assert (tmp_path / "run" / "examples.png").stat().st_size > 10_000
    assert "auc" in json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]


@pytest.mark.slow
def test_a_file_of_test_volumes_is_evaluated(tmp_path):
    cubes, labels = RNG.integers(0, 256, (COUNT, 6, 6, 6), np.uint8), np.arange(COUNT) % 2
    run, _ = made(tmp_path, {"y": labels, "meaning": np.array("volume")}, x=cubes)
    np.savez(tmp_path / "test.npz", test_images=cubes[:10], test_labels=labels[:10, None])
    found = evaluate_run(load_run(run), "test", source=f"npz:{tmp_path / 'test.npz'}")
    assert (found.examples, 0 <= found.metrics["auc"] <= 1) == (10, True)


@pytest.mark.slow
def test_files_of_sixteen_bits_are_predicted_as_they_are_evaluated(tmp_path):
    for number in range(COUNT):
        folder = tmp_path / "scenes" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 5000, (8, 8, 4), np.uint16) + np.uint16(3000 * (number % 2))
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    changes = {**TINY, "data.source": f"folder:{tmp_path / 'scenes'}", "data.pixels": "stored"}
    trained = fit(with_values(RunConfig(), changes), tmp_path / "run").trained
    assert trained.card.image_dtype == "uint16"
    predictor, files = Predictor(trained), sorted((tmp_path / "scenes").rglob("*.png"))[:6]
    stored = np.stack([np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED))[..., [2, 1, 0, 3]] for file in files])
    expected = predictor.probabilities(stored).max(axis=1)
    found = list(predictor.predict(files))
    np.testing.assert_allclose([one.probabilities[0] for one in found], expected, rtol=1e-6)
    (wrong,) = predictor.predict([np.zeros((8, 8, 4), np.uint8)])
    assert "must be uint16" in (wrong.error or "")
