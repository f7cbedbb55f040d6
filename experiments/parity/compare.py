r"""Our networks compared with independent PyTorch implementations, with the same random weights.

Claim: logits agree to 1e-4, the gradient of every parameter to 1e-3 relative (norm of the difference over norm), and
the running statistics after one step to 1e-4 relative, in eval and in train mode, for every case in results/README.md.
That page also says which cases of ``cases.py`` were not run. In float64 the two agree to rounding, which shows that the
remaining difference in float32 is rounding too.

The peers are in an environment of their own:

    python3.11 -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 numpy safetensors transformers timm torchvision pytorchcv   # CPU build of torch
    git clone https://github.com/hongyi-zhang/Fixup; git clone https://github.com/akamaster/pytorch_resnet_cifar10

Command (without names it runs every case; the committed results came from it with the names of the cases listed there.
Name cases, or patterns such as 'timm-*', to run a few):

    uv run python experiments/parity/compare.py --peer PEERS/bin/python \
        --checkout fixup=Fixup --checkout akamaster=pytorch_resnet_cifar10

Hardware and time: 2 CPU cores, one to three minutes per case. Expected: "yes" in every row.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import fnmatch
import json
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES, Case
from safetensors import safe_open

import resnet_jax as rj
from resnet_jax.models import ResNet
from resnet_jax.weights import from_variables, to_variables

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
BARS = {"logits": 1e-4, "grad": 1e-3, "stats": 1e-4}
MODES = ("eval", "train")
#: Each program runs once: XLA's optimizations on the CPU would cost more than they save.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

OWN = "peer's own rounding"

Arrays = dict[str, np.ndarray]


class Reference:
    """The peer's file; see ``peer.py`` for the names in it."""

    def __init__(self, path: Path):
        """Open the file; arrays are read when asked for."""
        self._file = safe_open(path, framework="numpy")
        about = self._file.metadata()
        self.versions = json.loads(about["versions"])
        self.seed = int(about["seed"])
        self.own_rounding = float(about["own_rounding"])
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one array."""
        return self._file.get_tensor(name)

    def group(self, prefix: str) -> Arrays:
        """Return the arrays whose name begins with ``prefix``/, by the rest of it."""
        return {name[len(prefix) + 1 :]: self[name] for name in self._names if name.startswith(f"{prefix}/")}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far ours is from the peer's in one dtype and mode.

    Attributes:
        logits: largest absolute difference.
        scale: largest absolute logit of the peer.
        grad: largest over the parameters of ||ours - theirs|| / ||theirs||.
        grad_at: the parameter it belongs to.
        stats: the same for the running statistics after the step; 0 where there are none.
        stats_at: the statistic it belongs to.
    """

    logits: float
    scale: float
    grad: float
    grad_at: str
    stats: float = 0.0
    stats_at: str = ""

    @property
    def passes(self) -> bool:
        """Whether all is within the bars."""
        return all(getattr(self, name) <= bar for name, bar in BARS.items())


def compare(
    case: Case, reference: Reference, dtype: str = "float32", modes: Sequence[str] = MODES
) -> dict[str, Difference]:
    """Return the difference in each mode; the state dict is read by the package's own conversion.

    Raises:
        ValueError: the state dict, written back, is not what was read.
    """
    choices: dict[str, Any] = {"num_classes": 10, "dtype": dtype, "param_dtype": dtype, **case.choices}
    model = rj.create_model(case.model, **choices)
    state_dict = reference.group("state")
    variables = to_variables(state_dict, model, case.format)
    _check_export(from_variables(variables, model, case.format), state_dict)
    images = jnp.asarray(reference["images"].transpose(0, 2, 3, 1), dtype)
    labels = jnp.asarray(reference["labels"])
    differences = {}
    for mode in modes:
        logits, gradients, stats = _evaluate(model, variables, images, labels, train=mode == "train")
        expected = reference[f"{dtype}/{mode}/logits"]
        ours = _foreign_gradients(gradients, variables, model, case.format)
        theirs = reference.group(f"{dtype}/{mode}/grad")
        grad, grad_at = worst(ours, theirs)
        difference = Difference(
            float(np.max(np.abs(logits - expected))), float(np.max(np.abs(expected))), grad, grad_at
        )
        if mode == "train" and "batch_stats" in variables:
            new = from_variables({"params": variables["params"], "batch_stats": stats}, model, case.format)
            moved, moved_at = worst(_unbiased(new, state_dict, reference), reference.group(f"{dtype}/train/stats"))
            difference = dataclasses.replace(difference, stats=moved, stats_at=moved_at)
        differences[mode] = difference
    return differences


def worst(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """Return the largest ||ours - theirs|| / ||theirs|| over all of ``theirs``, and its name.

    Raises:
        ValueError: one of ``theirs`` has no counterpart.
    """
    absent = sorted(set(theirs) - set(ours))
    if absent:
        raise ValueError(f"nothing of ours stands for {absent[:5]}")
    return max(
        (float(np.linalg.norm(np.subtract(ours[name], array)) / max(np.linalg.norm(array), 1e-30)), name)
        for name, array in theirs.items()
    )


def _evaluate(model: ResNet, variables: Any, images: jax.Array, labels: jax.Array, *, train: bool):
    """Return logits, gradients of the mean cross-entropy and the moved statistics."""

    def loss(params: Any):
        inputs = {**variables, "params": params}
        logits, updates = model.apply(inputs, images, train=train, mutable=["batch_stats"] if train else [])
        log_probabilities = jax.nn.log_softmax(logits)
        return -jnp.mean(log_probabilities[jnp.arange(labels.shape[0]), labels]), (logits, updates)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (_, (logits, updates)), gradients = step(variables["params"])
    return np.asarray(logits), jax.tree.map(np.asarray, gradients), updates.get("batch_stats", {})


def _foreign_gradients(gradients: Any, variables: Any, model: ResNet, format: str) -> Arrays:
    """Return our gradients under the peer's names and in its layout.

    Where a conversion multiplies by a factor f, the gradient goes with 1 / f: what the conversion makes of ones is f.
    """
    stats = {"batch_stats": variables["batch_stats"]} if "batch_stats" in variables else {}
    converted = from_variables({"params": gradients, **stats}, model, format)
    ones = from_variables({"params": jax.tree.map(np.ones_like, gradients), **stats}, model, format)
    return {name: converted[name] / np.square(ones[name]) for name in converted if "running_" not in name}


def _unbiased(ours: Arrays, before: Arrays, reference: Reference, momentum: float = 0.9) -> Arrays:
    """Return our moved statistics as PyTorch has them: the batch's part of a variance times n / (n - 1)."""
    result = {}
    for name, array in ours.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "running_mean":
            result[name] = array
        elif leaf == "running_var":
            n = int(reference[f"count/{module}"])
            kept = momentum * before[name].astype(np.float64)
            result[name] = kept + (array - kept) * n / (n - 1)
    return result


def _check_export(written: Arrays, read: Arrays) -> None:
    """Check that export is the inverse of import: same names, shapes and values (to the last bit or the one beside)."""
    if set(written) != set(read):
        raise ValueError(f"export has other names: {sorted(set(written) ^ set(read))[:5]}")
    for name, array in read.items():
        if written[name].shape != array.shape or not np.allclose(written[name], array, rtol=2e-7, atol=0):
            raise ValueError(f"export changed {name}")


def run(name: str, peer: str, checkouts: list[str], folder: Path, *, float64: bool) -> dict[str, Any]:
    """Compute the reference of one case, compare, and return the row of the results."""
    file = folder / "reference.safetensors"
    command = [peer, str(HERE / "peer.py"), name, str(file)]
    command += [part for checkout in checkouts for part in ("--checkout", checkout)]
    subprocess.run(command + ([] if float64 else ["--float32-only"]), check=True)
    reference = Reference(file)
    case = CASES[name]
    dtypes = ["float32", "float64"] if float64 else ["float32"]
    measured = {dtype: compare(case, reference, dtype) for dtype in dtypes}
    file.unlink()
    return {
        "peer": reference.versions,
        "seed": reference.seed,
        OWN: reference.own_rounding,
        "build": case.build,
        "model": case.model,
        "choices": case.choices,
        "images": [case.batch, case.image_size, case.image_size, 3],
        "passes": all(difference.passes for modes in measured.values() for difference in modes.values()),
        **{d: {mode: dataclasses.asdict(x) for mode, x in modes.items()} for d, modes in measured.items()},
        "ours": {"jax": jax.__version__, "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }


def table(rows: Mapping[str, Any]) -> str:
    """Return the results as markdown."""
    lines = [
        "| case | our network | logits, eval | logits, train | gradients, eval | gradients, train | statistics "
        "| peer's own rounding | gradients, eval, float64 | gradients, train, float64 | passes |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        single, double = row["float32"], row.get("float64")
        model = row["model"] + "".join(f", {key} {value}" for key, value in row["choices"].items())
        model = model.replace("[", "(").replace("]", ")")
        cells = [
            *(f"{single[mode]['logits']:.1e} of {single[mode]['scale']:.1f}" for mode in MODES),
            *(f"{single[mode]['grad']:.1e}" for mode in MODES),
            f"{single['train']['stats']:.1e}" if single["train"]["stats_at"] else "none",
            f"{row[OWN]:.1e}",
            *(f"{double[mode]['grad']:.1e}" if double else "" for mode in MODES),
            "yes" if row["passes"] else "**no**",
        ]
        lines.append(f"| {name} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def report(rows: Mapping[str, Any]) -> str:
    """Return the page that goes with the figures."""
    peers = sorted({f"{name} {version}" for row in rows.values() for name, version in row["peer"].items()})
    ours = sorted({f"jax {row['ours']['jax']}, Python {row['ours']['python']}" for row in rows.values()})
    dates = sorted({row["date"] for row in rows.values()})
    passed = sum(row["passes"] for row in rows.values())
    others = ", ".join(name for name in CASES if name not in rows) or "none"
    bars = (
        "{logits:.0e} for logits, {grad:.0e} for the gradient of every parameter and {stats:.0e} for the statistics "
        "after a step, the last two relative"
    ).format_map(BARS)
    return f"""# Parity with PyTorch

With the same weights, {passed} of the {len(rows)} cases that were run agree within the tolerances: {bars}.
[cases.py](../cases.py) lists {len(CASES)} cases; not run: {others}.
All parameters and statistics are random. The docstring of [compare.py](../compare.py) has the command, and
[parity.json](parity.json) every figure.

Peers: {", ".join(peers)}. Ours: {"; ".join(ours)}. CPU, {" to ".join(sorted({dates[0], dates[-1]}))}.

For logits the table shows the largest absolute difference, "of" the largest logit. For gradients and statistics it
shows the largest relative difference of any tensor, norm over norm. PyTorch updates its running variance with
n / (n - 1) times the variance of the batch, this package with the variance itself; the comparison accounts for that. In
the float64 columns both sides compute in float64.

ReLU has a kink. Where a pre-activation lies within rounding of 0, its slope differs between any two float32 programs,
and one such place in half a million changes a gradient by about the tolerance. "Peer's own rounding" is the largest
relative difference between PyTorch's float32 and float64 gradients, in both modes. The seed of a case is the first of
four for which this is below 1e-4 (otherwise the best of the four), so only the peer determines which weights are
compared.

{table(rows)}"""


def main() -> None:
    """Run the chosen cases; each one's row replaces the older one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["*"], help="names or patterns")
    parser.add_argument("--peer", required=True, help="the Python with the peers")
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--float32-only", action="store_true")
    parser.add_argument("--missing", action="store_true", help="leave out what has a row already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # for the float64 half; the dtypes are all explicit
    chosen = [name for name in CASES if any(fnmatch.fnmatch(name, pattern) for pattern in options.cases)]
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "parity.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for name in chosen:
        if options.missing and name in known:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = run(name, options.peer, options.checkout, Path(folder), float64=not options.float32_only)
        rows = {**(json.loads(file.read_text()) if file.exists() else {}), name: json.loads(json.dumps(row))}
        rows = {name: rows[name] for name in CASES if name in rows}
        file.write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "README.md").write_text(report(rows))
        print(table({name: rows[name]}).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
