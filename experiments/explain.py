"""Which explanation maps of a pretrained CIFAR ResNet-20 follow its predictions, by method and by stage.

    uv run python experiments/explain.py --data /path/to/shared/data

On the first 24 pixel-exact test images that it classifies correctly: area under the deletion and insertion curves
compared with random orders, similarity to the maps of the network with randomized weights, completeness of integrated
gradients, and the curves for the class activation (LayerCAM) of every stage. It takes 3 minutes on one CPU core;
batches of eight are kept in ``--work``. Writes results/explain: table.csv, stages.csv, sheet.png.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from resnet_jax.deploy.explain import Explainer, deletion_insertion
from resnet_jax.deploy.explain.forward import network_inputs
from resnet_jax.deploy.explain.methods import METHODS
from resnet_jax.deploy.explain.perturbation import area
from resnet_jax.models.spec import ModelSpec
from resnet_jax.report.canvas import new_figure, save_figure
from resnet_jax.report.heat import overlay
from resnet_jax.runs.foreign import import_weights
from resnet_jax.runs.trained import TrainedRun, load_run

OUT = Path(__file__).parent / "results" / "explain"
STAGES = ("stem", "stage1", "stage2", "stage3")
BATCH, SHOWN = 8, 5


def right_images(trained: TrainedRun, data: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images that the network gets right, uint8 (N, 32, 32, 3), and their classes."""
    with np.load(data / "cifar10-test-lossless-1017.npz") as file:
        images, labels = file["x"][: 2 * count], file["y"][: 2 * count]
    logits = trained.model.apply(trained.variables, _inputs(trained, images), train=False)
    right = np.flatnonzero(np.asarray(logits).argmax(1) == labels)[:count]
    return images[right], labels[right]


def _inputs(trained: TrainedRun, images: np.ndarray) -> Any:
    card = trained.card
    return network_inputs(jnp.asarray(images), card.mean, card.std, card.downscale, trained.model.config.dtype)


def explained(trained: TrainedRun, explainer: Explainer, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return maps and figures of a batch, arrays with a row for each image."""
    all_of = list(explainer.each([(str(row), image, "") for row, image in enumerate(images)]))
    found: dict[str, Any] = {
        f"random/{way}": area(np.stack([one.random[at] for one in all_of]))
        for at, way in enumerate(("deletion", "insertion"))
    }
    for name in METHODS:
        maps = [one.maps[name] for one in all_of]
        found[f"{name}/map"] = np.stack([each.values for each in maps]).astype(np.float32)
        found[f"{name}/deletion"] = area(np.stack([each.deletion for each in maps]))
        found[f"{name}/insertion"] = area(np.stack([each.insertion for each in maps]))
        found[f"{name}/similarity"] = np.stack([each.similarity for each in maps])
        if maps[0].completeness is not None:
            found["completeness"] = np.array([each.completeness for each in maps])
            found["steps"] = np.array([each.steps for each in maps])
    for stage in STAGES:
        maps = np.stack([one.stages[stage] for one in all_of])
        curves = deletion_insertion(
            trained.model,
            trained.variables,
            _inputs(trained, images),
            jnp.asarray(labels, jnp.int32),
            jnp.asarray(maps),
        )
        found |= {f"{stage}/map": maps, f"{stage}/deletion": curves.deletion_auc}
        found[f"{stage}/insertion"] = curves.insertion_auc
    return found


def rows_of(found: dict[str, Any], names: tuple[str, ...]) -> list[dict[str, str]]:
    """Return for each map the means and their standard errors, against random orders of the same images."""
    rows = []
    for name in names:
        row = {"map": METHODS[name].title if name in METHODS else f"LayerCAM, {name}"}
        for way, sign in (("deletion", -1), ("insertion", 1)):
            better = sign * (found[f"{name}/{way}"] - found[f"random/{way}"])
            error = better.std(ddof=1) / np.sqrt(len(better))
            row[way] = f"{found[f'{name}/{way}'].mean():.3f}"
            row[f"{way} better than random by"] = f"{better.mean():.3f} ± {error:.3f}"
        if f"{name}/similarity" in found:
            similar = found[f"{name}/similarity"].mean(0)
            row |= {"similarity, head randomized": f"{similar[0]:.2f}", "all randomized": f"{similar[-1]:.2f}"}
        rows.append(row)
    return rows


def draw(found: dict[str, Any], images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Write the contact sheet: a row for each image, a column for each map."""
    columns = (*METHODS, *STAGES)
    figure = new_figure((1.35 * (len(columns) + 1), 1.35 * SHOWN + 1.1), dpi=70)
    axes = figure.subplots(SHOWN, len(columns) + 1)
    for row in range(SHOWN):
        axes[row, 0].imshow(images[row])
        axes[0, 0].set_title("Image", fontsize=11)
        axes[row, 0].set_ylabel(names[labels[row]], fontsize=11)
        for at, name in enumerate(columns, 1):
            signed = name in METHODS and METHODS[name].signed
            axes[row, at].imshow(overlay(images[row], found[f"{name}/map"][row], signed=signed))
            if row == 0:
                title = METHODS[name].title if name in METHODS else f"LayerCAM\n{name}"
                axes[row, at].set_title(title.replace(" gradients", "\ngradients"), fontsize=11)
    for each in axes.flat:
        each.set(xticks=[], yticks=[], frame_on=False)
    figure.suptitle("Where a ResNet-20 sees the class: five methods, and LayerCAM at four stages", fontsize=14)
    signed = " and ".join(method.title for method in METHODS.values() if method.signed)
    figure.supxlabel(f"bright: counts most; {signed}: red for the class, blue against it", fontsize=12)
    save_figure(figure, OUT / "sheet.png")


def main() -> None:
    """Explain what is missing, and write tables and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "explain-work")
    options = parser.parse_args()
    _ = [folder.mkdir(parents=True, exist_ok=True) for folder in (options.work, OUT)]
    if not (run := options.work / "resnet20").exists():
        file = options.data / "pytorch-cifar-resnets" / "resnet20-12fca82f.th"
        import_weights(file, ModelSpec("resnet20_cifar"), run)
    trained = load_run(run)
    images, labels = right_images(trained, options.data, options.images)
    explainer, parts = Explainer(trained), []
    for at in range(0, len(images), BATCH):
        if not (kept := options.work / f"{at}.npz").is_file():
            arrays = explained(trained, explainer, images[at : at + BATCH], labels[at : at + BATCH])
            np.savez(kept, allow_pickle=False, **arrays)
        parts.append(dict(np.load(kept)))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for file, names in (("table.csv", tuple(METHODS)), ("stages.csv", STAGES)):
        rows = rows_of(found, names)
        with (OUT / file).open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(*(" | ".join(row.values()) for row in rows), sep="\n")
    print("random", *(f"{found[f'random/{way}'].mean():.3f}" for way in ("deletion", "insertion")))
    print("completeness", np.sort(found["completeness"]).round(4), *np.unique(found["steps"], return_counts=True))
    draw(found, images, labels, trained.card.class_names)


if __name__ == "__main__":
    main()
