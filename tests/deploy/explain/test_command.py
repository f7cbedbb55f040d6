"""Pages of networks whose inputs are no images: every picture is written and shows something."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from jax import nn

from resnet_jax.cli.explain import ExplainOptions
from resnet_jax.deploy.explain import Explainer, Neighbours, Settings
from resnet_jax.deploy.explain.command import explain_run
from resnet_jax.deploy.explain.forward import network_inputs
from resnet_jax.errors import UsageError
from resnet_jax.runs.evaluate import load_run
from tests.runs.test_kinds import CASES, made

RNG = np.random.default_rng(0)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sides"), [("signal", (24, 2)), ("volume", (8, 6, 8, 1))])
def test_signals_and_volumes_are_explained_and_are_their_own_nearest(kind, sides, tmp_path):
    x = RNG.normal(size=(40, *sides)).astype(np.float32)
    arrays = {"y": np.arange(40) % 2, "class_names": np.array(["a", "b"]), "meaning": np.array(kind)}
    run, _ = made(tmp_path, arrays, x=x, stage_sizes=(1, 1), widths=(4, 4))
    trained, out = load_run(run), tmp_path / "out"
    options = ExplainOptions(
        run, examples=2, nearest=2, mistakes=2, checks=False, methods=("grad_cam", "integrated_gradients"),
        settings=Settings(steps=4, most_steps=8),
    )  # fmt: skip
    result, failed = explain_run(trained, None, options, out)
    assert not failed
    assert len(result["images"]) == 2
    for found in result["images"]:
        assert found["maps"]["integrated_gradients"]["steps"] in (4, 8)
    page = (out / "report.html").read_text()
    assert page.index("activation, stem") < page.index("activation, stage1") < page.index("activation, stage2")
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 2 * (1 + 2 + 3 + 1) + 2 + 1  # and the key of the colors
    for path in pictures:
        shown = cv2.imread(str(path))
        assert shown is not None, path
        assert len(np.unique(shown)) > 8, path
    neighbours = Neighbours(trained)
    own = [neighbours.records[index]["image"] for index in (0, 5)]
    nearest = neighbours.of(np.stack(own), 1)
    assert [one.name for (one,) in nearest] == [neighbours.records.describe(index) for index in (0, 5)]
    np.testing.assert_allclose([one.similarity for (one,) in nearest], 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frontend", "sides"), [("standardize", (24,)), ("log_mel", (400 // 64 + 1, 8))], ids=["series", "sound"]
)
def test_behind_a_front_end_that_standardizes_integrated_gradients_are_complete(frontend, sides, tmp_path):
    length = 24 if frontend == "standardize" else 400
    x = RNG.normal(size=(40, length, 1)).astype(np.float32)
    arrays = {"y": np.arange(40) % 2, "class_names": np.array(["a", "b"]), "meaning": np.array("signal")}
    mel = {"mel_window": 64, "mel_hop": 64, "mel_bands": 8} if frontend == "log_mel" else {}
    run, _ = made(tmp_path, arrays, x=x, frontend=frontend, **mel)
    trained = load_run(run)
    explainer = Explainer(trained, ("grad_cam", "integrated_gradients"), checks=False)
    (found,) = explainer.each([("one", x[0], "")])
    own = trained.model.apply(trained.variables, network_inputs(x[:1], *normalization(trained)), train=False)
    assert found.probability == pytest.approx(float(nn.softmax(own).max()), abs=1e-5)
    assert found.maps["integrated_gradients"].completeness < 0.01
    assert found.maps["grad_cam"].values.shape == (sides[::-1] if frontend == "log_mel" else sides)


def normalization(trained):
    card = trained.card
    return card.mean, card.std, card.downscale, "float32"


def test_what_cannot_be_explained_is_said_before_anything_is_computed(tmp_path):
    run, _ = made(tmp_path, CASES["rows"][0])
    trained = load_run(run)
    cases = (
        (ExplainOptions(run, target="d"), "unknown class 'd'. Known: a, b, c"),
        (ExplainOptions(run, head="a"), "one head"),
        (ExplainOptions(run, mistakes=3), "network for multilabel"),
        (ExplainOptions(run, methods=("gradcam",)), "unknown method 'gradcam'"),
        (ExplainOptions(run, settings=Settings(layer="stage9")), "unknown layer 'stage9'"),
    )
    for options, message in cases:
        with pytest.raises(UsageError, match=message):
            explain_run(trained, None, options, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_codes_of_characters_are_not_explained(tmp_path):
    texts = RNG.integers(0, 9, (40, 16, 1)).astype(np.int16)
    run, _ = made(tmp_path, {"y": np.arange(40) % 2}, x=texts, frontend="one_hot", symbols=9)
    with pytest.raises(UsageError, match="character codes"):
        explain_run(load_run(run), None, ExplainOptions(run), tmp_path / "out")
