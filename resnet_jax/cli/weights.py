"""``resnet-jax weights import | export | fold``, and the sub-verbs of :mod:`resnet_jax.cli.weights_hub`."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli import weights_hub as hub
from resnet_jax.cli.named import existing_run
from resnet_jax.cli.options import Common, asks_for_help, console_for, flags_last, list_verbs, parse
from resnet_jax.data.transform import Interpolation
from resnet_jax.errors import UsageError, unknown
from resnet_jax.models.spec import ModelSpec
from resnet_jax.report.text import say


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Options of ``weights import``."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """A PyTorch checkpoint (.pth, .pt, .th, ...) or a safetensors file, under any name."""
    out: Path
    """The directory to write. You can use it wherever a run directory is expected."""
    model: ModelSpec = dataclasses.field(default_factory=functools.partial(ModelSpec, ""))
    """The network in the file and the changes to it: `--model NAME` is short for --model.name NAME, and `--num-classes
    N` for --model.num-classes N. Files of `weights export` contain both."""
    key: str | None = None
    """If a checkpoint contains several networks, the one to import: its keys joined by dots (ema, checkpoint.model), or
    the prefix of its names (state_dict.backbone)."""
    image_size: int | None = None
    """Side of its images in pixels (default: what the file or its format says, or what is usual for the network)."""
    crop: str | None = None
    """The part of an image that is evaluated: random_resized (the central 0.875, as after training with such crops) or
    none (the whole image)."""
    class_names: Path | None = None
    """A file with the names of the outputs in order, one per line or as a JSON list (default: the names, if known)."""
    mean: tuple[float, ...] = ()
    """Mean to subtract from x / 255, per channel (default: what the file or its format says, if known)."""
    std: tuple[float, ...] = ()
    """Standard deviation to divide by after that, per channel (default: as for the mean)."""
    eval_side: int | None = None
    """Pixels that the shorter side of an image is resized to before the center is cropped (default: depends on
    --crop)."""
    interpolation: Interpolation = "area"
    """How images are resized: area, or bilinear or bicubic as in torchvision; see data.interpolation."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


#: Short forms of ``--model.name`` and ``--model.num-classes``.
SHORT = {"--model": "--model.name", "--num-classes": "--model.num-classes"}


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of ``weights export``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, or a name from `weights list`."""
    format: str = "torchvision"
    """The naming convention: torchvision, timm, cifar (akamaster's), transformers, pytorchcv or fixup."""
    out: Path = Path("model.safetensors")
    """The file to write."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


@dataclasses.dataclass(frozen=True)
class FoldOptions:
    """Options of ``weights fold``."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run directory of a network with batch norm, or a name from `weights list`."""
    out: Path
    """The directory to write. You can use it wherever a run directory is expected."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


#: Sub-verb -> what it does.
VERBS = {
    "import": "FILE: import another library's weights as a run directory",
    "export": "RUN_DIR: write its weights under another library's names, as safetensors",
    "fold": "RUN_DIR: fold batch norm into the convolutions, for inference",
    **hub.VERBS,
}


def run(argv: list[str]) -> dict[str, Any] | None:
    """Run the sub-verb named by the first argument."""
    verbs = {"import": _import, "export": _export, "fold": _fold, **hub.RUN}
    argv = flags_last(argv)
    if asks_for_help(argv):
        print(list_verbs("weights", VERBS, ""))
        return None
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"name what to do: resnet-jax weights {', '.join(VERBS)}; resnet-jax weights --help")
    if argv[0] not in verbs:
        raise unknown("weights verb", argv[0], verbs)
    return verbs[argv[0]](argv[1:])


def _import(argv: list[str]) -> dict[str, Any]:
    options = parse(ImportOptions, argv, verb="weights import", about="Import another library's weights.", short=SHORT)
    from resnet_jax.runs.foreign import import_weights

    imported = import_weights(
        options.file,
        options.model,
        options.out,
        key=options.key,
        image_size=options.image_size,
        crop=options.crop,
        class_names=options.class_names,
        mean=options.mean,
        std=options.std,
        eval_side=options.eval_side,
        interpolation=options.interpolation,
    )
    console = console_for(options.common)
    say(console, f"{options.file} is now {imported.path}")
    for subject, text in imported.lines.items():
        say(console, f"  {subject:<13}  {text}")
    return {
        "run_dir": str(imported.path),
        "model": imported.run.read_config().model.name,
        "format": imported.format,
        "key": imported.file.key,
        "prefix": imported.prefix,
        "left_aside": list(imported.file.left_aside),
        "image_shape": list(imported.card.image_shape),
        "crop": imported.crop,
        "mean": list(imported.card.mean),
        "std": list(imported.card.std),
        "class_names": list(imported.card.class_names),
        "said": imported.lines,
    }


def _export(argv: list[str]) -> dict[str, Any]:
    options = parse(ExportOptions, argv, verb="weights export", about="Write weights under another library's names.")
    path = existing_run(options.run_dir)
    from resnet_jax.runs.export import export_weights

    tensors = export_weights(path, options.out, format=options.format)
    say(console_for(options.common), f"{tensors} tensors in {options.out}")
    return {"out": str(options.out), "tensors": tensors, "format": options.format}


def _fold(argv: list[str]) -> dict[str, Any]:
    options = parse(FoldOptions, argv, verb="weights fold", about="Fold batch norm into convolutions, for inference.")
    path = existing_run(options.run_dir)
    from resnet_jax.runs.foreign import fold_run

    run = fold_run(path, options.out)
    say(console_for(options.common), f"{options.run_dir} without batch norm is {run.path}")
    return {"run_dir": str(run.path), "folded_from": str(options.run_dir)}
