"""Image files are named batch by batch, compiled once; what cannot be read does not lose the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs import inference
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import DataConfig, RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.predict import Predictor, predict_images
from resnet_jax.runs.trained import TrainedRun, with_class_names, with_geometry
from resnet_jax.tasks.classification import Classification
from resnet_jax.tasks.config import TaskConfig
from tests.tools import random_variables

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def network(names=("cat", "dog", "owl"), *, outputs=3, shape=(8, 8, 3), loss="cross_entropy", width=4, **data):
    config = RunConfig(
        model=ModelSpec("resnet20_cifar", num_classes=outputs, stage_sizes=(1,), widths=(width,), norm="none"),
        data=DataConfig(**data),
        task=TaskConfig(loss=None if loss == "cross_entropy" else loss),
    )
    card = DatasetInfo(tuple(names), shape, MEAN, STD, {})
    model = build_model(config, card)
    return TrainedRun(config, card, model, random_variables(model, shape), 0, Path("net"))


def by_hand(trained: TrainedRun, images) -> np.ndarray:
    """Return the outputs, without any batching."""
    x = (np.asarray(images, np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.asarray(jax.jit(lambda v, x: trained.model.apply(v, x, train=False))(trained.variables, x), np.float64)


@pytest.fixture
def files(tmp_path):
    """37 images of 8x8, more than two batches and no multiple of one."""
    images = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3)).astype(np.uint8)
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{index:02}.png"), image[..., ::-1])
    return sorted(tmp_path.glob("*.png")), images


def test_predictions_are_those_of_the_network_for_any_number_of_images(files):
    paths, images = files
    trained = network()
    expected = Classification(3).probabilities(by_hand(trained, images))
    for count in (37, 16, 1):
        found = predict_images(trained, paths[:count], top=3)
        assert [p.image for p in found] == [str(path) for path in paths[:count]]
        for prediction, row in zip(found, expected, strict=False):
            order = np.argsort(-row)
            assert prediction.classes == tuple(("cat", "dog", "owl")[index] for index in order)
            np.testing.assert_allclose(prediction.probabilities, row[order], rtol=1e-4, atol=1e-6)


def test_it_is_compiled_once_for_a_network_whatever_the_number_of_images_and_calls(files, monkeypatch):
    traced = []
    make = inference.make_predict_step

    def counted(*args, **more):
        traced.append(1)
        return make(*args, **more)

    monkeypatch.setattr(inference, "make_predict_step", counted)
    paths, _ = files
    trained = network(width=5)
    for count in (3, 37, 1):
        predict_images(trained, paths[:count])
    predict_images(dataclasses.replace(trained, path=Path("loaded again")), paths[:2])
    assert len(traced) == 1
    predict_images(network(width=6), paths[:2])
    assert len(traced) == 2


def test_results_come_batch_by_batch(files):
    paths, _ = files
    asked = []

    def names():
        for path in paths:
            asked.append(path)
            yield path

    stream = Predictor(network()).predict(names())
    assert asked == [], "nothing is read before it is asked for"
    next(stream)
    assert len(asked) == inference.BUCKETS[-1]


def test_what_cannot_be_read_is_named_and_the_others_stay(files, tmp_path):
    paths, _ = files
    (tmp_path / "bad.png").write_bytes(b"no image")
    good = predict_images(network(), paths[:2])
    found = predict_images(network(), [paths[0], tmp_path / "bad.png", tmp_path / "none.png", tmp_path, paths[1]])
    assert [found[0], found[4]] == good
    for prediction, message in zip(found[1:4], ("bad.png", "none.png", "this is a folder and no file"), strict=True):
        assert message in str(prediction.error)
        assert prediction.classes == prediction.probabilities == ()
    assert [p.error for p in predict_images(network(), [tmp_path / "none.png"])] != [None]


def test_images_of_any_size_come_through_the_geometry_of_evaluation(tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    for trained in (
        network(shape=(14, 14, 3)),
        network(shape=(14, 14, 3), image_size=14, augment=("random_resized_crop",)),
        with_geometry(network(), 14, None),
    ):
        brought = trained.geometry.eval_image(image)
        assert brought.shape == (14, 14, 3)
        expected = Classification(3).probabilities(by_hand(trained, brought[None]))[0]
        found = predict_images(trained, [tmp_path / "a.png"], top=3)[0]
        np.testing.assert_allclose(sorted(found.probabilities), sorted(expected), rtol=1e-4)


def test_what_was_done_to_the_images_is_said(files):
    paths, _ = files
    predictor = Predictor(network())
    list(predictor.predict(paths[:2]))
    assert predictor.said() == ()
    grey = network(shape=(4, 4, 1))
    grey = dataclasses.replace(grey, card=dataclasses.replace(grey.card, mean=(0.5,), std=(0.2,)))
    predictor = Predictor(grey)
    list(predictor.predict(paths[:2]))
    assert predictor.said() == (
        "images 8x8 brought to 4x4",
        "2 images in color converted to gray: the network takes 1 channel",
    )


def test_a_network_that_is_not_square_takes_its_own_size(tmp_path):
    trained = network(shape=(8, 12, 3))
    for name, shape in (("right", (8, 12, 3)), ("wrong", (16, 16, 3))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros(shape, np.uint8))
    right, wrong = predict_images(trained, [tmp_path / "right.png", tmp_path / "wrong.png"])
    assert len(right.classes) == 3
    assert "takes 8x12: no rule" in str(wrong.error)


def test_one_output_is_a_yes_or_no_with_two_names(files):
    """It said "0 100.0 %" of every image."""
    paths, images = files
    trained = network(("0",), outputs=1)
    with pytest.raises(UsageError, match=r"one output, a yes or no.*class_names="):
        predict_images(trained, paths)
    middle = np.sort(by_hand(trained, images)[:, 0])[17:19].mean()
    trained.variables["params"]["head"]["bias"] -= np.float32(middle)  # as many of both
    named = with_class_names(trained, ("healthy", "ill"))
    yes = 1 / (1 + np.exp(-by_hand(trained, images)[:, 0]))
    assert (yes > 0.5).any()
    assert (yes < 0.5).any()
    for prediction, probability in zip(predict_images(named, paths), yes, strict=True):
        assert prediction.classes[0] == ("ill" if probability > 0.5 else "healthy")
        assert dict(zip(prediction.classes, prediction.probabilities, strict=True))["ill"] == pytest.approx(
            probability, rel=1e-4
        )


def test_features_are_not_shown_as_classes(files):
    with pytest.raises(UsageError, match=r"no classifier .num_classes 0.*features"):
        predict_images(network((), outputs=0), files[0])


def test_numbers_in_data_json_that_are_no_normalization_are_refused(files):
    trained = network()
    card = dataclasses.replace(trained.card, mean=(123.0, 116.0, 103.0), std=(58.0, 57.0, 57.0))
    with pytest.raises(UsageError, match=r"normalization in net is not one .*0.4824"):
        predict_images(dataclasses.replace(trained, card=card), files[0])


def test_outputs_beyond_the_classes_of_the_data_have_names_too(files):
    trained = network(("cat", "dog"), outputs=3)
    assert set(predict_images(trained, files[0][:1])[0].classes) == {"cat", "dog", "output 2"}


def test_top_is_at_least_one(files):
    with pytest.raises(UsageError, match=r"top must be 1"):
        predict_images(network(), files[0], top=0)


def test_bytes_and_pixels_are_taken_too_and_fill_the_smallest_batch_that_holds_them(files, monkeypatch):
    paths, images = files
    trained, sizes = network(width=7), []
    compute = inference._outputs

    def noted(*args):
        sizes.append(len(args[-1]))
        return compute(*args)

    monkeypatch.setattr(inference, "_outputs", noted)
    predictor = Predictor(trained, buckets=(1, 4, 16))
    read = list(predictor.predict([paths[0], paths[1].read_bytes(), images[2]]))
    assert [prediction.image for prediction in read] == [str(paths[0]), "1", "2"]
    expected = Classification(3).probabilities(by_hand(trained, images))
    for prediction, row in zip(read, expected, strict=False):
        np.testing.assert_allclose(prediction.probabilities, np.sort(row)[::-1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(predictor.outputs(images), by_hand(trained, images), rtol=1e-4, atol=1e-5)
    predictor.probabilities(images[:1])
    assert sizes == [4, 16, 16, 16, 1]
    assert predictor.outputs(images[:0]).shape == (0, 3)


def test_bytes_and_pixels_that_are_none_have_an_error(files):
    bad = [b"no image", np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)]
    found = list(Predictor(network()).predict([*bad, files[1][0]]))
    assert [prediction.error is None for prediction in found] == [False] * 4 + [True]
    assert found[0].error.startswith("image 0: ")
    assert found[2].error == "image 2: pixels must be uint8 (height, width, 3), got float32 (8, 8, 3)"


@pytest.mark.parametrize("buckets", [(), (0, 4), (4, 1), (4, 4)])
def test_buckets_that_are_none_are_refused(buckets):
    with pytest.raises(UsageError, match="ascending"):
        Predictor(network(), buckets)
    with pytest.raises(UsageError, match=r"uint8 images \(N, 8, 8, 3\), got float64 \(2, 8, 8, 3\)"):
        Predictor(network()).outputs(np.zeros((2, 8, 8, 3)))


def test_files_are_turned_upright_if_the_run_was_trained_so(tmp_path):
    from tests.data.test_orientation import RGB, png

    turned = np.ascontiguousarray(RGB.swapaxes(0, 1)[:, ::-1])  # what orientation 6 says
    upright = cv2.imencode(".png", turned[..., ::-1])[1].tobytes()
    (tmp_path / "camera.png").write_bytes(png(6))
    for orientation, same_as in (("exif", upright), ("stored", png(1))):
        of_run = inference.Inference(network(orientation=orientation))
        for image in (png(6), tmp_path / "camera.png"):
            np.testing.assert_array_equal(of_run.read(image, "it"), of_run.read(same_as, "other"))
