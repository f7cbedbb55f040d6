"""A substitute for the parts of TensorFlow that TFDS's image sets need during preparation.

Most sets need two things from TensorFlow: files (``tf.io.gfile``) and the PNG encoder for arrays; ImageNet also has 23
images in CMYK or PNG that are rewritten as RGB JPEG with quality 100. All are provided for the duration of a
preparation, with OpenCV: PNG is exact, those JPEGs are not identical to TensorFlow's. Anything else that a set uses
raises ``ImportError``, as it would otherwise.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from resnet_jax.data.decode import decode_image


def tensorflow_installed() -> bool:
    """Return whether TensorFlow can be imported, without importing it."""
    return importlib.util.find_spec("tensorflow") is not None


def to_png(image: np.ndarray) -> bytes:
    """Return an image (H, W, C) with 1, 3 or 4 channels, uint8 or uint16, as lossless PNG.

    >>> from resnet_jax.data.decode import decode_image
    >>> image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    >>> bool((decode_image(to_png(image), 3, "here") == image).all())
    True
    """
    import cv2

    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[-1], slice(None))
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., order]))
    if not done:
        raise ValueError(f"cannot encode {image.dtype} {image.shape} as PNG")
    return data.tobytes()


def to_rgb_jpeg(data: bytes, quality: int = 100) -> bytes:
    """Return an image file rewritten as RGB JPEG."""
    import cv2

    image = decode_image(data, 3, "an image to be written anew as RGB JPEG")
    done, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode {image.shape} as JPEG")
    return encoded.tobytes()


@contextlib.contextmanager
def lent(builder: Any) -> Iterator[None]:
    """Provide a builder with files and encoders while it prepares its set."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import utils
    from tensorflow_datasets.core.utils import lazy_imports_utils

    rewriters = {name: getattr(utils, name) for name in ("jpeg_cmyk_to_rgb", "png_to_jpeg")}
    lazy: dict[str, Any] = object.__getattribute__(lazy_imports_utils.tensorflow, "__dict__")
    before = lazy.get("_module")
    encoders = []
    for feature in _all_features(builder.info.features):
        if isinstance(feature, tfds.features.Image) and feature.encoding_format in (None, "png"):
            encoder = getattr(feature, "_image_encoder", None)
            if type(encoder).__name__ == "_ImageEncoder":
                encoders.append(encoder)
    try:
        lazy["_module"] = _Files()
        for encoder in encoders:
            encoder.__dict__["_encode_image"] = to_png
        for name in rewriters:
            setattr(utils, name, to_rgb_jpeg)
        yield
    finally:
        for name, rewriter in rewriters.items():
            setattr(utils, name, rewriter)
        lazy.pop("_module")
        if before is not None:
            lazy["_module"] = before
        for encoder in encoders:
            encoder.__dict__.pop("_encode_image", None)


def _all_features(feature: Any) -> Iterator[Any]:
    yield feature
    if hasattr(feature, "items"):
        for inner in feature.values():
            yield from _all_features(inner)
    elif getattr(feature, "feature", None) is not None:
        yield from _all_features(feature.feature)


class _Files:
    """A ``tf`` with this machine's files and nothing else."""

    def __init__(self) -> None:
        self.io = SimpleNamespace(
            gfile=SimpleNamespace(
                GFile=lambda name, mode="r": open(name, mode),  # noqa: SIM115 - the set closes it
                exists=os.path.exists,
                isdir=os.path.isdir,
                listdir=os.listdir,
                glob=lambda pattern: glob.glob(os.fspath(pattern)),
                walk=os.walk,
                makedirs=lambda path: os.makedirs(path, exist_ok=True),
            )
        )

    def __getattr__(self, name: str) -> Any:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
