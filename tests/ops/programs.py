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


def executed(f: Any, *operands: Any) -> Counter[str]:
    """Return how often each primitive runs in the program of ``f``, which may also be a jaxpr itself."""
    counts: Counter[str] = Counter()
    for equation, times in equations(f if hasattr(f, "eqns") else jax.make_jaxpr(f)(*operands).jaxpr):
        counts[equation.primitive.name] += times
    return counts


def multiply_adds(jaxpr: Any) -> int:
    """Count those of all convolutions and matrix products, from the shapes in a program alone."""
    total = 0
    for equation, times in equations(jaxpr):
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            a, b = (each.aval.shape for each in equation.invars)
            numbers = equation.params["dimension_numbers"]
            if equation.primitive.name == "dot_general":
                each = math.prod(a[axis] for axis in numbers[0][0])
            else:
                each = math.prod(b) // b[numbers.rhs_spec[0]]
            total += times * math.prod(equation.outvars[0].aval.shape) * each
    return total
