"""``--imports FILE``: modules of somebody's own, imported before anything else on the line is looked at."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_jax.cli.options import flags_last
from resnet_jax.errors import UsageError
from resnet_jax.runtime.imports import import_modules, whole_names

FLAG = "--imports"
#: Verbs whose configuration keeps what was imported.
KEEPING = ("train", "ablate")


def take_imports(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Take every ``--imports NAME``, wherever it stands, off the words; return the others and the names.

    Raises:
        UsageError: nothing stands behind one.

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
    """Import what ``--imports`` names; return the words, verb first, with the names at the end if it keeps them.

    Raises:
        UsageError: no such module or file, or one that raised an exception.
    """
    rest, names = take_imports(argv)
    words, found = flags_last(rest), whole_names(names)
    import_modules(found)
    if found and words[:1] and words[0] in KEEPING:
        words += [FLAG, *found]  # the last of all
    return words


def with_recipes_own(words: Sequence[str], imports: Sequence[str]) -> list[str]:
    """Return the words with what a recipe imports before what they name, if they name anything."""
    if FLAG not in words:
        return list(words)
    place = list(words).index(FLAG) + 1
    return [*words[:place], *dict.fromkeys((*imports, *words[place:]))]
