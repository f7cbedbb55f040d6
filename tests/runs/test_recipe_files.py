"""Recipe files: what one takes over from another, what is refused; and every shipped one."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models import ResNet, abstract_variables
from resnet_jax.models.rows import MODELS
from resnet_jax.runs.config import config_to_dict
from resnet_jax.runs.promise import smoke_config
from resnet_jax.runs.recipes import list_recipes, load_about, load_recipe, parse_config

ABOUT = "about: {what: mine, source: me, smoke: {train.length: 3 steps}}\n"


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return lambda name: str(folder / f"{name}.yaml")


def test_a_recipe_has_the_values_of_another_first(tmp_path):
    path = write(tmp_path, mine="extends: cifar10-resnet20\noptim: {momentum: null, schedule: {milestones: ['10%']}}\n")
    base, mine = load_recipe("cifar10-resnet20"), load_recipe(path("mine"))
    assert mine.recipe == "mine"
    assert (mine.model, mine.data, mine.train) == (base.model, base.data, base.train)
    assert (mine.optim.momentum, mine.optim.weight_decay) == (None, base.optim.weight_decay)
    assert (mine.optim.schedule.milestones, mine.optim.schedule.factor) == (("10%",), 0.1)
    assert load_about(path("mine")) is None, "what the other says about itself is not said of this one"


def test_old_spellings_meet_new_ones(tmp_path):
    path = write(tmp_path, a="data: {pad: 4, flip: true}\n", b="extends: a.yaml\ndata: {augment: [grey]}\n")
    assert load_recipe(path("a")).data.augment == ("random_crop(4)", "flip")
    assert load_recipe(path("b")).data.augment == ("grey",)


def test_files_extend_files_relative_to_themselves(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, a=f"extends: digits\nseed: 5\n{ABOUT}")
    path = write(tmp_path / "sub", b="extends: ../a.yaml\ntrain: {batch_size: 7}\nabout: {what: b, source: me}\n")
    config, about = load_recipe(path("b")), load_about(path("b"))
    assert (config.recipe, config.seed, config.train.batch_size, config.train.length) == ("b", 5, 7, "15 epochs")
    assert about is not None
    assert (about.what, about.expected) == ("b", None)
    assert (about.smoke["train.length"], about.smoke["data.source"]) == ("3 steps", "digits"), "both others' smoke"


def test_imports_of_what_is_extended_are_relative_to_it(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "own.py").write_text("DONE = True\n")
    write(tmp_path, a="imports: [own.py]\nextends: digits\n")
    path = write(tmp_path / "sub", b="extends: ../a.yaml\n")
    assert load_recipe(path("b")).imports == (str((tmp_path / "own.py").resolve()),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: b.yaml\n", r"extends goes round in a circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"),
        ("extends: a.yaml\n", r"extends goes round in a circle: .*a\.yaml -> .*a\.yaml"),
        ("extends: nowhere.yaml\n", r"no such recipe file: .*nowhere\.yaml"),
        (
            "extends: cifar10-resnet21\n",
            r"unknown recipe 'cifar10-resnet21'; did you mean 'cifar10-resnet2.*extends it",
        ),
        ("extends: [digits]\n", r"extends names one recipe, got \['digits'\]"),
        ("about: {what: x}\n", r"about\.source is missing"),
        ("extends: digits\ntrain: {lenght: 1 steps}\n", r"unknown key train\.lenght"),
    ],
)
def test_what_cannot_be_extended_is_said(tmp_path, text, message):
    path = write(tmp_path, a=text, b="extends: a.yaml\n")
    with pytest.raises(UsageError, match=message):
        load_recipe(path("a"))


def test_a_text_extends_shipped_recipes_only(tmp_path):
    assert parse_config("extends: digits\nseed: 2\n", where="x", recipe="r").train.length == "15 epochs"
    path = write(tmp_path, a="extends: digits\n")
    with pytest.raises(UsageError, match="unknown recipe"):
        parse_config(f"extends: {path('a')}\n", where="x")


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_sourced_and_its_choices_go_together(name):
    about, config = load_about(name), load_recipe(name)
    assert about is not None
    assert about.source
    assert about.published or about.expected or about.differs, "a recipe without a figure says why"
    assert about.smoke["data.source"].startswith("digits"), "which is always there"
    smoke = smoke_config(config, about, name)
    assert config_to_dict(smoke)["recipe"] == name
    for choices in (config.model.config(), smoke.model.config()):
        assert choices.num_blocks >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_s_network_can_be_built(name):
    config = load_recipe(name)
    network, shape = ResNet(config.model.config()), MODELS[config.model.name].input_shape
    if network.config.spatial_dims != len(shape) - 1:  # the data's, and so its sides
        shape = (*(64,) * network.config.spatial_dims, network.config.in_channels)
    assert abstract_variables(network, shape)["params"]["head"]


def test_figures_that_others_published():
    """Errors in percent, as in the papers' tables."""
    errors = {
        "cifar10-resnet20": 8.75, "cifar10-resnet32": 7.51, "cifar10-resnet44": 7.17, "cifar10-resnet56": 6.97,
        "cifar10-resnet110": 6.61, "cifar10-resnet1202": 7.93, "cifar10-preact164": 5.46, "cifar10-preact1001": 4.92,
        "cifar10-wrn28-10": 4.00, "cifar10-resnext29": 3.65, "cifar100-preact164": 24.33, "cifar100-wrn28-10": 19.25,
    }  # fmt: skip
    for name, error in errors.items():
        about = load_about(name)
        assert about is not None
        assert about.published is not None
        assert 100 * (1 - about.published.value) == pytest.approx(error), name


def test_the_rates_of_long_and_wide_networks():
    from resnet_jax.training.schedules import make_schedule

    wide, warm = load_recipe("cifar10-wrn28-10"), load_recipe("cifar10-resnet110")
    rate = make_schedule(wide.optim.schedule, wide.optim.learning_rate, steps_per_epoch=390, total_steps=200 * 390)
    assert [round(np.asarray(rate(390 * epoch)).item(), 5) for epoch in (0, 60, 120, 160)] == [0.1, 0.02, 0.004, 0.0008]
    rate = make_schedule(warm.optim.schedule, warm.optim.learning_rate, steps_per_epoch=351, total_steps=64_000)
    assert [round(np.asarray(rate(step)).item(), 4) for step in (0, 400, 31_999, 32_000, 48_000)] == [
        0.01,
        0.1,
        0.1,
        0.01,
        0.001,
    ]
