"""Pages of the API: the public names of each package, documented by their docstrings."""

import importlib
import sys
import types
from pathlib import Path
from typing import NamedTuple

from links import write_if_changed


class Part(NamedTuple):
    """A page: a package or several modules."""

    title: str
    about: str
    #: Modules, each with names; none: its ``__all__``.
    names: dict[str, tuple[str, ...]]
    #: Modules of the package whose own description belongs on the page: formulas, tables, conventions.
    described: tuple[str, ...] = ()


_FIT = ("fit", "Fit", "RunConfig", "load_recipe", "list_recipes", "load_run", "evaluate_run", "predict_images")
_MORE = ("create_model", "load_weights", "initialize_processes", "register_observer")
_RUNS = {
    "resnet_jax.runs.inference": ("Inference",),
    "resnet_jax.runs.trained": ("TrainedRun",),
    "resnet_jax.runs.finetune_run": ("finetune",),
    "resnet_jax.runs.finetune_how": ("HowToFinetune",),
    "resnet_jax.runs.ray_train": ("fit_with_ray",),
}
_DEPLOY = {
    "resnet_jax.deploy.export": ("export_run", "ExportConfig", "Exported"),
    "resnet_jax.deploy.artefact": ("load_artefact", "Artefact"),
    "resnet_jax.deploy.quantize.convert": ("quantize_run", "Converted", "measure_files", "Measured"),
    "resnet_jax.deploy.prune.prune": ("prune",),
    "resnet_jax.deploy.pretrained": ("Transforms", "Pretrained"),
}


def _package(name: str, about: str, described: str = "") -> Part:
    """Return the page of a package that lists its public names."""
    modules = tuple(f"resnet_jax.{name}.{module}" for module in described.split())
    return Part(f"resnet_jax.{name}", about, {f"resnet_jax.{name}": ()}, modules)


#: The pages, in the order of the index.
PARTS = {
    "resnet_jax": Part(
        "resnet_jax: fit, evaluate, predict",
        "What `import resnet_jax as rj` has beyond the packages below.",
        {"resnet_jax": (*_FIT, *_MORE)},
    ),
    "models": _package("models", "Networks: configuration, names, modules, exact counts."),
    "training": _package(
        "training",
        "State, step, optimizers, schedules, placement, loop, checkpoints.",
        "optimizers schedules roles ema accumulate reestimation mapped",
    ),
    "depth": _package(
        "depth",
        "Signals and gradients at every block, Jacobians, curvature, lesions, closed forms.",
        "mean_field mean_field_backward shattering",
    ),
    "tasks": _package("tasks", "What outputs mean: losses, metrics, predictions."),
    "data": _package("data", "Sources, transforms, splits, batches.", "pipeline folder manifest"),
    "weights": _package("weights", "Weights of other libraries, in and out."),
    "ops": _package("ops", "Functions of arrays, without Linen."),
    "runs": Part("resnet_jax.runs", "A run directory and what is done with it.", _RUNS),
    "ablation": Part("resnet_jax.ablation", "Matrices of runs.", {"resnet_jax.ablation.run": ("ablate",)}),
    "deploy": Part("resnet_jax.deploy", "A trained network elsewhere: export, quantize, prune.", _DEPLOY),
    "explain": _package("deploy.explain", "Which parts of an input an output comes from, and the checks of such maps."),
}


def entries(part: Part) -> list[tuple[str, str]]:
    """Return the page's objects: module and name, classes and functions in the order of the package."""
    found = []
    for module, names in part.names.items():
        package = importlib.import_module(module)
        found += [(module, name) for name in names or package.__all__]
    return found


def _directive(module: str, name: str) -> list[str]:
    value = getattr(importlib.import_module(module), name)
    if isinstance(value, type):
        return [f".. autoclass:: {module}.{name}", "   :members:", "   :show-inheritance:", ""]
    if _is_function(value):
        return [f".. autofunction:: {module}.{name}", ""]
    return [f".. autodata:: {_home(module, name)}.{name}", "   :no-value:", ""]


def _shown(module: str, name: str) -> str:
    value = getattr(importlib.import_module(module), name)
    return f"{module if isinstance(value, type) or _is_function(value) else _home(module, name)}.{name}"


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, types.GenericAlias)  # dict[str, Array] can be called, too


def _home(package: str, name: str) -> str:
    """Return the module that assigns a value, where its description is."""
    value = getattr(importlib.import_module(package), name)
    homes = [
        module for module, found in sorted(sys.modules.items())
        if module.startswith("resnet_jax.") and getattr(found, name, None) is value
        and f"\n{name}" in Path(found.__file__ or "").read_text(encoding="utf-8")
    ]  # fmt: skip
    return homes[0] if homes else package


def _page(part: Part) -> str:
    found = entries(part)
    lines = [f"# {part.title}", "", part.about, "", "```{eval-rst}", ".. autosummary::", "   :nosignatures:", ""]
    lines += [f"   ~{_shown(module, name)}" for module, name in found]
    lines += ["```", "", "## Reference", "", "```{eval-rst}"]
    for module, name in found:
        lines += _directive(module, name)
    lines += ["```", ""]
    if part.described:
        lines += ["## Formulas and conventions", ""]
    for module in part.described:
        lines += [f"### {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :no-members:", "```", ""]
    return "\n".join(lines)


def write(docs: Path) -> None:
    """Write a page a part, and their index."""
    folder = docs / "reference" / "api"
    for name, part in PARTS.items():
        write_if_changed(folder / f"{name}.md", "---\ngenerated: true\n---\n\n" + _page(part))
    rows = [f"| [{part.title}]({name}.md) | {part.about} |" for name, part in PARTS.items()]
    text = f"""---
generated: true
---

# API

The public names of each package, from their docstrings. `resnet_jax` itself repeats the names that most programs need.

| page | what is there |
|---|---|
{chr(10).join(rows)}

```{{toctree}}
:hidden:

{chr(10).join(PARTS)}
```
"""
    write_if_changed(folder / "index.md", text)
