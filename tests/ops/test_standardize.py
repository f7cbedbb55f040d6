"""Weight standardization against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax import ops
from tests.ops.exact import close


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_the_definition(eps):
    """Biased variance, and epsilon under the root: with 0.5 it cannot be anywhere else."""
    rng = np.random.default_rng(0)
    w, gain = (rng.normal(1.0, 0.3, size=size).astype(np.float32) for size in ((3, 2, 4, 5), (5,)))
    wide = w.astype(np.float64)
    expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + eps)
    close(ops.standardize(w, eps), expected)
    close(ops.scaled_standardize(w, gain, eps), expected * gain / np.sqrt(3 * 2 * 4))
