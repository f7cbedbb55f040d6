"""The memory that a train step needs, before it is compiled, and what to do if it is not available.

The estimate is in closed form. What the backward pass keeps per image, with b-byte numbers and X, Y and R the elements
entering all convolutions, leaving them, and in the residual sums (:func:`resnet_jax.models.count.count_elements`):

* remat none: b (X + Y), the inputs of the convolutions and of the norms. The compiled step of ResNet-50 on 16 images
  has 1.38 GB of temporaries on the CPU, and this estimates 1.39; ResNet-20 on 128 images has 0.20 to 0.22, and this
  estimates 0.19.
* conv: b Y, plus all of one block; block: b R, plus all of one block. These are lower bounds: the CPU compiler may keep
  much more (ResNet-20 on 128 images 0.29 and 0.23 GB).

Parameters, gradients and the optimizer's arrays are added. If the state is sharded, this is the device's share, plus
whole parameters and gradients for the duration of a step. A run is rejected only if four fifths of the total exceed the
memory that the device or machine has at all; if it exceeds the memory that is currently free, there is a warning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.errors import RunError
from resnet_jax.models.count import abstract_variables, count_elements
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.towers import TwoTowers

#: The share of the estimate that must fit; the rest is its uncertainty.
CERTAIN = 0.8
#: The share of the memory that a batch reported as fitting may take.
COMFORTABLE = 0.8
#: Parameters, gradients and the optimizer's arrays, in multiples of the parameters: 3 for SGD with momentum, 4 for
#: Adam.
COPIES = 4

_NO_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED(?!.*No space left)|out of memory|bad_alloc|MemoryError|(cannot|unable to) allocate",
    re.IGNORECASE,
)
_BYTES = re.compile(r"(?:allocat\w*|memory)\D{0,40}?(\d{4,}) bytes", re.IGNORECASE)

ADVICE = (
    "Lower the batch size (train.batch_size, or batch or at_once of an analysis or a measurement), split it into "
    "micro-batches with train.accumulate 2 or more, or recompute activations in the backward pass with model.remat "
    "block. `resnet-jax plan` (resnet_jax.bench.plan) reports what a step needs"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Names of the fields or arguments that make a step smaller; None for those that do not exist."""

    batch: str = "train.batch_size"
    accumulate: str | None = "train.accumulate"
    remat: str = "model.remat"
    placement: str | None = "train.placement"


#: Those of analyses and measurements, which do not train.
ANALYSIS = Options("batch", None, "model.remat", None)


def _set(name: str, value: object) -> str:
    """Format a field (``train.accumulate 2``) or an argument (``batch=2``) with its value."""
    return f"{name} {value}" if "." in name else f"{name}={value}"


@dataclasses.dataclass(frozen=True)
class Need:
    """Memory of a step on one device, in bytes.

    Attributes:
        fixed: parameters, gradients and optimizer.
        per_image: memory per image.
        images: images of a micro-batch on the device.
    """

    fixed: int
    per_image: int
    images: int

    @property
    def total(self) -> int:
        """The total."""
        return self.fixed + self.per_image * self.images

    def images_that_fit(self, limit: int) -> int:
        """Return how many images fit comfortably into ``limit`` bytes."""
        return max(0, int((COMFORTABLE * limit - self.fixed) / self.per_image))


def estimate(
    model: ResNet,
    input_shape: tuple[int, ...],
    images: int,
    *,
    remat: str | None = None,
    backward: bool = True,
    fsdp: int = 1,
) -> Need:
    """Estimate the memory of a train step, or a lower bound for a forward pass: the images and one of three
    convolutions in a block.

    Args:
        model: the network.
        input_shape: shape of one image, without the batch axis.
        images: images of a micro-batch on one device.
        remat: overrides the network's own.
        backward: whether there is a backward pass, for which the forward pass keeps its results.
        fsdp: number of devices that the state is sharded over.

    >>> from resnet_jax.models import create_model
    >>> round(estimate(create_model("resnet50"), (224, 224, 3), 16).total / 1e9, 1)  # measured: 1.4 and 0.4
    1.8
    """
    c, elements = model.config, count_elements(model, input_shape)
    remat = remat or c.remat
    width = jnp.dtype(c.dtype).itemsize
    whole = elements.conv_in + elements.conv_out
    if c.norm == "none" and c.residual != "nf":  # input and output of an activation are one array for the gradient
        whole = max(elements.conv_in, elements.conv_out)
    kept = {"none": 0, "conv": elements.conv_out, "block": elements.residual}[remat]
    kept = whole if remat == "none" else min(whole, kept + whole // c.num_blocks)
    leaves = jax.tree.leaves(abstract_variables(model, input_shape)["params"])
    params = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    if not backward:
        return Need(params, width * (math.prod(input_shape) + whole // (3 * c.num_blocks)), images)
    return Need(fixed_bytes(params, fsdp), width * kept, images)


def fixed_bytes(params: int, fsdp: int = 1) -> int:
    """Return the bytes of parameters, gradients and optimizer on one device, given the bytes of all parameters.

    >>> fixed_bytes(100), fixed_bytes(100, 2), fixed_bytes(100, 100)
    (400, 350, 203)
    """
    return COPIES * params if fsdp == 1 else 2 * params + (COPIES - 1) * params // fsdp


def at_most(model: ResNet, input_shape: tuple[int, ...], images: int, members: int = 1) -> int:
    """Return an upper bound on the bytes of a step without tracing it, assuming four wide layers in every block."""
    if isinstance(model, TwoTowers):
        shapes = input_shape, model.other_shape
        return sum(at_most(t, s, images, members) for t, s in zip(model.towers.values(), shapes, strict=True))
    c, positions, shrink = model.config, math.prod(input_shape[:-1]), 2 ** (len(input_shape) - 1)
    taps = (8 if c.block == "series" else 3) ** (len(input_shape) - 1)
    channels = c.symbols if c.frontend == "one_hot" else input_shape[-1]
    first = max(c.stem_width or c.widths[0], channels)
    window = 80 if c.stem == "waveform" else 7 ** (len(input_shape) - 1)
    params = window * first**2 + c.widths[-1] * c.expansion * (c.num_classes + 1)
    elements = 4 * 2 * positions * first
    positions = positions if c.stem_stride == 1 else -(-positions // shrink)
    inner = max([1, c.base_width * c.groups // 64, *(-(-each // min(c.widths)) for each in c.branch_widths)])
    for stage, (blocks, width) in enumerate(zip(c.stage_sizes, c.widths, strict=True)):
        elements += (
            blocks
            * 4
            * 2
            * (positions // shrink ** (max(0, stage - 1) * (c.transition != "none")) + 64)
            * width
            * c.expansion
            * inner
        )
        params += blocks * (2 * taps * (width * inner) ** 2 + 4 * width**2 * c.expansion * inner)
        params += blocks * (width * c.expansion) ** 2
    return 8 * images * elements + 4 * COPIES * params * members


def require_memory(
    model: ResNet,
    input_shape: tuple[int, ...],
    *,
    batch: int,
    accumulate: int = 1,
    members: int = 1,
    at_once: int | None = None,
    devices: Sequence[Any],
    fsdp: int = 1,
    warn: Callable[[str], None],
    backward: bool = True,
    options: Options = Options(),
    beside: ResNet | None = None,
) -> None:
    """Reject a step that cannot fit; warn about one that does not fit at the moment.

    Args:
        model: the network.
        input_shape: shape of one image.
        batch: images per update, over all devices.
        accumulate: number of micro-batches.
        members: number of networks trained in one program.
        at_once: how many of them are computed side by side; None: all.
        devices: number of devices that share the batch.
        fsdp: how many of them the state is sharded over.
        warn: called with a line.
        backward: whether there is a backward pass.
        options: the options to suggest.
        beside: a network whose forward pass on the same images is part of the step (a teacher).

    Raises:
        RunError: if it needs more memory than there is; the message says what fits.
    """
    here = [device for device in devices if getattr(device, "process_index", 0) == jax.process_index()] or list(devices)
    total, free = memory_of_device(here[0])
    if total is None:
        return
    sharing = len(devices) // (len(here) if here[0].platform == "cpu" else 1)  # devices of one CPU share its memory
    at_once = members if at_once is None else at_once
    images = at_once * -(-batch // (accumulate * sharing))
    networks = [model] if beside is None else [model, beside]
    if sum(at_most(network, input_shape, images, members) for network in networks) < 0.25 * min(total, free or total):
        return
    need = estimate(model, input_shape, images, backward=backward, fsdp=fsdp)
    need = dataclasses.replace(need, fixed=members * need.fixed)
    if beside is not None:
        more = estimate(beside, input_shape, images, backward=False)
        need = dataclasses.replace(need, fixed=need.fixed + more.fixed, per_image=need.per_image + more.per_image)
    if CERTAIN * need.total <= min(total, free or total):
        return
    size = "x".join(str(side) for side in input_shape)
    where = "this machine" if devices[0].platform == "cpu" else f"a {devices[0].device_kind}"
    what = "a train step" if backward else "a forward pass"
    what += "" if beside is None else ", the teacher's forward pass included,"
    fact = f"{what} on {images:,} images of {size} needs about {gib(need.total)} of memory"
    if CERTAIN * need.total <= total:
        warn(f"warning: {fact}, and {gib(free or 0)} of the {gib(total)} of {where} are free")
        return
    raise RunError(
        f"{fact}, and {where} has {gib(total)}. "
        + _ways_out(model, need, total, batch, at_once, backward, options, sharing if fsdp == 1 else 1)
    )


def _ways_out(
    model: ResNet,
    need: Need,
    limit: int,
    batch: int,
    at_once: int,
    backward: bool,
    options: Options,
    devices: int,
) -> str:
    fits = need.images_that_fit(limit) // at_once
    ways = []
    if fits >= 1:
        cut = next((k for k in range(2, batch + 1) if batch % k == 0 and batch // k <= fits), None)
        smaller = 2 ** int(math.log2(fits))
        ways.append(f"about {smaller} fit: {_set(options.batch, min(smaller, batch))}")
        if cut is not None and options.accumulate is not None:
            ways.append(f"{_set(options.accumulate, cut)} makes the same update from {cut} parts")
    if backward and model.config.remat == "none":
        ways.append(f"{_set(options.remat, 'block')} keeps less for the backward pass, most of all in deep networks")
    if devices > 1 and options.placement is not None and need.fixed > limit / 4:
        ways.append(f"{_set(options.placement, 'fsdp')} shards parameters and optimizer state over {devices} devices")
    if not fits:
        ways.insert(0, "not even one image fits: use smaller images or a smaller network")
    text = "; ".join(ways)
    return text[0].upper() + text[1:]


def memory_of_device(device: Any) -> tuple[int | None, int | None]:
    """Return a device's total and free memory in bytes; None where it does not report it.

    Args:
        device: a device of this process; others cannot be queried.
    """
    if device.platform == "cpu":
        return host_memory()
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return limit, None if limit is None else limit - stats.get("bytes_in_use", 0)


def host_memory(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """Return the total and free memory in bytes that this process may use, of the machine or of its control group.

    Args:
        root: the directory that contains ``proc`` and ``sys``.
    """
    total = free = None
    with contextlib.suppress(OSError, ValueError):
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        total = sizes["MemTotal"] + sizes.get("SwapTotal", 0)
        free = sizes.get("MemAvailable", total) + sizes.get("SwapFree", 0)
    for limit, used in _groups(root):
        if total is None or limit < total:
            total = limit
        free = limit - used if free is None else min(free, limit - used)
    return total, free


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and usage of the control groups of this process, versions 2 and 1."""
    folders = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/memory"]
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            base = folders[0] if not kinds else folders[1]
            if not kinds or "memory" in kinds.split(","):
                parts = Path(path.lstrip("/")).parts
                folders += [base.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
    for folder in dict.fromkeys(folders):
        for most, now in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with contextlib.suppress(OSError, ValueError):
                limit = int((folder / most).read_text())  # "max" is no number
                if limit < 1 << 60:
                    yield limit, int((folder / now).read_text())


def is_memory(error: BaseException) -> bool:
    """Return whether an error means that the device or machine ran out of memory, as opposed to disk space."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and bool(_NO_MEMORY.search(str(error)))
    )


def explain_end(text: str) -> str:
    """Return the last output of another process, or advice if it is about memory.

    >>> explain_end("ended with status -9: it said nothing")[:50]
    'the system killed it, most likely because memory r'
    """
    if "status -9" in text or "ended with -9" in text:
        return f"the system killed it, most likely because memory ran out. {ADVICE}"
    if not _NO_MEMORY.search(text):
        return text
    return no_memory(text) if "RESOURCE_EXHAUSTED" in text else f"{text}. {ADVICE}"


def no_memory(text: str) -> str:
    """Return the message for an out-of-memory error.

    Args:
        text: the text of the error, from which the requested size is taken.
    """
    found = _BYTES.search(text)
    asked = f" ({gib(int(found[1]))} were asked for at once)" if found else ""
    return f"the memory of the device is too small for this{asked}. {ADVICE}"


@contextlib.contextmanager
def memory_told(what: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn an out-of-memory error into one that says what to do.

    Args:
        what: returns the first sentence, when it is needed.

    Raises:
        RunError: in place of the error.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_memory(error):
            raise
        raise RunError(f"{what()}{no_memory(str(error))}") from error


def gib(size: int) -> str:
    """Return bytes as readable text.

    >>> gib(3 * 2**30), gib(5 * 2**20)
    ('3 GiB', '5 MiB')
    """
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
