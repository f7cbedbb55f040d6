"""``resnet-jax models [PATTERN]``: list the named networks and their exact sizes."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro

from resnet_jax.cli.options import Common, console_for, parse


@dataclasses.dataclass(frozen=True)
class ModelsOptions:
    """Options of ``models``."""

    pattern: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[PATTERN]")] = "*"
    """A shell-style pattern, such as 'resnet*_cifar'."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> list[dict[str, Any]]:
    """Count and return one object per network."""
    options = parse(ModelsOptions, argv, verb="models", about="List networks with parameters and multiply-adds.")
    from resnet_jax.errors import UsageError
    from resnet_jax.models import MODELS, count, create_model, list_models
    from resnet_jax.report.text import say

    console, rows = console_for(options.common), []
    names = list_models(options.pattern)
    if not names:
        raise UsageError(f"no network matches {options.pattern!r}; resnet-jax models lists them all")
    say(console, f"{'name':<28}{'params':>14}{'batch stats':>13}{'multiply-adds':>17}  input")
    for name in names:
        shape = MODELS[name].input_shape
        sizes = count(create_model(name), shape)
        size = "x".join(str(side) for side in shape)
        say(console, f"{name:<28}{sizes.params:>14,}{sizes.batch_stats:>13,}{sizes.macs:>17,}  {size}")
        rows.append({"name": name, **dataclasses.asdict(sizes), "input": list(shape)})
    return rows
