"""Argument parsing that the verbs share: tyro over a dataclass, concise errors, and the help of sub-verbs."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from rich.console import Console

from resnet_jax.cli.plain_types import let_tyro_decide_quickly
from resnet_jax.errors import UsageError, closest, either, unknown
from resnet_jax.fields import choices_of, field_docs, field_hints, is_section, listed, own_options, range_of
from resnet_jax.report.text import PlainConsole
from resnet_jax.runtime.distributed import started
from resnet_jax.runtime.paths import expand_paths

T = TypeVar("T")

HELP = ("-h", "--help")
#: Options of every verb that may also precede it.
ANYWHERE = ("--json", "--debug", "--quiet")


@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every verb."""

    json: bool = False
    """Print one JSON object as the last line of standard output. Everything else goes to standard error."""
    debug: bool = False
    """Show the full traceback of an error."""
    quiet: bool = False
    """Print only errors and warnings, and with --json the JSON object."""


#: Short forms of the options for how a network is computed, in the verbs that measure it.
HOW_COMPUTED = {"--dtype": "--model.dtype", "--execution": "--model.execution", "--remat": "--model.remat"}


def parse(
    kind: type[T],
    argv: Sequence[str],
    *,
    verb: str,
    about: str,
    default: T | None = None,
    short: Mapping[str, str] | None = None,
) -> T:
    """Parse ``argv`` into the dataclass ``kind``; print a message and exit with status 2 if it does not fit.

    ``~`` in a path is expanded to the home directory. Old spellings of options are accepted
    (:mod:`resnet_jax.runs.legacy`).

    Args:
        kind: the dataclass.
        argv: the arguments.
        verb: the verb, for messages and help.
        about: the first lines of the help.
        default: an instance that provides the defaults.
        short: short forms of options -> their long forms.

    Raises:
        UsageError: if the verb does not have an option; it suggests the three nearest.
    """
    if _asks.get():
        raise _AskedFor(kind, short or {})
    import tyro

    from resnet_jax.runs.legacy import translate

    let_tyro_decide_quickly()
    own = [flag.removeprefix("--").replace("-", "_") for flag in option_flags(kind)]
    argv = translate(spelled_out(argv, short or {}), keep=own)
    require_known(kind, argv, verb)
    options: Any = {} if default is None else {"default": default}
    parsed = tyro.cli(
        kind, args=list(argv), prog=f"resnet-jax {verb}", description=about, registry=_sections(), **options
    )
    return expand_paths(parsed)


_asks: ContextVar[bool] = ContextVar("asks", default=False)


class _AskedFor(BaseException):
    """Carries the dataclass and short forms of a verb to :func:`asked_for`."""

    def __init__(self, kind: type, short: Mapping[str, str]):
        super().__init__(kind.__name__)
        self.kind, self.short = kind, short


def asked_for(verb: Any, argv: list[str]) -> tuple[type, Mapping[str, str]]:
    """Return the dataclass that a verb parses these arguments into, and its short forms, without parsing or running
    anything.

    Args:
        verb: the verb's module.
        argv: arguments for which it would print its help.
    """
    token = _asks.set(True)
    try:
        verb.run(argv)
    except _AskedFor as asked:
        return asked.kind, asked.short
    finally:
        _asks.reset(token)
    raise ValueError(f"{verb.__name__} parses nothing with {argv}")


@functools.cache
def _sections() -> Any:
    """Return the settings that tell tyro about ranges and about sections that define their own options."""
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

    registry = ConstructorRegistry()

    @registry.struct_rule
    def section(info: StructTypeInfo) -> StructConstructorSpec | None:
        kind: Any = info.type
        if hasattr(kind, "option_hints"):
            raw = (info.default if isinstance(info.default, kind) else kind()).to_dict()
            docs, default = kind.option_docs(), {name: _immutable(raw.get(name)) for name in kind.option_hints()}
        elif _has_ranges(kind) and (isinstance(info.default, kind) or _needs_nothing(kind)):
            instance = info.default if isinstance(info.default, kind) else kind()
            docs, default = field_docs(kind), {name: getattr(instance, name) for name in field_hints(kind)}
        else:
            return None
        fields = [
            StructFieldSpec(name, hint, default[name], _with_range(docs.get(name, ""), hint))
            for name, hint in own_options(kind).items()
        ]
        return StructConstructorSpec(kind, tuple(fields))

    return registry


def _has_ranges(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) and any(
        range_of(hint) for hint in field_hints(typing.cast(type, kind)).values()
    )


def _needs_nothing(kind: Any) -> bool:
    fields = dataclasses.fields(kind)
    return all(
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING for field in fields
    )


def _immutable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _with_range(text: str, hint: Any) -> str:
    """Return the help of an option, extended by the range of its annotation or the names registered for it."""
    said, names = range_of(hint), listed(hint)
    if names:
        return f"{text.removesuffix('.')}: {names}."
    return f"{text.removesuffix('.')} ({said})." if said else text


def spelled_out(argv: Sequence[str], short: Mapping[str, str]) -> list[str]:
    """Return the arguments with short forms of options spelled out.

    Raises:
        UsageError: if an option is given in both forms.

    >>> spelled_out(["--model", "resnet18", "--model.stem=cifar"], {"--model": "--model.name"})
    ['--model.name', 'resnet18', '--model.stem=cifar']
    """
    names = [word.partition("=")[0].replace("_", "-") for word in argv]
    words = []
    for word, name in zip(argv, names, strict=True):
        if name in short and short[name] in names:
            raise UsageError(f"{name} is short for {short[name]}: they contradict each other; give one of them")
        words.append(word.replace(word.partition("=")[0], short[name], 1) if name in short else word)
    return words


def require_known(kind: type, argv: Sequence[str], verb: str) -> None:
    """Reject options that the verb does not have, and values that an option does not accept.

    Raises:
        UsageError: if there is one; it suggests the three nearest.
    """
    flags = option_flags(kind)
    known = {*flags, *HELP, *(_negative(option) for option in flags)}
    for index, word in enumerate(argv):
        if word == "--":
            return
        typed, equals, value = word.partition("=")
        name = typed.replace("_", "-")
        if not word.startswith("--"):
            continue
        if name not in known:
            near = either([f"--{option}" for option in closest(name, [option.removeprefix("--") for option in flags])])
            raise UsageError(
                f"resnet-jax {verb} has no option {typed}; did you mean {near}? "
                f"resnet-jax {verb} --help lists all {len(flags)}"
            )
        choices = [str(choice) for choice in choices_of(flags.get(name))]
        given = value if equals else "".join(argv[index + 1 : index + 2])
        if choices and given not in choices and not given.startswith("-"):
            field = name.removeprefix("--").replace("-", "_")
            raise unknown(field, given, [choice for choice in choices if choice != "None"])


def option_flags(kind: type, prefix: str = "") -> dict[str, Any]:
    """Return the options of a dataclass and its sections, as tyro spells them, with their annotations.

    >>> list(option_flags(Common))
    ['--json', '--debug', '--quiet']
    """
    import tyro

    positional = typing.get_args(tyro.conf.Positional[int])[1]
    flags: dict[str, Any] = {}
    for name, hint in own_options(kind).items():
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        extras = getattr(hint, "__metadata__", ())
        if positional in extras:
            continue
        flat = any(getattr(extra, "name", None) == "" for extra in extras)
        named = next((own for extra in extras if (own := getattr(extra, "name", None))), name)  # as tyro calls it
        dotted = prefix if flat else f"{prefix}{named.replace('_', '-')}"
        flags |= option_flags(inner, dotted if flat else f"{dotted}.") if is_section(inner) else {f"--{dotted}": hint}
    return flags


def _negative(option: str) -> str:
    """Return the flag that turns a switch off: ``--data.no-flip``."""
    *path, name = option.removeprefix("--").split(".")
    return "--" + ".".join([*path, f"no-{name}"])


def flags_last(argv: Sequence[str]) -> list[str]:
    """Return the arguments with leading options that may stand anywhere moved to the end.

    >>> flags_last(["--json", "profile", "x"])
    ['profile', 'x', '--json']
    """
    first = next((index for index, word in enumerate(argv) if word not in ANYWHERE), len(argv))
    return [*argv[first:], *argv[:first]]


def asks_for_help(argv: Sequence[str]) -> bool:
    """Return whether the first argument asks for help."""
    return bool(argv) and argv[0] in HELP


def list_verbs(verb: str, verbs: Mapping[str, str], more: str) -> str:
    """Return the help of a verb with sub-verbs, one line each."""
    width = max(map(len, verbs))
    lines = [f"usage: resnet-jax {verb} VERB ...", "", *(f"  {name:<{width}}  {text}" for name, text in verbs.items())]
    return "\n".join([*lines, "", f"{more}resnet-jax {verb} VERB --help explains a verb."])


def console_for(common: Common) -> Console:
    """Return the console for people: standard output, or standard error if a program reads standard output.

    With several processes, only the first one prints.
    """
    launch = started()
    return PlainConsole(stderr=common.json, quiet=common.quiet or (launch is not None and launch.index > 0))


def typed_fields(argv: Sequence[str], of: str) -> frozenset[str]:
    """Return the fields of one section of the configuration that were given on the command line, whatever their values.

    >>> sorted(typed_fields(["--optim.schedule.warmup", "1 epochs", "--optim.schedule.end-value=0"], "optim.schedule"))
    ['end_value', 'warmup']
    """
    flags = [arg.partition("=")[0].removeprefix("--").replace("-", "_") for arg in argv if arg.startswith("--")]
    return frozenset(flag.removeprefix(f"{of}.") for flag in flags if flag.startswith(f"{of}."))
