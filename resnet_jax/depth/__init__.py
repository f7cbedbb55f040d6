"""What happens to signals and gradients through depth. Sits above ``models``; knows nothing of training or data.

The public names load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Anatomy": "resnet_jax.models.instrument",
    "BLOCK_AXES": "resnet_jax.models.instrument",
    "Deletions": "resnet_jax.depth.lesion",
    "DepthProfile": "resnet_jax.depth.result",
    "HessianEigenvalues": "resnet_jax.depth.hessian",
    "Identity": "resnet_jax.models.instrument",
    "JacobianSpectra": "resnet_jax.depth.jacobian",
    "hessian_eigenvalues": "resnet_jax.depth.hessian",
    "instrumented": "resnet_jax.models.instrument",
    "profile": "resnet_jax.depth.profiling",
    "load_arrays": "resnet_jax.depth.arrays",
    "Moments": "resnet_jax.depth.measure",
    "jacobians": "resnet_jax.depth.jacobian",
    "measure_moments": "resnet_jax.depth.measure",
    "save_arrays": "resnet_jax.depth.arrays",
    "sample_moments": "resnet_jax.depth.measure",
    "PathLengths": "resnet_jax.depth.paths",
    "Permutations": "resnet_jax.depth.lesion",
    "PropagationCheck": "resnet_jax.depth.checking",
    "check": "resnet_jax.depth.checking",
    "delete_blocks": "resnet_jax.depth.lesion",
    "path_lengths": "resnet_jax.depth.paths",
    "permute_blocks": "resnet_jax.depth.lesion",
    "predict_moments": "resnet_jax.depth.predict",
    "Gradients": "resnet_jax.depth.predict_backward",
    "predict_gradients": "resnet_jax.depth.predict_backward",
    "Propagation": "resnet_jax.depth.propagation",
    "measure_propagation": "resnet_jax.depth.propagation",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resnet_jax.depth' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
