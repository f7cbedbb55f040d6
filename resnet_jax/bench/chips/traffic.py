"""Bytes that a compiled program's instructions move between the device's main memory and its cores."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_jax.bench.chips.hlo import Array, Computation, Instruction, Module

#: These read only what they return of their first operand.
PARTS = ("dynamic-slice", "gather", "slice")
#: These return each element of their operand, perhaps in another dtype or shape: slicing their result slices the
#: operand.
SAME_ELEMENTS = ("convert", "bitcast")
#: These contain other computations, or are names for existing values.
NOTHING = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "add-dependency"),
    *("while", "conditional", "call", "async-update"),
)


def bytes_moved(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Return the bytes that one run of an instruction reads from and writes to main memory, with padding.

    If only a part of an operand is sliced, only that part counts, and likewise for a result that replaces a part of an
    operand in place. An operand given twice counts once. The first half of an asynchronous pair reads, the second
    writes.
    """
    if instruction.op in NOTHING:
        return 0
    if instruction.op.endswith("-done"):
        return _total(instruction.results)
    operands = [
        computation.by_name[name] for name in dict.fromkeys(instruction.operands) if name in computation.by_name
    ]
    if instruction.op.removesuffix("-start") in PARTS and instruction.op.endswith("-start"):
        return instruction.results[1].bytes  # behind what it was given is what it gives
    if instruction.op.endswith("-start"):
        return _read_by(module, computation, instruction)
    if instruction.op in PARTS:
        return 2 * _total(instruction.results)
    if instruction.op == "dynamic-update-slice":
        return 2 * _total(computation.by_name[instruction.operands[1]].results)
    if instruction.op != "fusion":
        return _total(instruction.results) + sum(_total(operand.results) for operand in operands)
    inner = module.computations[instruction.calls("calls")[0]]
    return _read_by(module, computation, instruction) + _written(inner, instruction.results)


def _read_by(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Return the bytes of its operands that an instruction, or the computation it calls, reads."""
    read: dict[str, int] = {}
    called = instruction.calls("calls")
    for number, name in enumerate(instruction.operands):
        if name in computation.by_name:
            whole = _total(computation.by_name[name].results)
            part = _read(module, module.computations[called[0]], number, whole) if called else whole
            read[name] = min(read.get(name, 0) + part, whole)
    return sum(read.values())


def _total(arrays: Sequence[Array]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)


def _read(module: Module, computation: Computation, number: int, whole: int) -> int:
    """Return the bytes that a fused computation reads of a parameter of ``whole`` bytes."""
    parameter = computation.parameters.get(number)
    if parameter is None or not whole:
        return whole
    return _read_of(module, computation, parameter, whole)


def _read_of(module: Module, computation: Computation, value: Instruction, whole: int) -> int:
    total = 0
    for user in computation.users[value.name]:
        first = user.operands[0] == value.name
        if user.op in PARTS and first:
            total += sum(array.bytes for array in user.results)
        elif user.op in SAME_ELEMENTS and user is not computation.root:
            into = sum(array.bytes for array in user.results)
            total += _read_of(module, computation, user, into) * whole // max(into, 1)
        elif user.op == "dynamic-update-slice" and first:
            continue
        elif user.op == "fusion":
            inner = module.computations[user.calls("calls")[0]]
            total += sum(_read(module, inner, i, whole) for i, name in enumerate(user.operands) if name == value.name)
        else:
            return whole
    return min(total, whole)


def _written(computation: Computation, results: Sequence[Array]) -> int:
    """Return the bytes that a fusion writes; for a part replaced in place, only those of the part."""
    root = computation.root
    roots = [computation.by_name[name] for name in root.operands] if root.op == "tuple" else [root]
    if len(roots) != len(results):
        return _total(results)
    total = 0
    for one, array in zip(roots, results, strict=True):
        one = _behind_bitcasts(computation, one)
        if one.op == "dynamic-update-slice" and array.space == 0 and _is_given(computation, one.operands[0]):
            total += sum(part.bytes for part in computation.by_name[one.operands[1]].results)
        else:
            total += _total([array])
    return total


def _is_given(computation: Computation, name: str) -> bool:
    """Return whether a value is a parameter; otherwise, replacing a part of it requires writing all of it first."""
    return _behind_bitcasts(computation, computation.by_name[name]).op == "parameter"


def _behind_bitcasts(computation: Computation, value: Instruction) -> Instruction:
    while value.op == "bitcast":
        value = computation.by_name[value.operands[0]]
    return value
