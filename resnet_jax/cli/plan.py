"""``resnet-jax plan MODEL``: what a train step will need, on a machine one does not have yet."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.options import HOW_COMPUTED, Common, console_for, parse
from resnet_jax.models.spec import ModelChanges
from resnet_jax.report.text import say, working


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Options of ``plan``."""

    network: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NETWORK")]
    """The network, as `resnet-jax models` names it."""
    batch: int
    """Images of a step, on all devices together."""
    devices: int = 1
    """Devices to share the batch."""
    image_size: int | None = None
    """Side of the images in pixels (default: the network's own)."""
    model: ModelChanges = dataclasses.field(default_factory=ModelChanges)
    """What is changed of the named network; --dtype, --execution and --remat are short for --model.dtype, ... (default
    dtype: float32)."""
    accumulate: int = 1
    """Micro-batches of a step."""
    placement: Literal["replicated", "fsdp"] = "replicated"
    """How parameters and optimizer state lie: replicated on every device, or fsdp, cut over them."""
    fsdp_devices: int | None = None
    """With placement fsdp: over how many devices (default: all)."""
    forms: Literal["auto", "plain"] = "auto"
    """How operations are computed: see train.forms."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Compile for fake devices and return what it says."""
    about = "Parameters, operations, memory of each device and compile time of the train step; nothing runs."
    options = parse(PlanOptions, argv, verb="plan", about=about, short=HOW_COMPUTED)
    from resnet_jax.bench.plan import plan
    from resnet_jax.bench.table import plan_table
    from resnet_jax.bench.workload import Workload

    model = options.model.replace(options.network)
    workload = Workload(
        model,
        options.batch,
        image_size=options.image_size,
        accumulate=options.accumulate,
        placement=options.placement,
        fsdp_devices=options.fsdp_devices,
        forms=options.forms,
    )
    console = console_for(options.common)
    with working(console, f"{options.network}: compiling for {options.devices} devices"):
        result = plan(workload, options.devices)
    say(console, plan_table(result))
    return result
