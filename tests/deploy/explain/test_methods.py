"""Maps equal Captum's and pytorch-grad-cam's, closed forms, and what the checks of maps say."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.stats import spearmanr

from resnet_jax.deploy.explain import (
    deletion_insertion,
    grad_cam,
    grad_cam_plus_plus,
    integrated_gradients,
    integrated_gradients_within,
    occlusion,
    randomization_check,
    rank_correlation,
    smooth_grad,
)
from resnet_jax.models import create_model
from resnet_jax.ops import reference_forms
from resnet_jax.weights.convert import to_variables
from resnet_jax.weights.files import load_state_dict

CAPTUM = np.load(Path(__file__).parent / "captum.npz")


class Linear(nn.Module):
    """Logits that are linear in the image."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3, use_bias=False)(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def tiny():
    model = create_model("resnet20_cifar", stage_sizes=(1, 1, 1), widths=(4, 8, 16), num_classes=5)
    start = "tiny/weights/"
    return model, to_variables({k.removeprefix(start): CAPTUM[k] for k in CAPTUM if k.startswith(start)}, model)


def case(name):
    return jnp.asarray(CAPTUM[f"{name}/images"]), jnp.asarray(CAPTUM[f"{name}/targets"].astype(np.int32))


def check(name, model, variables, atol, layers):
    images, targets = case(name)
    for layer in layers:
        np.testing.assert_allclose(
            grad_cam(model, variables, images, targets, layer=layer), CAPTUM[f"{name}/grad_cam/{layer}"], atol=atol
        )
        np.testing.assert_allclose(
            grad_cam_plus_plus(model, variables, images, targets, layer=layer),
            CAPTUM[f"{name}/grad_cam_pp/{layer}"],
            atol=atol,
        )
    found = integrated_gradients(model, variables, images, targets, rule="gauss_legendre")
    np.testing.assert_allclose(occlusion(model, variables, images, targets), CAPTUM[f"{name}/occlusion"], atol=atol)
    return found


def test_a_small_network_equals_captum(tiny):
    found = check("tiny", *tiny, atol=1e-6, layers=("stage2",))
    np.testing.assert_allclose(found.values, CAPTUM["tiny/integrated_gradients"], atol=1e-6)


@pytest.mark.slow
def test_resnet20_equals_captum(shared_data):
    """In float64 integrated gradients are Captum's; in float32 ours are nearer to that than Captum's own are."""
    model = create_model("resnet20_cifar")
    file = shared_data / "pytorch-cifar-resnets" / "resnet20-12fca82f.th"
    variables = to_variables(load_state_dict(file), model)
    found = check("resnet20", model, variables, atol=1e-4, layers=("stage2", "stage3"))
    assert float(found.relative_error.max()) < 0.01
    exact = CAPTUM["resnet20/float64/gausslegendre"]
    ours, captums = (np.abs(each - exact) for each in (found.values, CAPTUM["resnet20/integrated_gradients"]))
    assert (ours < 1e-4).mean() > 0.999
    assert ours.max() < captums.max() / 2
    images, targets = case("resnet20")
    with jax.enable_x64(True), reference_forms():
        wide = create_model("resnet20_cifar", dtype="float64", param_dtype="float64")
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        found = integrated_gradients(wide, variables, images.astype(jnp.float64), targets, rule="midpoint")
        values = np.asarray(found.values)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, CAPTUM["resnet20/float64/middle"], atol=1e-12)


class Kink(nn.Module):
    """One logit, linear in the sum s of the image up to 0.3, and three times as steep from there."""

    @nn.compact
    def __call__(self, x, *, train):
        total = x.reshape(x.shape[0], -1).sum(axis=1, keepdims=True)
        return total + 2 * nn.relu(total - 0.3)


def test_steps_are_doubled_until_the_sum_is_near_enough_for_each_image():
    """By NumPy: 2 parts of the way, then those between their middles too, then the middles of 4, 8, ... parts."""
    sums = (1.0, 0.75, 0.2)
    images = jnp.ones((3, 2, 2, 1)) * jnp.array(sums).reshape(3, 1, 1, 1) / 4
    found = integrated_gradients_within(Kink(), {}, images, jnp.zeros(3, int), 0.02, steps=2)
    for row, total in enumerate(sums):

        def slope(*at, total=total):
            return total * np.where(np.array(at) * total > 0.3, 3, 1)

        true, parts, value = total + 2 * max(total - 0.3, 0), 2, slope(1 / 4, 3 / 4).mean()
        while abs(value - true) > 0.02 * true:
            if parts == 2:
                added = slope(1 / 8, 1 / 2, 7 / 8) @ np.array([1, 2, 1]) / 4
            else:
                added = slope(*(np.arange(parts) + 0.5) / parts).mean()
            value, parts = (value + added) / 2, 2 * parts
        assert int(found.steps[row]) == parts
        np.testing.assert_allclose(found.values[row].sum(), value, rtol=1e-5)
        np.testing.assert_allclose(found.error[row], value - true, atol=1e-5)
    assert len(set(found.steps.tolist())) == 3
    at_most = integrated_gradients_within(Kink(), {}, images, jnp.zeros(3, int), 1e-9, steps=2, most=5)
    assert at_most.steps.tolist() == [4, 4, 2]


def test_of_a_linear_network_all_methods_have_a_closed_form():
    model, images = Linear(), jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 2)), jnp.float32)
    variables = model.init(jax.random.key(0), images, train=False)
    targets = jnp.array([0, 2])
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"]).reshape(4, 4, 2, 3)[..., [0, 2]].transpose(3, 0, 1, 2)
    found = integrated_gradients(model, variables, images, targets, steps=3)
    np.testing.assert_allclose(found.values, kernel * np.asarray(images), atol=1e-5)
    np.testing.assert_allclose(found.error, 0, atol=1e-5)
    smooth = smooth_grad(model, variables, images, targets, jax.random.key(1), samples=3)
    np.testing.assert_allclose(smooth, kernel, atol=1e-5)
    covered = occlusion(model, variables, images, targets, window=(1, 1), stride=(1, 1))
    np.testing.assert_allclose(covered, (kernel * np.asarray(images)).sum(-1), atol=1e-5)


class Sum(nn.Module):
    """Two classes whose logits are the sum of the image and 0; the probability of the first is its sigmoid."""

    @nn.compact
    def __call__(self, x, *, train):
        total = x.reshape(x.shape[0], -1).sum(axis=1, keepdims=True)
        return jnp.concatenate([total, jnp.zeros_like(total)], axis=1)


def test_deletion_and_insertion_by_hand():
    """Pixels 3, 1, 0, 0 in the order of the map: sums of what is left are 4, 1, 0, 0, 0, and the other way round."""
    image = jnp.array([[0.0, 1.0], [3.0, 0.0]]).reshape(1, 2, 2, 1)
    found = deletion_insertion(Sum(), {}, image, jnp.array([0]), image[..., 0], steps=4, cell=(1, 1))
    sigmoid = 1 / (1 + np.exp(-np.array([4.0, 1.0, 0.0, 3.0])))
    four, one, none, three = sigmoid
    np.testing.assert_allclose(found.deletion[0], [four, one, none, none, none], atol=1e-6)
    np.testing.assert_allclose(found.insertion[0], [none, three, four, four, four], atol=1e-6)
    np.testing.assert_allclose(found.deletion_auc, [(four / 2 + one + none + none + none / 2) / 4], atol=1e-6)


@pytest.mark.slow
def test_randomized_weights_give_unlike_maps_and_a_map_of_the_image_alone_is_found_out(tiny):
    model, variables = tiny
    images, targets = case("tiny")
    parts, key = ("head", "stage3", "stage2", "stage1", "stem"), jax.random.key(0)
    alike = randomization_check(
        lambda v: integrated_gradients(model, v, images, targets, steps=8).values.sum(-1), variables, parts, key
    )
    assert alike.values[-1].mean() < 0.5
    edges = randomization_check(lambda v: jnp.abs(images).sum(-1), variables, parts, key)
    np.testing.assert_allclose(edges.values, 1.0)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, (3, 40)), rng.integers(0, 5, (3, 40))
    expected = [spearmanr(a, b)[0] for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(rank_correlation(one, other), expected)


def test_other_images_and_classes_need_no_other_program(tiny):
    model, variables = tiny
    images, targets = case("tiny")
    grad_cam(model, variables, images, targets)
    before = grad_cam._cache_size()
    grad_cam(model, variables, images + 1, targets * 0)
    assert grad_cam._cache_size() == before
