"""Collectives in a compiled program's text: bytes, groups, and which wait for one another."""

from __future__ import annotations

import dataclasses
import math
import re

from resnet_jax.bench.chips.hlo import Computation, Instruction, Module

KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
#: What a collective may overlap with.
WORK = ("fusion", "convolution", "custom-call", "dot", "while")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective, or one that its loop runs repeatedly.

    Attributes:
        kind: ``all-reduce``, ...
        name: name of the instruction.
        source: its origin, as JAX names it.
        bytes: size of the larger of its input and output, on one device.
        arrays: number of arrays.
        group: number of devices that take part together.
        times: how often it runs.
        overlapped: whether it is started, kernels run, and only then is it waited for. During others the device is
            idle.
    """

    kind: str
    name: str
    source: str
    bytes: int
    arrays: int
    group: int
    times: int
    overlapped: bool


def collective_in(
    module: Module, computation: Computation, instruction: Instruction
) -> tuple[Computation, Instruction] | None:
    """Return (computation, instruction) of the collective that an instruction is or starts, also in a fusion.

    The second half of an asynchronous collective does not count, nor does a kernel that sends a part of one while it
    computes.
    """
    if _carries_on(instruction):
        return None
    for where, each in ((computation, instruction), *module.inside(instruction)):
        if each.op.removesuffix("-start") in KINDS:
            return where, each
    return None


def read(module: Module, computation: Computation, instruction: Instruction, times: int) -> Collective | None:
    """Return the collective that an instruction is, or starts."""
    found = collective_in(module, computation, instruction)
    if found is None:
        return None
    where, inner = found
    taken = [array for name in inner.operands if name in where.by_name for array in where.by_name[name].results]
    given = [array for array in inner.results if array.dims or not inner.op.endswith("-start")]
    if inner.op.endswith("-start") and inner.op != "all-reduce-start":
        given = given[len(taken) :]  # the result of a start begins with what it was given
    source = re.search(r'op_name="([^"]*)"', inner.attributes)
    return Collective(
        inner.op.removesuffix("-start"),
        instruction.name,
        source[1] if source else "",
        max(sum(array.unpadded for array in arrays) for arrays in (taken, given)),
        max(len(taken), 1),
        group_size(inner.attributes),
        times,
        _overlapped(module, computation, instruction),
    )


def _carries_on(instruction: Instruction) -> bool:
    """Return whether a fusion continues what a TPU's ``async-collective-start`` began, or waits for its end."""
    names = [name for _, name in instruction.called]
    return instruction.name.startswith("async-collective-done") or any("async_collective_fusion" in it for it in names)


def group_size(attributes: str) -> int:
    """Return how many devices take part together; 0: all of them.

    >>> group_size("replica_groups={{0,1},{2,3}}, x=1"), group_size("replica_groups=[2,8]<=[16]")
    (2, 8)
    >>> group_size("replica_groups=mesh['a'=4,'b'=2] {'a','b'}"), group_size("replica_groups=mesh['a'=4,'b'=2] {'b'}")
    (8, 2)
    """
    if found := re.search(r"replica_groups=\{\{([0-9,]*)\}", attributes):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found[2]))
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        return found[1].count("{")
    return 0


def _overlapped(module: Module, computation: Computation, instruction: Instruction) -> bool:
    """Return whether kernels run between the start of an asynchronous collective and the wait for it."""
    if not asynchronous(instruction):
        return False
    started = {instruction.name}
    inside = False
    for each in computation.instructions:
        if each is instruction:
            inside = True
        elif inside and started & set(each.operands):
            if each.op in ("get-tuple-element", "bitcast", "tuple") or each.op.endswith("-update"):
                started.add(each.name)
                continue
            return not each.name.startswith("async-collective-done") and _carries_on(each)
        elif inside and each.op in WORK and collective_in(module, computation, each) is None:
            return True
    return False


def asynchronous(instruction: Instruction) -> bool:
    """Return whether an instruction starts something whose end another waits for."""
    return instruction.op.endswith("-start") or ("async" in instruction.name and "start" in instruction.name)


def longest_chain(module: Module, computation: Computation, trips: dict[str, int]) -> int:
    """Return the length of the longest chain of collectives that wait for one another, whatever the schedule.

    Args:
        module: the program.
        computation: a part of it.
        trips: how often each loop runs, by the name of its body.
    """
    depth: dict[str, int] = {}
    for each in computation.instructions:
        own = 0
        if each.op == "while":
            own = sum(
                trips.get(body, 1) * longest_chain(module, module.computations[body], trips)
                for body in each.calls("body")
            )
        elif each.op in ("conditional", "call"):
            names = [name for role, name in each.called if role != "condition"]
            own = max((longest_chain(module, module.computations[name], trips) for name in names), default=0)
        elif collective_in(module, computation, each) is not None:
            own = 1
        depth[each.name] = own + max((depth.get(name, 0) for name in each.operands), default=0)
    return max(depth.values(), default=0)
