"""Transforms of this package: masks and boxes move along, host and device do the same, what does not fit is said."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data.augmentations import ForExample, crop
from resnet_jax.data.augmentations.flip import mirrored_in
from resnet_jax.data.example import Field
from resnet_jax.data.on_device import prepare_with
from resnet_jax.data.operations import affine
from resnet_jax.data.operations.blur import blurred
from resnet_jax.data.rng import generator
from resnet_jax.data.transforms import TRANSFORMS, divide, list_transforms, parse_transform, transform_table
from resnet_jax.errors import UsageError

REFERENCE = dict(np.load(Path(__file__).parent / "augment_reference.npz"))
NATURAL = REFERENCE["image/natural"]
SIDE = 16
SPEC = {
    "image": Field((SIDE, SIDE, 1), "uint8", "image"),
    "mask_of_it": Field((SIDE, SIDE), "uint8", "mask"),
    "segmentation": Field((SIDE, SIDE, 1), "uint8", "mask"),
    "boxes": Field((2, 4), "float32", "boxes"),
    "box_label": Field((2,), "int32", "array"),
}
GEOMETRY = [
    "random_crop(5)",
    "flip(axes=(-1, -2))",
    "rotate90",
    "rotate(-60, 60)",
    "shear_y(-0.5, 0.5)",
    "translate_x_rel(-0.9, 0.9)",
    "scale(0.5, 2)",
    "random_affine(40, 0.3, 0.7, 1.3, 15)",
    "rand_augment(3, 20)",
]


def example(index=0):
    """A rectangle of 200 on 0, which is its own mask and has a box around it; the second box is padding."""
    rng = np.random.default_rng(index)
    top, left = rng.integers(0, SIDE - 6, 2)
    height, width = rng.integers(3, 7, 2)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[top : top + height, left : left + width] = 200
    return {
        "image": mask[..., None],
        "mask_of_it": mask,
        "segmentation": mask[..., None],
        "boxes": np.array([[top, left, top + height, left + width], [0, 0, 0, 0]], np.float32),
        "box_label": np.array([3, -1], np.int32),
        "label": np.int32(0),
    }


def check_moved(found, colours_change, operations=1):
    """The mask is the image, outside is no class, and the box is around what is left of the object."""
    mask = np.asarray(found["mask_of_it"])
    if not colours_change:
        np.testing.assert_array_equal(found["image"][..., 0], mask)
    inside = np.asarray(found["segmentation"][..., 0]) != 255
    np.testing.assert_array_equal(np.where(inside, mask, 255), found["segmentation"][..., 0])
    assert (mask[~inside] == 0).all()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert found["box_label"].tolist() in ([3, -1], [-1, -1])
    top, left, bottom, right = np.asarray(found["boxes"][0], np.float64)
    if found["box_label"][0] == -1:
        assert (top, left, bottom, right) == (0, 0, 0, 0)
        assert min(len(rows), len(columns)) <= 1  # less than a pixel of it is left
        return
    assert 0 <= top <= bottom - 1 <= SIDE - 1
    assert 0 <= left <= right - 1 <= SIDE - 1
    if len(rows):
        # pixels are in it by their middle; those of one operation after another are rounded to the nearest each time
        near = 1e-3 + 0.5 * (operations - 1)
        assert top - near <= rows[0] + 0.5
        assert rows[-1] + 0.5 <= bottom + near
        assert left - near <= columns[0] + 0.5
        assert columns[-1] + 0.5 <= right + near


@pytest.mark.parametrize("text", GEOMETRY)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_masks_and_boxes_move_with_the_image_on_the_host(text, index):
    transform = parse_transform(f"{text[:-1]}, where='host')" if text.endswith(")") else f"{text}(where='host')")
    stored = example(index)
    found = transform.apply(stored, generator(0, 3, 0, index), SPEC)
    drawn = text.startswith("rand_augment")
    check_moved(found, colours_change=drawn, operations=3 if drawn else 1)
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in stored.items()}
    assert {name: value.dtype for name, value in found.items()} == {name: value.dtype for name, value in stored.items()}
    np.testing.assert_array_equal(stored["image"], example(index)["image"])  # what was given stays


@pytest.mark.parametrize(
    "text", [pytest.param(t, marks=() if t in GEOMETRY[:8:4] else pytest.mark.slow) for t in GEOMETRY]
)
def test_masks_and_boxes_move_with_the_image_on_the_device(text):
    count = 30
    batch = {name: np.stack([example(i)[name] for i in range(count)]) for name in example()}
    batch |= {"epoch": np.zeros(count, np.int32), "index": np.arange(count, dtype=np.int32)}
    prepare = prepare_with(divide([text]).device, (0.0,), (1 / 255,), spec=SPEC)
    found = jax.device_get(jax.jit(prepare)(jax.random.key(0), batch))
    found["image"] = np.rint(found["image"]).astype(np.uint8)
    for row in range(count):
        moved, drawn = {name: found[name][row] for name in example()}, text.startswith("rand_augment")
        check_moved(moved, colours_change=drawn, operations=3 if drawn else 1)
    assert len({found["mask_of_it"][row].tobytes() for row in range(count)}) > count // 2


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


@pytest.mark.parametrize("key", [key for key in REFERENCE if "/blur/" in key])
def test_blur_is_within_a_level_of_torchvision(key):
    size, sigma = key.split("/")[-1].split("_")
    run = functools.partial(blurred, size=int(size), sigma=np.float32(sigma))
    for found in (run(np, NATURAL), jax.jit(lambda image: run(jnp, image))(NATURAL)):
        assert np.abs(np.asarray(found).astype(int) - REFERENCE[key]).max() <= 1


@pytest.mark.parametrize("xp", [np, pytest.param(jnp, marks=pytest.mark.slow)])
@pytest.mark.parametrize("key", [key for key in REFERENCE if "/affine/" in key])
def test_an_affine_map_is_within_a_level_of_torchvision(key, xp):
    *_, numbers, mode = key.split("/")
    angle, x, y, factor, *shear = (float(number) for number in numbers.split("_"))
    transform = affine.general(xp, *NATURAL.shape[:2], angle=angle, factor=factor, shear=shear, by=(x, y))
    found = affine.warped(xp, xp.asarray(NATURAL), transform, np.array([10, 20, 30]), mode)
    assert (np.abs(np.asarray(found).astype(int) - REFERENCE[key]).max(-1) > 1).mean() <= 0.001


def erased(text, count=400, shape=(24, 32, 3)):
    batch = {"image": np.full((count, *shape), 255, np.uint8), "label": np.zeros(count, np.int32)}
    batch |= {"epoch": np.zeros(count, np.int32), "index": np.arange(count, dtype=np.int32)}
    prepare = prepare_with(divide([text]).device, (0.0,) * 3, (0.2,) * 3)  # 5 everywhere
    return np.asarray(jax.jit(prepare)(jax.random.key(0), batch)["image"])


@pytest.mark.parametrize(
    "mode", ["constant", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("random", "pixel"))]
)
def test_random_erasing_takes_a_rectangle_of_the_area_and_ratio_that_were_drawn(mode):
    images = erased(f"random_erasing(0.7, 0.05, 0.3, 0.4, mode={mode!r})")
    gone = (np.abs(images - 5) > 1e-4).any(-1)
    assert 0.6 < gone.any((1, 2)).mean() < 0.8
    tops = set()
    for image, mask in zip(images, gone, strict=True):
        if not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert mask.sum() == height * width  # a whole rectangle
        assert 0.035 < mask.mean() < 0.32  # sides are whole pixels
        assert 0.3 < height / width < 3.4
        values = image[mask]
        distinct = {"constant": 1, "random": 3, "pixel": values.size}[mode]
        assert 0.98 * distinct <= len(np.unique(values)) <= distinct  # floats may come twice
        tops.add(rows[0])
    assert len(tops) > 10
    if mode == "constant":
        assert (images[gone] == 0).all()


def test_crops_and_turns_of_volumes_and_stretched_signals():
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 256, (6, 6, 6, 1), np.uint8)
    words = rng.integers(0, 2**32, (30, 2), np.uint32)
    for text, distinct in (("flip(axes=(-1, -2, -3))", 8), ("rotate90(axes=(-3, -1))", 4), ("random_crop(2)", 25)):
        transform = parse_transform(text)
        found = [transform.one(np, {"image": volume}, row, {})["image"] for row in words]
        seen = len({image.tobytes() for image in found})
        assert seen == distinct if distinct < 20 else seen >= distinct
        assert {image.shape for image in found} == {volume.shape}
    signal = np.linspace(0, 1, 50, dtype=np.float32)[:, None] * np.float32([1, -2])
    stretch = parse_transform("time_stretch(0.5, 0.5)")
    half = stretch.one(np, {"image": signal}, words[0], {})["image"]
    np.testing.assert_allclose(half, signal * 0.5, atol=1e-6)
    double = parse_transform("time_stretch(2, 2)").one(np, {"image": signal}, words[0], {})["image"]
    np.testing.assert_allclose(double, np.minimum(signal[:, :1] * 2, 1) * np.float32([1, -2]), atol=1e-6)


def test_specaugment_masks_time_and_frequency():
    count, shape = 60, (40, 20)
    batch = {"image": np.ones((count, *shape), np.float32), "label": np.zeros(count, np.int32)}
    batch |= {"epoch": np.zeros(count, np.int32), "index": np.arange(count, dtype=np.int32)}
    prepare = prepare_with(divide(["time_mask(8, 2)", "freq_mask(5)"]).device, (0.0,) * 20, (1.0,) * 20)
    gone = np.asarray(jax.jit(prepare)(jax.random.key(0), batch)["image"]) == 0
    times, bands = gone.all(2).sum(1), gone.all(1).sum(1)
    assert (gone == (gone.all(2)[:, :, None] | gone.all(1)[:, None])).all()
    assert times.max() in range(9, 17)
    assert times.min() <= 4
    assert set(bands) == set(range(6))


def test_noise_and_scaling_have_the_deviation_that_is_asked_for():
    count = 1000
    batch = {"image": np.ones((count, 10, 2), np.float32), "label": np.zeros(count, np.int32)}
    batch |= {"epoch": np.zeros(count, np.int32), "index": np.arange(count, dtype=np.int32)}

    def run(text):
        prepare = prepare_with(divide([text]).device, (0.0,) * 2, (1.0,) * 2)
        return jax.jit(prepare)(jax.random.key(0), batch)["image"]

    noisy, scaled = (np.asarray(run(text)) for text in ("jitter(0.3)", "scaling(0.2)"))
    assert abs((noisy - 1).std() - 0.3) < 0.01
    assert (scaled == scaled[:, :1]).all()
    assert abs((scaled[:, 0] - 1).std() - 0.2) < 0.03


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "message"),
    [
        ("equalize", (8, 8, 3), np.float32, r"equalize takes images of 8 bits \(uint8\); these are float32"),
        ("rand_augment", (8, 8, 3), np.uint16, "rand_augment takes images of 8 bits"),
        ("rotate(10)", (8, 3), np.uint8, r"rotate takes images \(height, width, channels\); these inputs are \(8, 3\)"),
        ("time_stretch", (8, 8, 3), np.uint8, r"time_stretch takes signals \(length, channels\)"),
        ("rotate90", (8, 6, 3), np.uint8, r"rotate90 turns sides that are equal, and axes \(-2, -1\) .* are \[8, 6\]"),
        (
            "flip(axes=(-3,))",
            (8, 6, 3),
            np.uint8,
            r"are more than these inputs have, whose sides are \(8, 6\)",
        ),
        ("rand_augment", (8, 8, 4), np.uint8, "takes images of 1 channel .grey. or 3 .red, green, blue.; these have 4"),
        ("hue(0.1)", (8, 8, 2), np.uint8, "hue takes images of 1 channel"),
        ("gaussian_blur(17)", (8, 8, 3), np.uint8, "a kernel of 17 pixels is mirrored at the border of images of"),
    ],
)
def test_inputs_that_it_cannot_take_are_refused(text, shape, dtype, message):
    on_host = parse_transform(f"{text[:-1]}, where='host')" if text.endswith(")") else f"{text}(where='host')")
    with pytest.raises(UsageError, match=message):
        on_host.apply({"image": np.zeros(shape, dtype)}, generator(0, 3, 0, 0), {})
    with pytest.raises(UsageError, match=message):
        parse_transform(text).apply(
            {"image": jnp.zeros((2, *shape), dtype)}, jax.random.split(jax.random.key(0), 2), {}
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("brightness(-1)", r"brightness: need 0 <= low <= high <= 16 \(factor; 1 changes nothing\), got -1 and -1"),
        ("posterize(4, 2)", "posterize: need 0 <= low <= high <= 8"),
        ("posterize(4.5)", r"posterize: low and high are whole numbers \(bits to keep\), got 4.5, 4.5"),
        ("colour_jitter", "give brightness, contrast, saturation or hue"),
        ("colour_jitter(hue=0.6)", "hue must be at most 0.5"),
        ("gaussian_blur(4)", "size must be odd and at least 3, got 4"),
        ("rand_augment(2, 9.5)", "m is a whole number of 0 to 30"),
        ("rand_augment(2, 9, std=0.5)", "std and probability are left out; they are of operations='timm'"),
        ("rand_augment(2, 12, operations='timm')", "with timm's operations m is at most 10, got 12"),
        ("auto_augment('cifar')", "unknown auto_augment: policy 'cifar'"),
        ("random_erasing(0.5, 0.4, 0.3)", "low must be above 0 and at most high"),
        ("random_affine(low=2)", "low 2 is above high 1"),
        ("time_mask(3, where='host')", "time_mask takes normalized inputs, which are on the device"),
        ("rotate90(axes=(-1,))", "axes must be the two of a plane"),
    ],
)
def test_arguments_that_cannot_be_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_transform(text)


def test_every_transform_says_what_it_does_in_one_line():
    from resnet_jax.data.transforms import doc_of

    for name in {form.split("(")[0] for form in list_transforms()}:
        kind = TRANSFORMS[name]
        if kind.__module__.startswith("resnet_jax."):
            assert 10 < len(doc_of(name)) <= 120
            assert doc_of(name).endswith(".")
            assert not issubclass(kind, ForExample) or kind.name == name


def test_the_documentation_has_the_table_of_all_transforms():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert transform_table() in text, f"put this into docs/data.md:\n{transform_table()}"


def test_worker_processes_can_be_given_them():
    for text in ("brightness(0.5, 1.5)", "rotate(-5, 5, fill=(1, 2, 3))", "grey", *COLOURS, *MORE, *GEOMETRY):
        transform = parse_transform(text)
        assert pickle.loads(pickle.dumps(transform)) == transform
        assert hash(transform) == hash(parse_transform(text))


@pytest.mark.parametrize(
    ("shape", "pad", "axes"),
    [
        pytest.param((32, 32, 3), 4, 2, marks=pytest.mark.slow),
        ((8, 6), 1, 2),
        ((6, 5, 4, 2), 3, 3),
        pytest.param((20, 2), 9, 1, marks=pytest.mark.slow),
    ],
)
def test_a_crop_by_shifts_is_the_crop_by_slices(shape, pad, axes):
    """At every place, for images, masks, volumes and signals: the form that a TPU computes."""
    places = np.stack(np.meshgrid(*[np.arange(2 * pad + 1)] * axes), -1).reshape(-1, axes)
    frames = np.random.default_rng(0).integers(0, 255, [side + 2 * pad * (i < axes) for i, side in enumerate(shape)])
    forms = [
        jax.vmap(lambda place, form=form: form(jnp.asarray(frames, jnp.uint8), list(place), shape))(places)
        for form in (crop.sliced, crop.shifted)
    ]
    assert forms[0].shape == forms[1].shape == (len(places), *shape)
    np.testing.assert_array_equal(*forms)


def test_an_alternating_flip_shows_both_sides_in_two_epochs_and_half_of_them_first():
    images = np.arange(40 * 2 * 3, dtype=np.uint8).reshape(40, 2, 3, 1)
    masks = images[..., 0].copy()
    spec = {"image": Field((2, 3, 1), "uint8", "image"), "segmentation": Field((2, 3), "uint8", "mask")}
    prepare = jax.jit(prepare_with(divide(["alternating_flip"]).device, (0.0,), (1 / 255,), spec=spec))
    seen = []
    for epoch in range(3):
        batch = {"image": images, "segmentation": masks, "index": np.arange(40, dtype=np.int32)}
        found = jax.device_get(prepare(jax.random.key(epoch), {**batch, "epoch": np.full(40, epoch, np.int32)}))
        np.testing.assert_array_equal(found["segmentation"], np.rint(found["image"][..., 0]))
        mirrored = (found["segmentation"] == masks[:, :, ::-1]).all(axis=(1, 2))
        assert (found["segmentation"][~mirrored] == masks[~mirrored]).all()
        seen.append(mirrored)
    np.testing.assert_array_equal(seen[0], ~seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])
    assert 12 <= seen[0].sum() <= 28
    other = np.asarray(mirrored_in(np.arange(40), np.zeros(40, np.int32), salt=1))
    assert 0 < (other != seen[0]).sum() < 40


def test_which_half_is_mirrored_first_is_half_of_any_data():
    index = np.arange(50_000)
    first = np.asarray(mirrored_in(index, np.zeros(50_000, np.int32)))
    assert abs(first.mean() - 0.5) < 0.01
    assert abs((first[1:] == first[:-1]).mean() - 0.5) < 0.01, "neighbours have nothing in common"


@pytest.mark.parametrize("where", ["device", "host"])
def test_a_crop_may_reflect_the_border(where):
    image = np.arange(1, 17, dtype=np.uint8).reshape(4, 4, 1)
    transform = parse_transform(f"random_crop(2, border='reflect', where='{where}')")
    frame = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    parts = {frame[top : top + 4, left : left + 4].tobytes() for top in range(5) for left in range(5)}
    found = set()
    for index in range(60):
        if where == "host":
            out = transform.apply({"image": image}, generator(0, 3, 0, index), {})["image"]
        else:
            out = transform.apply({"image": image[None]}, jax.random.split(jax.random.key(index), 1), {})["image"][0]
        found.add(np.asarray(out).tobytes())
    assert found <= parts
    assert len(found) > 12
    with pytest.raises(UsageError, match="4 pixels cannot be reflected"):
        parse_transform("random_crop(4, border='reflect', where='host')").apply(
            {"image": image}, generator(0, 3, 0, 0), {}
        )


def test_gain_and_noise_have_the_levels_that_are_asked_for():
    """Of 64 sounds of other loudness each: a factor within the range, and a ratio of powers within it."""
    rng = np.random.default_rng(0)
    sounds = (rng.normal(size=(64, 4000, 1)) * 10.0 ** rng.uniform(-2, 2, (64, 1, 1))).astype(np.float32)
    keys, spec = jax.random.split(jax.random.key(0), 64), {"image": Field((4000, 1), "float32", "signal")}

    def run(text):
        return np.asarray(parse_transform(text).apply({"image": jnp.asarray(sounds)}, keys, spec)["image"])

    factors = 20 * np.log10((run("gain(-6, 12)") / sounds).mean(axis=(1, 2)))
    added = run("noise(10, 30)") - sounds
    ratios = 10 * np.log10(np.square(sounds).mean(axis=(1, 2)) / np.square(added).mean(axis=(1, 2)))
    for found, low, high in ((factors, -6, 12), (ratios, 10, 30)):
        assert low - 0.2 < found.min() < low + 4, found.min()
        assert high - 4 < found.max() < high + 0.2, found.max()
    with pytest.raises(UsageError, match="noise: low 5 is above high 1"):
        parse_transform("noise(5, 1)")
    with pytest.raises(UsageError, match="gain takes float inputs, and these are uint8"):
        parse_transform("gain(0, 1)").apply({"image": jnp.zeros((64, 8, 8, 1), jnp.uint8)}, keys, spec)
