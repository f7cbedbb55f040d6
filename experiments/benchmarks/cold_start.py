"""Timeline of the README's first command from an empty cache, and of the same command with everything cached.

Claim: from an empty cache on two cores with AVX2, the first step is done within 25 s and everything within 50 s.

    python experiments/benchmarks/cold_start.py [--recipe digits] [--isa native|avx2] [--repeat 3] [--json cold.json]

Every repetition has a new cache and a new run directory, and is followed by a warm start: the same training with that
cache into another directory. ``--isa avx2`` compiles the C++ and XLA code without AVX-512 on a processor that has it
(with g++ or clang++). CPU seconds are those of the command and all its child processes, which is the steadier figure on
a machine with other work. Seconds of a phase are wall time, measured from the start of the process where ``at`` says
so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

LOWERED = re.compile(r"Finished jaxpr to MLIR module conversion jit\((\w+)\) in ([\d.]+) sec")
COMPILED = re.compile(r"Finished XLA compilation of jit\((\w+)\) in ([\d.]+) sec")
TRACED = re.compile(r"Finished tracing \+ transforming (\w+) for pjit in ([\d.]+) sec")
#: Programs of the command that a phase is named after.
NAMED = ("init", "train_step", "multi_step", "eval_step")
#: A line of the command's output -> what is over when it is printed.
LINES = {"  network": "announced at", "epoch  1": "first epoch at", "Testing": "trained at", "curves": "drawn at"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--isa", choices=("native", "avx2"), default="native")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for number in range(options.repeat):
        with tempfile.TemporaryDirectory() as folder:
            for start in ("cold", "warm"):
                row = {"start": start, **measure(options.recipe, Path(folder), f"{start}{number}", options.isa)}
                rows.append(row)
                print(json.dumps(row, indent=1), flush=True)
    report = {"about": about(options.isa), "runs": rows}
    for start in ("cold", "warm"):
        of = [row for row in rows if row["start"] == start]
        best = {key: min(row[key] for row in of) for key in ("first step at", "total", "cpu seconds")}
        report[start] = best
        first, total, used = best.values()
        print(f"{start}: first step {first:.1f} s, all {total:.1f} s, {used:.0f} CPU s")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(recipe: str, folder: Path, name: str, isa: str) -> dict[str, Any]:
    """Run the command once; return its phases."""
    run_dir, cache = folder / name, folder / "cache"
    environment = {**os.environ, "RESNET_JAX_CACHE": str(cache), "JAX_LOG_COMPILES": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if isa == "avx2":
        environment |= {"CXX": str(avx2_compiler(folder)), "XLA_FLAGS": "--xla_cpu_max_isa=AVX2"}
    before, began = cpu_seconds(), time.time()
    command = [sys.executable, "-m", "resnet_jax", "train", recipe, "--run-dir", str(run_dir)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    reader = threading.Thread(target=said.extend, args=[process.stderr])
    reader.start()
    row: dict[str, Any] = {}
    for line in process.stdout:
        for beginning, phase in LINES.items():
            if line.startswith(beginning):
                row.setdefault(phase, round(time.time() - began, 2))
    status = process.wait()
    reader.join()
    row["total"] = round(time.time() - began, 2)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}:\n{''.join(said)[-2000:]}")
    row["cpu seconds"] = round(cpu_seconds() - before, 1)
    summary = json.loads((run_dir / "summary.json").read_text())
    # its own watch begins when the modules are loaded and ends when it has tested
    row["first step at"] = round(row["trained at"] - summary["seconds"] + summary["first_step_seconds"], 2)
    row["first step seconds of the summary"] = round(summary["first_step_seconds"], 2)
    libraries = sorted((cache / "native").glob("*.so"))
    row["C++ ready at"] = round(max(0.0, libraries[0].stat().st_mtime - began), 2) if libraries else None
    for what, pattern in (("traced", TRACED), ("lowered", LOWERED), ("compiled", COMPILED)):
        found = [(match[1], float(match[2])) for line in said if (match := pattern.search(line))]
        row |= {f"{program} {what}": round(seconds, 2) for program, seconds in found if program in NAMED}
        if what == "compiled":
            row["programs"] = len(found)
            row["seconds of other programs"] = round(sum(s for program, s in found if program not in NAMED), 2)
    row["params digest"] = summary["params_digest"]
    return row


def avx2_compiler(folder: Path) -> Path:
    """Return a compiler for which the native processor is one with AVX2 and no AVX-512."""
    real = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    script = folder / "compiler"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "words = ['-march=x86-64-v3' if word == '-march=native' else word for word in sys.argv[1:]]\n"
        f"os.execv({real!r}, [{real!r}, *words])\n"
    )
    script.chmod(0o755)
    return script


def cpu_seconds() -> float:
    """Return what the processes that this one has started and waited for have used, with all that they started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def about(isa: str) -> dict[str, Any]:
    from importlib import metadata

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    flags = set(found[1].split()) if (found := re.search(r"flags\s*: (.*)", text)) else set()
    return {
        "processor": model[1] if model else platform.processor(),
        "has": sorted(flags & {"avx2", "avx512f"}),
        "compiled for": isa,
        "cores": len(os.sched_getaffinity(0)),
        "load before": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": metadata.version("jax"),
    }


if __name__ == "__main__":
    main()
