"""Draw the committed pictures again from the numbers that are committed beside them: nothing is trained.

    python experiments/redraw.py [NAME ...]

NAME is a folder of experiments/results, such as ``digits`` or ``degradation``; without one all are drawn that can be.
Not among them are pictures that need images, weights or files of a run that are not committed: the contact sheets of
``data/sheets`` (experiments/data_sheets.py), ``explain/sheet.png`` (experiments/explain.py), ``bands/scenes.png``,
``two_towers/spoken-written.png``, and the confusion matrices of ``digits`` and ``cifar10-resnet20-10ep``. One CPU core:
a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import yaml

from resnet_jax.ablation.cell import load_result
from resnet_jax.ablation.directory import AblationDirectory
from resnet_jax.ablation.grid import Axis, make_cells
from resnet_jax.ablation.result import CellResult
from resnet_jax.ablation.run import curves_of
from resnet_jax.depth.arrays import open_arrays
from resnet_jax.report.ablation_plot import plot_ablation
from resnet_jax.report.depth_file import read_depth
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.report.plots import plot_confusion, plot_curves
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.outcome import Pictures
from resnet_jax.tasks.confusion import Confusion

RESULTS = Path(__file__).parent / "results"
#: Bytes from which a picture gets fewer colors.
LARGE = 120_000
#: Runs without config.yaml and data.json -> network, data and recipe.
BARE = {
    "languages/run": "vdcnn9 on 10 languages (recipe text-languages, seed 0)",
    "ucr/osuleaf": "resnet_ts on OSULeaf (recipe ucr, seed 0)",
}


def experiment(name: str) -> ModuleType:
    """Return another script of this folder as a module."""
    if str(Path(__file__).parent) not in sys.path:
        sys.path.insert(0, str(Path(__file__).parent))
    return importlib.import_module(name)


def run_pictures(folder: Path, where: Path) -> None:
    """Draw what the committed files of a run allow: learning curves, and what there are arrays of."""
    if str(where) in BARE:
        title, summary = BARE[str(where)], json.loads((folder / "summary.json").read_text())
        plot_curves(read_metrics(folder / "metrics.jsonl"), folder / "curves.png", title=f"Learning curves: {title}")
        if (folder / "confusion.npz").is_file():
            counts = open_arrays(folder / "confusion.npz")
            found = Confusion(int(counts["classes"]), *(counts[name] for name in ("true", "predicted", "counts")))
            right, total = summary["test_correct"], summary["test_examples"]
            title = f"Confusion matrix: {title}; {right:,} of {total:,} test examples correct"
            title += f" ({100 * right / total:.1f} %)"
            plot_confusion(found, list(summary["per_class"]["f1"]), folder / "confusion.png", title=title)
        return
    run = RunDirectory(folder)
    drawn_of = {run.curves: run.metrics, run.confusion: run.confusion_counts, run.examples_picture: run.examples}
    drawn_of[run.task_gradients_picture] = run.task_gradients
    for picture, source in drawn_of.items():
        if source.is_file():
            picture.unlink(missing_ok=True)
    config = run.read_config()
    data = dataclasses.replace(config.data, source=config.data.source.replace("FOLDER", str(where).partition("-")[0]))
    Pictures(run, dataclasses.replace(config, data=data), lambda _: None).draw_missing()
    for picture in drawn_of:  # some lie one folder up, beside the README that shows them
        above = folder.parent / picture.name
        if picture.is_file() and above.is_file():
            picture.replace(above)


def degradation(folder: Path) -> None:
    """Draw training error and gradients."""
    module = experiment("degradation")
    module.draw_errors(
        json.loads((folder / "results.json").read_text()), module.Study.depths, folder / "training-error.png"
    )
    found = {f"{kind}, 110 layers": f"{name}110" for name, kind in module.KINDS.items()}
    histories = {title: read_depth(folder / f"{name}-depth.jsonl") for title, name in found.items()}
    module.draw_gradients(histories, folder / "gradients.png")


def thousand_layers(folder: Path) -> None:
    """Draw losses and gradients."""
    module = experiment("thousand_layers")
    module.draw_losses(json.loads((folder / "results.json").read_text()), folder / "loss.png")
    histories = {name: read_depth(folder / f"{net}-depth.jsonl") for net, name in module.NETS.items()}
    module.draw_gradients(histories, folder / "gradients.png")


def gradient_norms(folder: Path) -> None:
    """Draw the norms at the start and while training."""
    module = experiment("gradient_norms")
    for part, draw in (("initial", module.draw_start), ("training", module.draw_training)):
        draw(json.loads((folder / f"{part}.json").read_text())["rows"], folder / f"{part}.png")
    more = folder / "1202-layers"
    module.draw_training(json.loads((more / "training.json").read_text())["rows"], more / "training.png")


def shattering(folder: Path) -> None:
    """Draw the autocorrelations, and the gradients of one draw, which are computed again in seconds."""
    module = experiment("shattering")
    module.draw_correlations(json.loads((folder / "results.json").read_text()), folder / "autocorrelation.png")
    module.draw_gradients(module.shown_gradients(module.Size()), folder / "gradients.png")


def drift(folder: Path) -> None:
    """Draw the distances."""
    experiment("drift").draw(json.loads((folder / "drift.json").read_text())["sets"], folder / "drift.png")


def lesions(folder: Path) -> None:
    """Draw the four panels."""
    experiment("lesions").draw(json.loads((folder / "lesions.json").read_text())["networks"], folder / "lesions.png")


def two_towers(folder: Path) -> None:
    """Draw the validation recall of every run."""
    experiment("two_towers").draw(json.loads((folder / "curves.json").read_text()), folder / "two_towers.png")


def norm_free(folder: Path) -> None:
    """Draw the learning curves of every cell, of both studies."""
    for name in ("study", "32-pixels"):
        ablation(AblationDirectory(folder / name))


def ablation(study: AblationDirectory) -> None:
    """Draw the learning curves of every cell."""
    known = yaml.safe_load((study.path / "ablation.yaml").read_text())
    axes = tuple(Axis(key, tuple(values)) for key, values in known["axes"].items())
    cells = [CellResult(cell, tuple(known["seeds"])) for cell in make_cells(axes, known["cells"])]
    curves = []
    for pending in cells:
        run = study.cell(pending.cell)
        curves.append(curves_of(load_result(pending, run), read_metrics(run.metrics)))
    title = f"Ablation of {known['base']['recipe']}, learning curves"
    plot_ablation(curves, study.curves, title=title)


def reduce_colours(path: Path) -> None:
    """Write a large picture again with 256 colors, which curves and letters do not miss."""
    from PIL import Image

    if path.stat().st_size > LARGE:
        with Image.open(path) as picture:
            pixels = picture.convert("RGB")
        pixels.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


STUDIES: dict[str, Callable[[Path], None]] = {
    "degradation": degradation,
    "drift": drift,
    "gradient-norms": gradient_norms,
    "lesions": lesions,
    "norm-free": norm_free,
    "shattering": shattering,
    "thousand-layers": thousand_layers,
    "two_towers": two_towers,
}


def main() -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    wanted = parser.parse_args().names or sorted(path.name for path in RESULTS.iterdir() if path.is_dir())
    for name in wanted:
        folder = RESULTS / name
        if name in STUDIES:
            STUDIES[name](folder)
            for picture in folder.rglob("*.png"):
                reduce_colours(picture)
            print(f"drawn: {name}")
            continue
        for metrics in sorted(folder.rglob("metrics.jsonl")):
            if any((place / "curves.png").is_file() for place in (metrics.parent, metrics.parent.parent)):
                run_pictures(metrics.parent, metrics.parent.relative_to(RESULTS))
                print(f"drawn: {metrics.parent.relative_to(RESULTS)}")


if __name__ == "__main__":
    main()
