"""Reading programs: each equation of a jaxpr and of those inside it, how often it runs, what it multiplies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax

from resnet_jax.ops import channels, conv_primitive, max_pool

#: The names of this package's primitives.
OWN = {
    primitive.name
    for module in (channels, conv_primitive, max_pool)
    for name, primitive in vars(module).items()
    if name.endswith("_p")
}


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Yield every equation that contains no other program, with the number of times that it runs."""
    for equation in jaxpr.eqns:
        inner = list(_inner(equation.params))
        for each in inner:
            yield from equations(each, times * (equation.params["length"] if equation.primitive.name == "scan" else 1))
        if not inner:
            yield equation, times


def _inner(value: Any) -> Iterator[Any]:
    """Yield the programs among the parameters of an equation, also those in lists (branches) and closed ones."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _inner(part)
    elif hasattr(value, "eqns"):
        yield value
    elif hasattr(getattr(value, "jaxpr", None), "eqns"):
        yield value.jaxpr


def executed(f, *operands) -> Counter[str]:
    """Return how often each primitive runs in the program of ``f``."""
    counts: Counter[str] = Counter()
    for equation, times in equations(jax.make_jaxpr(f)(*operands).jaxpr):
        counts[equation.primitive.name] += times
    return counts


def multiply_adds(f, *operands) -> int:
    """Count those of all convolutions and matrix products of ``f``, from the shapes in its program alone."""
    total = 0
    for equation, times in equations(jax.make_jaxpr(f)(*operands).jaxpr):
        results = math.prod(equation.outvars[0].aval.shape)
        a, b = (each.aval.shape for each in equation.invars[:2]) if len(equation.invars) > 1 else ((), ())
        if equation.primitive.name == "conv_general_dilated":
            outputs = equation.params["dimension_numbers"].rhs_spec[0]
            total += times * results * math.prod(b) // b[outputs]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += times * results * math.prod(a[axis] for axis in contracted)
    return total
