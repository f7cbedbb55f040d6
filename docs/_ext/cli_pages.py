"""Pages of the command line: every verb with its options, from the parsers that the command itself uses."""

import contextlib
import html
import importlib
import io
import os
import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

from links import write_if_changed

MARK = "---\ngenerated: true\n---\n\n"


class _Parser(Exception):
    """Carries the parser out of a verb that would parse with it."""

    def __init__(self, parser: Any) -> None:
        super().__init__()
        self.parser = parser


def _instead_of_parsing(kind: Any, *, args: Any = None, **options: Any) -> Any:
    import tyro

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        raise _Parser(tyro.extras.get_parser(kind, **options))


@contextlib.contextmanager
def _parsers():
    import tyro

    kept, tyro.cli = tyro.cli, _instead_of_parsing
    try:
        yield
    finally:
        tyro.cli = kept


def parser_of(words: list[str]) -> Any:
    """Return the argparse parser of ``resnet-jax WORDS``.

    Raises:
        RuntimeError: the verb has none.
    """
    module = importlib.import_module(f"resnet_jax.cli.{words[0].replace('-', '_')}")
    try:
        with _parsers(), contextlib.redirect_stdout(io.StringIO()):
            module.run([*words[1:], "--help"])
    except _Parser as found:
        return found.parser
    raise RuntimeError(f"resnet-jax {' '.join(words)} --help made no parser")


def commands() -> dict[str, dict[str, list[str]]]:
    """Return the verbs, each with its commands: title -> words."""
    from resnet_jax.cli.main import VERBS

    found = {}
    for verb in VERBS:
        module = importlib.import_module(f"resnet_jax.cli.{verb.replace('-', '_')}")
        subs = getattr(module, "VERBS", None)
        found[verb] = {f"{verb} {sub}": [verb, sub] for sub in subs} if subs else {verb: [verb]}
    return found


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|$#])", r"\\\1", html.unescape(" ".join(text.split())).replace("%%", "%"))


def _prose(text: str) -> str:
    """Return a help text as Markdown: what stands in backticks stays code."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _options(parser: Any) -> str:
    lines: list[str] = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if "--help" not in action.option_strings]
        if not actions:
            continue
        title = (group.title or "").replace(" options", "")
        if len(parser._action_groups) > 2 or title.startswith("positional"):
            shown = {"positional arguments": "Arguments", "options": "Options"}.get(group.title, f"`--{title}.…`")
            lines += [f"```{{rubric}} {shown}", "```", ""]
        for action in actions:
            names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar}`"
            value = action.metavar if action.option_strings and action.metavar else ""
            if isinstance(value, tuple):
                value = " ".join(value)
            value = f" `{value.replace('{None}|', '')}`{{.value}}" if value else ""
            default = re.search(r"\s*\(default: (?P<value>[^()]*)\)\s*$", action.help or "")
            text = (action.help or "")[: default.start()] if default else action.help or ""
            said = default["value"].strip() if default else ""
            more = f" Default: `{said}`." if said and said not in ("None", "False", "True") else ""
            on = {"True": " On by default.", "False": " Off by default."}.get(said, "")
            text = text.replace(" (required)", "").replace("(required)", "")
            required = " **Required.**" if "(required)" in (action.help or "") else ""
            lines += [f"{names}{value}", f": {_prose(text) or '—'}{required}{more}{on}", ""]
    return "\n".join(lines)


def _page(verb: str, about: str, parts: dict[str, list[str]]) -> str:
    text = [MARK + f"# resnet-jax {verb}", "", f"{about[0].upper()}{about[1:]}.", ""]
    for title, words in parts.items():
        parser = parser_of(words)
        usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
        if len(parts) > 1:
            text += [f"## `{title}`", ""]
        usage = re.sub(r"\x1b\[[0-9;]*m", "", usage).replace("{None}|", "").replace("[-h] ", "")
        usage = re.sub(r"(--[\w.-]+) \1", r"\1", usage)
        wrapped = textwrap.wrap(usage, 88, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        text += ["```text", *(wrapped if len(wrapped) <= 8 else [usage.split(" [")[0] + " [OPTIONS]"]), "```", ""]
        if len(parts) > 1 or not parser.description.startswith(about[:20].capitalize()):
            text += [_prose(parser.description or ""), ""]
        text += [_options(parser), ""]
    return "\n".join(text)


def write(docs: Path) -> None:
    """Write a page a verb, and their index."""
    os.environ.setdefault("COLUMNS", "100")
    from resnet_jax.cli.main import STATUSES, VERBS

    folder = docs / "reference" / "cli"
    every = commands()
    for verb, parts in every.items():
        write_if_changed(folder / f"{verb}.md", _page(verb, VERBS[verb], parts))
    rows = [f"| [`{verb}`]({verb}.md) | {_escaped(text)} |" for verb, text in VERBS.items()]
    text = [
        MARK + "# Command line", "",
        "Every command is `resnet-jax VERB …`; these pages are made of what `resnet-jax VERB --help` prints.", "",
        "| verb | what it does |", "|---|---|", *rows, "",
        "`--json` prints one JSON object as the last line, `--debug` shows the traceback of an error;",
        "`--imports MODULE_OR_FILE.py` first imports code of your own ([Your own parts](../../extending.md)).", "",
        f"Exit status: {STATUSES}.", "",
        "```{toctree}", ":hidden:", "", *every, "```", "",
    ]  # fmt: skip
    write_if_changed(folder / "index.md", "\n".join(text))
