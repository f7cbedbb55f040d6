r"""The degradation problem: a deeper plain network has a higher training error, a deeper residual network does not.

Claim examined: He et al. 2016 (arXiv 1512.03385), figure 6 and table 6. The training error of plain networks with 20,
32, 44 and 56 layers rises with depth, although the deeper ones contain the shallower ones, and that of 110 layers stays
above 60 %. With skips, 110 layers have the lowest training error and 6.43 % test error (best of five; 20 layers 8.75 %,
56 layers 6.97 %).

The full study is the recipe `cifar10-resnet20` unchanged (64,000 steps of 128 images of 32 pixels), for an accelerator.
The paper warms up its 110 layers at learning rate 0.01 (here: a linear rise from there over 400 steps):

    for net in plain20 plain56 plain110 resnet20 resnet56 resnet110; do
        uv run resnet-jax train cifar10-resnet20 --model.name ${net}_cifar --train.depth-every "640 steps" \
            --optim.schedule.warmup "400 steps" --optim.schedule.warmup-start-factor 0.1
    done

This script runs a reduced version that a CPU can do, **not comparable with published errors**. The question is whether
the optimizer can fit the images it sees, so there are few of them (the first 150 of each class), at 16 pixels, without
augmentation, and they are repeated 26 times, often enough to be memorized: 600 steps of 64 images, with the paper's
learning rate for half its batch (0.05), divided by 10 at 50 % and 75 %. Every network warms up for 100 steps, because
in such a short run one that diverges at the start does not recover:

    uv run python experiments/degradation.py --data FOLDER --out experiments/results/degradation

FOLDER contains train/CLASS/* and test/CLASS/* (JPEG CIFAR-10). An interrupted run resumes; `--smoke` runs everything at
a small size, on built-in images. Hardware, time and result: experiments/results/degradation/README.md. Expected: the
training error of plain networks rises with depth, with plain-110 far above the others; that of residual networks does
not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from resnet_jax import RunConfig, fit, load_recipe
from resnet_jax.report.canvas import BLUE, GREEN, VERMILION, new_figure
from resnet_jax.report.depth_axes import BLOCK, DepthAxis, mark_stages
from resnet_jax.report.depth_file import GradientHistory, read_depth
from resnet_jax.report.depth_report import readable
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.runs.config import DataConfig
from resnet_jax.runs.evaluate import evaluate_run, load_run
from resnet_jax.runtime.cache import keep_compiled_programs
from resnet_jax.runtime.malloc import keep_freed_memory
from resnet_jax.training.options import ScheduleConfig

KINDS = {"plain": "plain", "resnet": "residual"}
LOOKS = ((BLUE, "-"), (VERMILION, (0, (5, 1.6))), (GREEN, (0, (1.4, 1.2))))


@dataclasses.dataclass(frozen=True)
class Study:
    """What is trained: every kind at every depth with every seed."""

    data: DataConfig
    depths: tuple[int, ...] = (20, 56, 110)
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 600
    batch_size: int = 64
    rate: float = 0.05
    warmup: int = 100
    depth_every: int = 8
    stage_sizes: tuple[int, ...] | None = None
    """Blocks per stage, where they are not the named network's (only the small try-out has that)."""
    steps_per_dispatch: int | None = None

    def config(self, kind: str, depth: int, seed: int) -> RunConfig:
        """Return one run: the paper's optimizer, shortened; its rate for half its batch, and every net warms up."""
        recipe = load_recipe("cifar10-resnet20")
        schedule = ScheduleConfig(
            "multistep", warmup=f"{self.warmup} steps", warmup_start_factor=0.1, milestones=("50%", "75%"), factor=0.1
        )
        sizes = self.stage_sizes
        widths = None if sizes is None else (4, 8)
        return dataclasses.replace(
            recipe,
            model=recipe.model.replace(name=f"{kind}{depth}_cifar", stage_sizes=sizes, widths=widths),
            data=self.data,
            train=dataclasses.replace(
                recipe.train, length=f"{self.steps} steps", limit=None, batch_size=self.batch_size,
                validate_every="100 epochs",
                log_every="10 steps", depth_every=f"{self.depth_every} steps",
                steps_per_dispatch=self.steps_per_dispatch,
            ),
            optim=dataclasses.replace(recipe.optim, learning_rate=self.rate, schedule=schedule),
            seed=seed,
        )  # fmt: skip


def part_of(source: Path, target: Path, *, train: int, test: int) -> Path:
    """Link the first ``train`` and ``test`` images of every class, in the order of names, into ``target``."""
    for split, images in (("train", train), ("test", test)):
        for folder in sorted((source / split).iterdir()):
            (target / split / folder.name).mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.iterdir())[:images]:
                link = target / split / folder.name / file.name
                if not link.is_symlink():
                    link.symlink_to(file.resolve())
    return target


def measure(study: Study, runs: Path, console: Console) -> list[dict[str, Any]]:
    """Train what is not yet trained and return one row per run."""
    rows = []
    for seed in study.seeds:
        for depth in reversed(study.depths):
            for kind in reversed(KINDS):
                run = runs / f"{kind}{depth}-seed{seed}"
                summary = fit(study.config(kind, depth, seed), run, console=console).summary
                rows.append({"kind": kind, "depth": depth, "seed": seed, **result(run, summary)})
    return rows


def result(run: Path, summary: Any) -> dict[str, Any]:
    """Return the figures of a finished run: errors as shares, and gradient of block 0 over that of the last block."""
    stored = run / "train-images.json"  # the final state on its own training images, without augmentation or learning
    if not stored.is_file():
        final = evaluate_run(load_run(run), "train")
        stored.write_text(json.dumps({"error": 1 - final.accuracy, "loss": final.loss}))
    final = json.loads(stored.read_text())
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "epoch"]
    epochs = [row for row in rows if float(row["epoch"]).is_integer()] or rows  # the last one may be a few steps only
    history = read_depth(run / "depth.jsonl")
    ratio = history.grad_norm[:, 0] / history.grad_norm[:, -1]
    return {
        "training_error": 1 - epochs[-1]["accuracy"],
        "training_loss": epochs[-1]["loss"],
        "final_training_error": final["error"],
        "final_training_loss": final["loss"],
        "test_error": 1 - summary.test_accuracy,
        "steps": summary.steps,
        "gradient_ratio_first": float(ratio[0]),
        "gradient_ratio_last": float(ratio[-1]),
        "images_per_second": summary.images_per_second,
        "seconds": summary.seconds,
        "curve": {"step": [row["step"] for row in epochs], "error": [1 - row["accuracy"] for row in epochs]},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table: mean and sample standard deviation over seeds in percent, ratios' geometric mean."""
    shares = {
        "training_error": "training error (%), last epoch",
        "final_training_error": "training error (%), final state",
        "test_error": "test error (%)",
    }
    ratios = {"gradient_ratio_first": "gradient ratio, step 1", "gradient_ratio_last": "gradient ratio, last"}
    lines = [["network", *shares.values(), *ratios.values()], ["---", *["---:"] * (len(shares) + len(ratios))]]
    for kind, depth in sorted({(row["kind"], row["depth"]) for row in rows}):
        chosen = [row for row in rows if (row["kind"], row["depth"]) == (kind, depth)]
        values = [100 * np.array([row[key] for row in chosen]) for key in shares]
        spread = [f" ± {value.std(ddof=1):.1f}" if len(chosen) > 1 else "" for value in values]
        errors = [f"{value.mean():.1f}{more}" for value, more in zip(values, spread, strict=True)]
        means = [np.exp(np.mean(np.log([row[key] for row in chosen]))) for key in ratios]
        lines.append([f"{KINDS[kind]} {depth}", *errors, *map(readable, means)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw_errors(rows: Sequence[dict[str, Any]], depths: Sequence[int], path: Path) -> None:
    """Draw training error over steps, plain nets left, residual nets right: figure 6 of the paper."""
    figure = new_figure((8.4, 4.1), dpi=150)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        for depth, (color, dash) in zip(depths, LOOKS, strict=False):
            curves = [row["curve"] for row in rows if (row["kind"], row["depth"]) == (kind, depth)]
            error = 100 * np.array([curve["error"] for curve in curves])
            axes.plot(
                curves[0]["step"], error.mean(axis=0), color=color, linestyle=dash, linewidth=1.7,
                label=f"{depth} layers",
            )  # fmt: skip
            axes.fill_between(curves[0]["step"], error.min(axis=0), error.max(axis=0), color=color, alpha=0.18, lw=0)
        axes.set(xlabel="training step", ylabel="training error, %", ylim=(-2, 93))
        axes.set_title(f"{title} networks", fontsize=11)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="upper right" if kind == "resnet" else "lower left")
    panels[1].set_ylabel("")
    seeds = len({row["seed"] for row in rows})
    spread = f"mean of {seeds} seeds, shaded from lowest to highest" if seeds > 1 else "one seed"
    figure.suptitle(f"Training error by number of layers ({spread})", fontsize=12)
    figure.savefig(path)


def draw_gradients(histories: dict[str, GradientHistory], path: Path) -> None:
    """Draw the gradient at every block over that at the last, over depth and time, one panel a net, common colours."""
    from matplotlib.colors import LogNorm

    shares = {name: history.grad_norm / history.grad_norm[:, -1:] for name, history in histories.items()}
    seen = np.concatenate([share[np.isfinite(share) & (share > 0)] for share in shares.values()])
    norm = LogNorm(*np.quantile(seen, (0.005, 0.995)))
    figure = new_figure((8.4, 4.1), dpi=150)
    panels = figure.subplots(1, len(histories), sharey=True)
    mesh = None
    for axes, (name, history) in zip(panels, histories.items(), strict=True):
        x = np.arange(len(history.stage) + 1) - 0.5
        gap = np.diff(history.steps, append=2 * history.steps[-1] - history.steps[-2])
        y = np.append(history.steps, history.steps[-1] + gap[-1])
        mesh = axes.pcolormesh(x, y, shares[name], cmap="cividis", norm=norm, rasterized=True)
        mark_stages(axes, DepthAxis(history.stage))
        axes.set_title(f"{name.replace(',', ' network,')}", pad=18, fontsize=11)
        axes.set_xlabel(BLOCK)
    panels[0].set_ylabel("training step")
    bar = figure.colorbar(mesh, ax=list(panels), extend="both")
    bar.set_label("gradient norm relative to\nthe last block (log scale)")
    figure.suptitle("How much gradient reaches each block during training (one seed)", fontsize=12)
    figure.savefig(path)


def report(study: Study, rows: list[dict[str, Any]], runs: Path, out: Path) -> None:
    """Write table, figures and numbers."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(table(rows))
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw_errors(rows, study.depths, out / "training-error.png")
    deepest, seed = study.depths[-1], study.seeds[0]
    histories = {}
    for kind, name in KINDS.items():
        run = runs / f"{kind}{deepest}-seed{seed}"
        shutil.copyfile(run / "depth.jsonl", out / f"{kind}{deepest}-depth.jsonl")
        histories[f"{name}, {deepest} layers"] = read_depth(run / "depth.jsonl")
        config = (run / "config.yaml").read_text()
        (out / f"{kind}{deepest}-config.yaml").write_text(config.replace(study.data.source, "folder:FOLDER"))
    shutil.copyfile(runs / f"plain{deepest}-seed{seed}" / "environment.json", out / "environment.json")
    draw_gradients(histories, out / "gradients.png")


def smoke() -> Study:
    """Return everything small: two blocks of a few channels and a few steps on the embedded digits."""
    data = dataclasses.replace(load_recipe("digits").data, augment=(), val_fraction=0.0)
    few = {"steps": 4, "batch_size": 32, "warmup": 2, "depth_every": 1, "steps_per_dispatch": 4}
    return Study(data, (110,), (0,), stage_sizes=(1, 1), **few)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train/CLASS/* and test/CLASS/*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/degradation"), help="where the runs themselves go")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--train", type=int, default=150, help="training images per class")
    parser.add_argument("--test", type=int, default=50, help="test images per class")
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--smoke", action="store_true", help="everything small, in seconds, on the embedded digits")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        study = smoke()
    elif arguments.data is None:
        parser.error("name the images with --data FOLDER, or try --smoke")
    else:
        images = part_of(
            arguments.data,
            arguments.runs / f"images-{arguments.train}-{arguments.test}",
            train=arguments.train,
            test=arguments.test,
        )
        data = DataConfig(f"folder:{images}", val_fraction=0.0, image_size=arguments.image_size)
        study = Study(data, seeds=tuple(range(arguments.seeds)), steps=arguments.steps, batch_size=arguments.batch_size)
    console = Console()
    report(study, measure(study, arguments.runs, console), arguments.runs, arguments.out)
    console.print(table(json.loads((arguments.out / "results.json").read_text())), markup=False, highlight=False)


if __name__ == "__main__":
    keep_freed_memory()
    keep_compiled_programs()
    main()
