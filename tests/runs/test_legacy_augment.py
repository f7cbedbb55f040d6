"""The fields of before: each edits the list of transforms, in a file, on the command line and in a cell."""

from __future__ import annotations

import pytest

from resnet_jax.ablation.grid import Cell
from resnet_jax.cli.recipe import named_recipe
from resnet_jax.data.transforms import divide
from resnet_jax.errors import UsageError
from resnet_jax.runs.legacy_augment import translate_flags, with_old_fields
from resnet_jax.runs.recipes import load_recipe, parse_config

ALL = {
    "crop": "random_resized",
    "pad": 2,
    "flip": True,
    "cutout": 3,
    "mixup": 0.4,
    "cutmix": 1,
    "mix_probability": 0.5,
}


def test_all_of_them_give_the_order_that_they_always_had():
    wanted = ("random_resized_crop", "random_crop(2)", "flip", "cutout(3)", "mix(0.4, 1.0, probability=0.5)")
    assert with_old_fields((), ALL) == wanted
    for first in ALL:  # one after the other, in any order, is the same
        found = with_old_fields((), {first: ALL[first]})
        assert with_old_fields(found, {name: value for name, value in ALL.items() if name != first}) == wanted or (
            first == "mix_probability"  # which says nothing where nothing is mixed
        )
    divide(wanted)


@pytest.mark.parametrize(
    ("augment", "given", "wanted"),
    [
        ((), {"pad": 0, "flip": False, "cutout": 0, "mixup": 0, "cutmix": 0.0, "crop": "none"}, ()),
        ((), {"mix_probability": 0.5}, ()),
        (("random_crop(4)", "flip"), {"pad": 0}, ("flip",)),
        (("flip", "cutout(8)"), {"pad": 1}, ("random_crop(1)", "flip", "cutout(8)")),
        (("cutout(8)", "mixup(0.2)"), {"flip": True}, ("flip", "cutout(8)", "mixup(0.2)")),
        (("mixup(0.2)",), {"mix_probability": 0.5}, ("mixup(0.2, probability=0.5)",)),
        (("mixup(0.2)",), {"cutmix": 1}, ("mix(0.2, 1.0)",)),
        (("mix(0.2, 1.0)",), {"mixup": 0}, ("cutmix(1.0)",)),
        (("mixup(0.2)",), {"cutout": 4}, ("cutout(4)", "mixup(0.2)")),
        (("random_resized_crop", "flip"), {"crop": "none"}, ("flip",)),
        (("flip",), {"crop": "random_resized", "pad": 1}, ("random_resized_crop", "random_crop(1)", "flip")),
    ],
)
def test_one_of_them_changes_what_it_stands_for_and_nothing_else(augment, given, wanted):
    assert with_old_fields(augment, given) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pad": -1}, "data.pad must be 0 or more, got -1"),
        ({"pad": 1.5}, "data.pad must be a whole number, got 1.5"),
        ({"flip": 1}, "data.flip must be true or false, got 1"),
        ({"crop": "centre"}, "data.crop must be none or random_resized, got 'centre'"),
        ({"mixup": float("nan")}, "data.mixup must be 0 or more"),
        ({"mix_probability": 2}, r"data.mix_probability must be in \[0, 1\]"),
    ],
)
def test_wrong_values_are_refused_by_the_field_s_name(given, message):
    with pytest.raises(UsageError, match=message):
        with_old_fields((), given)


def test_which_of_two_mixings_is_meant_is_not_guessed():
    with pytest.raises(UsageError, match=r"data.mixup could change mixup\(0.2\) or cutmix\(1.0\)"):
        with_old_fields(("mixup(0.2)", "cutmix(1.0)"), {"mixup": 0.1})


def test_a_recipe_of_before_is_read_and_the_shipped_ones_too():
    config = parse_config("data: {pad: 4, flip: true, mixup: 1}", where="x")
    assert config.data.augment == ("random_crop(4)", "flip", "mixup(1.0)")
    assert load_recipe("imagenet-resnet50").data.augment == ("random_resized_crop", "flip")
    assert load_recipe("imagenet-resnet50").data.crop == "random_resized"
    both = parse_config("data: {augment: [flip], pad: 4}", where="x")
    assert both.data.augment == ("random_crop(4)", "flip")


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["--data.pad", "4", "--data.flip"], ["random_crop(4)", "flip"]),
        (["--data.pad=0", "--data.mix-probability", ".5", "--data.mixup=1"], ["mixup(1.0, probability=0.5)"]),
        (["--data.no-flip"], ["random_crop(1)"]),
    ],
)
def test_on_the_command_line_they_change_the_recipe(typed, wanted):
    assert named_recipe(["digits", *typed, "--seed", "1"], "train").rest == ["--seed", "1", "--data.augment", *wanted]


def test_on_the_command_line_not_beside_the_list_and_not_without_a_value():
    with pytest.raises(UsageError, match=r"--data.pad are transforms of --data.augment now, and both are given"):
        translate_flags(["--data.pad", "1", "--data.augment", "flip"], ())
    with pytest.raises(UsageError, match=r"--data.pad needs a value"):
        translate_flags(["--data.pad", "--seed", "1"], ())
    with pytest.raises(UsageError, match=r"data.pad must be a whole number, got 'x'"):
        translate_flags(["--data.pad", "x"], ())


def test_as_an_axis_they_stay_and_every_cell_edits_the_list():
    assert translate_flags(["--data.pad", "0,2", "--data.flip", "on,off"], ()) == [
        "--data.pad", "0,2", "--data.flip", "on,off"
    ]  # fmt: skip
    cell = Cell("a", {}, {"data.pad": 2, "data.flip": True})
    assert cell.configure(load_recipe("digits")).data.augment == ("random_crop(2)", "flip")
