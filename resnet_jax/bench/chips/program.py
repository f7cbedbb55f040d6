"""What a compiled program does, from its text: kernels, bytes, collectives, convolutions, copies, arithmetic.

>>> from resnet_jax.bench.chips.program import read_program
>>> import jax, jax.numpy as jnp
>>> compiled = jax.jit(lambda x: jnp.tanh(x @ x)).lower(jnp.ones((4, 4))).compile()
>>> read_program(compiled.as_text()).operations
{'f32': 128}

``python -m resnet_jax.bench.chips.program FILE`` prints the same for a stored text.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

from resnet_jax.bench.chips.arithmetic import operations
from resnet_jax.bench.chips.collectives import Collective, longest_chain, read
from resnet_jax.bench.chips.hlo import Array, Computation, Instruction, Module, parse
from resnet_jax.bench.chips.traffic import NOTHING, bytes_moved

Platform: TypeAlias = Literal["tpu", "gpu", "cpu"]

#: Size in bytes below which copied activations are ignored, because the copy costs less than starting the kernel.
SMALLEST_COPY = 2**16


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution or matrix product.

    Attributes:
        name: name of the instruction that runs it.
        target: what computes it: a custom call's target, a TPU's emitter, or the kind of fusion.
        source: its origin, as JAX names it.
        on_unit: whether the dedicated unit computes it: the MXU of a TPU; cuDNN, cuBLAS or a Triton product on a GPU.
        operations: floating-point operations of one run.
        dtype: dtype of its first operand.
        times: how often it runs.
    """

    name: str
    target: str
    source: str
    on_unit: bool
    operations: int
    dtype: str
    times: int


@dataclasses.dataclass(frozen=True)
class Moved:
    """An activation that is copied or transposed.

    Attributes:
        name: name of the instruction that runs it.
        what: ``transposed`` or ``copied``.
        dtype: dtype of its elements.
        dims: its shape.
        bytes: size of the result.
        source: its origin, as JAX names it.
        alone: whether the kernel does nothing else, or at least is not a convolution that reads its input this way.
        times: how often it runs.
    """

    name: str
    what: str
    dtype: str
    dims: tuple[int, ...]
    bytes: int
    source: str
    alone: bool
    times: int


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The requirements of one kernel.

    Attributes:
        bytes: bytes that it moves.
        operations: operations of its convolutions and products by dtype.
        times: how often it runs.
    """

    bytes: int
    operations: dict[str, int]
    times: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program in figures, for one device and one run.

    Attributes:
        platform: its platform, as its text shows.
        kernels: number of instructions that start work on the device, those of a loop's body as often as it runs.
        profile: the kernels one by one, without collectives.
        by_op: the same by operation, fusions by their kind: ``fusion:kLoop``.
        bytes_moved: bytes moved between the device's main memory and its cores: operands and results of all kernels,
            with padding. Savings by caches, and repeated reads within a kernel, are not visible in the text.
        collectives: collectives in order of execution.
        serial_collectives: how many of them wait for one another; see
            :func:`~resnet_jax.bench.chips.collectives.longest_chain`.
        convolutions: convolutions and matrix products.
        moved: activations that are copied or transposed.
        operations: floating-point operations of convolutions and products by dtype.
        loops: how often each loop runs by its name; None: the text does not say, and its body is counted once.
        estimated_cycles: the compiler's own estimate, if it writes one (TPU), of all kernels in sequence.
    """

    platform: Platform
    kernels: int
    profile: tuple[Kernel, ...]
    by_op: dict[str, int]
    bytes_moved: int
    collectives: tuple[Collective, ...]
    serial_collectives: int
    convolutions: tuple[Convolution, ...]
    moved: tuple[Moved, ...]
    operations: dict[str, int]
    loops: dict[str, int | None]
    estimated_cycles: int | None

    @property
    def off_unit(self) -> tuple[Convolution, ...]:
        """Convolutions and products that the dedicated unit does not compute."""
        return tuple(each for each in self.convolutions if not each.on_unit)

    @property
    def blocking(self) -> int:
        """Collectives during which the device does nothing else."""
        return sum(each.times for each in self.collectives if not each.overlapped)

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON values; lists of instructions become counts, and problems are named."""
        kinds: dict[str, dict[str, int]] = {}
        for each in self.collectives:
            kind = kinds.setdefault(each.kind, {"count": 0, "bytes": 0})
            kind["count"] += each.times
            kind["bytes"] += each.times * each.bytes
        targets: collections.Counter[str] = collections.Counter()
        for each in self.convolutions:
            targets[each.target] += each.times
        return {
            "platform": self.platform,
            "kernels": self.kernels,
            "by_op": self.by_op,
            "bytes_moved": self.bytes_moved,
            "collectives": kinds,
            "each_collective": self._grouped(),
            "serial_collectives": self.serial_collectives,
            "blocking_collectives": self.blocking,
            "convolutions": dict(targets),
            "convolutions_off_unit": [dataclasses.asdict(each) for each in self.off_unit],
            "activations_moved": [dataclasses.asdict(each) for each in self.moved],
            "operations": self.operations,
            "loops": self.loops,
            "estimated_cycles": self.estimated_cycles,
        }

    def _grouped(self) -> list[dict[str, Any]]:
        """Return collectives with the same kind, bytes, group and overlap combined, with their count."""
        groups: collections.Counter[tuple[str, int, int, bool]] = collections.Counter()
        for each in self.collectives:
            groups[each.kind, each.bytes, each.group, each.overlapped] += each.times
        names = ("kind", "bytes", "group", "overlapped")
        return [{**dict(zip(names, key, strict=True)), "times": times} for key, times in groups.items()]


def read_program(text: str, *, platform: Platform | None = None, smallest: int = SMALLEST_COPY) -> Program:
    """Parse the text of a compiled program, ``compiled.as_text()``.

    Args:
        text: text of one program.
        platform: its platform (default: as the text shows; without custom calls and tiles, the CPU).
        smallest: size in bytes from which a copied or transposed activation counts.

    Raises:
        UsageError: if it is not a compiled program.
    """
    module = parse(text)
    platform = platform or _platform(text)
    loops = {
        each.name: trips(module, each)
        for computation in module.computations.values()
        for each in computation.instructions
        if each.op == "while"
    }
    by_body = {
        each.calls("body")[0]: loops[each.name] or 1
        for computation in module.computations.values()
        for each in computation.instructions
        if each.op == "while"
    }
    by_op: collections.Counter[str] = collections.Counter()
    profile: list[Kernel] = []
    collected: list[Collective] = []
    convolutions: list[Convolution] = []
    copies: list[Moved] = []
    moved, cycles, kernels_of = 0, 0, _kernels_of(module)
    for computation, each, times in scheduled(module, module.entry, by_body):
        size = bytes_moved(module, computation, each)
        moved += times * size
        if each.op in NOTHING or each.op.endswith("-done"):
            continue
        by_op[f"fusion:{each.kind}" if each.op == "fusion" else each.op] += times
        collective = read(module, computation, each, times)
        found = _convolutions(module, computation, each, platform, times)
        convolutions += found
        if collective is None or found:
            profile.append(Kernel(size, _by_dtype(found), times))
        if collective is not None:
            collected.append(collective)
        copies += _copies(module, computation, each, kernels_of, smallest, times, alone=not found)
        estimate = re.search(r'"estimated_cycles":"(\d+)"', each.attributes)
        cycles += times * int(estimate[1]) if estimate else 0
    return Program(
        platform=platform,
        kernels=sum(by_op.values()),
        profile=tuple(profile),
        by_op=dict(by_op.most_common()),
        bytes_moved=moved,
        collectives=tuple(collected),
        serial_collectives=longest_chain(module, module.entry, by_body),
        convolutions=tuple(convolutions),
        moved=tuple(copies),
        operations=_by_dtype(convolutions, runs=True),
        loops=loops,
        estimated_cycles=cycles or None,
    )


def _by_dtype(convolutions: Sequence[Convolution], *, runs: bool = False) -> dict[str, int]:
    total: collections.Counter[str] = collections.Counter()
    for each in convolutions:
        total[each.dtype] += each.operations * (each.times if runs else 1)
    return dict(total)


def scheduled(
    module: Module, computation: Computation, trips_of: dict[str, int], times: int = 1
) -> Iterator[tuple[Computation, Instruction, int]]:
    """Yield what the device executes, in order, and how often: loop bodies and calls in place.

    For a conditional, the branch with the most instructions is used.
    """
    for each in computation.instructions:
        yield computation, each, times
        if each.op == "while":
            for body in each.calls("body"):
                yield from scheduled(module, module.computations[body], trips_of, times * trips_of[body])
        elif each.op == "call":
            for name in each.calls("to_apply"):
                yield from scheduled(module, module.computations[name], trips_of, times)
        elif each.op == "conditional":
            names = each.calls("branch_computations", "true_computation", "false_computation")
            branches = [module.computations[name] for name in names]
            if branches:
                longest = max(branches, key=lambda branch: len(branch.instructions))
                yield from scheduled(module, longest, trips_of, times)


def trips(module: Module, loop: Instruction) -> int | None:
    """Return how often a loop runs: as stated by the compiler, or the constant up to which it counts from 0."""
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(found[1])
    for name in loop.calls("condition"):
        condition = module.computations[name]
        for where, each in ((condition, condition.root), *module.inside(condition.root)):
            if each.op != "compare" or each.attribute("direction") != "LT":
                continue
            below = where.by_name[each.operands[1]]
            if below.op == "parameter" and where is not condition:
                below = condition.by_name[condition.root.operands[int(below.literal)]]
            if below.op == "constant" and below.literal.isdigit():
                return int(below.literal)
    return None


def _platform(text: str) -> Platform:
    if re.search(r"\{[0-9,]*:T\(", text):
        return "tpu"
    return "gpu" if "__cudnn$" in text or "__cublas$" in text or '"native_emitter_backend_config"' in text else "cpu"


def _source(instruction: Instruction) -> str:
    found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', instruction.attributes)
    return found[1] if found else ""


def _convolutions(
    module: Module, computation: Computation, holder: Instruction, platform: Platform, times: int
) -> list[Convolution]:
    found = []
    for where, each in ((computation, holder), *module.inside(holder)):
        product = "cublas" in each.target or "$conv" in each.target or each.op in ("convolution", "dot")
        if not product:
            continue
        target, on_unit = _computed_by(holder, each, platform)
        operands = [where.by_name[name] for name in each.operands if name in where.by_name]
        dtype = operands[0].results[0].dtype if operands and operands[0].results else ""
        source = _source(each) or _source(holder)
        found.append(Convolution(holder.name, target, source, on_unit, operations(where, each), dtype, times))
    return found


def _computed_by(holder: Instruction, each: Instruction, platform: Platform) -> tuple[str, bool]:
    """Return what computes a convolution or product, and whether that is the dedicated unit."""
    if platform == "tpu":
        emitter = re.search(r'"convolution_algorithm_config":\{"emitter":"(\w+)"', holder.attributes)
        if emitter:  # a convolution of each channel by itself has nothing to multiply a matrix with
            return emitter[1], "Depthwise" not in emitter[1]
        return f"{each.op} in {holder.kind or holder.op}", False
    if platform == "gpu":
        if each.target:
            return each.target, True
        if found := re.search(r'"kind":"(__cudnn\$\w+|__triton\w*gemm\w*)"', holder.attributes):
            return ("cuDNN fusion" if found[1].startswith("__cudnn") else "triton gemm"), True
        return f"{each.op} in {holder.kind or holder.op}", False
    return each.target or each.op, True


def _kernels_of(module: Module) -> set[tuple[int, ...]]:
    """Return the shapes of all arrays with three or more dimensions that the program takes, except examples."""
    return {
        array.dims
        for parameter in module.entry.parameters.values()
        if not re.match(r"(batch|data|images?|x)\b", _source(parameter))
        for array in parameter.results
        if len(array.dims) > 2
    }


def _is_kernel(array: Array, kernels: set[tuple[int, ...]]) -> bool:
    """Return whether an array is a convolution's kernel: reordered, cut, one of a stack, or with separate groups."""
    dims = tuple(sorted(size for size in array.dims if size != 1))
    return any(_same_but_one(dims, kernel) or _regrouped(dims, kernel) for kernel in kernels)


@functools.cache
def _regrouped(dims: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Return whether an array has the window and the elements of a kernel, with its channels reshaped."""
    window = collections.Counter(size for size in kernel[:-2] if size != 1)
    return bool(window) and math.prod(dims) == math.prod(kernel) and not window - collections.Counter(dims)


@functools.cache
def _same_but_one(dims: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    left, right = collections.Counter(dims), collections.Counter(size for size in kernel if size != 1)
    mine, others = list((left - right).elements()), list((right - left).elements())
    if len(mine) == 1 and len(others) == 1:
        return max(mine[0], others[0]) % min(mine[0], others[0]) == 0
    return not mine and len(others) <= 1  # the same, or one block's of the stacked kernels of a scanned stage


def _copies(
    module: Module,
    computation: Computation,
    holder: Instruction,
    kernels: set[tuple[int, ...]],
    smallest: int,
    times: int,
    *,
    alone: bool,
) -> list[Moved]:
    found = []
    for where, each in ((computation, holder), *module.inside(holder)):
        if each.op not in ("transpose", "copy", "copy-start") or not each.results:
            continue
        array = each.results[0]
        if len(array.dims) < 3 or array.unpadded < smallest or _is_kernel(array, kernels):
            continue
        operand = where.by_name.get(each.operands[0])
        before = operand.results[0] if operand and operand.results else array
        what = "transposed" if each.op == "transpose" or before.order != array.order else "copied"
        source = _source(each) or _source(holder)
        found.append(Moved(holder.name, what, array.dtype, array.dims, array.unpadded, source, alone, times))
    return found


if __name__ == "__main__":
    import json
    import sys
    from pathlib import Path

    print(json.dumps(read_program(Path(sys.argv[1]).read_text()).summary(), indent=2))
