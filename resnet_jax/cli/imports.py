"""``--imports FILE``: import the user's own modules before the rest of the command line is read."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_jax.cli.options import flags_last
from resnet_jax.errors import UsageError
from resnet_jax.runtime.imports import import_modules, whole_names

FLAG = "--imports"
#: Verbs that store the imports in their configuration.
KEEPING = ("train", "ablate")


def take_imports(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Remove every ``--imports NAME`` from the arguments, wherever it stands; return the remaining arguments and the
    names.

    Raises:
        UsageError: if no name follows.

    >>> take_imports(["--imports", "my.norms", "train", "digits", "--imports=other", "--json"])
    (['train', 'digits', '--json'], ('my.norms', 'other'))
    """
    words, names, left = [], [], list(argv)
    while left:
        word = left.pop(0)
        flag, equals, name = word.partition("=")
        if word == "--":
            words += [word, *left]
            break
        if flag != FLAG:
            words.append(word)
            continue
        if not equals:
            name = left.pop(0) if left else ""
        if not name or name.startswith("-"):
            raise UsageError(f"{FLAG} takes a module or the path of a file that ends with .py: {FLAG} my_norms.py")
        names.append(name)
    return words, tuple(names)


def import_given(argv: Sequence[str]) -> list[str]:
    """Import what ``--imports`` names; return the arguments with the verb first, and the names at the end if the verb
    stores them.

    Raises:
        UsageError: if there is no such module or file, or importing it raises an exception.
    """
    rest, names = take_imports(argv)
    words, found = flags_last(rest), whole_names(names)
    import_modules(found)
    if found and words[:1] and words[0] in KEEPING:
        words += [FLAG, *found]  # the last of all
    return words


def with_recipes_own(words: Sequence[str], imports: Sequence[str]) -> list[str]:
    """Return the arguments with the recipe's own imports placed before those on the command line, if there are any."""
    if FLAG not in words:
        return list(words)
    place = list(words).index(FLAG) + 1
    return [*words[:place], *dict.fromkeys((*imports, *words[place:]))]
