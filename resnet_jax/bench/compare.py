"""Our step against PyTorch's, plain Flax's, ONNX Runtime's and OpenVINO's: one figure per round from each, in turns.

Only one side computes at a time, so a machine that changes its speed does so for all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import resnet_jax
from resnet_jax.bench.limits import rate_limits
from resnet_jax.bench.processor import InstructionsChoice, describe_processor, held_to
from resnet_jax.bench.worker import START_SECONDS, Worker, WorkerError
from resnet_jax.bench.workload import Workload, peer_network
from resnet_jax.errors import RunError, UsageError, unknown
from resnet_jax.fields import AtLeast1, Positive, check_fields
from resnet_jax.models.resnet import ResNet
from resnet_jax.training.need import explain_end

OURS = Path(__file__).with_name("ours.py")
#: The other sides in the order of their turns; those that only support inference come last.
PEERS = ("torch", "torch_compile", "flax")
INFERENCE_PEERS = ("torch_frozen", "onnxruntime", "openvino")
#: Compilation is measured, so nothing compiled is cached; several JAX processes share an accelerator's memory.
JAX_ENVIRONMENT = {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How to measure.

    Attributes:
        rounds: number of turns of every side.
        seconds: approximate length of a turn.
        python: an interpreter that has torch, and for inference onnx, onnxruntime and openvino; None measures only
            ours.
        compile_mode: mode of ``torch.compile``.
        start_seconds: how long a side may take to compile and warm up.
        against: the other sides that take part; None for all.
        isa: the instruction set to use: see :func:`resnet_jax.bench.processor.held_to`.
    """

    rounds: AtLeast1 = 9
    seconds: Positive = 2.0
    python: Path | None = None
    compile_mode: str = "default"
    start_seconds: Positive = START_SECONDS
    against: tuple[str, ...] | None = None
    isa: InstructionsChoice = "native"

    def __post_init__(self):
        """Check the numbers and names; raises UsageError."""
        check_fields(self)
        for name in self.against or ():
            if name not in (*PEERS, *INFERENCE_PEERS):
                raise unknown("side", name, (*PEERS, *INFERENCE_PEERS))


def peers_of(mode: Literal["train", "infer"], how: Comparison) -> tuple[str, ...]:
    """Return the other sides of a comparison, in the order of their turns.

    Raises:
        UsageError: if a requested side only supports inference, or its interpreter was not given.
    """
    there_are = (*PEERS, *INFERENCE_PEERS) if mode == "infer" else PEERS
    for name in how.against or ():
        if name not in there_are:
            raise UsageError(f"{name} is a side of inference alone: ask bench infer for it")
        if how.python is None and name != "flax":
            raise UsageError(f"{name} runs in an interpreter that has it: name that with --against-python PATH")
    return tuple(name for name in there_are if how.against is None or name in how.against)


def compare(workload: Workload, how: Comparison, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure images per second of every side: medians over the rounds, excluding warm-up and compilation.

    A side that cannot run is None, with the reason in ``not_run``.

    Args:
        workload: what to measure.
        how: against what, and for how long.
        say: called with progress messages.

    Raises:
        UsageError: for a workload that cannot be built or compared.
        RunError: if our side cannot run, or the networks have different numbers of parameters.
    """
    model, names, held = workload.network(), peers_of(workload.mode, how), held_to(how.isa)
    peers = None if how.python is None and how.against is None else _peers(workload, model, how, held)
    with contextlib.ExitStack() as stack:
        say(f"{workload.model.name}: compiling ours")
        ours = stack.enter_context(Worker(sys.executable, OURS, workload.to_dict(), JAX_ENVIRONMENT | held))
        try:
            facts = {"ours": ours.start(how.start_seconds)}
        except WorkerError as error:
            raise RunError(f"{workload.model.name} cannot be measured: {explain_end(str(error))}") from error
        sides, not_run = {"ours": ours}, {}
        for name in names if peers is None else ():
            not_run[name] = "no other interpreter was named"
        for name, start in ((name, peers[name]) for name in names if peers is not None):
            say(f"{workload.model.name}: compiling {name}")
            try:
                sides[name] = stack.enter_context(start(facts["ours"]))
                facts[name] = sides[name].start(how.start_seconds)
            except WorkerError as error:
                lacks = f": {how.python} lacks it" if "No module named" in str(error) else ""
                not_run[name] = f"{error}{lacks}"
                if name in sides:
                    sides.pop(name).close()
        _require_same_size(facts)
        rounds, machine = _run(sides, not_run, how, say)
    processor = describe_processor({**os.environ, **held})
    return _result(workload, model, how, names, facts, rounds, machine, not_run) | {"processor": processor}


def peers_folder() -> Path:
    """Return the folder of the other frameworks' sides.

    Raises:
        UsageError: in an installed package, which does not contain it.
    """
    checkout = Path(resnet_jax.__file__).parents[1]
    folder = checkout / "experiments" / "benchmarks" / "peers"
    if not ((checkout / "pyproject.toml").is_file() and folder.is_dir()):
        raise UsageError(
            "a comparison needs experiments/benchmarks/peers, which an installed package does not have: "
            "run it from a checkout of the repository"
        )
    return folder


def _peers(
    workload: Workload, model: ResNet, how: Comparison, held: dict[str, str]
) -> dict[str, Callable[[dict[str, Any]], Worker]]:
    """Return functions that start each other side, given the facts of ours."""
    if how.python is not None and not how.python.is_file():
        raise UsageError(f"{how.python} is no interpreter: the other sides need one that has torch")
    if workload.accumulate > 1:
        raise UsageError("a comparison is of whole steps: leave accumulation out")
    network, folder = peer_network(model.config), peers_folder()

    def spec(facts: dict[str, Any], **more: Any) -> dict[str, Any]:
        device = "cpu" if facts["platform"] == "cpu" else "gpu"
        side = workload.input_shape[0]
        common = {"mode": workload.mode, "batch": workload.batch, "image_size": side, "network": network}
        return {**common, "dtype": facts["dtype"], "device": device, **more}

    def torch(compiled: bool, freezing: bool = False) -> Callable[[dict[str, Any]], Worker]:
        more = {"compile": compiled, "compile_mode": how.compile_mode, "freezing": freezing}
        return lambda facts: Worker(str(how.python), folder / "torch_peer.py", spec(facts, **more), held)

    def onnx(runtime: str) -> Callable[[dict[str, Any]], Worker]:
        return lambda facts: Worker(str(how.python), folder / "onnx_peer.py", spec(facts, runtime=runtime), held)

    return {
        "torch": torch(False),
        "torch_compile": torch(True),
        "flax": lambda facts: Worker(sys.executable, folder / "flax_peer.py", spec(facts), JAX_ENVIRONMENT | held),
        "torch_frozen": torch(True, freezing=True),
        "onnxruntime": onnx("onnxruntime"),
        "openvino": onnx("openvino"),
    }


def _require_same_size(facts: dict[str, dict[str, Any]]) -> None:
    sizes = {name: fact["params"] for name, fact in facts.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise RunError(f"the networks have different numbers of parameters: {listed}")


def _run(
    sides: dict[str, Worker], not_run: dict[str, str], how: Comparison, say: Callable[[str], None]
) -> tuple[dict[str, list[dict[str, float]]], list[dict[str, float]]]:
    """Return the answers of every side, and the limits that were measured between them."""
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    machine = []
    for number in range(1, how.rounds + 1):
        say(f"round {number} of {how.rounds}")
        for name, worker in list(sides.items()):
            try:
                answers[name].append(worker.call("round", seconds=how.seconds))
            except WorkerError as error:
                if name == "ours":
                    raise RunError(f"our side failed in round {number}: {error}") from error
                not_run[name] = f"round {number}: {error}"
                answers.pop(name)
                sides.pop(name)
        try:
            machine.append(sides["ours"].call("limits"))
        except WorkerError as error:
            raise RunError(f"the limits of the machine could not be measured: {error}") from error
    return answers, machine


def _result(
    workload: Workload,
    model: ResNet,
    how: Comparison,
    names: Sequence[str],
    facts: dict[str, dict[str, Any]],
    rounds: dict[str, list[dict[str, float]]],
    machine: list[dict[str, float]],
    not_run: dict[str, str],
) -> dict[str, Any]:
    ours = facts["ours"]
    samples = {name: [answer["images"] / answer["seconds"] for answer in answers] for name, answers in rounds.items()}
    listed = ("ours", *dict.fromkeys((*PEERS, *names)))
    rates = {name: statistics.median(samples[name]) if name in samples else None for name in listed}
    best = {key: max(limits[key] for limits in machine) for key in ("flops", "bytes")}
    limits = rate_limits(ours["costs"], best)

    fastest = max((name for name in names if name in samples), key=lambda name: rates[name] or 0.0, default=None)

    def over(name: str | None) -> float | None:
        rate = rates.get(name or "")
        return None if rate is None else rates["ours"] / rate  # pyright: ignore[reportOptionalOperand]

    versions: dict[str, str] = {}
    for name in facts:
        versions |= facts[name]["versions"]
    return {
        "mode": workload.mode,
        "model": workload.model.name,
        "batch": workload.batch,
        "image_size": workload.input_shape[0],
        "dtype": ours["dtype"],
        "execution": getattr(model.config, "execution", None),
        "remat": getattr(model.config, "remat", None),
        "steps_per_dispatch": workload.steps_per_dispatch,
        **rates,
        "over_torch": over("torch" if ours["platform"] == "cpu" else "torch_compile"),
        "over_torch_eager": over("torch"),
        "over_torch_compile": over("torch_compile"),
        "over_flax": over("flax"),
        **{f"over_{name}": over(name) for name in INFERENCE_PEERS if name in names},
        "fastest_other": fastest,
        "over_fastest_other": over(fastest),
        "not_run": not_run,
        "compile_seconds": ours["compile_seconds"],
        "trace_seconds": ours["trace_seconds"],
        "temp_bytes": ours["temp_bytes"],
        "limit_fraction": rates["ours"] / min(limits.values()),  # pyright: ignore[reportOptionalOperand]
        "limits": {
            "images_per_second": limits,
            "machine": {"flops_per_second": best["flops"], "bytes_per_second": best["bytes"]},
            "image": ours["costs"],
        },
        "params": ours["params"],
        "rounds": samples,
        "cpu_seconds_per_image": {
            name: min(answer["cpu_seconds"] / answer["images"] for answer in answers)
            for name, answers in rounds.items()
            if all("cpu_seconds" in answer for answer in answers)
        },
        "idle_cpu_seconds": {name: max(a["idle_cpu_seconds"] for a in answers) for name, answers in rounds.items()},
        "peer_compile_seconds": {name: facts[name]["compile_seconds"] for name in facts if name != "ours"},
        "torch_compile_mode": how.compile_mode,
        "round_seconds": how.seconds,
        "platform": ours["platform"],
        "device": ours["device"],
        "cores": ours["cores"],
        "convolutions": ours["convolutions"],
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
