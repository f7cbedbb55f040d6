"""Which class of a data set is which output of a network: matched by name, never by position alone.

A label is a position in a list of names, and two lists of the same classes may have different orders: folders are
sorted as text (``0, 1, 10, 11, 2``), arrays count, other libraries have their own orders. So names decide, and
ambiguous cases are rejected.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import DataError, UsageError, nearest
from resnet_jax.runtime.plain_files import read_text
from resnet_jax.runtime.plain_json import load_json

SHOWN = 10
"""Maximum number of names listed in a message."""


@dataclass(frozen=True, eq=False)
class Matching:
    """The correspondence between the classes of a data set and a network.

    Attributes:
        outputs: int32 (classes of the data set,), the output of each class; -1 for a class without images that the
            network does not have.
        said: sentences for the user about everything that was not obvious: a different order, numbers for names, a
            subset of the classes. Empty if the lists are equal.
    """

    outputs: np.ndarray
    said: tuple[str, ...] = ()

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels of the data set, (N,), as outputs of the network."""
        return self.outputs[labels].astype(np.int32)


def match_classes(
    theirs: Sequence[str],
    ours: Sequence[str],
    *,
    present: Iterable[int] | None = None,
    source: str = "the data set",
    network: str = "the network",
) -> Matching:
    """Find the output of a network for every class of a data set.

    1. Equal names are the same class, in any order.
    2. Numbers are compared as numbers: ``3`` equals ``03``. If the network's names are not numbers, class ``n`` is
       output ``n``, counted from 0; the matching then reports which is which.
    3. A subset of the network's classes is accepted, and reported.

    Args:
        theirs: names of the classes of the data set, in label order.
        ours: names of the outputs of the network, in order.
        present: the labels that have images; only these need an output. None: all.
        source: the data set, for messages.
        network: the network, for messages.

    Raises:
        UsageError: if the network does not have a class, or two classes share a name; the message says what is
            expected.

    >>> match_classes(["cat", "ant"], ["ant", "bee", "cat"]).outputs.tolist()
    [2, 0]
    >>> match_classes(["0", "1", "10", "2"], [str(n) for n in range(12)]).outputs.tolist()
    [0, 1, 10, 2]
    """
    theirs, ours = ([unicodedata.normalize("NFC", name) for name in names] for names in (theirs, ours))
    needed = range(len(theirs)) if present is None else sorted({int(label) for label in present})
    wanted = [theirs[label] for label in needed]
    _refuse_repeated(wanted, source, theirs == ours)
    how, found = _find(wanted, ours, source, network, theirs == ours, needed)
    outputs = np.full(len(theirs), -1, np.int32)
    outputs[list(needed)] = found
    return Matching(outputs, (*_sentences(how, wanted, found, ours), *_perhaps_background(found, ours)))


def _find(
    wanted: list[str], ours: list[str], source: str, network: str, equal: bool, needed: Sequence[int]
) -> tuple[str, list[int]]:
    """Return how the classes were matched and their outputs."""
    if equal:
        return "equal", list(needed)
    table = _positions(ours)
    missing = [name for name in wanted if name not in table]
    if not missing:
        _refuse_ambiguous(wanted, table, network)
        return "name", [table[name][0] for name in wanted]
    if all(_is_number(name) for name in wanted):
        values = [int(name) for name in wanted]
        numbers = _positions([int(name) if _is_number(name) else None for name in ours])
        if all(value in numbers for value in values):
            _refuse_ambiguous(values, numbers, network)
            return "number", [numbers[value][0] for value in values]
        background = 0 in values and ours[0].casefold() == "background" and len(values) < len(ours)
        if not any(_is_number(name) for name in ours) and max(values) < len(ours) and not background:
            return "position", values
        raise UsageError(_wrong_numbers(values, ours, source, network))
    raise UsageError(_unmatched(missing, wanted, ours, source, network))


def _sentences(how: str, wanted: list[str], found: list[int], ours: list[str]) -> Iterable[str]:
    part = f"{len(set(found))} of the network's {len(ours)} classes"
    whole = len(set(found)) == len(ours)
    pairs = [f"{name} is {ours[output]}" for name, output in zip(wanted, found, strict=True)]
    if how == "position":
        yield f"classes matched by number, counted from 0: {_listed(pairs)}"
    elif how == "number" and whole:
        yield "classes matched by number, in the network's order"
    elif found != sorted(found):
        yield "classes matched by name: their order is another one in the network, whose order is used"
    if not whole:
        names = "" if how == "position" else f": {_listed([ours[output] for output in found])}"
        yield f"{part}{names}; an image is correct if its class is the likeliest of all {len(ours)}"


def _perhaps_background(found: list[int], ours: list[str]) -> Iterable[str]:
    """Report what numbers cannot tell: a network with one extra output may begin with a background class."""
    if are_numbers(ours) and len(ours) > 2 and sorted(found) == list(range(len(ours) - 1)):
        yield (
            "the network has one output more than these classes, and no names: if its first is a background, class 0 "
            "is output 1; then give the names of the outputs with class_names=FILE, one a line in their order"
        )


def _wrong_numbers(values: list[int], ours: list[str], source: str, network: str) -> str:
    both = f"{source} has the classes {_listed([str(value) for value in values])}, {network} {_listed(ours)}"
    if 0 in values and ours[0].casefold() == "background":
        return (
            f"{both}: output 0 is the background, which is hardly class 0 of the images. Name the folders as the "
            "outputs are called, or count them from 1"
        )
    if sorted(values) == list(range(1, len(ours) + 1)):
        return (
            f"{both}: whether class 1 is the first output or the second is not known (folders counted from 1, outputs "
            f"from 0). Give the names of the outputs with class_names=FILE, one name a line in the order of the "
            f"outputs (1 to {len(ours)} if class 1 is the first), or name the folders 0 to {len(ours) - 1}"
        )
    outside = _listed([str(value) for value in values if not _has_number(value, ours)])
    return (
        f"{both}: {outside} cannot be matched by number. Give the names of the outputs with class_names=FILE, one "
        "name a line in their order"
    )


def _has_number(value: int, ours: list[str]) -> bool:
    numbers = [int(name) for name in ours if _is_number(name)]
    return value in numbers if numbers else value < len(ours)


def _unmatched(missing: list[str], wanted: list[str], ours: list[str], source: str, network: str) -> str:
    both = f"{source} has the classes {_listed(wanted)}, {network} {_listed(ours)}"
    if all(_is_number(name) for name in ours):
        return (
            f"{both}: it knows its {len(ours)} outputs by number only, so that names cannot be matched. Give their "
            "names with class_names=FILE, one name a line in the order of the outputs (an import with "
            "class_names=FILE keeps them)"
        )
    close = nearest(missing[0], ours) or nearest(missing[0].casefold(), [name.casefold() for name in ours])
    close = next((name for name in ours if name.casefold() == (close or "").casefold()), None)
    hint = f" (nearest: {close!r})" if close else ""
    return (
        f"{both}: the network has no class {missing[0]!r}{hint}"
        + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        + ". Rename or leave out what it was not trained on, or give the names of the outputs as the images have them "
        "with class_names=FILE, one name a line in the order of the outputs"
    )


def _refuse_repeated(wanted: list[str], source: str, equal: bool) -> None:
    if equal:  # the same list: positions and names agree
        return
    table = _positions([int(name) if _is_number(name) else name for name in wanted])
    repeated = [wanted[position] for positions in table.values() if len(positions) > 1 for position in positions]
    if repeated:
        raise UsageError(f"{source} has several classes of one name ({_listed(repeated)}): which is which is not known")


def _refuse_ambiguous(wanted: Sequence, table: dict, network: str) -> None:
    for name in wanted:
        if len(table[name]) > 1:
            raise UsageError(
                f"{network} has {len(table[name])} outputs called {name!r} ({_listed(map(str, table[name]))}): which "
                "of them is meant is not known. Give other names with class_names=FILE, one a line in their order"
            )


def _positions(names: Sequence) -> dict:
    table: dict = {}
    for position, name in enumerate(names):
        table.setdefault(name, []).append(position)
    return table


def _is_number(name: str) -> bool:
    return re.fullmatch("[0-9]+", name) is not None


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def are_numbers(names: Sequence[str]) -> bool:
    """Return whether the names are only positions: 0, 1, 2, ... in order.

    >>> are_numbers(["0", "1", "2"]), are_numbers(["cat", "dog"])
    (True, False)
    """
    return list(names) == [str(position) for position in range(len(names))]


def output_names(class_names: Sequence[str], outputs: int) -> tuple[str, ...]:
    """Return a name for every output of a network, which may have more than the data has classes.

    >>> output_names(["cat", "dog"], 3)
    ('cat', 'dog', 'output 2')
    """
    return (*class_names, *(f"output {index}" for index in range(len(class_names), outputs)))


def _in_order(found: dict[str, Any], file: Path) -> list[Any]:
    """Return the names of a JSON object of output to name, or of name to output, in the order of the outputs."""
    by_output = {int(key): value for key, value in found.items() if _is_number(key)}
    by_name = {value: key for key, value in found.items() if type(value) is int}
    for table in (by_name, by_output):
        if len(table) == len(found) and sorted(table) == list(range(len(found))):
            return [table[output] for output in range(len(found))]
    raise DataError(
        f"{file} is a JSON object, but not one of output to name or name to output for the outputs 0 to "
        f"{len(found) - 1}; write the names one a line, in the order of the outputs"
    )


def read_class_names(file: Path, outputs: int, *, yes_or_no: bool = True) -> tuple[str, ...]:
    """Read the names of a network's outputs: one per line in output order, or JSON.

    The JSON is a list of strings, or an object of output to name (Hugging Face's ``id2label``) or name to output
    (torchvision's ``class_to_idx``).

    Args:
        file: UTF-8 text; empty lines at the end are ignored.
        outputs: number of outputs of the network. A network with one yes-or-no output has two names: no first, then
            yes.
        yes_or_no: whether one output means yes or no; otherwise it is a value to predict, or one label, with one name.

    Raises:
        UsageError: if the number of names differs from the number of outputs, or a name is empty.
        DataError: if the file cannot be read.
    """
    file = Path(file).expanduser()
    try:
        text = read_text(file, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise DataError(f"cannot read the class names in {file}: {why or error}") from error
    if text.lstrip()[:1] in ("[", "{"):
        try:
            found = load_json(text)
        except ValueError as error:
            raise DataError(f"{file} is no JSON list of class names: {error}") from error
        if isinstance(found, dict):
            found = _in_order(found, file)
        if not all(isinstance(name, str) for name in found):
            raise DataError(f"{file}: class names are strings in the order of the outputs")
        names = tuple(found)
    else:
        names = tuple(line.strip() for line in text.rstrip().splitlines())
    empty = [position for position, name in enumerate(names) if not name]
    if empty:
        raise UsageError(f"{file} has no name for output {empty[0]} (one name a line, in the order of the outputs)")
    wanted = 2 if outputs == 1 and yes_or_no else outputs
    if len(names) != wanted:
        said = "one output, yes or no, which needs two names" if wanted > outputs else f"{outputs} outputs"
        raise UsageError(f"{file} has {len(names)} names, the network {said}")
    return names
