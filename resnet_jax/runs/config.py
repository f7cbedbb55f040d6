"""A run as data: frozen dataclasses, read from YAML, validated once, written back so that they reproduce it."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from resnet_jax.data.config import DataConfig
from resnet_jax.data.stats import check_normalization
from resnet_jax.errors import FEW, RunError, UsageError, closest, either, nearest, unknown
from resnet_jax.fields import check_value, is_section, options_of, own_options
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.legacy import upgrade
from resnet_jax.runtime.paths import user_path
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.optimizers import OptimConfig


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides the result of a run."""

    recipe: str = "digits"
    """The recipe this started from."""
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    """The network: a name that `resnet-jax models` lists, and what is changed in it. What is left out is the named
    network's own; outputs and channels are those of the data."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """The images."""
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    """The optimizer and its schedule."""
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    """The training."""
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    """What the outputs mean."""
    seed: int = 0
    """Seed of initialization, order of the images and augmentation."""
    init_from: str | None = None
    """Fine-tuning: a run directory, trained or imported, whose network this run starts from."""
    init_head: str = "exact"
    """The classifier of init_from: exact (the same classes), or new to start another one."""
    init_stem: str = "exact"
    """The first convolution of init_from: exact, or mean to average it over other input channels."""

    def __post_init__(self):
        """Refuse values that no run can have; the rest is checked where it is used."""
        train, data = self.train, self.data
        _require(0.0 <= data.val_fraction < 1.0, f"data.val_fraction must be in [0, 1), got {data.val_fraction}")
        _require(0.0 < data.test_fraction < 1.0, f"data.test_fraction must be in (0, 1), got {data.test_fraction}")
        needs_val = train.select == "best" or train.early_stopping.patience is not None
        _require(
            not (needs_val and data.val_fraction == 0.0),
            "train.select best and train.early_stopping need validation images: set data.val_fraction above 0",
        )
        check_normalization(data.mean, data.std)
        _require(self.seed >= 0, f"seed must be 0 or more, got {self.seed}")
        for name, value in (("init_head", self.init_head), ("init_stem", self.init_stem)):
            _require(value == "exact" or self.init_from is not None, f"{name} {value} needs init_from")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes.

    >>> "digits" in list_recipes()
    True
    """
    folder = resources.files("resnet_jax.recipes")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_recipe(name: str) -> RunConfig:
    """Read a shipped recipe by name, or any configuration by the path of its YAML file.

    Raises:
        UsageError: no such recipe or file, or it has an unknown key or a wrong value; it names which.
    """
    if name.endswith((".yaml", ".yml")):
        path = user_path(name)
        if not path.is_file():
            raise UsageError(f"no such recipe file: {path}")
        return parse_config(read_utf8(path), where=str(path), recipe=path.stem)
    if name not in list_recipes():
        error = unknown("recipe", name, list_recipes())
        hint = "; a file of your own must end with .yaml" if Path(name).is_file() else ""
        raise UsageError(f"{error}{hint}")
    text = resources.files("resnet_jax.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return parse_config(text, where=f"recipe {name}")


def read_utf8(path: Path) -> str:
    """Return the text of a file that a person wrote, whatever the locale says.

    Raises:
        UsageError: it cannot be read, or is not text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error


def parse_config(text: str, *, where: str, recipe: str | None = None) -> RunConfig:
    """Validate YAML into a :class:`RunConfig`; unknown keys are refused.

    Args:
        text: the YAML document.
        where: what to call it in messages.
        recipe: name of the recipe if the document does not say.

    Raises:
        UsageError: with every wrong key or value, and the nearest right key.
    """
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{where} must be a mapping with keys such as model, data, optim and train")
    if recipe is not None:
        raw.setdefault("recipe", recipe)
    return config_from_dict(raw, where=where)


def config_from_dict(raw: dict[str, Any], *, where: str) -> RunConfig:
    """Validate nested dictionaries into a :class:`RunConfig`; see :func:`parse_config`."""
    from pydantic import TypeAdapter, ValidationError

    raw = upgrade(raw, where=where)
    problems = _unknown_keys(RunConfig, raw, "")
    if problems:
        raise UsageError(f"{where}: " + "; ".join(problems))
    try:
        return TypeAdapter(RunConfig).validate_python(raw)
    except ValidationError as error:
        details = []
        for item in error.errors():
            ours = item.get("ctx", {}).get("error")  # raised by a __post_init__ of ours
            key = ".".join(str(part) for part in item["loc"])
            ours = ours or _in_our_words(item["loc"], item["input"])
            hint = ""
            if item["type"] == "string_type":  # on, 010 and 2024-01-01 are no text to YAML
                hint = "; to YAML this is no text: put it in quotes"
            details.append(str(ours) if ours else f"{key}: {item['msg']}, got {item['input']!r}{hint}")
        raise UsageError(f"{where}: " + "; ".join(details)) from error


def _in_our_words(where: tuple[Any, ...], value: Any) -> UsageError | None:
    """Return what is wrong with an option's value, if it is a value of a ``Literal`` or a range."""
    for length in range(len(where), 0, -1):  # beyond the option: which item of a tuple
        key = ".".join(str(part) for part in where[:length])
        if key in (hints := options_of(RunConfig)):
            try:
                check_value(key, (value,) if length < len(where) else value, hints[key])
            except UsageError as error:
                return error
    return None


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Return nested dictionaries of plain values."""

    def plain(value: Any) -> Any:
        if isinstance(value, ModelSpec):
            return value.to_dict()
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(config)


def config_to_yaml(config: RunConfig) -> str:
    """Write a configuration that :func:`parse_config` reads back as the same."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


#: Fields that change how a run is watched, fed or computed, and not what comes out (the last three: beyond rounding).
WITHOUT_EFFECT = (
    "data.threads", "data.moved_to", "train.save_every", "train.log_every", "train.depth_every", "train.observers",
    "train.steps_per_dispatch", "model.execution", "model.remat",
)  # fmt: skip


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Return one line per field that decides the result and differs: ``optim.learning_rate: 0.1 -> 0.2``."""
    before, after = (dict(_flat(config_to_dict(config))) for config in (old, new))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in options_of(RunConfig)
        if before.get(key) != after.get(key) and key not in WITHOUT_EFFECT
    ]


def require_same(old: RunConfig, new: RunConfig, *, where: Path) -> None:
    """Refuse to go on in a directory that belongs to another configuration.

    Raises:
        RunError: with the fields that differ.
    """
    changed = differences(old, new)
    if changed:
        hint = ""
        if old.data.source != new.data.source:
            hint = (
                f" If the same images only lie elsewhere now: --data.source {old.data.source} "
                f"--data.moved-to {new.data.source}"
            )
        raise RunError(
            f"{where} holds a run of another configuration:\n  "
            + "\n  ".join(changed)
            + "\nUse another --run-dir, or the same settings to go on with it."
            + hint
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows


def _unknown_keys(section: type, raw: dict[str, Any], prefix: str) -> list[str]:
    hints = own_options(section)
    names, problems = list(hints), []
    for key, value in raw.items():
        if key not in names:
            close = nearest(str(key), names)
            hint = f", known here: {', '.join(names)}"
            if close or len(names) > FEW:
                hint = f", did you mean {either([f'{prefix}{name}' for name in closest(str(key), names)])}?"
            problems.append(f"unknown key {prefix}{key}{hint}")
        elif is_section(hints[key]) and isinstance(value, dict):
            problems += _unknown_keys(hints[key], value, f"{prefix}{key}.")
    return problems
