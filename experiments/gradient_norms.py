r"""The norm of the gradient at every block: eight kinds of networks, 20 to 1,202 layers, new and in training.

Claims examined. A plain network with He et al.'s initialization preserves the gradient's norm (arXiv 1502.01852). Batch
norm makes it grow by sqrt(pi/(pi-1)) = 1.21 per layer towards the input, 1.47 per block of two (Yang et al. 2019, arXiv
1902.08129). In a residual network without normalization it grows by up to sqrt(2) per block (Zhang et al., arXiv
1901.09321; De and Smith 2020, arXiv 2002.10444). Batch norm on the branch biases blocks towards the identity, and the
variance grows linearly (2002.10444): the gradient grows like a power of depth, not exponentially. Fixup, SkipInit and
ReZero (2003.04887) start as the identity: it does not grow. In NF nets (Brock et al. 2021, arXiv 2101.08692) a block
adds alpha^2 = 0.04 to a variance of at least 1: at most sqrt(1.04) = 1.02 per block.

    uv run python experiments/gradient_norms.py --data FOLDER --out experiments/results/gradient-norms --part initial
    uv run python experiments/gradient_norms.py --data FOLDER --out experiments/results/gradient-norms --part training

FOLDER contains train/CLASS/*. Reduced: images at 16 pixels, small batches, a few dozen steps. ``--smoke`` needs no data
and takes seconds. Hardware, time and result: experiments/results/gradient-norms/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax import compile_train_step, create_model, create_state, make_mesh, make_train_step
from resnet_jax.data.digits import load_digits
from resnet_jax.data.folder import load_folder
from resnet_jax.depth import BlockNames, profile
from resnet_jax.instrument.probing import chart_blocks
from resnet_jax.models import init_variables
from resnet_jax.report.canvas import new_figure
from resnet_jax.report.depth_axes import INK, LOOKS, plain

#: The networks: the choices that make them of a residual network.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "none", "norm": "none"},
    "plain + BN": {"shortcut": "none", "norm": "batch"},
    "residual": {"order": "pre", "norm": "none"},
    "residual + BN": {"order": "pre", "norm": "batch"},
    "Fixup": {"norm": "none", "residual": "fixup"},
    "SkipInit": {"norm": "none", "residual": "skipinit", "order": "pre"},
    "ReZero": {"norm": "none", "residual": "rezero"},
    "NF": {"norm": "none", "residual": "nf"},
}
#: What a figure calls them, where that is more.
TITLES = {"plain + BN": "plain + batch norm", "residual + BN": "residual + batch norm", "NF": "normalizer-free (NF)"}
SEED = 0
#: Steps of a training whose norms at every block are written; the ratio of first to last is, for all of them.
KEPT = 13


def build(kind: str, depth: int, **choices: Any) -> Any:
    """Return a network. Its classifier is not zero, as Fixup's and SkipInit's are: else every gradient starts at 0."""
    chosen: dict[str, Any] = {"head_init": "torch_uniform", **KINDS[kind], **choices}
    return create_model(f"resnet{depth}_cifar", **chosen)


def load_images(folder: Path | None, *, per_class: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return normalized images ``(n, size, size, 3)`` and their classes, shuffled; without folder the 8x8 digits."""
    if folder is None:
        records = load_digits(3).splits["all"]
        images = np.stack([records[i]["image"] for i in range(10 * per_class)])
        labels = np.asarray(records.labels)[: 10 * per_class]
    else:
        records = load_folder(str(folder)).splits["train"]
        rows = np.concatenate([np.flatnonzero(records.labels == label)[:per_class] for label in range(10)])
        pixels = [cv2.resize(records[int(row)]["image"], (size, size), interpolation=cv2.INTER_AREA) for row in rows]
        images, labels = np.stack(pixels), np.asarray(records.labels)[rows]
    images = images.astype(np.float32)
    images = (images - images.mean((0, 1, 2))) / images.std((0, 1, 2))
    order = np.random.default_rng(SEED).permutation(len(images))
    return images[order], labels[order].astype(np.int32)


def growth(norms: np.ndarray, stages: np.ndarray) -> dict[str, float | None]:
    """Return how the norm at the first block compares with the last's, and the growth per block towards the input.

    The growth is the geometric mean over neighbours of one stage; between stages widths and sizes change.

    >>> growth(np.array([8.0, 4.0, 3.0, 1.5]), np.array([0, 0, 1, 1]))["per_block"]
    2.0
    """
    norms = np.asarray(norms, np.float64)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        return {"first_over_last": None, "per_block": None}
    inside = np.diff(stages) == 0
    steps = (np.log(norms[:-1]) - np.log(norms[1:]))[inside]
    return {"first_over_last": float(norms[0] / norms[-1]), "per_block": float(np.exp(steps.mean()))}


def at_start(kind: str, depth: int, images: np.ndarray, labels: np.ndarray, **choices: Any) -> dict[str, Any]:
    """Profile one network at initialization."""
    start = time.perf_counter()
    model = build(kind, depth, **choices)
    variables = jax.jit(lambda key: init_variables(model, key, images.shape[1:]))(jax.random.key(SEED))
    found = profile(model, variables, jnp.asarray(images), jnp.asarray(labels))
    return {
        "kind": kind,
        "depth": depth,
        "stage": found.stage.tolist(),
        "grad_norm": _listed(found.grad_norm),
        "act_var": _listed(found.act_var),
        **growth(found.grad_norm, found.stage),
        "seconds": round(time.perf_counter() - start, 1),
    }


def in_training(
    kind: str,
    depth: int,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int,
    batch: int,
    rate: float,
    **choices: Any,
) -> dict[str, Any]:
    """Train one network, SGD with momentum 0.9 and a linear warm-up, with the probe in every step."""
    start = time.perf_counter()
    model = build(kind, depth, **choices)
    shape = images.shape[1:]
    mesh = make_mesh()
    tx = optax.sgd(optax.linear_schedule(0.0, rate, max(steps // 5, 1)), momentum=0.9)
    state = create_state(model, tx, jax.random.key(SEED), shape, mesh=mesh)
    step = compile_train_step(make_train_step(model, tx, probe=BlockNames()), mesh)
    norms, losses, rejected = [], [], 0
    for number in range(steps):
        rows = np.arange(number * batch, (number + 1) * batch) % len(images)
        state, metrics = step(state, {"image": images[rows], "label": labels[rows]})
        norms.append(np.asarray(metrics["block_grad_norm"], np.float64))
        losses.append(float(metrics["loss"]))
        rejected += int(metrics["rejected"])
    kept = np.unique(np.linspace(0, steps - 1, min(steps, KEPT)).round().astype(int))
    stages = np.asarray(chart_blocks(model, shape, batch, BlockNames()).stages)
    return {
        "kind": kind,
        "depth": depth,
        "steps": steps,
        "batch": batch,
        "rate": rate,
        "rejected": rejected,
        "loss": _listed(np.asarray(losses)),
        "stage": stages.tolist(),
        "kept_steps": kept.tolist(),
        "grad_norm": [_listed(norms[step]) for step in kept],
        "growth": [growth(row, stages) for row in norms],
        "seconds": round(time.perf_counter() - start, 1),
    }


def _listed(values: np.ndarray) -> list[float | None]:
    """Four digits each; what is not finite is null."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def _values(row: list[float | None]) -> np.ndarray:
    return np.asarray([np.nan if value is None else value for value in row], np.float64)


def _multiples(kinds: list[str], ylabel: str, xlabel: str) -> tuple[Any, dict[str, Any]]:
    columns = min(4, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = new_figure((2.25 * columns, 2.1 * rows + 1.1))
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for ax, kind in zip(axes.flat, kinds, strict=False):
        plain(ax)
        ax.set_title(TITLES.get(kind, kind), fontsize=10, color=INK)
        ax.set_yscale("log")
        ax.locator_params(axis="x", nbins=3)
        ax.tick_params(labelbottom=True)
        ax.axhline(1, color=INK, linewidth=0.7, alpha=0.6)
    for ax in axes.flat[len(kinds) :]:
        ax.set_visible(False)
    figure.supylabel(ylabel, fontsize=10, color=INK)
    for ax in axes[-1]:
        ax.set_xlabel(xlabel, fontsize=9, color=INK)
    return figure, dict(zip(kinds, axes.flat, strict=False))


def _finish(figure: Any, axes: dict[str, Any], path: Path, title: str) -> None:
    for ax in axes.values():
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0.09), max(high, 11.0))  # what hardly changes shall look so
        if not ax.get_legend_handles_labels()[0]:
            ax.text(0.5, 0.6, "no ratio: 0 or not finite", transform=ax.transAxes, ha="center", color=INK)
    most = max(axes.values(), key=lambda ax: len(ax.get_legend_handles_labels()[0]))
    handles, labels = most.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12, color=INK)
    figure.savefig(path, dpi=145, facecolor="white")


def draw_start(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the norm by depth, relative to the last block's, a panel for each kind and a line for each depth."""
    depths = sorted({row["depth"] for row in rows})
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    figure, axes = _multiples(
        kinds,
        "gradient norm relative to the last block (log scale)",
        "block (0: first, 1: last)",
    )
    for row in rows:
        look = {**LOOKS[depths.index(row["depth"]) % 4], "marker": ""}
        norms = _values(row["grad_norm"])
        if np.isfinite(norms).any() and np.nanmin(norms) > 0:
            axes[row["kind"]].plot(
                np.linspace(0, 1, len(norms)), norms / norms[-1], linewidth=1.3, label=f"{row['depth']} layers", **look
            )
    said = "Gradient norm through depth at initialization (one seed)\ngap or missing line: 0 or not finite"
    _finish(figure, axes, path, said)


def draw_training(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the norm at the first block over that at the last by step, a panel for each kind, a line for each depth."""
    depths = sorted({row["depth"] for row in rows})
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    figure, axes = _multiples(kinds, "gradient norm: first block / last block (log scale)", "training step")
    for row in rows:
        look = {**LOOKS[depths.index(row["depth"]) % 4], "marker": ""}
        ratio = _values([at["first_over_last"] for at in row["growth"]])
        if np.isfinite(ratio).any():
            axes[row["kind"]].plot(ratio, linewidth=1.2, label=f"{row['depth']} layers", **look)
    said = "Gradient that reaches the first block, by training step (one seed)\ngap or missing line: 0 or not finite"
    _finish(figure, axes, path, said)


def _number(value: float | None, otherwise: str = "not finite") -> str:
    return otherwise if value is None else f"{value:.3g}"


def table_start(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: first over last and, in brackets, growth per block, by kind and depth."""
    depths = sorted({row["depth"] for row in rows})
    found = {(row["kind"], row["depth"]): row for row in rows}
    lines = ["| network |" + "".join(f" {depth} layers |" for depth in depths), "|---|" + "---:|" * len(depths)]
    for kind in KINDS:
        cells = []
        for depth in depths:
            row = found.get((kind, depth))
            cell = ""
            if row is not None and row["per_block"] is not None:
                cell = f"{_number(row['first_over_last'])} ({row['per_block']:.3f})"
            elif row is not None:
                overflow = None in row["grad_norm"] or None in row["act_var"]  # behind a NaN, ReLU's gradient is 0
                cell = "overflow" if overflow else "0 everywhere" if not any(row["grad_norm"]) else "0"
            cells.append(cell)
        if any(cells):
            lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def table_training(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: first over last before the first update and at the end (none: it is 0 or not finite)."""
    lines = [
        "| network | layers | gradient ratio, step 0 | gradient ratio, median of the last tenth | loss, first step "
        "| loss, last tenth | rejected steps |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: (row["depth"], list(KINDS).index(row["kind"]))):
        tail = max(row["steps"] // 10, 1)
        ratios = _values([at["first_over_last"] for at in row["growth"]])
        losses = _values(row["loss"])
        end, loss = (float(np.median(x[-tail:])) for x in (ratios, losses))
        lines.append(
            f"| {row['kind']} | {row['depth']} | {_number(row['growth'][0]['first_over_last'], 'none')} | "
            f"{_number(end if np.isfinite(end) else None, 'none')} | {_number(row['loss'][0])} | "
            f"{_number(loss if np.isfinite(loss) else None)} | {row['rejected']} of {row['steps']} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Read the arguments and run; what is there after every network is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("initial", "training"), default="initial")
    parser.add_argument("--depths", type=int, nargs="+")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--batch", type=int, help="default 8 for initial, 32 for training")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--smoke", action="store_true", help="tiny networks on the embedded digits")
    given = parser.parse_args(arguments)
    initial = given.part == "initial"
    if given.data is None and not given.smoke:
        parser.error("give --data FOLDER, or --smoke")
    batch = given.batch or (8 if initial else 32)
    depths = given.depths or ([20, 56, 110, 1202] if initial else [20, 56])
    choices: dict[str, Any] = {}
    if given.smoke:
        depths, choices = [20], {"stage_sizes": (3, 2), "widths": (4, 8)}
    source = None if given.smoke else given.data
    images, labels = load_images(source, per_class=10 if initial or given.smoke else 200, size=given.image_size)
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for depth in depths:
        for kind in given.kinds:
            if initial:
                row = at_start(kind, depth, images[:batch], labels[:batch], **choices)
            else:
                row = in_training(
                    kind, depth, images, labels, steps=given.steps, batch=batch, rate=given.rate, **choices
                )
            rows.append(row)
            jax.clear_caches()
            print(f"{given.part} {kind}, {depth} layers: {row['seconds']} s", flush=True)
            record = {
                "command": "experiments/gradient_norms.py " + " ".join(_hidden(arguments, given.data)),
                "date": datetime.date.today().isoformat(),
                "versions": {"python": platform.python_version(), "jax": jax.__version__},
                "device": jax.devices()[0].device_kind,
                "image_size": images.shape[1],
                "batch": batch,
                "rows": rows,
            }
            (given.out / f"{given.part}.json").write_text(json.dumps(record) + "\n")
    draw, tabulate = (draw_start, table_start) if initial else (draw_training, table_training)
    draw(rows, given.out / f"{given.part}.png")
    (given.out / f"{given.part}.md").write_text(tabulate(rows))


def _hidden(arguments: list[str] | None, data: Path | None) -> list[str]:
    """Return the command line without the place of the data."""
    given = sys.argv[1:] if arguments is None else arguments
    return ["FOLDER" if data is not None and word == str(data) else word for word in given]


if __name__ == "__main__":
    main()
