"""How much memory a train step needs, before it is compiled; and what to do where it is not there.

The estimate is in closed form. What the backward pass keeps of an image of b-byte numbers, with X, Y and R the elements
into all convolutions, out of them, and of the residual sums (:func:`resnet_jax.models.count.count_elements`):

* remat none: b (X + Y), the inputs of the convolutions and of the norms. The compiled step of ResNet-50 on 16 images
  has 1.38 GB of temporaries on the CPU, and this says 1.39; ResNet-20 on 128 images 0.20 to 0.22, and this says 0.19.
* conv: b Y, and all of one block; block: b R, and all of one block. These are lower bounds: the CPU's compiler may keep
  much more (ResNet-20 on 128 images 0.29 and 0.23 GB).

To that come parameters, gradients and the optimizer's arrays; where the state is cut over devices, the device's part of
it, and parameters and gradients whole for the time of a step. A run is refused only where four fifths of it are more
than the device or the machine has at all; where it is more than is free at the moment, that is a warning.
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
#: The share of the memory that a batch which is said to fit may take.
COMFORTABLE = 0.8
#: Parameters, gradients and the optimizer's arrays, in parameters: SGD with momentum has 3, Adam 4.
COPIES = 4

_NO_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED(?!.*No space left)|out of memory|bad_alloc|MemoryError|(cannot|unable to) allocate",
    re.IGNORECASE,
)
_BYTES = re.compile(r"(?:allocat\w*|memory)\D{0,40}?(\d{4,}) bytes", re.IGNORECASE)

ADVICE = (
    "Lower the batch (train.batch_size, or batch or at_once of an analysis or a measurement), cut it into parts with "
    "train.accumulate 2 or more, or compute again in the backward pass what is kept for it: model.remat block. "
    "`resnet-jax plan` (resnet_jax.bench.plan) says what a step needs"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the fields or arguments are called that make a step smaller; None for one that there is not."""

    batch: str = "train.batch_size"
    accumulate: str | None = "train.accumulate"
    remat: str = "model.remat"
    placement: str | None = "train.placement"


#: Those of analyses and measurements, which do not train.
ANALYSIS = Options("batch", None, "model.remat", None)


def _set(name: str, value: object) -> str:
    """Say that a field (``train.accumulate 2``) or an argument (``batch=2``) is set."""
    return f"{name} {value}" if "." in name else f"{name}={value}"


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes of a step on one device.

    Attributes:
        fixed: parameters, gradients, optimizer.
        per_image: what one image adds.
        images: of a micro-batch there.
    """

    fixed: int
    per_image: int
    images: int

    @property
    def total(self) -> int:
        """All of it."""
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
    """Estimate the memory of a train step; or, from below, of a forward pass: the images and one convolution of three
    in a block.

    Args:
        model: the network.
        input_shape: of one image, without the batch.
        images: of a micro-batch, on one device.
        remat: in place of the network's own.
        backward: whether there is a backward pass, for which the forward pass keeps what it made.
        fsdp: devices that the state is cut over.

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
    """Return the bytes on one device of parameters, gradients and optimizer, from those of all parameters.

    >>> fixed_bytes(100), fixed_bytes(100, 2), fixed_bytes(100, 100)
    (400, 350, 203)
    """
    return COPIES * params if fsdp == 1 else 2 * params + (COPIES - 1) * params // fsdp


def at_most(model: ResNet, input_shape: tuple[int, ...], images: int, members: int = 1) -> int:
    """Return bytes that a step surely does not pass, without tracing anything: with four wide layers in every block."""
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
    """Refuse a step that cannot fit; warn of one that does not fit at the moment.

    Args:
        model: the network.
        input_shape: of one image.
        batch: images of an update, over all devices.
        accumulate: micro-batches.
        members: networks trained in one program.
        at_once: of them, how many are computed side by side; None: all.
        devices: that share the batch.
        fsdp: of them, how many the state is cut over.
        warn: is given a line.
        backward: whether there is a backward pass.
        options: what to name in the way out.
        beside: a network whose forward pass on the same images is part of the step (a teacher).

    Raises:
        RunError: it needs more than there is, with what fits.
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
            ways.append(f"{_set(options.accumulate, cut)} makes the same update of {cut} parts")
    if backward and model.config.remat == "none":
        ways.append(f"{_set(options.remat, 'block')} keeps less for the backward pass, most of all in deep networks")
    if devices > 1 and options.placement is not None and need.fixed > limit / 4:
        ways.append(f"{_set(options.placement, 'fsdp')} cuts parameters and optimizer state over {devices} devices")
    if not fits:
        ways.insert(0, "not even one image fits: take smaller images or a smaller network")
    text = "; ".join(ways)
    return text[0].upper() + text[1:]


def memory_of_device(device: Any) -> tuple[int | None, int | None]:
    """Return the bytes that a device has, and how many are free; None where it does not say.

    Args:
        device: of this process; another's cannot be asked.
    """
    if device.platform == "cpu":
        return host_memory()
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return limit, None if limit is None else limit - stats.get("bytes_in_use", 0)


def host_memory(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """Return the bytes that this process may use, and how many are free: of the machine, or of its control group.

    Args:
        root: where ``proc`` and ``sys`` are.
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
    """Yield limit and use of the control groups that this process is in, versions 2 and 1."""
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
    """Return whether an error says that memory, of the device or the machine, was short; a full disk is none."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and bool(_NO_MEMORY.search(str(error)))
    )


def explain_end(text: str) -> str:
    """Return the last words of another process, or what to do if they are about memory.

    >>> explain_end("ended with status -9: it said nothing")[:50]
    'the system killed it, most likely because memory r'
    """
    if "status -9" in text or "ended with -9" in text:
        return f"the system killed it, most likely because memory ran out. {ADVICE}"
    if not _NO_MEMORY.search(text):
        return text
    return no_memory(text) if "RESOURCE_EXHAUSTED" in text else f"{text}. {ADVICE}"


def no_memory(text: str) -> str:
    """Return what to say of an error about memory.

    Args:
        text: of the error; how much was asked for is taken from it.
    """
    found = _BYTES.search(text)
    asked = f" ({gib(int(found[1]))} were asked for at once)" if found else ""
    return f"the memory of the device is too small for this{asked}. {ADVICE}"


@contextlib.contextmanager
def memory_told(what: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn an error about memory into one that says what to do.

    Args:
        what: a sentence to begin with, made when it is needed.

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
    """Return bytes as people write them.

    >>> gib(3 * 2**30), gib(5 * 2**20)
    ('3 GiB', '5 MiB')
    """
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
