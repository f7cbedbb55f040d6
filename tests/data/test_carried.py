"""Arguments of transforms that say so can be traced scalars: members of a population that differ in them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.mix import beta_quantiles
from resnet_jax.data.on_device import prepare_with
from resnet_jax.data.transforms import TRANSFORMS, divide, list_transforms, parse_transform
from resnet_jax.fields import unchecked

SIDE = 8
#: How a transform is written, and two numbers of each argument.
CASES = {
    "random_affine(10, 0.1, 0.9, 1.1, 5, probability=0.5)": {
        "degrees": (0.0, 30.0), "translate": (0.0, 0.3), "low": (0.5, 0.9), "high": (1.0, 1.5), "shear": (0.0, 20.0),
        "probability": (0.0, 1.0),
    },
    "colour_jitter(0.4, 0.4, 0.4, 0.1)": {
        "brightness": (0.1, 1.5), "contrast": (0.1, 1.5), "saturation": (0.1, 1.5), "hue": (0.01, 0.5),
        "probability": (0.3, 1.0),
    },
    "gaussian_blur(3)": {"low": (0.1, 0.5), "high": (0.6, 2.0), "probability": (0.0, 1.0)},
    "random_erasing(mode='random')": {
        "probability": (0.0, 1.0), "low": (0.02, 0.3), "high": (0.3, 0.5), "ratio": (0.1, 0.9),
    },
    "mixup(0.2)": {"alpha": (0.2, 1.0), "probability": (0.0, 0.5)},
    "cutmix(1.0)": {"alpha": (0.2, 1.0), "probability": (0.0, 0.5)},
    "mix(0.2, 1.0)": {"mixup": (0.2, 20.0), "cutmix": (0.2, 20.0), "probability": (0.0, 0.5)},
    "jitter(0.1)": {"std": (0.05, 1.0)},
    "scaling(0.1)": {"std": (0.05, 1.0)},
    "time_stretch": {"low": (0.5, 0.9), "high": (1.0, 2.0), "probability": (0.0, 1.0)},
    "brightness(0.6, 1.4)": {"low": (0.1, 0.6), "high": (0.7, 1.9), "probability": (0.0, 1.0)},
    "posterize(4)": {"low": (2.0, 6.0), "probability": (0.0, 1.0)},
    "invert(probability=0.5)": {"probability": (0.0, 1.0)},
}  # fmt: skip


def batch_of(text):
    shape = (SIDE * SIDE, 2) if text.startswith("time_stretch") else (SIDE, SIDE, 3)
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (6, *shape)), jnp.uint8),
        "label": jnp.asarray(np.arange(6) % 3),
        "epoch": jnp.zeros(6, jnp.int32),
        "index": jnp.arange(6, dtype=jnp.int32),
    }


def prepared(transform, text):
    channels = batch_of(text)["image"].shape[-1]
    prepare = prepare_with([transform], (0.5,) * channels, (0.25,) * channels, num_classes=3)
    found = prepare(jax.random.key(1), batch_of(text))
    return found["image"], found["label"].astype(jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("text", CASES)
def test_a_traced_argument_does_what_the_number_does(text):
    (transform,) = divide([text]).device
    for argument, pair in CASES[text].items():
        alphas = argument in ("alpha", "mixup", "cutmix")
        carried = np.stack([beta_quantiles(value) if alphas else np.float32(value) for value in pair])
        traced = jax.jit(jax.vmap(lambda value: prepared(unchecked(transform, **{argument: value}), text)))  # noqa: B023
        images, labels = traced(jnp.asarray(carried))
        assert not np.array_equal(images[0], images[1]), "the two numbers must differ in what they do"
        for k, value in enumerate(pair):
            expected = jax.jit(lambda value=value: prepared(unchecked(transform, **{argument: value}), text))()  # noqa: B023
            # a nearest pixel, or a rounded value, may be another where float32 rounds the argument otherwise
            wrong = ~np.isclose(images[k], expected[0], rtol=1e-4, atol=1e-4)
            assert wrong.mean() < 0.01, (argument, value, wrong.mean())
            np.testing.assert_allclose(labels[k], expected[1], atol=1e-5)


def test_every_transform_with_such_arguments_is_tested_with_all_of_them():
    list_transforms()
    cases = {text: parse_transform(text) for text in CASES}
    tested = {type(transform): set(CASES[text]) for text, transform in cases.items()}
    for name, kind in TRANSFORMS.items():
        carried = set(getattr(kind, "carried", ()))
        if "operation" in vars(kind):  # rows of one table, by one code
            assert carried <= {"low", "high", "probability"}
        elif carried and kind.__module__.startswith("resnet_jax."):
            assert tested.get(kind) == carried, name
    assert {"random_crop", "cutout", "rand_augment"} <= set(TRANSFORMS)
    assert not any(getattr(TRANSFORMS[name], "carried", ()) for name in ("random_crop", "cutout"))
