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
    "Gradients": "resnet_jax.depth.predict_backward",
    "HessianEigenvalues": "resnet_jax.depth.hessian",
    "Identity": "resnet_jax.models.instrument",
    "JacobianSpectra": "resnet_jax.depth.jacobian",
    "LinearProbes": "resnet_jax.depth.similarity",
    "Moments": "resnet_jax.depth.measure",
    "PathLengths": "resnet_jax.depth.paths",
    "Permutations": "resnet_jax.depth.lesion",
    "Propagation": "resnet_jax.depth.propagation",
    "PropagationCheck": "resnet_jax.depth.checking",
    "Shattering": "resnet_jax.depth.shattering",
    "Similarity": "resnet_jax.depth.similarity",
    "autocorrelation": "resnet_jax.depth.shattering",
    "check": "resnet_jax.depth.checking",
    "delete_blocks": "resnet_jax.depth.lesion",
    "gradient_correlation": "resnet_jax.depth.shattering",
    "gradients_along_line": "resnet_jax.depth.shattering",
    "hessian_eigenvalues": "resnet_jax.depth.hessian",
    "instrumented": "resnet_jax.models.instrument",
    "jacobians": "resnet_jax.depth.jacobian",
    "linear_cka": "resnet_jax.depth.similarity",
    "linear_probes": "resnet_jax.depth.similarity",
    "load_arrays": "resnet_jax.depth.arrays",
    "measure_moments": "resnet_jax.depth.measure",
    "measure_propagation": "resnet_jax.depth.propagation",
    "measure_shattering": "resnet_jax.depth.shattering",
    "path_lengths": "resnet_jax.depth.paths",
    "permute_blocks": "resnet_jax.depth.lesion",
    "predict_gradients": "resnet_jax.depth.predict_backward",
    "predict_moments": "resnet_jax.depth.predict",
    "profile": "resnet_jax.depth.profiling",
    "sample_moments": "resnet_jax.depth.measure",
    "save_arrays": "resnet_jax.depth.arrays",
    "wide_gradient_correlation": "resnet_jax.depth.shattering",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resnet_jax.depth' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
