"""The verdict: what is known to train passes, what is known not to does not; and the measurement it rests on."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax.cli.main import run
from resnet_jax.depth import BlockNames, check, predict_gradients, predict_moments
from resnet_jax.depth.checking import GRADIENT_CEILING, LIMIT, SIGNAL_CEILING, _direction, _places, _trouble
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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "choices", "fails"), VERDICTS)
def test_verdicts(name, choices, fails):
    check_verdict(create_model(name, **{"widths": (16, 16, 16), "stem_width": 16, **choices}), fails)


@pytest.mark.parametrize(
    ("name", "blocks", "choices", "fails"),
    [
        ("plain56_cifar", 27, {}, "Gradients explode"),
        pytest.param("nf_resnet20_cifar", 9, {}, "", marks=pytest.mark.slow),
    ],
)
def test_verdicts_in_one_stage(name, blocks, choices, fails):
    check_verdict(create_model(name, stage_sizes=(blocks,), widths=(16,), **choices), fails)


def check_verdict(model, fails):
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
        ((1.0,) * 4, "Signals get through"),
        ((6.0,) * 4, "Signals explode: the mean square goes from 1"),
        ((0.15,) * 4, "Signals vanish"),
        ((1.0, 1.0, 1e3, 1.0, 1.0, 1.0, 1.0, 1e-3), "Signals jump: block 2"),
        ((1.0, 0.0, 1.0, 1.0), "Signals end: the signal behind block 1 (Scaled_1) is zero, or no number."),
        ((1.0, float("inf"), 1.0), "Signals end: the signal behind block 1"),
    ],
)
def test_what_is_said_of_known_factors(factors, said):
    found = check(Chain(factors), (4, 6), anatomy=BlockNames(Scaled), draws=1)
    assert said in str(found)
    assert found.ok == said.startswith("Signals get")
    if len(set(factors)) == 1:
        np.testing.assert_allclose(found.signal.rate, factors[0], rtol=1e-5)
        np.testing.assert_allclose(found.gradient.rate, factors[0], rtol=1e-5)
        np.testing.assert_allclose(found.gradient.measured[0], factors[0] ** 8, rtol=1e-4)


@jax.custom_vjp
def _scale_back(x, factor):
    """Return x; its gradient comes back multiplied by ``factor``."""
    return x


_scale_back.defvjp(lambda x, factor: (x, factor), lambda factor, g: (g * factor, None))


class ScaledBack(nn.Module):
    """A block that multiplies nothing but the gradient."""

    factor: float

    @nn.compact
    def __call__(self, x):
        return _scale_back(x, self.factor)


class Staged(nn.Module):
    """Blocks by stage; the first of each stage but the first halves the width."""

    factors: tuple[tuple[float, ...], ...]
    block: type[nn.Module] = Scaled

    @nn.compact
    def __call__(self, x, *, train):
        for stage in self.factors:
            for factor in stage:
                x = self.block(factor)(x)
            x = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)[..., 0]
        return x


def _verdict(stages, *, backward=False, limit=LIMIT):
    """Return the trouble and the numbers of a network whose blocks multiply by these factors."""
    factors = np.concatenate([np.asarray(stage, np.float64) for stage in stages])
    stage = np.repeat(np.arange(len(stages)), [len(stage) for stage in stages])
    with np.errstate(invalid="ignore", over="ignore"):
        passed = np.append(1.0, np.cumprod(np.square(factors[::-1] if backward else factors)))
    one = _direction((passed[::-1] if backward else passed)[None], None, _places(stage), backward=backward)
    return _trouble(one, limit, GRADIENT_CEILING if backward else SIGNAL_CEILING), one


FOUR, ONE = (4.0,), (1.0,)
EXPLODING = {
    "the first 9 of 18": (FOUR * 9 + ONE * 9,),
    "blocks 4 to 8 of 15": (ONE * 4 + FOUR * 5 + ONE * 6,),
    "the last 5 of 30": (ONE * 25 + FOUR * 5,),
    "the first 20 of 30": (FOUR * 20 + ONE * 10,),
    "20 of 30, scattered": ((4.0, 1.0, 4.0) * 10,),
    "all of 3-4-6-3": (FOUR * 3, FOUR * 4, FOUR * 6, FOUR * 3),
    "the short ones of 3-4-6-3": (FOUR * 3, FOUR * 4, ONE * 6, FOUR * 3),
    "the first two of 3-4-6-3": (FOUR * 3, FOUR * 4, ONE * 6, ONE * 3),
    "the 6 of 3-4-6-3": (ONE * 3, ONE * 4, FOUR * 6, ONE * 3),
    "taken back at once": (ONE * 2 + FOUR * 8 + (4.0**-8,) + ONE * 4,),
    "taken back slowly": (FOUR * 8 + (0.25,) * 8,),
    "taken back by another stage": (FOUR * 5, (0.25,) * 5),
    "one block in front": ((1e6,) + ONE * 9,),
    "one block at the end": (ONE * 9 + (1e6,),),
    "two blocks of 50": (ONE * 3 + (50.0, 50.0) + ONE * 5,),
    "blocks wrapped one by one": (FOUR,) * 8 + (ONE,) * 10,
    "a power that no training survives": (tuple(((place + 1) / place) ** 5.0 for place in range(1, 200)),),
    "stages of powers that no training survives": (tuple(((n + 1) / n) ** 1.2 for n in range(1, 400)),) * 3,
}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", EXPLODING)
def test_explosions_fail_wherever_they_are_and_so_do_their_inverses(name, backward):
    """Most of them passed while only the last two thirds of the longer stages were looked at, over all blocks."""
    assert _verdict(EXPLODING[name], backward=backward)[0]
    assert _verdict([[1 / factor for factor in stage] for stage in EXPLODING[name]], backward=backward)[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_no_number_at_any_place_fails(bad, place):
    for backward in (False, True):
        assert _verdict(([bad if block == place else 1.0 for block in range(7)],), backward=backward)[0] == "nothing"


@pytest.mark.parametrize(
    "stages",
    [
        ((3.0, 1 / 3) * 10,),
        (FOUR * 3 + ONE * 9,),
        ((50.0,) + ONE * 9,),
        (tuple(float(np.sqrt((place + 1) / place)) for place in range(1, 200)),) * 3,
        (tuple((place + 1) / place for place in range(1, 600)),),
        (tuple(float(np.exp(3 / 600)) for _ in range(600)),),
    ],
    ids=["to and fro", "64", "one step", "variance linear in three stages", "linear in one", "20 over 600"],
)
def test_what_a_training_survives_passes(stages):
    for backward in (False, True):
        assert not _verdict(stages, backward=backward)[0]


@pytest.mark.parametrize("block", [Scaled, pytest.param(ScaledBack, marks=pytest.mark.slow)])
def test_the_sentence_names_the_blocks_that_explode(block):
    """In a network: blocks 4 to 8 of 15."""
    noun = "signal" if block is Scaled else "gradient"
    found = check(Staged((ONE * 4 + FOUR * 5 + ONE * 6,), block), (2, 16), draws=1, anatomy=BlockNames(block))
    assert not found.ok
    assert (
        f"{noun.capitalize()}s explode: blocks 4 to 8 ({block.__name__}_4 to {block.__name__}_8) multiply the {noun} "
        "by 1e+03 in root mean square, far beyond any power of the depth that is known to train; the "
    ) in str(found)
    assert found.sentences[-1].startswith("What helps")


@pytest.mark.parametrize("block", [pytest.param(Scaled, marks=pytest.mark.slow), ScaledBack])
def test_the_sentence_names_an_explosion_that_a_norm_takes_back(block):
    noun = "signal" if block is Scaled else "gradient"
    taken_back = Staged((FOUR * 8 + (4.0**-8,) + ONE * 2,), block)
    found = check(taken_back, (2, 16), draws=1, anatomy=BlockNames(block))
    assert f"{noun.capitalize()}s explode: blocks 0 to 7" in str(found)
    if block is ScaledBack:
        assert "Signals get through" in str(found)


def test_the_stored_curves_of_the_named_networks_keep_their_verdicts():
    """96 networks as measured: the plain ones of 32 layers and more fail, and no other; the largest is far below."""
    folder = Path(__file__).parents[2] / "experiments" / "results" / "propagation"
    rows = json.loads((folder / "propagation.json").read_text())["rows"]
    failed, excess = set(), {"signal": [], "gradient": []}
    for row in rows:
        sizes = create_model(row["network"]).config.stage_sizes
        place = np.concatenate([np.arange(size) for size in sizes])
        for of, ceiling in (("signal", SIGNAL_CEILING), ("gradient", GRADIENT_CEILING)):
            curve = np.square(np.asarray(row[of]["root_mean_square"], np.float64))[None]
            one = _direction(curve, None, place, backward=of == "gradient")
            if _trouble(one, LIMIT, ceiling):
                failed.add(row["network"])
            elif one.stretch is not None:
                excess[of].append(one.stretch.excess)
                assert max(one.widest.factor, 1 / one.widest.factor) < ceiling / 15
    assert failed == {f"plain{depth}" for depth in ("32_cifar", "34", "44_cifar", "56_cifar", "110_cifar")}
    assert len(rows) == 96
    assert max(excess["signal"]) < 10
    assert max(excess["gradient"]) < 45


def test_growth_by_a_power_of_depth_passes_where_an_exponential_one_does_not():
    """Factors sqrt((l + 1) / l) make the variance rise linearly, like batch norm's; here to 40 times."""
    linear = tuple(float(np.sqrt((place + 1) / place)) for place in range(1, 40))
    assert not _verdict(((1.0, *linear),), limit=2.0)[0]
    same_end = (40.0**0.5) ** (1 / 39)
    assert _verdict(((1.0, *(same_end,) * 39),), limit=2.0)[0]


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
    found = measure_propagation(Net(), x, key=jax.random.key(1), draws=1, anatomy=BlockNames(Block))
    of_weights, _, of_function, _ = jax.random.split(jax.random.key(1), (1, 4))[0]
    params = Net().init(of_weights, jnp.zeros((1, 5)), train=False)["params"]
    weights = jax.random.normal(of_function, (7, 5))

    @jax.jit
    def by_hand(added):
        seen, value = [x], x + added[0]
        for index in range(3):
            dense = params[f"b{index}"]["Dense_0"]
            value = value + jax.nn.relu(value) @ dense["kernel"] + dense["bias"][None]
            seen.append(value)
            value = value + added[index + 1]
        return jnp.sum(weights * value), seen

    gradients, seen = jax.grad(by_hand, has_aux=True)([jnp.zeros((7, 5))] * 4)
    np.testing.assert_allclose(found.gradient[0], [jnp.sum(g**2) / jnp.sum(weights**2) for g in gradients], rtol=1e-5)
    np.testing.assert_allclose(found.variance[0], [jnp.var(value) for value in seen], rtol=1e-5)


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


@pytest.mark.slow
def test_plain_rectifier_net_with_kaiming_keeps_variance():
    """Each layer sums fan-in terms of variance 2 / fan-in times q / 2; a border of zeros takes its share."""
    config = stage(6, shortcut="none", order="post")
    (signal, gradient), (predicted, back) = both(config)
    # nothing but the border: 3x3 windows on 12 x 12 positions have 0.889 of their terms, twice a block, at first
    assert (np.exp(np.diff(predicted)) > 0.75).all()
    assert (np.exp(np.diff(predicted)) < 1.0).all()
    np.testing.assert_allclose(np.diff(signal[1:]).mean(), np.diff(predicted).mean(), atol=0.1)
    np.testing.assert_allclose(-np.diff(gradient).mean(), -np.diff(back).mean(), atol=0.1)


@pytest.mark.slow
def test_residual_net_without_norm_doubles_every_block():
    config = stage(8, order="pre", shortcut="A")
    (signal, gradient), (predicted, back) = both(config)
    # 2 less what the border takes of the branch
    np.testing.assert_allclose(np.exp(np.diff(predicted)), 1.85, atol=0.1)
    np.testing.assert_allclose(np.exp(np.diff(signal)).mean(), 1.85, atol=0.15)
    np.testing.assert_allclose(np.exp(-np.diff(gradient)).mean(), np.exp(-np.diff(back)).mean(), rtol=0.1)
    np.testing.assert_allclose(np.exp(-np.diff(back)), 1.85, atol=0.15)


@pytest.mark.slow
def test_nf_follows_its_analytic_curve():
    """Variance 1 + l alpha^2 behind l blocks; the gradient by 1 + alpha^2 beta^2 g^2 E[f'^2] each."""
    config = ResNetConfig((8,), (64,), stem="cifar", num_classes=10, norm="none", residual="nf", shortcut="A")
    (signal, gradient), (predicted, back) = both(config)
    curve = 1 + 0.04 * np.arange(1, 9)
    np.testing.assert_allclose(np.exp(signal[1:] - signal[0]), curve, rtol=0.05)
    np.testing.assert_allclose(np.exp(predicted - predicted[0]) * curve[0], curve, rtol=0.05)
    np.testing.assert_allclose(gradient[0], back[0], atol=0.1)


# ---- the command ------------------------------------------------------------------------------------------------


SMALL = ["--image-size", "8", "--model.widths", "8", "--draws", "1", "--json", "--model.stage-sizes"]


@pytest.mark.slow
def test_the_command_fails_with_its_sentences(capsys, tmp_path):
    folder = tmp_path / "bad"
    arguments = ["resnet56_cifar", "--model.norm", "none", *SMALL, "27", "--out", str(folder)]
    assert run(["depth", "check", *arguments]) == 1
    told = capsys.readouterr()
    result = json.loads(told.out.splitlines()[-1])
    assert not result["ok"]
    assert result["blocks"] == 27
    assert "Signals explode" in told.err
    assert "What helps" in told.err
    assert {path.name for path in folder.iterdir()} == {"check.npz", "report.html", "signal.png", "check-gradient.png"}
    assert run(["depth", "check", "resnet05", *SMALL, "2"]) == 2
    assert "unknown model 'resnet05'" in capsys.readouterr().err


def test_the_command_says_that_signals_and_gradients_get_through(capsys):
    zero = ["rezero_resnet20_cifar", *SMALL, "2", "--model.order", "pre", "--model.norm", "none"]
    assert run(["depth", "check", *zero]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["ok"]
    assert "Gradients get through" in told.err


def test_numbers_out_of_range_are_refused():
    with pytest.raises(UsageError, match="draws of 1 or more and a limit above 1"):
        check(create_model("resnet20_cifar"), SHAPE, limit=1.0)
