"""What happens to signals and gradients through depth. Sits above ``models``; knows nothing of training or data.

The public names load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Anatomy": "resnet_jax.models.instrument",
    "BLOCK_AXES": "resnet_jax.models.instrument",
    "DepthProfile": "resnet_jax.depth.result",
    "Identity": "resnet_jax.models.instrument",
    "instrumented": "resnet_jax.models.instrument",
    "profile": "resnet_jax.depth.profiling",
    "Moments": "resnet_jax.depth.measure",
    "measure_moments": "resnet_jax.depth.measure",
    "sample_moments": "resnet_jax.depth.measure",
    "predict_moments": "resnet_jax.depth.predict",
    "Shattering": "resnet_jax.depth.shattering",
    "autocorrelation": "resnet_jax.depth.shattering",
    "gradient_correlation": "resnet_jax.depth.shattering",
    "gradients_along_line": "resnet_jax.depth.shattering",
    "measure_shattering": "resnet_jax.depth.shattering",
    "wide_gradient_correlation": "resnet_jax.depth.shattering",
    "LinearProbes": "resnet_jax.depth.similarity",
    "Similarity": "resnet_jax.depth.similarity",
    "linear_cka": "resnet_jax.depth.similarity",
    "linear_probes": "resnet_jax.depth.similarity",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resnet_jax.depth' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
