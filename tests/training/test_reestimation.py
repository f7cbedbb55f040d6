"""Re-estimated statistics against a NumPy forward pass over all the images, and against the train mode itself."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, create_model
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.reestimation import reestimate
from tests.tools import random_variables

EPS = 1e-5


class Net(nn.Module):
    """Two layers, so that the second one's statistics depend on the first one being in train mode."""

    dropout: float = 0.0
    frozen: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        for _ in range(2):
            x = nn.Dense(5)(x)
            norm = nn.BatchNorm(momentum=0.7, epsilon=EPS, use_fast_variance=False)
            x = norm(x, use_running_average=self.frozen or not train)
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return x


def _variables(model: nn.Module = Net()) -> dict:  # noqa: B008
    return random_variables(model, (3,), seed=1)


def _batches(*sizes: int) -> list[dict]:
    """Batches of unlike means, so that the variance between them matters."""
    rng = np.random.default_rng(0)
    return [{"image": (rng.normal(size=(n, 3)) + 2 * k).astype(np.float32)} for k, n in enumerate(sizes)]


def _numpy_statistics(variables: dict, batches: list[dict]) -> dict:
    """Forward each batch with its own statistics; keep what reaches each normalization; pool it by concatenation."""
    seen: dict[str, list[np.ndarray]] = {"BatchNorm_0": [], "BatchNorm_1": []}
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    for batch in batches:
        x = batch["image"].astype(np.float64)
        for layer in range(2):
            dense, norm = params[f"Dense_{layer}"], params[f"BatchNorm_{layer}"]
            x = x @ dense["kernel"] + dense["bias"]
            seen[f"BatchNorm_{layer}"].append(x)
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + EPS) * norm["scale"] + norm["bias"]
            x = np.maximum(x, 0)
    pooled = {name: np.concatenate(parts) for name, parts in seen.items()}
    return {name: {"mean": x.mean(0), "var": x.var(0)} for name, x in pooled.items()}


def _assert_close(got: dict, expected: dict, **tolerance) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), dict(got), dict(expected))


@pytest.mark.parametrize("sizes", [(8,), (8, 8, 8), (8, 24, 16)])
def test_they_are_those_of_all_images_together(sizes: tuple[int, ...]) -> None:
    variables, batches = _variables(), _batches(*sizes)
    after = reestimate(Net(), variables, iter(batches), norm_momentum=0.7)
    _assert_close(after["batch_stats"], _numpy_statistics(variables, batches), rtol=2e-5, atol=1e-6)
    _assert_close(after["params"], variables["params"], rtol=0)
    leaves = zip(jax.tree.leaves(after["batch_stats"]), jax.tree.leaves(variables["batch_stats"]), strict=True)
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in leaves)


def test_what_they_were_before_does_not_matter() -> None:
    variables, batches = _variables(), _batches(8, 8)
    other = variables | {"batch_stats": jax.tree.map(lambda leaf: 1e6 + leaf, variables["batch_stats"])}
    a, b = (reestimate(Net(), v, batches, norm_momentum=0.7)["batch_stats"] for v in (variables, other))
    _assert_close(a, b, rtol=0)


def test_many_batches_lose_no_precision() -> None:
    """The mean is far from 0 and the variance small: sums of squares would cancel."""
    variables = _variables()
    rng = np.random.default_rng(1)
    batches = [{"image": (1000 + 0.1 * rng.normal(size=(16, 3))).astype(np.float32)} for _ in range(50)]
    after = reestimate(Net(), variables, batches, norm_momentum=0.7)["batch_stats"]["BatchNorm_0"]
    expected = _numpy_statistics(variables, batches)["BatchNorm_0"]
    np.testing.assert_allclose(after["mean"], expected["mean"], rtol=1e-6)
    np.testing.assert_allclose(after["var"], expected["var"], rtol=0.02)


def test_on_one_batch_evaluation_becomes_the_train_mode() -> None:
    """A ResNet, preprocessing included, on one device and on two."""
    model = create_model("resnet20_cifar", stage_sizes=(1,), widths=(4,), norm_momentum=0.6)
    variables = random_variables(model, (8, 8, 3))
    image = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    expected, _ = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables, 3 * image)
    evaluated = jax.jit(lambda v, x: model.apply(v, x, train=False))
    for mesh in (None, make_mesh(jax.devices()[:2])):
        after = reestimate(
            model,
            variables,
            [{"image": image, "mask": np.ones(16, bool)}],
            norm_momentum=0.6,
            preprocess=lambda _, batch: 3 * batch["image"],
            mesh=mesh,
        )
        got = evaluated(after, 3 * image)
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def test_unbiased_variances_are_over_all_values_there_were() -> None:
    model = create_model(
        "resnet20_cifar", stage_sizes=(1,), widths=(4,), norm_momentum=0.6, norm_running_variance="unbiased"
    )
    variables = random_variables(model, (4, 4, 3))
    images = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(np.float32)
    batches = [{"image": images[:4]}, {"image": images[4:]}]
    unbiased = reestimate(model, variables, batches, norm_momentum=0.6)["batch_stats"]
    plain = dataclasses.replace(model.config, norm_running_variance="biased")
    biased = reestimate(ResNet(plain), variables, batches, norm_momentum=0.6)["batch_stats"]
    factor = 6 * 16 / (6 * 16 - 1)
    wanted = jax.tree_util.tree_map_with_path(lambda path, x: x * (factor if path[-1].key == "var" else 1), biased)
    _assert_close(unbiased, wanted, rtol=1e-6)


def test_dropout_acts_and_differs_from_batch_to_batch() -> None:
    model, batch = Net(dropout=0.5), _batches(64)[0]
    variables = _variables()
    one, two = (
        reestimate(model, variables, [batch] * n, norm_momentum=0.7)["batch_stats"]["BatchNorm_1"]["mean"]
        for n in (1, 2)
    )
    assert not np.allclose(one, two)


def test_narrow_statistics_are_pooled_wide() -> None:
    """In float16 the rounding of 64 updates would show."""

    class Half(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            stats = {name: self.variable("batch_stats", name, jnp.zeros, (3,), jnp.float16) for name in ("mean", "var")}
            if train:
                stats["mean"].value = 0.5 * x.mean(0).astype(jnp.float16)
                stats["var"].value = 0.5 * x.var(0).astype(jnp.float16)
            return x

    start = {"params": {}, "batch_stats": {name: jnp.zeros(3, jnp.float16) for name in ("mean", "var")}}
    batches = [{"image": np.full((2, 3), k % 2, np.float32)} for k in range(64)]
    after = reestimate(Half(), start, batches, norm_momentum=0.5)["batch_stats"]
    assert all(leaf.dtype == jnp.float16 for leaf in after.values())
    np.testing.assert_array_equal(after["mean"], np.full(3, 0.5))
    np.testing.assert_array_equal(after["var"], np.full(3, 0.25))


def test_refusals() -> None:
    variables, batches = _variables(), _batches(8)
    with pytest.raises(UsageError, match="no batch statistics"):
        reestimate(Net(), {"params": variables["params"]}, batches, norm_momentum=0.7)
    with pytest.raises(UsageError, match="no batches"):
        reestimate(Net(), variables, [], norm_momentum=0.7)
    with pytest.raises(UsageError, match="a padded batch cannot be used"):
        reestimate(Net(), variables, [batches[0] | {"mask": np.arange(8) < 7}], norm_momentum=0.7)
    with pytest.raises(UsageError, match="do not move in training"):
        reestimate(Net(frozen=True), variables, batches, norm_momentum=0.7)


def test_statistics_of_another_form_are_named() -> None:
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            seen = self.variable("batch_stats", "median", jnp.zeros, ())
            if train:
                seen.value = jnp.median(x)
            return x

    variables = {"params": {}, "batch_stats": {"median": jnp.zeros(())}}
    with pytest.raises(UsageError, match="cannot pool the statistic batch_stats/median"):
        reestimate(Odd(), variables, _batches(8), norm_momentum=0.7)
