"""Parse the heads of several tasks, ``NAME[=FIELD][:WHAT]``, and find the fields of the examples for them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence

from resnet_jax.errors import UsageError, nearest

#: The field of the labels themselves.
LABEL = "label"
#: Prefixes of a head's name in the name of its field, in the order of search.
PREFIXES = ("", "label_", "value_")
#: What can stand in place of a number of classes -> kind of task.
KINDS = {"value": "regression", "binary": "binary", "labels": "multilabel"}
#: Names that a head cannot have because they are fields of a batch or of the outputs.
_TAKEN = ("image", "mask", "index", "epoch", "log_variance", "score")
_FORM = re.compile(r"(?P<name>[a-z]\w*)(?:=(?P<field>\w+))?(?::(?P<what>\w+))?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """A head as the user writes it.

    Attributes:
        text: the original text.
        name: name of the task.
        field: field of the examples, if given.
        classes: number of classes, if given.
        kind: kind of task, if given.
    """

    text: str
    name: str
    field: str | None = None
    classes: int | None = None
    kind: str | None = None


def parse_heads(texts: Sequence[str]) -> list[HeadSpec]:
    """Parse heads.

    Raises:
        UsageError: there are none, one cannot be parsed, or a name occurs twice.

    >>> [(head.name, head.field, head.classes, head.kind) for head in parse_heads(["digit=label:10", "age:value"])]
    [('digit', 'label', 10, None), ('age', None, None, 'regression')]
    """
    if not texts:
        raise UsageError("task.kind multitask needs task.heads, such as digit:10 parity:2")
    heads: list[HeadSpec] = []
    for text in texts:
        match = _FORM.fullmatch(text)
        what = match["what"] if match else None
        number = what is not None and what.isdecimal()
        if match is None or (what is not None and not number and what not in KINDS):
            raise UsageError(
                f"task.heads {text!r}: need NAME:WHAT, such as digit:10, age:value, sick:binary or tags:labels"
            )
        if number and int(str(what)) < 2:
            raise UsageError(f"task.heads {text}: need two classes or more; a yes or no is {match['name']}:binary")
        if match["name"] in _TAKEN or match["name"] in [head.name for head in heads]:
            why = "is given twice" if match["name"] not in _TAKEN else "is a name that batches or outputs use"
            raise UsageError(f"task.heads {text}: {match['name']} {why}")
        classes, kind = (int(str(what)), None) if number else (None, KINDS.get(what or ""))
        heads.append(HeadSpec(text, match["name"], match["field"], classes, kind))
    return heads


def fields_of_heads(heads: Sequence[HeadSpec], there: Collection[str]) -> dict[str, str]:
    """Return the field that each head learns, by the head's name.

    Args:
        heads: the result of :func:`parse_heads`.
        there: fields of the examples; the label is always one of them.

    Raises:
        UsageError: there is no such field, or more than one head would fall back to the label.

    >>> fields_of_heads(parse_heads(["digit:10", "parity:2"]), ["image", "label_parity"])
    {'digit': 'label', 'parity': 'label_parity'}
    """
    fields = {*there, LABEL}
    found = {}
    for head in heads:
        if head.field is not None:
            if head.field not in fields:
                close = nearest(head.field, fields)
                raise UsageError(
                    f"task.heads {head.text}: the examples have no field {head.field}; they have "
                    f"{', '.join(sorted(fields - {'image'}))}" + (f"; did you mean {close}?" if close else "")
                )
            found[head.name] = head.field
        elif named := [f"{prefix}{head.name}" for prefix in PREFIXES if f"{prefix}{head.name}" in fields]:
            found[head.name] = named[0]
    rest = [head for head in heads if head.name not in found]
    if len(rest) > 1 or (rest and LABEL in found.values()):
        known = ", ".join(sorted(fields - {"image", LABEL})) or "no others"
        raise UsageError(
            f"task.heads {' '.join(head.text for head in rest)}: the examples have no fields of these names, and only "
            f"one head learns the label; fields: {known}. NAME=FIELD:WHAT names one"
        )
    return {head.name: found.get(head.name, LABEL) for head in heads}
