"""What is chosen for data: the rules one by one, and that whatever is found gives a run that can be built."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data.look import Findings, look_at
from resnet_jax.data.split import resolve_splits
from resnet_jax.errors import UsageError
from resnet_jax.runs import defaults
from resnet_jax.runs.arrays import as_dataset
from resnet_jax.runs.auto import auto_path, begin, describe, lines_of
from resnet_jax.runs.build import build_model, build_task
from resnet_jax.runs.config import config_to_yaml
from resnet_jax.runs.defaults import Machine, choose
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.recipes import parse_config
from resnet_jax.training.duration import parse_duration

PHOTOGRAPHS = Findings(
    source="folder:photos",
    label_kind="class",
    names=("cat", "dog"),
    examples={"all": 2_000},
    counts=(1_000, 1_000),
    shapes=((375, 500, 3), (500, 375, 3), (240, 320, 3)),
    dtype="uint8",
    meaning="image",
    grey=False,
    stored=False,
    notes=(),
)


def found(**changes) -> Findings:
    return dataclasses.replace(PHOTOGRAPHS, **changes)


def of_size(*shapes, **changes) -> Findings:
    return found(shapes=shapes, **changes)


@pytest.fixture
def quickly(monkeypatch):
    """A network costs what its positions do: counting it exactly takes half a second."""
    monkeypatch.setattr(defaults, "_multiply_adds", lambda model, outputs, shape: 10_000 * math.prod(shape[:-1]))


@pytest.mark.parametrize(
    ("data", "machine", "size"),
    [
        (of_size((8, 8, 1)), Machine(), None),
        (of_size((64, 64, 3)), Machine(), None),
        (of_size((64, 40, 3)), Machine(), None),
        (of_size((96, 96, 3)), Machine(), 96),
        (of_size((28, 28, 3), (30, 28, 3)), Machine(), 28),
        (of_size((40, 50, 3), (45, 50, 3), (45, 50, 3)), Machine(), 32),
        (PHOTOGRAPHS, Machine(), 224),
        (PHOTOGRAPHS, Machine(cores=8), 128),
        (of_size((100, 400, 3)), Machine(), None),
        (of_size((1000, 4000, 3)), Machine(), 224),
        (of_size((300, 300, 4), dtype="int32"), Machine(), None),
        (of_size((300, 1), meaning="signal", dtype="float32"), Machine(), None),
        (of_size((128, 128, 128, 1), meaning="volume"), Machine(), None),
    ],
)  # fmt: skip
def test_small_images_stay_and_large_ones_are_brought_to_a_usual_size(quickly, data, machine, size):
    assert choose(data, machine).config.data.image_size == size


@pytest.mark.parametrize(
    ("data", "machine", "resize"),
    [
        (of_size((480, 640, 3)), Machine(cores=2), (240, 320)),
        (of_size((480, 640, 3)), Machine(), None),
        (of_size((1080, 1920, 3)), Machine(), (352, 640)),
        (of_size((400, 300, 3), (410, 300, 3), (90, 300, 3)), Machine(), (400, 304)),
        (of_size((64, 64, 1), grey=True), Machine(cores=2), None),
    ],
)
def test_images_with_boxes_stay_whole(quickly, data, machine, resize):
    data = dataclasses.replace(data, label_kind="boxes", counts=())
    chosen = choose(data, machine)
    config = chosen.config
    assert (config.task.kind, config.data.image_size, config.data.resize) == ("detection", None, resize)
    assert (config.model.changes["head"], config.optim.name) == ("fcos", "adamw")
    assert any(text.startswith("random_affine") for text in config.data.augment)
    assert ("flip" in config.data.augment) == (not data.grey)


@pytest.mark.parametrize(
    ("data", "name", "stem"),
    [
        (of_size((32, 32, 3)), "resnet20_cifar", None),
        (of_size((32, 32, 3), examples={"train": 100_000, "test": 10}), "resnet56_cifar", None),
        (of_size((64, 64, 3), names=tuple(map(str, range(200))), counts=(10,) * 200), "resnet18", "cifar"),
        (PHOTOGRAPHS, "resnet18", None),
        (found(examples={"train": 1_281_167, "val": 50_000}), "resnet50", None),
        (of_size((150, 1), meaning="signal"), "resnet20_cifar", None),
        (of_size((8000, 1), meaning="signal"), "resnet18", None),
        (of_size((28, 28, 28, 1), meaning="volume"), "resnet20_cifar", "imagenet"),
        (of_size((8, 8, 8, 1), meaning="volume"), "resnet20_cifar", None),
    ],
)
def test_the_network_goes_by_what_the_inputs_are(quickly, data, name, stem):
    model = choose(data).config.model
    assert (model.name, model.changes.get("stem")) == (name, stem)


@pytest.mark.parametrize(
    ("data", "augment"),
    [
        (PHOTOGRAPHS, ("random_resized_crop", "flip")),
        (found(grey=True), ("random_crop(28)",)),
        (of_size((32, 32, 3)), ("random_crop(4)", "flip")),
        (of_size((16, 16, 3)), ("random_crop(2)",)),
        (of_size((4, 4, 1), grey=True), ()),
        (of_size((32, 32, 3), names=("0", "1")), ("random_crop(4)",)),
        (of_size((32, 32, 3), names=("00042", "00043")), ("random_crop(4)",)),
        (of_size((32, 32, 3), names=("turn_left", "stop")), ("random_crop(4)",)),
        (of_size((32, 32, 6)), ("random_crop(4)",)),
        (of_size((32, 32, 3), label_kind="value", names=("angle",), counts=()), ("random_crop(4)",)),
        (of_size((300, 1), meaning="signal"), ()),
    ],
)
def test_only_what_looks_the_same_mirrored_is_mirrored(quickly, data, augment):
    assert choose(data).config.data.augment == augment


def test_grey_images_are_said_not_to_be_mirrored(quickly):
    assert "gray images are not mirrored" in choose(found(grey=True)).reasons["data.augment"]


@pytest.mark.parametrize(
    ("counts", "weights"),
    [((300, 900), "none"), ((300, 1_200), "balanced"), ((1, 4_000), "none"), ((0, 1_000, 100), "none")],
)
def test_classes_are_weighted_from_four_to_one_unless_a_few_examples_would_lead(quickly, counts, weights):
    names = tuple("abc"[: len(counts)])
    data = found(names=names, counts=counts, examples={"all": sum(counts)})
    assert choose(data).config.task.class_weights == weights


def test_small_data_has_small_batches_and_long_runs_and_large_data_the_opposite(quickly):
    settings = []
    for count in (50, 1_797, 50_000, 1_000_000):
        config = choose(of_size((8, 8, 1), examples={"all": count}, counts=(count // 2, count // 2))).config
        settings.append((config.train.batch_size, config.train.length, config.optim.learning_rate))
    assert settings == [
        (8, "60 epochs", 0.00625), (64, "60 epochs", 0.05), (128, "15 epochs", 0.1), (256, "90 epochs", 0.2)
    ]  # fmt: skip


def test_a_long_run_of_short_epochs_is_validated_twenty_times(quickly):
    large = of_size((8, 8, 1), examples={"all": 5_000}, counts=(2_500, 2_500))
    assert choose(large).config.train.validate_every == "1 epochs"
    small = of_size((8, 8, 1), examples={"all": 200}, counts=(100, 100))
    assert choose(small).config.train.validate_every == "5%"
    assert choose(small, given={"train.length": "9 epochs"}).config.train.validate_every == "1 epochs"


def test_on_a_cpu_nothing_takes_hours_unasked(quickly):
    large = found(examples={"train": 1_281_167, "val": 50_000})
    chosen = choose(large, Machine(cores=2))
    assert parse_duration(chosen.config.train.length).unit == "steps"
    assert "90 epochs, as usual, would take" in chosen.reasons["train.length"]
    assert choose(large).config.train.length == "90 epochs"
    asked = choose(large, Machine(cores=2), {"train.length": "90 epochs"})
    assert (asked.config.train.length, asked.reasons["train.length"]) == ("90 epochs", "given")


def test_other_choices_follow_what_is_given(quickly):
    given = {"train.batch_size": 32, "model.name": "resnet50", "data.image_size": 64, "seed": 3}
    config = choose(PHOTOGRAPHS, given=given).config
    assert (config.train.batch_size, config.optim.learning_rate, config.seed) == (32, 0.025, 3)
    assert (config.model.name, config.model.changes, config.data.image_size) == ("resnet50", {}, 64)
    assert config.data.augment == ("random_crop(8)", "flip")
    adam = choose(PHOTOGRAPHS, given={"optim.name": "adam"}).config.optim
    assert (adam.learning_rate, adam.momentum, adam.nesterov) == (0.001, None, None)
    with pytest.raises(UsageError, match=r"unknown key train\.lenght"):
        choose(PHOTOGRAPHS, given={"train.lenght": "3 epochs"})


def test_values_are_learned_at_a_tenth_of_the_rate_and_clipped(quickly):
    """At the rate for classes squared errors diverged at the eighth step (ResNet-20, digits' mean grey)."""
    small = of_size((8, 8, 1), counts=(), label_kind="value", names=("weight",))
    rates = [choose(data).config.optim for data in (small, of_size((8, 8, 1)))]
    assert rates[0].learning_rate == pytest.approx(rates[1].learning_rate / 10)
    assert (rates[0].clip_norm, rates[1].clip_norm) == (1.0, None)


def test_few_photographs_are_said_to_be_few(quickly):
    few = found(examples={"all": 102}, counts=(41, 61))
    assert choose(few).reasons["init_from"] == "102 are few for training from scratch: name a trained network"
    assert "init_from" not in choose(PHOTOGRAPHS).reasons


def test_files_of_16_bits_are_read_as_they_are(quickly):
    assert choose(of_size((32, 32, 1), dtype="uint16", grey=True, pixels="stored")).config.data.pixels == "stored"


def test_the_best_state_is_selected_where_there_is_enough_to_select_by(quickly):
    assert choose(PHOTOGRAPHS).config.train.select == "best"
    assert choose(found(examples={"all": 90}, counts=(45, 45))).config.train.select == "last"


def test_every_choice_is_a_line_and_the_data_too(quickly):
    chosen = choose(PHOTOGRAPHS, Machine(cores=4))
    lines = lines_of(chosen)
    assert len(lines) == len(chosen.reasons)
    assert [line.split()[:2] for line in lines if "model.name" in line] == [["model.name", "resnet18"]]
    assert {line.index(reason) for line, reason in zip(lines, chosen.reasons.values(), strict=True)} == {
        lines[0].index("one of 2 classes")
    }
    assert describe(PHOTOGRAPHS) == (
        "Examined folder:photos: 2,000 images of sides 240 to 375, 3 channels, uint8; 2 classes of 1,000 to 1,000."
    )


@st.composite
def findings(draw) -> Findings:
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    longest = {1: 5_000, 2: 700, 3: 40}[rank]
    channels = draw(st.sampled_from([1, 3, 4]))
    sides = st.tuples(*[st.integers(1, longest)] * rank)
    shapes = draw(st.lists(sides, min_size=1, max_size=3 if rank == 2 else 1))
    dtype = draw(st.sampled_from(["uint8", "uint16", "float32"]))
    kind = draw(st.sampled_from(["class", "class", "multi-label", "value"]))
    count = draw(st.integers(2, 12) if kind == "class" else st.integers(1, 5))
    counts = draw(st.lists(st.integers(1, 400), min_size=count, max_size=count)) if kind != "value" else []
    total = sum(counts) if kind == "class" else draw(st.integers(2, 5_000))
    splits = draw(st.sampled_from([("all",), ("train", "test"), ("train", "val", "test")]))
    names = draw(st.sampled_from(["class {}", "{}", "left {}"]))
    return Findings(
        source="npz:x.npz",
        label_kind=kind,
        names=tuple(names.format(index) for index in range(count)),
        examples={split: total if split in ("all", "train") else 20 for split in splits},
        counts=tuple(min(number, total) for number in counts),
        shapes=tuple((*shape, channels) for shape in shapes),
        dtype=dtype,
        meaning={1: "signal", 2: "image", 3: "volume"}[rank],
        grey=channels == 1,
        stored=len(shapes) == 1,
        notes=(),
    )


@given(findings(), st.sampled_from([Machine(), Machine(cores=2), Machine(devices=2)]))
@settings(max_examples=30, deadline=None)
def test_whatever_is_found_gives_a_run_that_can_be_built(data, machine):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults, "_multiply_adds", lambda model, outputs, shape: 10_000 * math.prod(shape[:-1]))
        chosen = choose(data, machine)
    config = chosen.config
    assert parse_config(config_to_yaml(config), where="config.yaml") == config
    shape = data.shapes[0]
    if config.data.image_size is not None:
        shape = (config.data.image_size, config.data.image_size, data.channels)
    card = DatasetInfo(
        data.names, shape, (0.0,) * data.channels, (1.0,) * data.channels, {"train": data.train_examples},
        label_kind=data.label_kind, label_counts=data.counts,
    )  # fmt: skip
    if data.label_kind == "value":
        ones = (1.0,) * len(data.names)
        card = dataclasses.replace(card, target_mean=ones, target_std=ones)
    assert build_model(config, card).config.num_classes == build_task(config, card).num_outputs
    assert 1 <= config.train.batch_size <= max(data.train_examples, machine.devices)
    assert config.train.total_steps(max(data.train_examples // config.train.batch_size, 1)) >= 1
    assert all(chosen.reasons.values())


@given(st.lists(st.integers(1, 30), min_size=2, max_size=40).filter(lambda counts: sum(counts) > len(counts)))
@settings(max_examples=20, deadline=None)
def test_however_few_examples_classes_have_the_data_can_be_divided(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    dataset = as_dataset((np.zeros((len(labels), 4, 4, 1), np.uint8), labels))
    data = found(
        names=dataset.class_names, counts=tuple(counts), examples={"all": len(labels)}, shapes=((4, 4, 1),), grey=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults, "_multiply_adds", lambda *_: 1_000)
        config = choose(data).config
    splits = resolve_splits(dataset, val_fraction=config.data.val_fraction, test_fraction=config.data.test_fraction)
    assert splits.test is not None
    assert config.train.batch_size <= len(splits.train)


def test_the_directory_is_known_before_the_data_is_looked_at():
    assert auto_path("a/photos", {}).name.startswith("photos-")
    assert auto_path("x.npz", {}) == auto_path("./x.npz", {"data.threads": 9})
    assert auto_path("x.npz", {}) != auto_path("x.npz", {"train.length": "3 epochs"})
    assert auto_path("tfds:cifar10@~/data", {}).name.startswith("data-")


def test_the_digits_get_what_their_recipe_has_but_the_length(tmp_path):
    begun = begin("digits", tmp_path / "run")
    config = begun.config
    assert (config.recipe, config.model.name, config.data.augment) == ("auto", "resnet20_cifar", ("random_crop(1)",))
    assert (config.train.batch_size, config.train.length, config.task.kind) == (64, "60 epochs", "classification")
    assert begun.lines[0] == describe(look_at("digits"))
