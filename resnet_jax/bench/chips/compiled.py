"""The real train step, or inference, compiled for described chips; runs in a dedicated process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.bench.chips.bound import bound
from resnet_jax.bench.chips.described import LOW_EFFORT, described_devices, versions
from resnet_jax.bench.chips.program import read_program
from resnet_jax.bench.chips.table import Chips, parse_chips
from resnet_jax.bench.ours import OPTIMIZER
from resnet_jax.bench.plan import bytes_of, memory_of
from resnet_jax.bench.workload import Workload
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models.count import abstract_variables, count
from resnet_jax.models.initialize import init_variables
from resnet_jax.models.resnet import ResNet
from resnet_jax.ops import in_forms
from resnet_jax.runs.build import build_model, build_network, build_task
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.preparation import eval_preprocess, train_preprocess
from resnet_jax.runs.recipes import config_from_dict
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.training.compile import compile_eval_step, compile_train_step
from resnet_jax.training.optimizers import make_optimizer
from resnet_jax.training.placement import Placement, check_batch_size
from resnet_jax.training.state import init_state
from resnet_jax.training.step import make_predict_step, make_train_step
from resnet_jax.weights.fold import fold_batch_norm, folded_config

#: The kind of labels that each task needs.
LABELS = {"multilabel": "multi-label", "regression": "value"}
#: Number of classes of a network whose outputs are not one per class.
OUTPUTS = {"binary": 2, "regression": 1}
#: The words of an out-of-memory error.
TOO_LARGE = ("RESOURCE_EXHAUSTED", "out of memory", "Ran out of memory", "exceeded hbm capacity")


@dataclasses.dataclass(frozen=True)
class Request:
    """What to compile.

    Attributes:
        workload: the network, the batch on all chips together, and how it is computed.
        chips: as written: ``v5e:4x4``.
        augment: transforms of the training images, as ``data.augment``; device transforms are part of the step.
        task: as in the configuration of a run.
        effort: ``low``: the compiler uses the first program it finds.
    """

    workload: Workload
    chips: str
    augment: tuple[str, ...] = ()
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    effort: str = "full"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for another process."""
        return {
            "model": self.workload.model.to_dict(),
            "workload": self.workload.to_dict(),
            "chips": self.chips,
            "augment": list(self.augment),
            "task": dataclasses.asdict(self.task),
            "effort": self.effort,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Request:
        """Return what :meth:`to_dict` wrote."""
        task = config_from_dict({"task": raw["task"]}, where="task").task
        return cls(Workload.from_dict(raw["workload"]), raw["chips"], tuple(raw["augment"]), task, raw["effort"])


def compile_for_chips(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Compile and analyze a request, as described in :func:`resnet_jax.bench.chips.plan.plan_chips`.

    Raises:
        UsageError: for incompatible choices.
    """
    request = Request.from_dict(raw)
    chips = parse_chips(request.chips)
    placement = Placement.of(
        described_devices(chips), kind=request.workload.placement, fsdp_devices=request.workload.fsdp_devices
    )
    step, arguments, model = (training if request.workload.mode == "train" else inference)(request, placement)
    sizes = count(model, request.workload.input_shape)
    result = {
        **dataclasses.asdict(sizes),
        "dtype": model.config.dtype,
        "device_kind": placement.devices[0].device_kind,
        "devices": placement.size,
        "versions": versions(chips.chip.platform),
        "effort": request.effort if chips.chip.platform == "tpu" else "full",
        "arguments": {name: bytes_of(tree) for name, tree in _named(arguments).items()},
    }
    platform = "cuda" if chips.chip.platform == "gpu" else "tpu"
    options = LOW_EFFORT if request.effort == "low" and platform == "tpu" else None
    began = time.perf_counter()
    lowered = step.trace(*arguments).lower(lowering_platforms=(platform,))
    traced = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if not any(words in str(error) for words in TOO_LARGE):
            raise RunError(f"the compiler for {request.chips} refused the program: {_reason(str(error))}") from None
        took = time.perf_counter() - traced
        return {**result, "fits": False, "refused": _reason(str(error)), "compile_seconds": took}
    took = time.perf_counter() - traced
    text = compiled.as_text() or ""
    if path := raw.get("text"):
        with open(path, "w") as file:
            file.write(text)
    program = read_program(text, platform=chips.chip.platform)
    memory = memory_of(compiled)
    memory["code"] = compiled.memory_analysis().generated_code_size_in_bytes
    memory["peak"] += memory["code"]
    analysis = (compiled.cost_analysis() or {}) if platform == "tpu" else {}
    return {
        **result,
        "fits": memory["peak"] <= _memory(chips, placement.size),
        "memory": memory,
        "program": program.summary(),
        "bound": bound(program, chips, images=request.workload.batch, devices=placement.size),
        "compiler": {
            "flops": analysis.get("flops"),
            "bytes_accessed": analysis.get("bytes accessed"),
            "estimated_seconds": _seconds(program.estimated_cycles, chips),
        },
        "trace_seconds": traced - began,
        "compile_seconds": took,
    }


def training(request: Request, placement: Placement) -> tuple[Any, tuple[Any, ...], ResNet]:
    """Return the jitted train step of a run, the shapes that it takes, and the network."""
    workload = request.workload
    check_batch_size(workload.batch, placement, accumulate=workload.accumulate)
    config, card = run_of(request)
    model: Any = build_network(config, card, devices=placement.size)
    task = build_task(config, card)
    params = abstract_variables(model, card.image_shape)["params"]
    tx = make_optimizer(OPTIMIZER, params, steps_per_epoch=1000, total_steps=100_000)[0]
    pure = make_train_step(
        model,
        tx,
        task=task,
        preprocess=train_preprocess(config, model, card),
        accumulate=workload.accumulate,
        norm_momentum=model.config.norm_momentum,
    )
    step = compile_train_step(in_forms(workload.forms, pure), placement)
    shapes = jax.eval_shape(lambda key: init_state(model, tx, key, card.image_shape), jax.random.key(0))
    return step, (placement.abstract(shapes), batch_of(request, card, placement, training=True)), model


def inference(request: Request, placement: Placement) -> tuple[Any, tuple[Any, ...], ResNet]:
    """Return the jitted forward pass with batch norm folded and the images normalized on the device."""
    config, card = run_of(request)
    model = build_model(config, card)
    folds = model.config.norm == "batch"
    deployed = ResNet(folded_config(model.config)) if folds else model

    def init(key: jax.Array) -> Any:
        variables = init_variables(model, key, card.image_shape)
        return fold_batch_norm(model, variables)[1] if folds else variables

    pure = make_predict_step(deployed, preprocess=eval_preprocess(model, card))
    step = compile_eval_step(in_forms(request.workload.forms, pure), placement)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return step, (placement.abstract(shapes), batch_of(request, card, placement, training=False)), model


def run_of(request: Request) -> tuple[RunConfig, DatasetInfo]:
    """Return the configuration of a run for a request, and the data that it would have: uint8 images."""
    shape, model = request.workload.input_shape, request.workload.model
    kind = request.task.kind or "classification"
    classes = OUTPUTS.get(kind, model.config().num_classes)
    if classes < 1:
        raise UsageError("a plan for chips is of a network with outputs: model.num_classes must be 1 or more")
    card = DatasetInfo(
        class_names=tuple(f"class{number}" for number in range(classes)),
        image_shape=shape,
        mean=(0.5,) * shape[-1],
        std=(0.25,) * shape[-1],
        examples={"train": 1_000_000},
        label_kind=LABELS.get(kind, "class"),
        label_counts=(1_000_000 // classes,) * classes if kind != "regression" else (),
        target_mean=(0.0,) * classes if kind == "regression" else (),
        target_std=(1.0,) * classes if kind == "regression" else (),
    )
    changes = {key: value for key, value in model.to_dict().items() if key != "num_classes" or kind != "regression"}
    raw = {"model": changes, "data": {"augment": list(request.augment)}, "task": dataclasses.asdict(request.task)}
    return config_from_dict(raw, where="plan"), card


def batch_of(request: Request, card: DatasetInfo, placement: Placement, *, training: bool) -> dict[str, Any]:
    """Return the shapes of a batch as the run's feed provides it."""
    rows = (request.workload.batch,)
    per_label = (len(card.class_names),) if card.label_kind != "class" else ()
    shapes = {
        "image": ((*rows, *card.image_shape), jnp.uint8),
        "label": ((*rows, *per_label), jnp.float32 if per_label else jnp.int32),
        "mask": (rows, jnp.bool_),
        "index": (rows, jnp.int32),
        "epoch": (rows, jnp.int32),
    }
    kept = shapes if training else {"image": shapes["image"]}
    where = placement.batch()
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=where) for name, (shape, dtype) in kept.items()}


def _named(arguments: tuple[Any, ...]) -> dict[str, Any]:
    state, batch = arguments
    if isinstance(state, Mapping):
        return {"parameters": state, "batch": batch}
    return {
        "parameters": state.params,
        "statistics": state.batch_stats,
        "optimizer": state.opt_state,
        "batch": batch,
    }


def _memory(chips: Chips, devices: int) -> int:
    """Return the memory of one device in bytes; a TPU's compiler itself rejects what does not fit."""
    return chips.chip.memory // max(devices // chips.count, 1)


def _seconds(cycles: int | None, chips: Chips) -> float | None:
    return cycles / chips.chip.clock if cycles and chips.chip.clock else None


def _reason(message: str) -> str:
    """Return the line of a compiler's rejection that says how much memory there is and how much was needed."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in lines if "Used" in line or "exceed" in line), lines[0])[:300]
