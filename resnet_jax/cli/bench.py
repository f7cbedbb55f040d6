"""``resnet-jax bench train | infer | compile | data``: measure speed, compile time and input pipelines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.named import require_networks
from resnet_jax.cli.options import HOW_COMPUTED, Common, asks_for_help, console_for, flags_last, list_verbs, parse
from resnet_jax.cli.trouble import platform_told
from resnet_jax.errors import UsageError, unknown
from resnet_jax.models.spec import ModelChanges
from resnet_jax.report.text import say, working


@dataclasses.dataclass(frozen=True)
class SpeedOptions:
    """Options of ``bench train`` and ``bench infer``."""

    network: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NETWORK")]
    """The network, by a name that `resnet-jax models` lists."""
    batch: int
    """Images per step."""
    image_size: int | None = None
    """Side of the images in pixels (default: the network's own size)."""
    model: ModelChanges = dataclasses.field(default_factory=ModelChanges)
    """Changes to the named network. --dtype, --execution and --remat are short for --model.dtype and so on (default
    dtype: bfloat16 on an accelerator, float32 on the CPU)."""
    steps_per_dispatch: int = 1
    """Steps per compiled call: a scan over this many batches of float images that are resident on the device."""
    against_python: Path | None = None
    """A Python interpreter that has torch. PyTorch (eager and torch.compile) and plain Flax are then measured too,
    alternating with ours; for inference also torch.compile with freezing, and ONNX Runtime and OpenVINO where that
    interpreter has onnx and those packages."""
    against: tuple[str, ...] = ()
    """The other implementations to measure (default: all): torch, torch_compile, flax, and for inference torch_frozen,
    onnxruntime, openvino."""
    torch_compile_mode: str = "default"
    """Mode of torch.compile: default, reduce-overhead (CUDA graphs) or max-autotune."""
    rounds: int = 9
    """Number of turns each implementation gets; the reported figures are medians over them."""
    seconds: float = 2.0
    """Length of a turn in seconds."""
    start_seconds: float = 1800.0
    """Seconds an implementation may take to compile before it is left out."""
    isa: Literal["native", "avx2"] = "native"
    """The instruction set. avx2 restricts XLA, our C++, PyTorch and oneDNN to AVX2 on a processor that also has AVX-512
    (ONNX Runtime cannot be restricted)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


@dataclasses.dataclass(frozen=True)
class CompileOptions:
    """Options of ``bench compile``."""

    networks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NETWORK ...")]
    """Networks, by names that `resnet-jax models` lists. Ratios are relative to the first."""
    batch: int
    """Images per step."""
    image_size: int | None = None
    """Side of the images in pixels (default: the network's own size)."""
    model: ModelChanges = dataclasses.field(default_factory=ModelChanges)
    """Changes to the named networks. --dtype, --execution and --remat are short for --model.dtype and so on (default
    dtype: bfloat16 on an accelerator, float32 on the CPU)."""
    steps_per_dispatch: int = 1
    """Train steps per compiled call, as in bench train: a scan over this many batches of float images."""
    warm: bool = True
    """Also measure the time to the first step of a process that finds the compiled program in a cache."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


#: Sub-verb -> what it measures.
VERBS = {
    "train": "MODEL: throughput of the train step",
    "infer": "MODEL: throughput of inference with batch norm folded",
    "compile": "MODEL...: time to compile the train step, and to the first step of a fresh process",
    "data": "throughput of input pipelines, against OpenCV alone, Grain, PyTorch and tf.data",
}


def run(argv: list[str]) -> dict[str, Any] | None:
    """Run the measurement and return the figures."""
    argv = flags_last(argv)
    if asks_for_help(argv):
        print(list_verbs("bench", VERBS, ""))
        return None
    if not argv or argv[0].startswith("-"):
        raise UsageError(
            "name what to measure: resnet-jax bench train MODEL ..., infer MODEL ..., compile MODEL ... or data"
        )
    if argv[0] not in VERBS:
        raise unknown("bench verb", argv[0], VERBS)
    if argv[0] == "data":
        from resnet_jax.cli.bench_data import run as run_data

        return run_data(argv[1:])
    if argv[0] == "compile":
        return _compile(argv[1:])
    return _speed("infer" if argv[0] == "infer" else "train", argv[1:])


def _speed(mode: Literal["train", "infer"], argv: list[str]) -> dict[str, Any]:
    about = {
        "train": "Measure the throughput of the compiled train step, on random data resident on the device.",
        "infer": "Measure the throughput of inference with batch norm folded, on random data resident on the device.",
    }[mode]
    options = parse(SpeedOptions, argv, verb=f"bench {mode}", about=about, short=HOW_COMPUTED)
    require_networks(options.network)
    from resnet_jax.bench.compare import Comparison, compare
    from resnet_jax.bench.table import comparison_table
    from resnet_jax.bench.workload import Workload

    workload = Workload(
        options.model.replace(options.network),
        options.batch,
        mode,
        image_size=options.image_size,
        steps_per_dispatch=options.steps_per_dispatch,
    )
    how = Comparison(
        options.rounds, options.seconds, options.against_python, options.torch_compile_mode, options.start_seconds,
        options.against or None, options.isa,
    )  # fmt: skip
    console = console_for(options.common)
    with platform_told(), working(console, "") as status:
        result = compare(workload, how, status.update)
    say(console, comparison_table(result))
    return result


def _compile(argv: list[str]) -> dict[str, Any]:
    about = "Measure the time to compile the train step, and to the first step, of each network in a fresh process."
    options = parse(CompileOptions, argv, verb="bench compile", about=about, short=HOW_COMPUTED)
    require_networks(*options.networks)
    from resnet_jax.bench.cold import compile_models
    from resnet_jax.bench.table import compile_table
    from resnet_jax.bench.workload import Workload

    workloads = [
        Workload(
            options.model.replace(name),
            options.batch,
            image_size=options.image_size,
            steps_per_dispatch=options.steps_per_dispatch,
        )
        for name in options.networks
    ]
    console = console_for(options.common)
    with platform_told(), working(console, "") as status:
        result = compile_models(workloads, warm=options.warm, say=status.update)
    say(console, compile_table(result))
    return result
