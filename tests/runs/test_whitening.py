"""A run's whitening kernel: of its images and no seed, the same after training, after resumption and in populations."""

from __future__ import annotations

import io

import jax
import numpy as np
import pytest
from rich.console import Console

from resnet_jax.models import ResNetConfig
from resnet_jax.models.rows import MODELS, NamedModel
from resnet_jax.models.whitening import whitening_kernel
from resnet_jax.runs.build import build_parts
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.data import load_images
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.evaluate import load_run
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runs.whitening import normalized_images

NAME = "fast_tiny"


@pytest.fixture(scope="module", autouse=True)
def tiny_network():
    """A network of one layer behind the stem."""
    config = ResNetConfig((1,), (4,), stem="whiten", transition="conv_pool", block="single", shortcut="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, NAME, NamedModel(config, 8, "these tests"))
        yield


def _config(**values) -> RunConfig:
    choices = {"model.name": NAME, "train.length": "6 steps", "train.batch_size": 64, "train.validate_every": "6 steps",
               "optim.schedule.warmup": None, "optim.schedule.kind": "constant", "optim.weight_decay": 0.1,
               "optim.lookahead.every": 4, "train.ema.decay": 0.9}  # fmt: skip
    return with_values(
        load_recipe("digits"), choices | {name.replace("__", "."): value for name, value in values.items()}
    )


def _kernel(params) -> np.ndarray:
    return np.asarray(params["stem"]["whiten"]["kernel"])


def test_the_first_state_has_the_kernel_of_the_training_images_everywhere():
    config = _config()
    images = load_images(config)
    parts = build_parts(config, images, config.train.placed())
    state = parts.new_state()
    expected = whitening_kernel(normalized_images(images), 2)
    np.testing.assert_array_equal(_kernel(state.params), expected)
    np.testing.assert_array_equal(_kernel(state.ema["params"]), expected)
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    paths = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    slow = [leaf for path, leaf in paths.items() if path.endswith("slow['stem']['whiten']['kernel']")]
    assert len(slow) == 1
    np.testing.assert_array_equal(slow[0], expected)
    members = parts.new_population((0, 1))  # what cells, confirmations and range tests begin with
    np.testing.assert_array_equal(_kernel(members.params), np.stack([expected] * 2))
    plain = with_values(config, {"model.name": "resnet20_cifar"})
    assert build_parts(plain, images, config.train.placed()).start is None


def test_patches_are_of_normalized_images_spread_over_all_classes():
    images = load_images(_config())
    parts = list(normalized_images(images, count=200))
    assert sum(map(len, parts)) == 200
    whole = np.concatenate(list(normalized_images(images, count=10**6)))
    assert len(whole) == len(images.splits.train)
    np.testing.assert_allclose((whole.mean(), whole.std()), (0, 1), atol=1e-6)


@pytest.mark.slow
def test_it_is_never_trained_and_a_resumed_run_has_it(tmp_path):
    quiet = Console(file=io.StringIO())
    config = _config(train__save_every="3 steps")
    whole = fit(config, tmp_path / "whole", console=quiet)
    trained = load_run(tmp_path / "whole").variables["params"]
    expected = whitening_kernel(normalized_images(load_images(config)), 2)
    np.testing.assert_allclose(_kernel(trained), expected, rtol=1e-6)  # of an average, which is computed
    shorter = with_values(config, {"train.limit": "3 steps"})
    fit(shorter, tmp_path / "parts", console=quiet)
    again = fit(config, tmp_path / "parts", console=quiet)
    assert whole.summary.steps == again.summary.steps == 6
    np.testing.assert_allclose(_kernel(load_run(tmp_path / "parts").variables["params"]), expected, rtol=1e-6)


@pytest.mark.slow
def test_the_test_may_be_on_views_of_every_image(tmp_path):
    quiet = Console(file=io.StringIO())
    seen = fit(_config(train__test_views="flip_shift", optim__lookahead__every=None), tmp_path / "views", console=quiet)
    plain = fit(_config(optim__lookahead__every=None), tmp_path / "plain", console=quiet)
    assert seen.summary.params_digest == plain.summary.params_digest
    assert seen.summary.metrics != plain.summary.metrics
