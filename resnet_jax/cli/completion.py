"""``resnet-jax completion SHELL``: print a script that completes verbs, options, their values, networks and recipes.

The script contains every word, so completion starts no process. Generate it again after updating the package.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import tyro

from resnet_jax.cli.options import Common, asked_for, option_flags, parse
from resnet_jax.fields import choices_of

Shell = Literal["bash", "zsh", "fish"]
#: Verbs whose first argument is a network or a recipe; the other verbs complete file names.
NETWORKS = ("models", "summary", "plan", "bench train", "bench infer", "bench compile", "depth profile", "depth check",
            "depth jacobian", "depth lesion")  # fmt: skip
RECIPES = ("train", "ablate", "search", "lr-range", "recipes", "data show")


@dataclasses.dataclass(frozen=True)
class CompletionOptions:
    """Options of ``completion``."""

    shell: Annotated[tyro.conf.Positional[Shell], tyro.conf.arg(metavar="bash|zsh|fish")]
    """The shell."""
    common: Annotated[Common, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Common)


ABOUT = (
    'Print a shell completion script. bash: put eval "$(resnet-jax completion bash)" into ~/.bashrc, or write it to '
    "~/.local/share/bash-completion/completions/resnet-jax. zsh: put the same eval into ~/.zshrc. fish: resnet-jax "
    "completion fish > ~/.config/fish/completions/resnet-jax.fish"
)


def run(argv: list[str]) -> None:
    """Print the script."""
    options = parse(CompletionOptions, argv, verb="completion", about=ABOUT)
    if options.shell == "fish":
        print(fish_script())
        return
    before = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
    print((before if options.shell == "zsh" else "") + bash_script())


def commands() -> Iterator[tuple[str, dict[str, tuple[str, ...]]]]:
    """Yield every verb, with its sub-verb if it has any, and its options: flag -> the values it lists."""
    from resnet_jax.cli.main import VERBS

    for verb in VERBS:
        module = importlib.import_module(f"resnet_jax.cli.{verb.replace('-', '_')}")
        for name in getattr(module, "VERBS", {"": ""}):
            with contextlib.redirect_stdout(io.StringIO()):
                kind, short = asked_for(module, [name, "--help"] if name else ["--help"])
            flags: dict[str, Any] = option_flags(kind)
            flags |= {each: flags.get(of) for each, of in short.items()}
            values = {flag: tuple(str(each) for each in choices_of(hint) if each is not None)
                      for flag, hint in flags.items()}  # fmt: skip
            yield f"{verb} {name}".strip(), {**values, "--help": ()}


def _words() -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Return the sub-verbs of each verb that has any, the networks and the recipes."""
    from resnet_jax.cli.main import VERBS
    from resnet_jax.models.zoo import list_models
    from resnet_jax.runs.recipes import list_recipes

    below = {}
    for verb in VERBS:
        module = importlib.import_module(f"resnet_jax.cli.{verb.replace('-', '_')}")
        if names := getattr(module, "VERBS", None):
            below[verb] = list(names)
    return below, list_models(), list_recipes()


def bash_script() -> str:
    """Return the script for bash, and for zsh through its ``bashcompinit``."""
    from resnet_jax.cli.main import VERBS

    below, networks, recipes = _words()
    known = dict(commands())
    valued: dict[tuple[str, tuple[str, ...]], None] = {
        (flag, values): None for flags in known.values() for flag, values in flags.items() if values
    }
    by_flag: dict[str, set[str]] = {}
    for flag, values in valued:
        by_flag.setdefault(flag, set()).update(values)
    lines = [
        "_resnet_jax() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" verb="" words="" i',
        "  COMPREPLY=()",
        "  for ((i = 1; i < COMP_CWORD; i++)); do",
        '    case "${COMP_WORDS[i]}" in -*) ;; *) verb="${COMP_WORDS[i]}"; break;; esac',
        "  done",
        '  if [[ -z "$verb" ]]; then',
        f'    COMPREPLY=($(compgen -W "{" ".join(VERBS)} help --help --version --json --debug --quiet" -- "$cur"))',
        "    return",
        "  fi",
        "  local first=$((i + 1))",
        '  case "$verb" in',
    ]
    for verb, names in below.items():
        lines.append(
            f'    {verb}) if ((COMP_CWORD == first)); then COMPREPLY=($(compgen -W "{" ".join(names)} --help" -- '
            '"$cur")); return; fi; verb="$verb ${COMP_WORDS[first]}"; first=$((first + 1));;'
        )
    lines += ["  esac", '  case "$prev" in']
    lines += [
        f'    {flag}) COMPREPLY=($(compgen -W "{" ".join(sorted(values))}" -- "$cur")); return;;'
        for flag, values in sorted(by_flag.items())
    ]
    named = f'compgen -W "{" ".join(networks)}" -- "$cur"'
    lines += [f"    --model.name) COMPREPLY=($({named})); return;;", "  esac", '  if [[ "$cur" == -* ]]; then']
    lines.append('    case "$verb" in')
    lines += [f'      "{verb}") words="{" ".join(flags)}";;' for verb, flags in known.items()]
    lines += ["    esac", '    COMPREPLY=($(compgen -W "$words" -- "$cur"))', "    return", "  fi"]
    lines.append('  if ((COMP_CWORD == first)); then case "$verb" in')
    lines.append(f"    {'|'.join(_quoted(NETWORKS))}) COMPREPLY=($({named}));;")
    recipe = f'compgen -W "{" ".join(recipes)}" -- "$cur"'
    lines.append(f"    {'|'.join(_quoted(RECIPES))}) COMPREPLY=($({recipe}));;")
    lines += [
        "  esac; fi",
        '  COMPREPLY+=($(compgen -f -- "$cur"))',
        "}",
        "complete -o filenames -F _resnet_jax resnet-jax",
    ]
    return "\n".join(lines)


def _quoted(words: typing.Iterable[str]) -> list[str]:
    return [f'"{word}"' for word in words]


def fish_script() -> str:
    """Return the script for fish, which has one line per option."""
    from resnet_jax.cli.main import VERBS

    below, networks, recipes = _words()
    lines = [
        f"complete -c resnet-jax -n __fish_use_subcommand -f -a {verb} -d {_fish(says)}" for verb, says in VERBS.items()
    ]
    for verb, names in below.items():
        lone = f"__fish_seen_subcommand_from {verb}; and not __fish_seen_subcommand_from {' '.join(names)}"
        lines.append(f"complete -c resnet-jax -n '{lone}' -f -a '{' '.join(names)}'")
    for command, flags in commands():
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.split())
        for flag, values in flags.items():
            given = f" -x -a '{' '.join(values)}'" if values else ""
            lines.append(f"complete -c resnet-jax -n '{seen}' -l {flag.removeprefix('--')}{given}")
        words = networks if command in NETWORKS else recipes if command in RECIPES else []
        if words:
            lines.append(f"complete -c resnet-jax -n '{seen}' -a '{' '.join(words)}'")
    return "\n".join(lines)


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
