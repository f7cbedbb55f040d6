"""``resnet-jax train RECIPE`` or ``train --data PATH``: train a network, or resume a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from resnet_jax.cli.options import Common, asks_for_help, console_for, flags_last, parse, typed_fields
from resnet_jax.cli.recipe import NamedRecipe, named_recipe, require_recipe
from resnet_jax.errors import CheckError, UsageError
from resnet_jax.fields import options_of
from resnet_jax.report.text import say
from resnet_jax.runs.about import About
from resnet_jax.runs.config import RunConfig, config_to_dict
from resnet_jax.runs.recipes import load_about

if TYPE_CHECKING:
    from resnet_jax.runs.fitted import Fit
    from resnet_jax.runs.length import Origin

ABOUT_DATA = (
    "Instead of a recipe, you can give --data PATH: a folder with one subfolder of images per class, an .npz file, a "
    "CSV or JSON Lines table, or a set prepared by TFDS. The command then chooses network, resolution, augmentation, "
    "batch size and length for the data, explains why, and trains; options that you give override the choices. "
    "Together with a recipe, --data PATH replaces its data."
)


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of ``train``."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    """What to train. Every field of the recipe can be changed."""
    run_dir: Path | None = None
    """The run directory (default: runs/RECIPE, with a short hash if the recipe was changed). An existing run is
    resumed, if you like with a larger --train.length than before."""
    smoke: bool = False
    """Run the recipe for a few seconds, with a small network on data that is always available, to see whether it runs
    and learns. This does not reproduce the recipe's figures."""
    check: bool = False
    """Compare the result on the test split with the recipe's expected figure, and exit with status 1 if it is outside
    the tolerance. With --smoke: check that the loss is finite and fell."""
    overfit_batches: int | None = None
    """Instead of the run, train on the same n batches without augmentation and dropout, and report whether they were
    learned (100% accuracy); exit with status 1 if not. This uses a directory of its own."""
    fast_dev_run: int | None = None
    """Instead of the run, check that all of its parts work: this many batches (1 without a number) of training,
    validation and test, saving and restoring a checkpoint, observers and figures, in a temporary directory."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


def run(argv: list[str]) -> dict[str, Any]:
    """Train the network and return the summary."""
    argv, data = split_data(with_count(argv))
    if data is not None and not asks_for_help(words := flags_last(argv)) and not _names_recipe(words):
        return _run_data(data, words)
    recipe = named_recipe(argv, "train")
    promise = _Promise.of(recipe)
    options = parse(
        TrainOptions,
        recipe.rest,
        verb=f"train {recipe.name}",
        about=f"Train a network. {recipe.about} {ABOUT_DATA}",
        default=TrainOptions(config=promise.config),
    )
    require_recipe(options.config, recipe)
    require_one_trial(options)
    from resnet_jax.runs.fit import fit
    from resnet_jax.runs.length import Origin

    if data is not None and "data.source" in _typed(recipe.rest):
        raise UsageError(f"--data {data} and --data.source both name the data: give one of them")
    console = console_for(options.common)
    promise.begin(options, console)
    origin = Origin(recipe.config, typed_fields(recipe.rest, "optim.schedule"))
    if is_trial(options):
        from resnet_jax.runs.auto import with_data

        config = options.config if data is None else with_data(options.config, data)[0]
        return _trial(dataclasses.replace(options, config=config), recipe.rest, origin, console)
    fitted = fit(options.config, options.run_dir, data=data, console=console, origin=origin)
    return promise.end(fitted, console) if options.check else fitted.summary.to_json()


@dataclasses.dataclass(frozen=True)
class _Promise:
    """How ``--smoke`` and ``--check`` change a recipe: the configuration to start from, and the figures it claims.

    ``about`` is read only if one of them is given.
    """

    recipe: NamedRecipe
    config: RunConfig
    about: About | None = None
    smoke: bool = False

    @classmethod
    def of(cls, recipe: NamedRecipe) -> _Promise:
        smoke = "--smoke" in recipe.rest
        if not smoke and "--check" not in recipe.rest:
            return cls(recipe, recipe.config)
        from resnet_jax.runs.promise import smoke_config

        about = load_about(recipe.name)
        config = smoke_config(recipe.config, about, recipe.name) if smoke else recipe.config
        return cls(recipe, config, about, smoke)

    def begin(self, options: TrainOptions, console: Console) -> None:
        """Print what is run, or refuse to check a recipe without a figure."""
        if self.smoke and self.about is not None:
            changes = ", ".join(f"{key} {value}" for key, value in self.about.smoke.items())
            say(console, f"Smoke run of recipe {self.recipe.name}, whose figures are not the recipe's: {changes}.")
        elif options.check:
            from resnet_jax.runs.promise import require_as_shipped, require_expected

            require_expected(self.about, self.recipe.name)
            require_as_shipped(self.recipe.config, options.config)

    def end(self, fitted: Fit, console: Console) -> dict[str, Any]:
        """Print the verdict and return it with the summary; raises CheckError if it is negative."""
        from resnet_jax.runs.promise import check_figure, check_smoke, require_expected

        if self.smoke:
            verdict = check_smoke([row.get("loss") for row in fitted.history.steps], fitted.summary.finished)
        else:
            verdict = check_figure(fitted.summary, require_expected(self.about, self.recipe.name))
        result = {**fitted.summary.to_json(), "check": verdict.to_json()}
        if not verdict.passed:
            raise CheckError(verdict.said, result)
        say(console, verdict.said)
        return result


def is_trial(options: TrainOptions) -> bool:
    """Return whether a trial runs instead of the training."""
    return options.overfit_batches is not None or options.fast_dev_run is not None


def require_one_trial(options: TrainOptions) -> None:
    """Reject trials that exclude each other, or options that concern the whole run.

    Raises:
        UsageError: if there are any; it says which to leave out.
    """
    trials = ["--overfit-batches"] * (options.overfit_batches is not None)
    trials += ["--fast-dev-run"] * (options.fast_dev_run is not None)
    if len(trials) > 1:
        raise UsageError(f"{' and '.join(trials)} are trials of their own: give one of them")
    if trials and options.check:
        raise UsageError(f"--check is about the figure of a whole run, and {trials[0]} makes none: give one of them")
    if options.fast_dev_run is not None and options.run_dir is not None:
        raise UsageError("--fast-dev-run keeps nothing: leave out --run-dir")


def _trial(options: TrainOptions, words: Sequence[str], origin: Origin, console: Console) -> dict[str, Any]:
    """Run a trial instead of the training."""
    if options.overfit_batches is not None:
        from resnet_jax.runs.overfit import overfit

        length = options.config.train.length if "length" in typed_fields(words, "train") else None
        where = options.run_dir
        return overfit(options.config, options.overfit_batches, where, length=length, console=console, origin=origin)
    from resnet_jax.runs.dev_run import fast_dev_run

    return fast_dev_run(options.config, options.fast_dev_run or 0, console=console, origin=origin)


def with_count(argv: Sequence[str], flag: str = "--fast-dev-run") -> list[str]:
    """Give a flag without a number the number 1.

    >>> with_count(["digits", "--fast-dev-run", "--json"]), with_count(["digits", "--fast-dev-run", "2"])
    (['digits', '--fast-dev-run', '1', '--json'], ['digits', '--fast-dev-run', '2'])
    """
    words: list[str] = []
    for word, after in zip(argv, [*argv[1:], ""], strict=False):
        words += [word, "1"] if word == flag and not after.lstrip("-").isdigit() else [word]
    return words


def _names_recipe(words: Sequence[str]) -> bool:
    return bool(words) and not words[0].startswith("-")


def _run_data(data: str, words: list[str]) -> dict[str, Any]:
    """Train on data without a recipe."""
    from resnet_jax.runs.legacy import translate
    from resnet_jax.runs.legacy_augment import translate_flags

    words = translate_flags(translate(words), ())
    options = parse(
        TrainOptions,
        words,
        verb=f"train --data {data}",
        about=f"Train a network. {ABOUT_DATA}",
        default=TrainOptions(config=RunConfig()),
    )
    for flag, given_flag in (("--smoke", options.smoke), ("--check", options.check)):
        if given_flag:
            raise UsageError(f"{flag} goes with a recipe, which says what it does: resnet-jax train RECIPE {flag}")
    require_one_trial(options)
    given = typed_values(options.config, words)
    for field in ("recipe", "data.source"):
        if field in given:
            raise UsageError(f"--{field} does not go with --data {data}, which says what to train on: leave it out")
    from resnet_jax.runs.auto import begin
    from resnet_jax.runs.fit import fit
    from resnet_jax.runs.length import Origin

    console = console_for(options.common)
    begun = begin(data, None if is_trial(options) else options.run_dir, given)
    for line in begun.lines:
        say(console, line)
    origin = Origin(begun.config, typed_fields(words, "optim.schedule"))
    if is_trial(options):
        return _trial(dataclasses.replace(options, config=begun.config), words, origin, console)
    return fit(begun.config, begun.run_dir, console=console, origin=origin).summary.to_json()


def split_data(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Separate ``--data PATH`` from the other arguments.

    Raises:
        UsageError: if no path follows, or it is given twice.

    >>> split_data(["--data", "photos", "--seed", "1"]), split_data(["digits", "--data=x.npz"])
    ((['--seed', '1'], 'photos'), (['digits'], 'x.npz'))
    """
    rest: list[str] = []
    found: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--data":
            found.append(next(words, ""))
        elif word.startswith("--data="):
            found.append(word.removeprefix("--data="))
        else:
            rest.append(word)
    if len(found) > 1:
        raise UsageError(f"--data is given twice: {' and '.join(found)}")
    if found and (not found[0] or found[0].startswith("--")):
        raise UsageError("--data needs a path: a folder, an .npz file, a table or a prepared set")
    return rest, found[0] if found else None


def typed_values(config: RunConfig, words: Sequence[str]) -> dict[str, Any]:
    """Return the fields that were given on the command line with their values, as in YAML.

    Args:
        config: the parsed configuration.
        words: the arguments.
    """
    typed, raw = _typed(words), config_to_dict(config)
    values: dict[str, Any] = {}
    for field in options_of(RunConfig):
        *path, name = field.split(".")
        if field in typed or ".".join([*path, f"no_{name}"]) in typed:
            tree = raw
            for part in path:
                tree = tree[part]
            values[field] = tree.get(name)
    return values


def _typed(words: Sequence[str]) -> set[str]:
    """Return the names of the fields that were given on the command line."""
    return {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
