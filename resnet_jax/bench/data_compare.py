"""Input pipelines compared: one figure per round from each side, then the next round, as in `.compare`."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from resnet_jax.bench.compare import peers_folder
from resnet_jax.bench.data_samples import write_samples
from resnet_jax.bench.worker import Worker, WorkerError
from resnet_jax.errors import RunError, UsageError
from resnet_jax.fields import AtLeast1, Positive, check_fields

Kind = Literal["imagenet", "cifar", "mnist"]
OURS = Path(__file__).with_name("data_side.py")
#: Our sides; the last two only for small images, which fit.
SIDES = ("threads", "workers", "bare", "grain", "streamed", "memory", "resident")
PEERS = ("torch", "tensorflow", "tensorflow_whole")
START_SECONDS = 300.0


@dataclasses.dataclass(frozen=True)
class DataWorkload:
    """What to measure.

    Attributes:
        kind: ``imagenet``: decode, random resized crop of 224, flip, batch; ``cifar`` and ``mnist``: decode and batch,
            RGB and gray.
        images: a folder with one subfolder of images per class; None generates samples of the kind.
        records: whether the images are in one file (ours an ArrayRecord, TensorFlow's a TFRecord) instead of many.
        batch: examples per batch.
        threads: number of threads of every side, or of worker processes if it uses those.
        rounds: number of turns of every side.
        seconds: length of a turn.
        sides: our sides.
        torch: an interpreter with torch and torchvision; None for none.
        tensorflow: an interpreter with tensorflow; None for none.
    """

    kind: Kind = "imagenet"
    images: Path | None = None
    records: bool = False
    batch: AtLeast1 = 32
    threads: AtLeast1 = 2
    rounds: AtLeast1 = 5
    seconds: Positive = 2.0
    sides: tuple[str, ...] = ()
    torch: Path | None = None
    tensorflow: Path | None = None

    def __post_init__(self) -> None:
        """Check the numbers; raises UsageError."""
        check_fields(self)
        if unknown := [side for side in self.sides if side not in SIDES]:
            raise UsageError(f"there is no side {unknown[0]}; there are {', '.join(SIDES)}")

    @property
    def measured(self) -> tuple[str, ...]:
        """Our sides that are measured."""
        small = SIDES if self.kind != "imagenet" else SIDES[:4]
        return self.sides or small


def compare_data(workload: DataWorkload, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure examples per second of every side; medians over the rounds.

    A side that cannot run has no rate, and its reason is in ``not_run``.

    Raises:
        UsageError: if images or interpreters do not exist.
        RunError: if one of our sides cannot run.
    """
    with tempfile.TemporaryDirectory(prefix="resnet-jax-bench-") as made, contextlib.ExitStack() as stack:
        folder = workload.images
        if folder is None:
            say(f"writing samples of {workload.kind}")
            folder = write_samples(workload.kind, Path(made) / "samples")
        elif not folder.is_dir():
            raise UsageError(f"there is no folder {folder}: it holds one folder of images a class")
        source = f"folder:{folder}"
        if workload.records:
            from resnet_jax.data.convert import convert
            from resnet_jax.data.reading import Reading

            say("writing an ArrayRecord")
            convert(source, Path(made) / "images.array_record", reading=Reading(least_classes=1))
            source = f"array_record:{Path(made) / 'images.array_record'}"
        facts: dict[str, dict[str, Any]] = {}
        sides: dict[str, Worker] = {}
        not_run: dict[str, str] = {}
        for name, start in _starts(workload, folder, source, Path(made)).items():
            say(f"starting {name}")
            try:
                sides[name] = stack.enter_context(start())
                facts[name] = sides[name].start(START_SECONDS)
            except WorkerError as error:
                if name not in PEERS:
                    raise RunError(f"our side {name} cannot run: {error}") from error
                not_run[name] = str(error)
                sides.pop(name, None)
        answers = _rounds(workload, sides, not_run, say)
    return _result(workload, facts, answers, not_run)


def _starts(workload: DataWorkload, folder: Path, source: str, scratch: Path) -> dict[str, Callable[[], Worker]]:
    """Return functions that start each side."""
    common = {"kind": workload.kind, "batch": workload.batch, "threads": workload.threads, "workers": 0}

    def ours(side: str) -> Callable[[], Worker]:
        workers = workload.threads if side == "workers" else 0
        spec = {**common, "source": source, "side": side, "workers": workers}
        return lambda: Worker(sys.executable, OURS, spec)

    def peer(file: str, python: Path, **more: bool) -> Callable[[], Worker]:
        if not python.is_file():
            raise UsageError(f"{python} is no interpreter")
        spec = {**common, "folder": str(folder), "records": workload.records, "scratch": str(scratch), **more}
        quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        return lambda: Worker(str(python), peers_folder() / file, spec, quiet)

    found = {side: ours(side) for side in workload.measured}
    if workload.torch is not None:
        found["torch"] = peer("torch_data_peer.py", workload.torch)
    if workload.tensorflow is not None:
        found["tensorflow"] = peer("tensorflow_data_peer.py", workload.tensorflow, whole=False)
        if workload.kind == "imagenet":
            found["tensorflow_whole"] = peer("tensorflow_data_peer.py", workload.tensorflow, whole=True)
    return found


def _rounds(
    workload: DataWorkload, sides: dict[str, Worker], not_run: dict[str, str], say: Callable[[str], None]
) -> dict[str, list[dict[str, float]]]:
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(1, workload.rounds + 1):
        for name, worker in list(sides.items()):
            say(f"round {number} of {workload.rounds}: {name}")
            try:
                answers[name].append(worker.call("measure", seconds=workload.seconds))
            except WorkerError as error:
                if name not in PEERS:
                    raise RunError(f"our side {name} failed in round {number}: {error}") from error
                not_run[name] = f"round {number}: {error}"
                del answers[name], sides[name]
    return answers


#: Name of a ratio -> its numerator and denominator.
RATIOS = {
    "threads_over_bare": ("threads", "bare"),
    "workers_over_bare": ("workers", "bare"),
    "threads_over_grain": ("threads", "grain"),
    "threads_over_torch": ("threads", "torch"),
    "workers_over_torch": ("workers", "torch"),
    "threads_over_tensorflow": ("threads", "tensorflow"),
    "workers_over_tensorflow": ("workers", "tensorflow"),
    "threads_over_tensorflow_whole": ("threads", "tensorflow_whole"),
    "memory_over_streamed": ("memory", "streamed"),
    "resident_over_streamed": ("resident", "streamed"),
    "resident_over_tensorflow": ("resident", "tensorflow"),
}


def _result(
    workload: DataWorkload,
    facts: dict[str, dict[str, Any]],
    answers: dict[str, list[dict[str, float]]],
    not_run: dict[str, str],
) -> dict[str, Any]:
    samples = {name: [one["images"] / one["seconds"] for one in each] for name, each in answers.items()}
    rates = {name: statistics.median(each) for name, each in samples.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(samples[above], samples[below], strict=True))
        for name, (above, below) in RATIOS.items()
        if above in samples and below in samples
    }
    versions: dict[str, str] = {"python": platform.python_version()}
    for each in facts.values():
        versions |= each["versions"]
    return {
        "kind": workload.kind,
        "images": "samples written for it" if workload.images is None else workload.images.name,
        "examples": next(iter(facts.values()))["examples"],
        "stored": "one file" if workload.records else "files",
        "batch": workload.batch,
        "threads": workload.threads,
        "rates": rates,
        "ratios": ratios,
        "rounds": samples,
        "round_seconds": workload.seconds,
        "peak_bytes": {name: max(int(one["peak_bytes"]) for one in each) for name, each in answers.items()},
        "not_run": not_run,
        **describe_cpu(),
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


#: Instruction sets that decoders are written for.
INSTRUCTIONS = ("sse4_2", "avx", "avx2", "avx512f", "avx512bw", "avx512_vnni", "neon", "asimd", "sve")


def describe_cpu() -> dict[str, Any]:
    """Return model, cores and instruction sets of the CPU, as reported by Linux; elsewhere the machine's name."""
    from resnet_jax.bench.ours import cores

    found = {"cpu": platform.processor() or platform.machine(), "instructions": "", "cores": cores()}
    path = Path("/proc/cpuinfo")
    if path.is_file():
        lines = [line.partition(":") for line in path.read_text(errors="replace").splitlines()]
        known = {name.strip(): value.strip() for name, _, value in lines}
        flags = (known.get("flags") or known.get("Features") or "").split()
        found["cpu"] = known.get("model name", found["cpu"])
        found["instructions"] = " ".join(name for name in INSTRUCTIONS if name in flags)
    return found


NAMES = {
    "threads": "ours, threads",
    "workers": "ours, workers",
    "bare": "OpenCV alone",
    "grain": "plain Grain",
    "torch": "torch DataLoader",
    "tensorflow": "tf.data",
    "tensorflow_whole": "tf.data, whole images",
    "streamed": "to a step, streamed",
    "memory": "to a step, from memory",
    "resident": "to a step, resident",
}


def data_table(result: dict[str, Any]) -> str:
    """Return the text of a result."""
    lines = [
        f"{result['kind']}: {result['examples']:,} examples in {result['stored']}, batch {result['batch']}, "
        f"{result['threads']} threads or processes",
        f"{result['cpu']}, {result['cores']} cores, {result['instructions']}",
        f"{'':<24}{'examples/s':>12}{'slowest':>12}{'fastest':>12}{'peak MiB':>10}",
    ]
    for key, name in NAMES.items():
        if key in result["rates"]:
            each = result["rounds"][key]
            lines.append(
                f"{name:<24}{result['rates'][key]:>12,.0f}{min(each):>12,.0f}{max(each):>12,.0f}"
                f"{result['peak_bytes'][key] / 2**20:>10,.0f}"
            )
        elif key in result["not_run"]:
            lines.append(f"{name:<24}{'-':>12}  not run: {result['not_run'][key]}")
    lines += [f"{name.replace('_', ' ')}: {value:.2f}" for name, value in result["ratios"].items()]
    return "\n".join(lines)
