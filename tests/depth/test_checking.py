"""The verdict: what is known to train passes, what is known not to does not; and the measurement it rests on."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.cli.main import run
from resnet_jax.depth import Anatomy, check, predict_gradients, predict_moments
from resnet_jax.depth.propagation import measure_propagation
from resnet_jax.errors import UsageError
from resnet_jax.models import ResNetConfig, create_model
from resnet_jax.models.resnet import ResNet

SHAPE = (4, 8, 8, 3)

# name, choices, which way it fails ("" passes); all are in the literature
VERDICTS = [
    ("plain20_cifar", {}, ""),
    ("plain56_cifar", {}, "Gradients explode"),
    ("resnet20_cifar", {}, ""),
    ("resnet56_cifar", {"norm": "none"}, "Signals explode"),
    ("preact110_cifar", {}, ""),
    ("fixup_resnet110_cifar", {}, ""),
    ("nf_resnet20_cifar", {}, ""),
]


@pytest.mark.parametrize(("name", "choices", "fails"), VERDICTS)
def test_verdicts(name, choices, fails):
    model = create_model(name, **{"widths": (16, 16, 16), "stem_width": 16, **choices})
    found = check(model, SHAPE, draws=2)
    assert found.ok == bool(found) == (not fails), str(found)
    if fails:
        assert fails in str(found)
        assert found.sentences[-1].startswith("What helps: ")
    assert found.no_prediction == ""


class Scaled(nn.Module):
    """A block that multiplies what passes by a number."""

    factor: float

    @nn.compact
    def __call__(self, x):
        return x * self.factor


class Chain(nn.Module):
    factors: tuple[float, ...]

    @nn.compact
    def __call__(self, x, *, train):
        for factor in self.factors:
            x = Scaled(factor)(x)
        return x


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ((1.0,) * 8, "Signals get through"),
        ((3.0,) * 8, "Signals explode: the mean square goes from 1"),
        ((0.3,) * 8, "Signals vanish"),
        ((1.0, 1.0, 1e3, 1.0, 1.0, 1.0, 1.0, 1e-3), "Signals jump: block 2"),
        ((1.0, 0.0, 1.0, 1.0), "Signals end: the signal behind block 1 (Scaled_1) is zero, or no number."),
        ((1.0, float("inf"), 1.0), "Signals end: the signal behind block 1"),
    ],
)
def test_what_is_said_of_known_factors(factors, said):
    found = check(Chain(factors), (4, 6), anatomy=Anatomy(Scaled))
    assert said in str(found)
    assert found.ok == said.startswith("Signals get")
    if len(set(factors)) == 1:
        np.testing.assert_allclose(found.signal.rate, factors[0], rtol=1e-5)
        np.testing.assert_allclose(found.gradient.rate, factors[0], rtol=1e-5)
        np.testing.assert_allclose(found.gradient.measured[0], factors[0] ** 16, rtol=1e-4)


def test_growth_by_a_power_of_depth_passes_where_an_exponential_one_does_not():
    """Factors sqrt((l + 1) / l) make the variance rise linearly, like batch norm's; here to 40 times."""
    linear = tuple(float(np.sqrt((place + 1) / place)) for place in range(1, 40))
    assert check(Chain((1.0, *linear)), (4, 6), anatomy=Anatomy(Scaled), limit=2.0).ok
    same_end = (40.0**0.5) ** (1 / 39)
    assert not check(Chain((1.0, *(same_end,) * 39)), (4, 6), anatomy=Anatomy(Scaled), limit=2.0).ok


def test_measured_gradients_are_those_of_explicit_differentiation():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(5)(nn.relu(x))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            for index in range(3):
                x = Block(name=f"b{index}")(x)
            return nn.Dense(2)(x)

    x = jax.random.normal(jax.random.key(5), (7, 5))
    found = measure_propagation(Net(), x, key=jax.random.key(1), draws=1, anatomy=Anatomy(Block))
    of_weights, _, of_function, _ = jax.random.split(jax.random.key(1), (1, 4))[0]
    params = Net().init(of_weights, jnp.zeros((1, 5)), train=False)["params"]
    weights = jax.random.normal(of_function, (7, 5))

    def rest(start, x):
        for index in range(start, 3):
            dense = params[f"b{index}"]["Dense_0"]
            x = x + jax.nn.relu(x) @ dense["kernel"] + dense["bias"][None]
        return x

    for depth in range(4):
        gradient = jax.grad(lambda x, depth=depth: jnp.sum(weights * rest(depth, x)))(
            x if depth == 0 else _prefix(params, x, depth)
        )
        expected = jnp.sum(gradient**2) / jnp.sum(weights**2)
        np.testing.assert_allclose(found.gradient[0, depth], expected, rtol=1e-5)
        np.testing.assert_allclose(found.variance[0, depth], jnp.var(_prefix(params, x, depth)), rtol=1e-5)


def _prefix(params, x, depth):
    for index in range(depth):
        dense = params[f"b{index}"]["Dense_0"]
        x = x + jax.nn.relu(x) @ dense["kernel"] + dense["bias"][None]
    return x


# ---- closed forms, predicted and measured, forward and backward ---------------------------------------------------


def stage(blocks: int, **choices) -> ResNetConfig:
    choices = {"stem": "cifar", "num_classes": 10, "norm": "none", "init": "kaiming_normal_fan_in", **choices}
    return ResNetConfig((blocks,), (64,), **choices)


def both(config: ResNetConfig, draws: int = 6):
    """Return changes per block of the signal's mean square and of the gradient's squared norm: predicted, measured.

    Away from the border there is no padding, so images are as large as the test can afford.
    """
    size = 12
    found = measure_propagation(ResNet(config), (2, size, size, 3), key=jax.random.key(0), draws=draws)
    measured = np.log(found.mean_square).mean(0), np.log(found.gradient).mean(0)
    predicted = np.log(predict_moments(config, size).mean_square), np.log(predict_gradients(config, size).squared_norm)
    return measured, predicted


def test_plain_rectifier_net_with_kaiming_keeps_variance():
    """Each layer sums fan-in terms of variance 2 / fan-in times q / 2; a border of zeros takes its share."""
    config = stage(6, shortcut="none", order="post")
    (signal, gradient), (predicted, back) = both(config)
    # nothing but the border: 3x3 windows on 12 x 12 positions have 0.889 of their terms, twice a block, at first
    assert (np.exp(np.diff(predicted)) > 0.75).all()
    assert (np.exp(np.diff(predicted)) < 1.0).all()
    np.testing.assert_allclose(np.diff(signal[1:]).mean(), np.diff(predicted).mean(), atol=0.1)
    np.testing.assert_allclose(-np.diff(gradient).mean(), -np.diff(back).mean(), atol=0.1)


def test_residual_net_without_norm_doubles_every_block():
    config = stage(8, order="pre", shortcut="A")
    (signal, gradient), (predicted, back) = both(config)
    # 2 less what the border takes of the branch
    np.testing.assert_allclose(np.exp(np.diff(predicted)), 1.85, atol=0.1)
    np.testing.assert_allclose(np.exp(np.diff(signal)).mean(), 1.85, atol=0.15)
    np.testing.assert_allclose(np.exp(-np.diff(gradient)).mean(), np.exp(-np.diff(back)).mean(), rtol=0.1)
    np.testing.assert_allclose(np.exp(-np.diff(back)), 1.85, atol=0.15)


def test_nf_follows_its_analytic_curve():
    """Variance 1 + l alpha^2 behind l blocks; the gradient by 1 + alpha^2 beta^2 g^2 E[f'^2] each."""
    config = ResNetConfig((8,), (64,), stem="cifar", num_classes=10, norm="none", residual="nf", shortcut="A")
    (signal, gradient), (predicted, back) = both(config)
    curve = 1 + 0.04 * np.arange(1, 9)
    np.testing.assert_allclose(np.exp(signal[1:] - signal[0]), curve, rtol=0.05)
    np.testing.assert_allclose(np.exp(predicted - predicted[0]) * curve[0], curve, rtol=0.05)
    np.testing.assert_allclose(gradient[0], back[0], atol=0.1)


# ---- the command ------------------------------------------------------------------------------------------------


def test_the_command_fails_with_its_sentences(capsys, tmp_path):
    small = ["--image-size", "8", "--model.widths", "8", "8", "8", "--model.stem-width", "8", "--json"]
    assert run(["depth", "check", "resnet20_cifar", *small, "--out", str(tmp_path / "good")]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out.splitlines()[-1])
    assert result["ok"]
    assert result["blocks"] == 9
    assert "Gradients get through" in told.err
    assert {path.name for path in (tmp_path / "good").iterdir()} == {
        "check.npz", "report.html", "signal.png", "check-gradient.png"
    }  # fmt: skip
    assert run(["depth", "check", "resnet56_cifar", "--model.norm", "none", *small]) == 1
    told = capsys.readouterr()
    result = json.loads(told.out.splitlines()[-1])
    assert not result["ok"]
    assert "Signals explode" in told.err
    assert "What helps" in told.err
    assert run(["depth", "check", "resnet05", *small]) == 2
    assert "unknown model 'resnet05'" in capsys.readouterr().err


def test_numbers_out_of_range_are_refused():
    with pytest.raises(UsageError, match="draws of 1 or more and a limit above 1"):
        check(create_model("resnet20_cifar"), SHAPE, limit=1.0)
