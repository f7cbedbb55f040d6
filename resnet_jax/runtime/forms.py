"""Which forms the operations of a program have: an option, parsed without JAX; see `resnet_jax.ops.reference`."""

from __future__ import annotations

from typing import Literal, TypeAlias

#: ``auto``, the fastest for the hardware, or ``plain``, the same everywhere.
FormsChoice: TypeAlias = Literal["auto", "plain"]
