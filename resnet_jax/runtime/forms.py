"""Which forms the operations of a program have: an option, read without JAX; `resnet_jax.ops.reference` acts on it."""

from __future__ import annotations

from typing import Literal, TypeAlias

#: ``auto``, the fastest where it runs, or ``plain``, the same ones everywhere.
FormsChoice: TypeAlias = Literal["auto", "plain"]
