"""Policies: their magnitudes are those of torchvision and timm, and the host does what the device does."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data import ArrayRecords, TrainBatches
from resnet_jax.data.augmentations.augmix import augmix_magnitudes
from resnet_jax.data.augmentations.policies import (
    AUTO_BINS,
    BINS,
    auto_magnitudes,
    rand_magnitudes,
    timm_levels,
    timm_magnitudes,
    trivial_magnitudes,
)
from resnet_jax.data.config import DataConfig
from resnet_jax.data.transforms import parse_transform
from resnet_jax.errors import UsageError
from resnet_jax.runs.data import geometry_of

REFERENCE = dict(np.load(Path(__file__).parent / "augment_reference.npz"))
TABLES = json.loads(str(REFERENCE["tables"]))
NATURAL = REFERENCE["image/natural"]
COLOURS = ["rand_augment(2, 9)"]
MORE = ["gaussian_blur(5)", "trivial_augment", "rand_augment(2, 9, operations='timm', std=0.5)", "posterize(2, 6)"]
MORE += [
    "augmix",
    "colour_jitter(0.4, 0.4, 0.4, 0.1)",
    "auto_augment('cifar10')",
    "auto_augment('svhn')",
    "auto_augment('imagenet')",
    "random_affine(30, 0.2, 0.8, 1.2, 10)",
    "hue(-0.5, 0.5)",
]


@pytest.mark.parametrize("text", [*COLOURS, *(pytest.param(t, marks=pytest.mark.slow) for t in MORE)])
def test_host_and_device_do_the_same_with_the_same_words(text):
    transform = parse_transform(text)
    count = 40
    words = np.random.default_rng(0).integers(0, 2**32, (count, transform.word_count()), np.uint32)
    on_host = [transform.one(np, {"image": NATURAL}, row, {})["image"] for row in words]
    run = jax.jit(jax.vmap(lambda words: transform.one(jnp, {"image": jnp.asarray(NATURAL)}, words, {})["image"]))
    on_device = np.asarray(run(words))
    assert on_device.dtype == np.uint8
    apart = np.abs(on_device.astype(int) - np.stack(on_host)).max(-1) > 1
    assert apart.mean() <= 0.001
    distinct = len({image.tobytes() for image in on_host})
    assert distinct == 5 if text == "posterize(2, 6)" else distinct > count / 4


def test_magnitudes_are_those_of_torchvision():
    height, width = NATURAL.shape[:2]
    names = {"Color": "saturation", "ShearX": "shear_x", "ShearY": "shear_y"}
    names |= {"TranslateX": "translate_x", "TranslateY": "translate_y", "AutoContrast": "autocontrast"}
    enhanced = ("brightness", "saturation", "contrast", "sharpness")
    for key, ours in (
        ("rand_augment", rand_magnitudes(BINS, height, width)),
        ("trivial_augment", trivial_magnitudes(BINS)),
        ("auto_augment_space", auto_magnitudes(AUTO_BINS, height, width)),
        ("augmix", augmix_magnitudes(10, height, width)),
    ):
        theirs = {names.get(name, name.lower()): values for name, values in TABLES[key].items()}
        assert list(theirs) == list(ours) if key != "auto_augment_space" else set(theirs) <= set(ours)
        for name, (values, signed) in theirs.items():
            plus = np.broadcast_to(values, len(ours[name])) + (name in enhanced)
            minus = (-np.asarray(values) if signed else np.asarray(values)) + (name in enhanced)
            expected = np.stack([plus, np.broadcast_to(minus, len(ours[name]))], axis=-1)
            expected = np.trunc(expected) if name.startswith("translate") else expected  # as they are applied
            np.testing.assert_allclose(ours[name], expected, rtol=1e-7, err_msg=f"{key} {name}")


def test_magnitudes_are_those_of_timm():
    ours = timm_magnitudes(np.array(TABLES["timm_levels"]))
    aliases = {"ColorIncreasing": "saturation", "TranslateXRel": "translate_x_rel", "TranslateYRel": "translate_y_rel"}
    aliases |= {"ShearX": "shear_x", "ShearY": "shear_y", "SolarizeAdd": "solarize_add"}
    theirs = {
        aliases.get(n, n.removesuffix("Increasing").lower()): rows for n, rows in TABLES["timm_increasing"].items()
    }
    assert list(theirs) == list(ours)
    for name, rows in theirs.items():
        for values, found in zip(rows, ours[name], strict=True):
            np.testing.assert_allclose(sorted({*found.tolist()}), sorted({*values}) or [0], atol=1e-9, err_msg=name)
    levels = timm_levels(9, 0.5)
    assert levels.max() == 10
    assert abs(np.median(levels) - 9) < 1e-3
    np.testing.assert_allclose(np.std(timm_levels(5, 0.5)), 0.5, rtol=0.01)


def test_sub_policies_are_those_of_torchvision():
    names = {"saturation": "Color", "shear_x": "ShearX", "shear_y": "ShearY", "autocontrast": "AutoContrast"}
    names |= {"translate_x": "TranslateX", "translate_y": "TranslateY"}
    from resnet_jax.data.augmentations.auto_tables import sub_policies

    for policy, theirs in TABLES["auto_augment"].items():
        ours = sub_policies(policy)
        assert len(ours) == 25
        for pair, expected in zip(ours, theirs, strict=True):
            written = [[names.get(name, name.capitalize()), chance, place] for name, chance, place in pair]
            assert written == [[name, chance, place or 0] for name, chance, place in expected]


def test_operations_levels_and_signs_are_drawn_uniformly():
    """Chi-square of 20,000 draws over 14 x 31 x 2 outcomes: 867 degrees of freedom, 99.9 % quantile 1,000."""
    layer = parse_transform("trivial_augment").layers(32, 32)[0]
    assert layer.magnitudes.shape == (14, 31, 2)
    count = 20_000
    places = np.arange(14 * 31 * 2, dtype=np.float32).reshape(14, 31, 2)
    numbered = type(layer)(layer.operations, layer.which, layer.chance, places)
    words = np.random.default_rng(1).integers(0, 2**32, (count, 4), np.uint32)
    outcome = np.array([numbered.decide(np, row, row[0])[1] for row in words]).astype(int)
    counts = np.bincount(outcome, minlength=places.size)
    assert ((counts - count / places.size) ** 2 / (count / places.size)).sum() < 1000


def test_on_the_host_a_policy_depends_on_seed_epoch_and_index_alone():
    records = ArrayRecords(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8), np.arange(12) % 2)
    geometry = geometry_of(DataConfig(augment=("rand_augment(2, 9, where='host')", "flip")))
    small, large = (TrainBatches(records, size, seed=1, geometry=geometry) for size in (4, 6))

    def by_index(batches, steps):
        found = [batches.batch(step) for step in steps]
        return {int(i): image for batch in found for i, image in zip(batch["index"], batch["image"], strict=True)}

    ours, others = by_index(small, range(3)), by_index(large, range(2))
    assert sorted(ours) == list(range(12))
    for index, image in ours.items():
        np.testing.assert_array_equal(image, others[index])
    later = by_index(small, [3])  # of the next epoch
    assert any(not np.array_equal(image, ours[index]) for index, image in later.items())


def test_augmix_is_an_average_of_the_image_and_its_chains():
    transform = parse_transform("augmix(2, 2)")
    words = np.random.default_rng(0).integers(0, 2**32, (30, transform.word_count()), np.uint32)
    words[0, 0] = 0  # all of the image itself
    found = [transform.one(np, {"image": NATURAL}, row, {})["image"] for row in words]
    np.testing.assert_array_equal(found[0], NATURAL)
    assert len({image.tobytes() for image in found}) > 20  # a chain may do nothing
    distance = [np.abs(image.astype(int) - NATURAL).mean() for image in found]
    assert np.corrcoef(distance, words[:, 0].astype(float))[0, 1] > 0.3  # the more of the chains, the further away
    with pytest.raises(UsageError, match="augmix averages images that moved differently, and there is mask_of_it"):
        transform.one(np, {"image": NATURAL, "mask_of_it": NATURAL[..., 0]}, words[0], {})
