r"""A CIFAR ResNet without batch norm: seven ways to train depths 20 and 56, three seeds each.

Claim examined: without normalization, a plainly initialized residual network trains badly or not at all. Fixup (arXiv
1901.09321), SkipInit (2002.10444), ReZero (2003.04887) and NF with adaptive clipping (2101.08692, 2102.06171) repair
that without normalizing anything; group norm (1803.08494) is in between.

The full study is the recipe `cifar10-resnet20` unchanged (64,000 steps of 128 images of 32 pixels) with the cells
below, for an accelerator:

    uv run resnet-jax ablate cifar10-resnet20 --cells experiments/norm_free.yaml \
        --model.name resnet20_cifar,resnet56_cifar --seeds 5 --out runs/norm-free

This script runs a reduced version that a CPU can do, **not comparable with published accuracies**: a fixed part of the
training images (the first of each class), resized to 16 pixels by default, and a few epochs with a cosine schedule.

    uv run python experiments/norm_free.py --data FOLDER --out experiments/results/norm-free/study
    uv run python experiments/norm_free.py --data FOLDER --image-size 32 --train 1000 --test 1000 --epochs 20 \
        --batch-size 128 --depths resnet20_cifar --members-at-once 3 --out experiments/results/norm-free/32-pixels

FOLDER contains train/CLASS/* and test/CLASS/*. Hardware, time and result: experiments/results/norm-free/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console

from resnet_jax.ablation.directory import Definition
from resnet_jax.ablation.grid import load_cells, parse_axis, parse_seeds
from resnet_jax.ablation.run import ablate
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runtime.malloc import keep_freed_memory
from resnet_jax.training.options import ScheduleConfig

CELLS = Path(__file__).with_suffix(".yaml")


def part_of(source: Path, target: Path, *, train: int, test: int) -> None:
    """Link the first ``train`` and ``test`` images of every class, in the order of names, into ``target``."""
    for split, images in (("train", train), ("test", test)):
        for folder in sorted((source / split).iterdir()):
            (target / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:images]:
                (target / split / folder.name / file.name).symlink_to(file.resolve())


def reduced(source: Path, *, epochs: int, batch_size: int, image_size: int) -> RunConfig:
    """Return the recipe, shortened."""
    recipe = load_recipe("cifar10-resnet20")
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(
            recipe.data,
            source=f"folder:{source}",
            image_size=image_size,
            augment=(f"random_crop({image_size // 8})", "flip"),
            val_fraction=0.1,
        ),
        train=dataclasses.replace(recipe.train, length=f"{epochs} epochs", limit=None, batch_size=batch_size),
        optim=dataclasses.replace(recipe.optim, schedule=ScheduleConfig("cosine", warmup="1 epochs")),
    )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--depths", default="resnet20_cifar,resnet56_cifar")
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--members-at-once", type=int, default=1, help="seeds in one program")
    parser.add_argument("--train", type=int, default=500, help="training images per class")
    parser.add_argument("--test", type=int, default=500, help="test images per class")
    parser.add_argument("--image-size", type=int, default=16)
    arguments = parser.parse_args()
    keep_freed_memory()
    source = Path("runs") / f"norm-free-images-{arguments.train}-{arguments.test}"
    if not source.exists():
        part_of(arguments.data, source, train=arguments.train, test=arguments.test)
    definition = Definition(
        base=reduced(source, epochs=arguments.epochs, batch_size=arguments.batch_size, image_size=arguments.image_size),
        axes=(parse_axis("model.name", arguments.depths),),
        named=load_cells(CELLS),
        seeds=parse_seeds(arguments.seeds),
    )
    ablate(definition, arguments.out, members_at_once=arguments.members_at_once, console=Console())


if __name__ == "__main__":
    main()
