"""A diagnosis of an installation: its parts, what is slow and why, and what is broken, as text for a report.

Nothing here needs a package that may be the broken one: JAX runs in a separate process, which may crash or hang.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from resnet_jax.bench.processor import describe_processor, processor_line
from resnet_jax.runtime.absent_chips import has_nvidia_gpu, has_tpu
from resnet_jax.runtime.cache import VARIABLE, cache_directory, program_directory, why_not_writable
from resnet_jax.runtime.cxx.library import SWITCH, find_compiler, is_switched_off
from resnet_jax.runtime.distribution import DISTRIBUTION
from resnet_jax.runtime.variables import those_set

#: Seconds that JAX, including a C++ compiler, may take.
PATIENCE = 300.0
#: What each extra enables, in the order of the report.
EXTRAS = {
    "cuda12": "NVIDIA GPUs with CUDA 12",
    "cuda13": "NVIDIA GPUs with CUDA 13",
    "tpu": "TPUs",
    "onnx": "export --format onnx, quantize",
    "openvino": "OpenVINO, the second runtime that checks an ONNX file",
    "tf": "preparing TensorFlow Datasets, export --format saved",
    "serve": "serve",
    "search": "search",
    "ray": "runs in the workers of Ray Train",
    "wandb": "observer wandb",
    "trackio": "observer trackio",
    "volumes": "NIfTI volumes (volumes:PATH)",
    "audio": "FLAC and Ogg sounds (wav:PATH)",
}
#: Queries JAX, and the C++ compiled for the CPU, and computes something.
_PROBE = """
import json, time
began = time.perf_counter()
import jax, jax.numpy as jnp
import jaxlib
found = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "import_seconds": time.perf_counter() - began}
found["backend"] = jax.default_backend()
found["devices"] = [device.device_kind for device in jax.devices()]
found["processes"] = jax.process_count()
assert float(jax.jit(lambda x: (x @ x).sum())(jnp.ones((8, 8)))) == 512.0, "a product of matrices is wrong"
if found["backend"] == "cpu":
    from resnet_jax.ops.native.build import status
    began = time.perf_counter()
    found["operations"], found["operations_seconds"] = status(), time.perf_counter() - began
print("\\n" + json.dumps(found))
"""

Severity = Literal["broken", "slow", "note"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something the user should know.

    Attributes:
        severity: ``broken`` for what does not work; ``slow``; or ``note``.
        says: what it is and what to do.
    """

    severity: Severity
    says: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The result: sections of lines, and findings, worst first."""

    sections: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> list[str]:
        """What does not work."""
        return [finding.says for finding in self.findings if finding.severity == "broken"]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        return {"ok": not self.broken, "findings": findings, **self.sections}

    def lines(self) -> list[str]:
        """Return the report."""
        lines = []
        for title, entries in self.sections.items():
            lines.append(title)
            width = max(map(len, entries), default=0)
            lines += [f"  {name:<{width}}  {_said(value)}" for name, value in entries.items()]
        lines.append("findings")
        lines += [f"  {finding.severity:<6}  {finding.says}" for finding in self.findings] or ["  nothing is amiss"]
        return lines


def diagnose(environment: Mapping[str, str] = os.environ, *, patience: float = PATIENCE) -> Diagnosis:
    """Diagnose everything.

    Args:
        environment: environment of this process and of the one that queries JAX.
        patience: seconds that JAX may take.
    """
    findings: list[Finding] = []
    sections = {
        "versions": _versions(findings),
        "machine": _machine(),
        "devices": _devices(findings, environment, patience),
        "caches": _caches(findings),
        "data": _data(environment),
        "extras": _extras(findings),
        "environment": dict(those_set(environment)) or {"-": "nothing that matters is set"},
    }
    order = ("broken", "slow", "note")
    return Diagnosis(sections, tuple(sorted(findings, key=lambda finding: order.index(finding.severity))))


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements() -> list[Any]:
    """Return what the distribution requires (:class:`packaging.requirements.Requirement`); [] if unknown."""
    try:
        from packaging.requirements import Requirement

        return [Requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or ()]
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return []


def _versions(findings: list[Finding]) -> dict[str, Any]:
    import resnet_jax

    found: dict[str, Any] = {
        DISTRIBUTION: f"{_version(DISTRIBUTION)} in {_home(Path(resnet_jax.__path__[0]))}",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
    }
    for requirement in _requirements():
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        found[requirement.name] = version or "missing"
        if version is None:
            findings.append(Finding("broken", f"{requirement.name} is not installed: pip install '{requirement}'"))
        elif not requirement.specifier.contains(version, prereleases=True):
            said = f"{requirement.name} {version} is installed, and {requirement.specifier} is needed"
            findings.append(Finding("broken", f"{said}: pip install '{requirement}'"))
    return found


def _machine() -> dict[str, Any]:
    found: dict[str, Any] = {"system": platform.platform(), "processor": processor_line(describe_processor())}
    with_memory = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    if with_memory:
        found["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    if (share := _processor_share()) is not None:
        found["processor time"] = f"limited to {share:g} cores (cgroup)"
    return found


def _processor_share(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Return how many cores' worth of time a container may use; None without a limit."""
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _devices(findings: list[Finding], environment: Mapping[str, str], patience: float) -> dict[str, Any]:
    compiler = find_compiler()
    found: dict[str, Any] = {
        "C++ compiler": f"{compiler} {_compiler_version(compiler)}".strip() if compiler else "none"
    }
    asked, why = _ask_jax(environment, patience)
    if asked is None:
        findings.append(Finding("broken", f"JAX does not work here: {why}"))
        return {"jax": f"does not work: {why}", **found}
    kinds = asked["devices"]
    listed = [f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)]
    found = {
        "jax": f"{asked['jax']} (jaxlib {asked['jaxlib']}), imported in {asked['import_seconds']:.1f} s",
        "backend": asked["backend"],
        "devices": listed,
        **found,
    }
    if asked["backend"] == "cpu":
        found["operations"] = asked["operations"]
        findings += _slow_on_cpu(asked["operations"], len(kinds), compiler)
        if has_nvidia_gpu() and "cpu" not in environment.get("JAX_PLATFORMS", "") and sys.platform == "linux":
            findings.append(Finding("slow", f"there is an NVIDIA GPU that JAX does not use: install {DISTRIBUTION}"
                                            "[cuda13] or [cuda12], as the driver allows"))  # fmt: skip
        if sys.platform == "linux" and has_tpu():
            findings.append(Finding("slow", f"there is a TPU that JAX does not use: install {DISTRIBUTION}[tpu]"))
    if environment.get("JAX_DISABLE_JIT", "").lower() in ("1", "true"):
        findings.append(Finding("slow", "JAX_DISABLE_JIT is set: nothing is compiled"))
    if environment.get("JAX_DEBUG_NANS", "").lower() in ("1", "true"):
        findings.append(Finding("slow", "JAX_DEBUG_NANS is set: every result is fetched and checked"))
    return found


def _slow_on_cpu(operations: str, devices: int, compiler: str | None) -> list[Finding]:
    found = []
    if operations != "native":
        why = f"{SWITCH} is off" if is_switched_off() else operations.removeprefix("xla (").removesuffix(")")
        do = "" if compiler or is_switched_off() else "; g++ or clang++ makes training much faster"
        found.append(
            Finding("slow", f"convolutions and batch norm use XLA's own implementations on this CPU: {why}{do}")
        )
    if devices > 1:
        found.append(
            Finding("note", f"the CPU is divided into {devices} devices, which is meant for tests; one is faster")
        )
    instructions = describe_processor()["instructions"]
    if instructions is not None and not {"avx512f", "neon", "sve"} & {*instructions}:
        has = "AVX2" if "avx2" in instructions else "no AVX2"
        found.append(Finding("note", f"the processor has {has} and no AVX-512: figures measured with AVX-512 "
                                     "are not reached"))  # fmt: skip
    return found


def _ask_jax(environment: Mapping[str, str], patience: float) -> tuple[dict[str, Any] | None, str]:
    """Return JAX's answers from a separate process; or None, and why not in one line."""
    alone = {**environment, "RESNET_JAX_DISTRIBUTED": "off"}
    try:
        ran = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, env=alone, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"it did not answer within {patience:g} s"
    except OSError as error:
        return None, str(error)
    with_result = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode == 0 and with_result:
        return json.loads(with_result[-1]), ""
    said = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
    return None, said[-1] if said else f"the process ended with status {ran.returncode}"


def _compiler_version(compiler: str) -> str:
    try:
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "(does not answer)"
    return f"({said.splitlines()[0]})" if said.strip() else ""


def _caches(findings: list[Finding]) -> dict[str, Any]:
    folder = cache_directory()
    found: dict[str, Any] = {"directory": _home(folder)}
    names = {"xla": "compiled programs", "native": "compiled C++", "weights": "fetched weights", "indices": "indexes"}
    for name, says in names.items():
        files, size = _size(folder / name)
        found[says] = f"{files} files, {size / 2**20:.1f} MiB" if files else "none"
    if program_directory() is None:
        findings.append(Finding("slow", f"{VARIABLE} is off: every start compiles its programs again"))
    elif (reason := why_not_writable(folder)) is not None:
        findings.append(Finding("slow", f"compiled programs are not kept, {_home(folder)}: {reason}; {VARIABLE} names "
                                        "another directory"))  # fmt: skip
    if sys.dont_write_bytecode and (without := _without_bytecode()):
        findings.append(Finding("slow", f"every start compiles Python's sources again, those of {without} among them: "
                                        "PYTHONDONTWRITEBYTECODE is set, and nothing was compiled when they were "
                                        "installed; unset it, or `uv sync --compile-bytecode` once"))  # fmt: skip
    if folder.exists() and shutil.disk_usage(folder).free < 1 << 30:
        findings.append(Finding("slow", f"less than 1 GiB is free where {_home(folder)} is"))
    return found


def _without_bytecode(packages: Sequence[str] = ("jax", "numpy")) -> str | None:
    """Return the first of some packages whose sources are not compiled to bytecode here."""
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.cached is not None and not Path(spec.cached).exists():
            return package
    return None


def _data(environment: Mapping[str, str]) -> dict[str, Any]:
    folder = Path(environment.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    sets = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    runs = Path("runs")
    count = sum((path / "config.yaml").is_file() for path in runs.iterdir()) if runs.is_dir() else 0
    return {
        f"TensorFlow Datasets in {_home(folder)}": sets or "none",
        "runs in ./runs": count or "none",
    }


def _extras(findings: list[Finding]) -> dict[str, Any]:
    """Return each extra with what it enables, and whether its packages are installed."""
    found: dict[str, Any] = {}
    requirements = _requirements()
    try:
        provided = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        findings.append(
            Finding("note", f"{DISTRIBUTION} is not installed: what it requires and its extras are unknown")
        )
        return {"-": "unknown"}
    for extra in sorted(provided, key=lambda name: [*EXTRAS, name].index(name)):
        enables = EXTRAS.get(extra, "")
        needs = [each for each in requirements if each.marker and each.marker.evaluate({"extra": extra})
                 and not each.marker.evaluate({"extra": ""})]  # fmt: skip
        names = [name for each in needs for name in _packages_of(each)]
        missing = [name for name in names if _version(name) is None]
        there = bool(names) and not missing
        found[extra] = f"{'present' if there else 'absent '}  {enables}" + (
            "" if there or len(missing) == len(names) else f" (lacks {', '.join(missing)})"
        )
    return found


def _packages_of(requirement: Any) -> list[str]:
    """Return the packages of a requirement: for ``jax[cuda12]`` its plugin, because JAX itself is always installed."""
    plugins = {"cuda12": "jax-cuda12-plugin", "cuda13": "jax-cuda13-plugin", "tpu": "libtpu"}
    return [plugins[extra] for extra in requirement.extras if extra in plugins] or [requirement.name]


def _size(folder: Path) -> tuple[int, int]:
    files = size = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(here, name)).st_size
                files += 1
            except OSError:  # it went meanwhile
                continue
    return files, size


def _home(path: Path) -> str:
    """Return a path for a report, without the user's name.

    >>> _home(Path.home() / "x")
    '~/x'
    """
    return re.sub(rf"^{re.escape(str(Path.home()))}(?=/|$)", "~", str(path))
