"""The name under which this package is installed, its extras, and the versions of installed packages."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from resnet_jax import __version__

#: The name to install. (The module is ``resnet_jax``, the command ``resnet-jax``; a package of that name is not ours.)
DISTRIBUTION = "resnet-flax"
#: Module that an installation may lack -> the extra that provides it.
EXTRA_OF = {
    "nibabel": "volumes",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "optuna": "search",
    "prometheus_client": "serve",
    "python_multipart": "serve",
    "ray": "ray",
    "soundfile": "audio",
    "starlette": "serve",
    "tensorflow": "tf",
    "trackio": "trackio",
    "uvicorn": "serve",
    "wandb": "wandb",
}


def install(extra: str) -> str:
    """Return how to add an extra to an installation, for messages.

    pip asks the installed package for its extras, so this works wherever the package came from.

    >>> install("onnx")
    "pip install 'resnet-flax[onnx]' (in a checkout: uv sync --inexact --extra onnx)"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]' (in a checkout: uv sync --inexact --extra {extra})"


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each package, None if it is not installed; ``resnet_jax`` is this one.

    >>> versions(["resnet_jax", "no-such-package"]) == {"resnet_jax": __version__, "no-such-package": None}
    True
    """
    return {name: __version__ if name == "resnet_jax" else _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
