"""Annotations that many functions share. Tests check them (jaxtyping, beartype)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Float, Shaped

#: An array on a device or on the host.
AnyArray: TypeAlias = jax.Array | np.ndarray
#: The input of a network: N examples with any number of spatial dimensions, channels last.
Images: TypeAlias = Float[AnyArray, "n *spatial c"]
#: The target of a loss: one row for each example.
Labels: TypeAlias = Shaped[AnyArray, "rows *targets"]
#: Labels, or several such arrays by name: masks, boxes, the labels of several tasks.
Targets: TypeAlias = Labels | Mapping[str, Any]
