"""``resnet-jax weights import | export | fold``: weights for, from and of a run directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse
from resnet_jax.config import ModelConfig
from resnet_jax.errors import UsageError, unknown


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Options of ``weights import``."""

    file: tyro.conf.Positional[Path]
    """A PyTorch checkpoint (.pth, .pt, .th) or a .safetensors file."""
    model: str
    """The network it belongs to, as `resnet-jax models` names it."""
    out: Path
    """The directory to write; it is then accepted wherever a run directory is."""
    mean: tuple[float, ...] = ()
    """Normalization of the images, per channel of x / 255, if known."""
    std: tuple[float, ...] = ()
    """The same."""
    num_classes: int | None = None
    """Classes of the file's network (default: the named network's)."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of ``weights export``."""

    run_dir: tyro.conf.Positional[Path]
    """The run directory."""
    format: str = "torchvision"
    """Whose names to use: torchvision, timm or cifar."""
    out: Path = Path("model.safetensors")
    """The file to write."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


@dataclasses.dataclass(frozen=True)
class FoldOptions:
    """Options of ``weights fold``."""

    run_dir: tyro.conf.Positional[Path]
    """The run directory, of a network with batch norm."""
    out: Path
    """The directory to write; it is then accepted wherever a run directory is."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Import, export or fold."""
    verbs = {"import": _import, "export": _export, "fold": _fold}
    if not argv or argv[0] in ("-h", "--help"):
        raise UsageError("name what to do: resnet-jax weights import FILE ..., export RUN_DIR ... or fold RUN_DIR ...")
    if argv[0] not in verbs:
        raise unknown("weights verb", argv[0], verbs)
    return verbs[argv[0]](argv[1:])


def _import(argv: list[str]) -> dict[str, Any]:
    options = parse(ImportOptions, argv, verb="weights import", about="Read another library's weights.")
    from resnet_jax.imported import import_weights

    model = ModelConfig(options.model, num_classes=options.num_classes)
    run = import_weights(options.file, model, options.out, mean=options.mean, std=options.std)
    console_for(options.common).print(f"{options.file} is now {run.path}", soft_wrap=True, markup=False)
    return {"run_dir": str(run.path), "model": options.model}


def _export(argv: list[str]) -> dict[str, Any]:
    options = parse(ExportOptions, argv, verb="weights export", about="Write weights under another library's names.")
    from resnet_jax.imported import export_weights

    tensors = export_weights(options.run_dir, options.out, format=options.format)
    console_for(options.common).print(f"{tensors} tensors in {options.out}", soft_wrap=True, markup=False)
    return {"out": str(options.out), "tensors": tensors, "format": options.format}


def _fold(argv: list[str]) -> dict[str, Any]:
    options = parse(FoldOptions, argv, verb="weights fold", about="Fold batch norm into convolutions, for inference.")
    from resnet_jax.imported import fold_run

    run = fold_run(options.run_dir, options.out)
    console_for(options.common).print(
        f"{options.run_dir} without batch norm is {run.path}", soft_wrap=True, markup=False
    )
    return {"run_dir": str(run.path), "folded_from": str(options.run_dir)}
