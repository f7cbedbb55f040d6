"""An image file as a stranger sends it: looked at before a decoder sees it."""

from __future__ import annotations

from typing import Literal

from resnet_jax.data.formats import HEAD_BYTES, identify
from resnet_jax.data.headers import png_layout, shape_in_header
from resnet_jax.deploy.serve.problems import not_an_image, not_readable, too_large

SCANS = 100
"""Scans of a JPEG that are decoded. Cameras and programs write 1 to 12; each costs a pass over all of the image, and a
few bytes can ask for one."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def check_file(data: bytes, pixels: int) -> Literal["jpeg", "png"]:
    """Return what kind of image this is, or refuse it, by its header alone.

    Args:
        data: the file.
        pixels: of the largest image that is decoded.

    Raises:
        Problem: 415 neither JPEG nor PNG, 413 more pixels, 422 without a size, or with more scans than any needs.

    >>> check_file(b"hello", 100)
    Traceback (most recent call last):
    resnet_jax.deploy.serve.problems.Problem: this is no JPEG or PNG image: it looks like text
    """
    kind = "jpeg" if data.startswith(_JPEG) else "png" if data.startswith(_PNG) else None
    if kind is None:
        if not data:
            raise not_readable("an empty file")
        found = identify(data[:HEAD_BYTES])
        said = f"it looks like {found.name}" if found is not None else ""
        raise not_an_image("this is no JPEG or PNG image" + (f": {said}" if said else ""))
    shape = shape_in_header(data)
    if shape is None or 0 in shape:
        raise not_readable(f"a {kind.upper()} without a size in its header: damaged, or cut short")
    if shape[0] * shape[1] > pixels:
        raise too_large(
            f"an image of {shape[0]:,}x{shape[1]:,} = {shape[0] * shape[1]:,} pixels (height x width); at most "
            f"{pixels:,} are decoded: make it smaller"
        )
    if kind == "jpeg" and data.count(b"\xff\xda") > SCANS:
        raise not_readable(f"a JPEG of {data.count(bytes((0xFF, 0xDA))):,} scans; at most {SCANS} are decoded")
    if kind == "png" and png_layout(data) == "broken":
        raise not_readable("a PNG that is cut short, or whose parts are longer than the file")
    return kind
