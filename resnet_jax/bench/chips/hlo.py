"""The text of a compiled program, ``compiled.as_text()``, parsed into computations of instructions, not interpreted.

The text is HLO as XLA prints it on every platform. Of each instruction, the name, operation, result arrays, operands
and called computations are parsed; the rest is kept as text.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from resnet_jax.errors import UsageError

#: Bits of an element. Dtypes that are not listed, such as ``token``, take no memory.
BITS = {
    **{"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32},
    **{"s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128},
    **dict.fromkeys(("f8e4m3", "f8e4m3fn", "f8e5m2", "f8e4m3b11fnuz", "f8e5m2fnuz", "f8e4m3fnuz", "f8e8m0fnu"), 8),
    "f4e2m1fn": 4,
}

_ARRAY = re.compile(r"(?P<dtype>[a-z][a-z0-9]*)\[(?P<dims>[0-9,]*)\](?:\{(?P<layout>[^}]*)\})?")
_NAME = re.compile(r"%([\w.\-$]+)")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%(?P<name>[\w.\-$]+) = (?P<rest>.*)$")
_OPERATION = re.compile(r"^\s*(?P<op>[a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[\w.\-$]+) \(.*\{\s*$")
_CALLED = re.compile(
    r"(?P<role>calls|body|condition|to_apply|branch_computations|true_computation|false_computation)="
    r"(?P<names>%[\w.\-$]+|\{[^}]*\})"
)


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a result.

    Attributes:
        dtype: HLO's name: ``bf16``.
        dims: its shape.
        order: its dimensions from the fastest-varying in memory outwards.
        tile: the first tile of its layout, to which its last dimensions are padded. Only arrays on a TPU have one.
        space: the memory: 0 is the device's main memory; on a TPU 1 is the memory of the core (VMEM).

    >>> array = arrays_of("bf16[128,8,8,3]{0,3,2,1:T(4,128)(2,1)S(1)}")[0]
    >>> array.order, array.tile, array.space, array.elements, array.bytes
    ((0, 3, 2, 1), (4, 128), 1, 24576, 65536)
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def elements(self) -> int:
        """Number of elements, without padding."""
        return math.prod(self.dims)

    @property
    def unpadded(self) -> int:
        """Size of its elements in bytes: what a link transfers."""
        return -(-self.elements * BITS.get(self.dtype, 0) // 8)

    @property
    def bytes(self) -> int:
        """Size in memory in bytes, including the padding to a TPU's tiles."""
        padded = [self.dims[axis] for axis in self.order] if self.order else list(reversed(self.dims))
        for place, size in enumerate(reversed(self.tile)):
            if place < len(padded):
                padded[place] = -(-padded[place] // size) * size
        return -(-math.prod(padded) * BITS.get(self.dtype, 0) // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: unique in its computation.
        op: the operation: ``fusion``, ``all-reduce-start``, ...
        results: the arrays of its result, flattened.
        operands: names of instructions of the same computation.
        called: (role, name) of computations: ``("calls", "fused_computation.3")``.
        attributes: everything after the operands, unchanged.
        literal: the text in place of the operands in a constant or parameter.
    """

    name: str
    op: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    called: tuple[tuple[str, str], ...]
    attributes: str
    literal: str = ""

    @property
    def kind(self) -> str:
        """For a fusion: ``kLoop``, ``kInput``, ``kOutput``, ``kCustom``; otherwise empty."""
        return self.attribute("kind")

    @property
    def target(self) -> str:
        """For a custom call: its target; otherwise empty."""
        return self.attribute("custom_call_target")

    def attribute(self, name: str) -> str:
        """Return an attribute without braces or spaces in it, unquoted; empty if there is none."""
        found = re.search(rf'(?:^|[ ,]){name}="?([^",\s]*)', self.attributes)
        return found[1] if found else ""

    def calls(self, *roles: str) -> tuple[str, ...]:
        """Return the names of the computations called in certain roles."""
        return tuple(name for role, name in self.called if role in roles)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A computation; in a scheduled module its instructions are in the order of execution."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        """Its instructions by name."""
        return {instruction.name: instruction for instruction in self.instructions}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take each one as an operand."""
        users: dict[str, list[Instruction]] = {instruction.name: [] for instruction in self.instructions}
        for instruction in self.instructions:
            for operand in set(instruction.operands):
                users.setdefault(operand, []).append(instruction)
        return users

    @functools.cached_property
    def root(self) -> Instruction:
        """The instruction it returns, which is printed last."""
        return self.instructions[-1]

    @property
    def parameters(self) -> dict[int, Instruction]:
        """Its parameters by number."""
        return {int(each.literal): each for each in self.instructions if each.op == "parameter"}


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
        entry: the computation that is run.
        computations: all computations, by name.
    """

    entry: Computation
    computations: dict[str, Computation]

    def inside(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """Yield the instructions computed by a fusion or an asynchronous start, including nested fusions."""
        for name in instruction.calls("calls"):
            computation = self.computations[name]
            for each in computation.instructions:
                yield computation, each
                yield from self.inside(each)


def parse(text: str) -> Module:
    """Parse a program.

    Raises:
        UsageError: if it is not a compiled program.
    """
    computations: dict[str, Computation] = {}
    entry, name, found, is_entry = None, "", [], False
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name, found, is_entry = header["name"], [], bool(header["entry"])
        elif line.startswith("}") and name:
            computations[name] = Computation(name, tuple(found))
            entry, name = (name if is_entry else entry), ""
        elif name and (match := _INSTRUCTION.match(line)):
            found.append(_instruction(match["name"], match["rest"]))
    if entry is None:
        raise UsageError("this is no text of a compiled program: it has no ENTRY computation (compiled.as_text())")
    return Module(computations[entry], computations)


def arrays_of(text: str) -> tuple[Array, ...]:
    """Return the arrays of a type, flattened: ``(f32[16]{0}, bf16[8,16]{1,0})``."""
    return tuple(_array(match) for match in _ARRAY.finditer(text))


def _array(match: re.Match[str]) -> Array:
    dims = tuple(int(size) for size in match["dims"].split(",") if size)
    order, _, rest = (match["layout"] or "").partition(":")
    tile, space = re.match(r"T\(([0-9,]*)\)", rest), re.search(r"S\((\d+)\)", rest)
    return Array(
        match["dtype"],
        dims,
        tuple(int(axis) for axis in order.split(",") if axis),
        tuple(int(size) for size in tile[1].split(",") if size) if tile else (),
        int(space[1]) if space else 0,
    )


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    results, rest = rest[: end + 1], rest[end + 1 :]
    operation = _OPERATION.match(rest)
    if operation is None:  # a type that this does not know
        return Instruction(name, "unknown", arrays_of(results), (), (), rest)
    close = _closing(rest, operation.end() - 1)
    inner, attributes = rest[operation.end() : close], rest[close + 1 :]
    called = tuple(
        (match["role"], one) for match in _CALLED.finditer(attributes) for one in _NAME.findall(match["names"])
    )
    op = operation["op"]
    operands = () if op in ("parameter", "constant") else tuple(_NAME.findall(inner))
    literal = inner if op in ("parameter", "constant") else ""
    return Instruction(name, op, arrays_of(results), operands, called, attributes.lstrip(", "), literal)


def _closing(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at ``start``."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return len(text) - 1
