"""``resnet-jax plan MODEL``: plan what a train step will need, even for a machine you do not have yet."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.named import require_networks
from resnet_jax.cli.options import HOW_COMPUTED, Common, console_for, parse
from resnet_jax.errors import UsageError
from resnet_jax.models.spec import ModelChanges
from resnet_jax.report.text import say, working
from resnet_jax.tasks.config import TaskConfig


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Options of ``plan``."""

    network: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NETWORK")]
    """The network, by a name that `resnet-jax models` lists."""
    batch: int | None = None
    """Images per step, over all devices."""
    devices: int = 1
    """The number of devices that share the batch."""
    chips: str | None = None
    """Plan for these accelerators, which need not be present: a slice of TPUs (v5e:4x4, v6e:2x2, v4:2x2x1, v5p:2x2x1),
    or h100, h200 or a100, with :N for several. This needs the extra tpu or cuda12."""
    batch_per_chip: int | None = None
    """With --chips: images per step on each chip."""
    infer: bool = False
    """With --chips: plan the forward pass with batch norm folded, instead of the train step."""
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    """With --chips: what the outputs mean."""
    augment: tuple[str, ...] | None = None
    """With --chips: transforms of the training images, as in data.augment; those that run on the device are part of the
    step (default: a crop and a flip, as for images of this size)."""
    effort: Literal["full", "low"] = "full"
    """With --chips: optimization effort of the TPU compiler. full is what a run uses; low takes a tenth of the time but
    finds a slower program."""
    largest_batch: bool = False
    """With --chips: find the largest batch per chip that fits, by compiling several."""
    text: Path | None = None
    """With --chips: write the text of the compiled program to this file."""
    image_size: int | None = None
    """Side of the images in pixels (default: the network's own size)."""
    model: ModelChanges = dataclasses.field(default_factory=ModelChanges)
    """Changes to the named network. --dtype, --execution and --remat are short for --model.dtype and so on (default
    dtype: float32, or bfloat16 with --chips)."""
    accumulate: int = 1
    """Micro-batches per step (gradient accumulation)."""
    placement: Literal["replicated", "fsdp"] = "replicated"
    """Where parameters and optimizer state live: replicated on every device, or sharded over the devices (fsdp)."""
    fsdp_devices: int | None = None
    """With --placement fsdp: the number of devices to shard over (default: all)."""
    forms: Literal["auto", "plain"] = "auto"
    """How operations are computed; see train.forms."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


#: Options that apply only to a plan for chips, and their default values.
OF_CHIPS = ("batch_per_chip", "infer", "augment", "effort", "largest_batch", "text", "task")


def run(argv: list[str]) -> dict[str, Any]:
    """Compile for simulated devices or for chips, and return the plan."""
    about = (
        "Report parameters, operations, memory per device and compile time of the train step, without running it. "
        "With --chips the real step is compiled for TPUs or GPUs that need not be present."
    )
    options = parse(PlanOptions, argv, verb="plan", about=about, short=HOW_COMPUTED)
    require_networks(options.network)
    try:
        return _for_fake_devices(options) if options.chips is None else _for_chips(options, options.chips)
    except UsageError as error:  # what are fields of a run elsewhere are options of this verb's own
        raise UsageError(re.sub(r"train\.(placement|fsdp_devices|accumulate)", _own_option, str(error))) from error


def _own_option(match: re.Match[str]) -> str:
    return f"--{match[1].replace('_', '-')}"


def _for_fake_devices(options: PlanOptions) -> dict[str, Any]:
    defaults = {field.name: field for field in dataclasses.fields(PlanOptions)}
    for name in OF_CHIPS:
        default = TaskConfig() if name == "task" else defaults[name].default
        if getattr(options, name) != default:
            raise UsageError(f"--{name.replace('_', '-')} goes with --chips, such as --chips v5e:4x4")
    if options.batch is None:
        raise UsageError("give --batch, the images of a step, or --chips with --batch-per-chip")
    from resnet_jax.bench.plan import plan
    from resnet_jax.bench.table import plan_table

    console = console_for(options.common)
    with working(console, f"{options.network}: compiling for {options.devices} devices"):
        result = plan(_workload(options, options.batch), options.devices)
    say(console, plan_table(result))
    return result


def _for_chips(options: PlanOptions, chips: str) -> dict[str, Any]:
    from resnet_jax.bench.chips.compiled import Request
    from resnet_jax.bench.chips.plan import largest_batch, plan_chips, usual_augment
    from resnet_jax.bench.chips.report import chips_table
    from resnet_jax.bench.chips.table import parse_chips

    if options.batch is not None or options.devices != 1:
        raise UsageError("with --chips the batch is --batch-per-chip, and the devices are those of the chips")
    if options.batch_per_chip is None or options.batch_per_chip < 1:
        raise UsageError("--chips needs --batch-per-chip, the images of a step on each chip, 1 or more")
    if options.infer and (options.augment is not None or options.accumulate != 1):
        raise UsageError("--augment and --accumulate are of the train step: leave them out with --infer")
    if options.text is not None and (options.text.is_dir() or not options.text.absolute().parent.is_dir()):
        raise UsageError(f"--text {options.text}: name a file in a folder that is there")
    described = parse_chips(chips)
    if described.chip.platform == "gpu" and options.effort != "full":
        raise UsageError(f"--effort {options.effort} is of the compiler for TPUs: leave it out with --chips {chips}")
    workload = _workload(options, options.batch_per_chip * described.count)
    shape = workload.input_shape
    augment = usual_augment(shape[0], len(shape) - 1) if options.augment is None else options.augment
    request = Request(workload, chips, () if options.infer else augment, options.task, options.effort)
    console = console_for(options.common)
    with working(console, f"{options.network}: compiling for {described.text}"):
        result = plan_chips(request, text=None if options.text is None else str(options.text))
        if options.largest_batch:
            result["largest_batch"] = largest_batch(request, result, lambda line: say(console, line))
    say(console, chips_table(result))
    return result


def _workload(options: PlanOptions, batch: int) -> Any:
    from resnet_jax.bench.workload import Workload

    model = options.model.replace(options.network)
    if options.chips is not None and "dtype" not in model.changes:
        model = model.replace(dtype="bfloat16")
    return Workload(
        model,
        batch,
        mode="infer" if options.infer else "train",
        image_size=options.image_size,
        accumulate=options.accumulate,
        placement=options.placement,
        fsdp_devices=options.fsdp_devices,
        forms=options.forms,
    )
