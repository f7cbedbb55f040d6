"""The operations on the host and on the device against stored results of Pillow and torchvision."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.operations import OPERATIONS, Drawing, apply_chosen, apply_operation

REFERENCE = dict(np.load(Path(__file__).parent / "augment_reference.npz"))
IMAGES = {key.split("/")[1]: value for key, value in REFERENCE.items() if key.startswith("image/")}
FILL = (10, 20, 30)


def cases(form, name):
    """(operation, magnitude, interpolation, result) of one image."""
    for key, result in REFERENCE.items():
        head, image, operation, magnitude, *mode = f"{key}////".split("/")[:5]
        known = head == "result" and image == name and operation in OPERATIONS
        if known and (OPERATIONS[operation].form == "affine") == (form == "affine"):
            yield operation, float(magnitude), mode[0], result


def apart(found, expected):
    """Share of pixels more than one level apart in any channel."""
    return (np.abs(np.asarray(found).astype(int) - expected.astype(int)) > 1).any(-1).mean()


@pytest.mark.parametrize("name", IMAGES)
def test_colours_on_the_host_equal_pillow_to_the_bit(name):
    seen = set()
    for operation, magnitude, _, expected in cases("colour", name):
        fields = apply_operation(np, {"image": IMAGES[name]}, {}, OPERATIONS[operation], magnitude)
        assert fields["image"].dtype == np.uint8
        np.testing.assert_array_equal(fields["image"], expected, err_msg=f"{operation} {magnitude}")
        seen.add(operation)
    assert seen == {row.name for row in OPERATIONS.values() if row.form != "affine"} - {"identity"}


@pytest.mark.parametrize("name", IMAGES)
def test_one_chosen_on_the_device_equals_pillow_to_the_bit(name):
    rows = tuple(row for row in OPERATIONS.values() if row.form in ("lookup", "blend"))
    found = [case for case in cases("colour", name) if OPERATIONS[case[0]] in rows]
    which = np.array([[row.name for row in rows].index(operation) for operation, *_ in found])
    magnitudes = np.array([magnitude for _, magnitude, *_ in found], np.float32)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def chosen(image, which, magnitude):
        return apply_chosen(jnp, {"image": image}, {}, rows, which, magnitude)["image"]

    results = np.asarray(chosen(IMAGES[name], which, magnitudes))
    for (operation, magnitude, _, expected), result in zip(found, results, strict=True):
        np.testing.assert_array_equal(result, expected, err_msg=f"{operation} {magnitude}")


def test_grey_and_hue_on_the_device_equal_pillow_to_the_bit():
    for row in (row for row in OPERATIONS.values() if row.form == "whole"):
        found = [case for case in cases("colour", "natural") if case[0] == row.name]
        magnitudes = np.array([magnitude for _, magnitude, *_ in found], np.float32)
        run = jax.jit(jax.vmap(functools.partial(row.function, jnp, jnp.asarray(IMAGES["natural"]))))
        np.testing.assert_array_equal(run(magnitudes), np.stack([expected for *_, expected in found]))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", ["natural", "ramp"])
def test_maps_are_within_a_level_of_pillow_on_999_of_1000_pixels(name, mode):
    rows = tuple(row for row in OPERATIONS.values() if row.form == "affine")
    found = [case for case in cases("affine", name) if case[2] == mode]
    if not found:
        pytest.skip("no stored results")
    which = np.array([[row.name for row in rows].index(operation) for operation, *_ in found])
    magnitudes = np.array([magnitude for _, magnitude, *_ in found], np.float32)
    drawing = Drawing(mode, FILL)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def chosen(image, which, magnitude):
        return apply_chosen(jnp, {"image": image}, {}, rows, which, magnitude, drawing)["image"]

    results = np.asarray(chosen(IMAGES[name], which, magnitudes))
    for (operation, magnitude, _, expected), on_device in zip(found, results, strict=True):
        fields = {"image": IMAGES[name]}
        on_host = apply_operation(np, fields, {}, OPERATIONS[operation], magnitude, drawing)["image"]
        for result in (on_host, on_device):
            assert apart(result, expected) <= 0.001, f"{operation} {magnitude}"
