"""One line that tells whether two networks are identical to the last bit."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

from resnet_jax.models.layout import unstack
from resnet_jax.runtime.processes import fetched


def params_digest(params: Any, batch_stats: Any) -> str:
    """Return the SHA-256 digest of parameters and batch statistics.

    For each array, in the order of its path (``batch_stats/...`` before ``params/...``, compared as strings; block by
    block, however the network computes them), it hashes the path, the dtype and shape as ``float32[3,3,16,16]``, and
    the little-endian bytes in C order. With several processes, all of them must call this function.

    >>> params_digest({"w": np.zeros(2, np.float32)}, {})[:8]
    'bdb9513a'
    """
    tree = unstack(fetched({"batch_stats": batch_stats, "params": params}))
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = sorted(("/".join(str(part.key) for part in path), np.asarray(leaf)) for path, leaf in leaves)
    digest = hashlib.sha256()
    for path, leaf in named:
        shape = ",".join(str(side) for side in leaf.shape)
        digest.update(f"{path} {leaf.dtype.name}[{shape}]\n".encode())
        digest.update(np.ascontiguousarray(leaf, leaf.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
