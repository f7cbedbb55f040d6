"""Transforms by name, in order, on the host and on the device; masks and boxes move with the image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import Augment, augment, cutout, normalize
from resnet_jax.data.config import DataConfig
from resnet_jax.data.example import Field
from resnet_jax.data.mix import Mix, mix
from resnet_jax.data.on_device import prepare_with
from resnet_jax.data.transforms import canonical, divide, list_transforms, parse_transform, write_transform
from resnet_jax.errors import UsageError

RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(0, 256, (6, 8, 10, 3), np.uint8),
    "label": np.arange(6, dtype=np.int32) % 3,
    "epoch": np.full(6, 2, np.int32),
    "index": np.arange(6, dtype=np.int32),
}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def prepared(*texts, batch=BATCH, spec=None, mean=MEAN, std=STD):
    prepare = prepare_with(divide(texts).device, mean, std, spec=spec, num_classes=3)
    return jax.jit(prepare)(jax.random.key(0), batch)


@pytest.mark.slow
def test_every_transform_draws_what_the_functions_draw():
    key = jax.random.key(0)
    images = jax.jit(lambda batch: normalize(augment(key, batch, Augment(2, True)), MEAN, STD))(BATCH)
    np.testing.assert_array_equal(prepared("random_crop(2)", "flip")["image"], images)
    expected = jax.jit(lambda images, batch: cutout(key, images, batch, 3))(images, BATCH)
    np.testing.assert_array_equal(prepared("random_crop(2)", "flip", "cutout(3)")["image"], expected)
    found = prepared("random_crop(2)", "flip", "cutout(3)", "mix(0.4, 1, probability=0.9)")
    images, labels = mix(key, expected, BATCH, Mix(0.4, 1.0, 0.9), 3)
    np.testing.assert_allclose(found["image"], images, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["label"], labels, rtol=1e-6)
    for text, choice in (("mixup(0.4)", Mix(0.4)), ("cutmix(1.0)", Mix(0.0, 1.0))):
        np.testing.assert_allclose(prepared(text)["label"], mix(key, images, BATCH, choice, 3)[1], rtol=1e-6)


@pytest.mark.parametrize("order", [("random_crop(2)", "flip"), ("flip", "random_crop(2)")])
def test_a_mask_that_is_a_channel_of_the_image_stays_one_and_boxes_stay_on_it(order):
    image = np.zeros((40, 12, 14, 1), np.uint8)
    image[:, 3:7, 4:10] = 200
    spec = {
        "image": Field((12, 14, 1), "uint8", "image"),
        "flat": Field((12, 14), "uint8", "mask"),
        "deep": Field((12, 14, 1), "uint8", "mask"),
        "boxes": Field((1, 4), "float32", "boxes"),
        "other": Field((12, 14), "uint8", "array"),
    }
    index = np.arange(40, dtype=np.int32)
    batch = {
        "image": image,
        "flat": image[..., 0],
        "deep": image,
        "boxes": np.tile(np.float32([3, 4, 7, 10]), (40, 1, 1)),
        "other": image[..., 0],
        "label": index % 2,
        "epoch": np.zeros_like(index),
        "index": index,
    }
    found = prepared(*order, batch=batch, spec=spec, mean=(0.0,), std=(1 / 255,))
    seen = np.rint(np.asarray(found["image"])).astype(np.uint8)
    np.testing.assert_array_equal(found["flat"], seen[..., 0])
    np.testing.assert_array_equal(found["deep"], seen)
    np.testing.assert_array_equal(found["other"], batch["other"])
    places = set()
    for mask, (top, left, bottom, right) in zip(seen[..., 0], found["boxes"][:, 0].tolist(), strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (top, left, bottom, right) == (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        places.add((top, left))
    assert len(places) > 10


def test_signals_and_volumes_are_mirrored_along_their_last_side():
    for shape in ((64, 2), (3, 4, 6, 1)):
        batch = {**BATCH, "image": RNG.normal(size=(6, *shape)).astype(np.float32)}
        found = prepared("flip", batch=batch, mean=(0.0,) * shape[-1], std=(1.0,) * shape[-1])["image"]
        mirrored = [not np.array_equal(a, b) for a, b in zip(found, batch["image"], strict=True)]
        assert any(mirrored)
        assert not all(mirrored)
        for image, stored, is_mirrored in zip(found, batch["image"], mirrored, strict=True):
            np.testing.assert_array_equal(image, stored[..., ::-1, :] if is_mirrored else stored)
        with pytest.raises(UsageError, match="rotate takes images"):
            prepared("rotate(10)", batch=batch, mean=(0.0,) * shape[-1], std=(1.0,) * shape[-1])


def test_listed_twice_it_draws_anew():
    once, twice = prepared("cutout(3)")["image"], prepared("cutout(3)", "cutout(3)")["image"]
    assert ((np.asarray(twice) == 0).sum((1, 2, 3)) > (np.asarray(once) == 0).sum((1, 2, 3))).any()
    flips = prepared("flip", "flip")["image"]
    assert not np.array_equal(flips, prepared()["image"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flap", "unknown transform 'flap'; did you mean 'flip'"),
        ("random_crop(pads=3)", "unknown argument of transform random_crop 'pads'; did you mean 'pad'"),
        ("random_crop", r"'random_crop' needs pad; it is random_crop\(pad, where='device', border='zeros'\)"),
        ("random_crop(0)", "random_crop: pad must be 1 or more, got 0"),
        ("random_crop(40000)", "pad 40000 must be at least 0 and below 32768"),
        ("random_crop(2.5)", "pad must be a whole number, got 2.5"),
        ("random_crop(True)", "pad must be a whole number, got True"),
        ("random_crop(2, pad=3)", "gives pad twice"),
        ("mixup(-1)", "mixup: alpha must be positive, got -1"),
        ("mixup(0.2, probability=2)", r"mixup: probability must be in \[0, 1\], got 2"),
        ("mixup('a')", "alpha must be a number, got 'a'"),
        ("flip(1)", r"flip: axes must be some of -1 \(width\), -2 \(height\)"),
        ("random_crop(1, 'host')", "has 2 arguments; it is random_crop"),
        ("random_crop(1, where='here')", "unknown random_crop: where 'here'. Known: device, host"),
        ("flip(p=1)", "unknown argument of transform flip 'p'. Known: axes, where"),
        ("random_resized_crop(1)", "has 1 arguments; it is random_resized_crop"),
        ("random_resized_crop(p=1)", "transform random_resized_crop has no arguments"),
        ("cutout(open('x'))", r"open\('x'\) is no number, text, True"),
        ("flip)", "cannot read the transform 'flip\\)'; write it as 'flip'"),
        ("a.b(1)", "cannot read the transform"),
        ("", "cannot read the transform ''"),
    ],
)
def test_what_cannot_be_read_is_said(text, message):
    with pytest.raises(UsageError, match=message):
        parse_transform(text)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["flip", "random_resized_crop"], "random_resized_crop is done on the host and cannot come after flip"),
        (["mixup(1)", "random_crop(2)"], r"random_crop\(2\) works on images as they are stored and cannot come after"),
        (["random_resized_crop", "random_resized_crop"], "random_resized_crop is given twice"),
    ],
)
def test_an_order_that_cannot_be_had_is_refused(texts, message):
    with pytest.raises(UsageError, match=f"data.augment: {message}"):
        DataConfig(augment=tuple(texts))


def test_texts_have_one_form():
    texts = ("random_crop(pad = 4)", "flip()", "cutout(side=16)", "mixup(alpha=1, probability=1.0)")
    assert canonical(texts) == ("random_crop(4)", "flip", "cutout(16)", "mixup(1.0)")
    assert DataConfig(augment=texts) == DataConfig(augment=canonical(texts))
    for text in canonical(texts):
        assert write_transform(parse_transform(text)) == text
    assert "mixup(alpha, probability=1.0)" in list_transforms()


def test_masks_are_not_mixed():
    spec = {"image": Field((8, 10, 3), "uint8", "image"), "mask_of_it": Field((8, 10), "uint8", "mask")}
    with pytest.raises(UsageError, match="not mixed where there are masks or boxes, and there is mask_of_it"):
        prepared("mixup(1)", spec=spec)


@pytest.mark.parametrize("text", ["mixup(1)", "cutmix(1)"])
def test_values_and_rows_are_mixed_as_the_images_are(text):
    """The image of an example is its label, so that a mean over its pixels has to be the label it comes out with."""
    values = jnp.arange(6.0)
    images = jnp.broadcast_to((40 * values).astype(jnp.uint8)[:, None, None, None], (6, 8, 10, 3))
    for labels in (values, jnp.stack([values, 2 * values], axis=1), (values > 2).astype(jnp.int32)):
        prepare = prepare_with(divide([text]).device, (0.0,) * 3, (1.0,) * 3, num_classes=1)
        found = prepare(jax.random.key(0), {**BATCH, "image": images, "label": labels})
        mean = found["image"].mean(axis=(1, 2, 3)) * 255 / 40
        if labels.dtype == jnp.int32:
            assert found["label"].shape == (6, 1)
            np.testing.assert_array_equal(found["label"][:2, 0], 0.0)  # 0 with 1, both of them a no
            np.testing.assert_array_equal(found["label"][4:, 0], 1.0)
        else:
            np.testing.assert_allclose(found["label"][:, 0], mean, rtol=1e-5)
