"""Which folders are splits, which are classes, and which are neither, judging by their names.

A name such as ``train`` may be a class (a vehicle); ``train`` together with ``test``, or only ``images`` and ``masks``,
cannot: that is a data set with another layout, of which a classifier would learn the folders.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from resnet_jax.errors import DataError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Name of a folder in lower case -> split; ``Train`` and ``VAL`` are understood too."""
LAYOUTS = "need PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg with PATH/test or PATH/val beside it"
NO_CLASSES = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"})
"""Folders that operating systems leave behind, in lower case."""

_WHAT = r"(sets?|data|datasets?|splits?|folder|dir|[abxy]|images?|imgs?|annots?|annotations?|labels?|masks?|gt|seg)?"
_FIRST = r"(images?|imgs?|seg|data|labels?|masks?|annotations?|gt)?"
_TRAIN = re.compile(_FIRST + r"(train|training|trn|trainval)" + _WHAT)
_HELD_OUT = re.compile(_FIRST + r"(test|testing|tst|val|valid|validation|dev|eval|evaluation|holdout)" + _WHAT)
_ANNOTATION = re.compile(
    r"(labels?|masks?|annots?|annotations?|gts?|groundtruths?|gtfine|gtcoarse|segmentations?|segmentationclass"
    r"|segmentationobject|bbox(es)?|boundingbox(es)?|imagesets|xmls?|jsons?|labelmaps?|trimaps?)"
)
_PICTURES = re.compile(r"(jpeg|png)?(images?|imgs?)|leftimgbit")


def split_of(name: str) -> str | None:
    """Return the split that a folder of this name contains, or None.

    >>> split_of("Train"), split_of("VALID"), split_of("cat")
    ('train', 'val', None)
    """
    return SPLIT_FOLDERS.get(name.casefold())


def is_annotation(name: str) -> bool:
    """Return whether a folder of this name contains masks, boxes or the like and no images to classify."""
    return bool(_ANNOTATION.fullmatch(_letters(name)))


def check_class_names(folder: object, names: Sequence[str]) -> None:
    """Reject folders that are splits or annotations rather than classes.

    Args:
        folder: where they are, for messages.
        names: names of the folders that would become classes.

    Raises:
        DataError: if all of them look like it, some are for training and some held out, or images are beside masks.
    """
    train = [name for name in names if _TRAIN.fullmatch(_letters(name))]
    held_out = [name for name in names if _HELD_OUT.fullmatch(_letters(name))]
    annotations = [name for name in names if is_annotation(name)]
    pictures = [name for name in names if _PICTURES.fullmatch(_letters(name))]
    suspects = [name for name in names if name in {*train, *held_out, *annotations, *pictures}]
    mixed = (train and held_out) or (pictures and annotations)
    if not suspects or not (mixed or len(suspects) == len(names)):
        return
    kinds = []
    if train or held_out:
        kinds.append(f"splits ({shortened(train + held_out)})")
    if annotations:
        kinds.append(f"annotations ({shortened(annotations)})")
    if pictures:
        kinds.append(f"a store of images ({shortened(pictures)})")
    raise DataError(
        f"{folder}: its folders look like {' and '.join(kinds)}, not like classes; {LAYOUTS}. Images are classified "
        "as a whole here: a set with masks or boxes has to be sorted into one folder a class first"
    )


def check_below_class(folder: object, names: Sequence[str]) -> None:
    """Reject a class folder whose subfolders are splits, or contain masks that would be read as images of the class.

    Raises:
        DataError: if there are any; the message names them.
    """
    letters = {name: _letters(name) for name in names}
    train = [name for name in names if _TRAIN.fullmatch(letters[name])]
    held_out = [name for name in names if _HELD_OUT.fullmatch(letters[name])]
    if train and held_out:
        raise DataError(
            f"{folder}: a class folder with the splits {shortened(train + held_out)} in it; the splits belong above "
            "the classes: PATH/train/CLASS and PATH/test/CLASS"
        )
    annotations = [name for name in names if is_annotation(name)]
    if annotations:
        raise DataError(
            f"{folder}: a class folder with {shortened(annotations)} in it, whose images would be taken for images of "
            "the class; move the annotations out of the class folders"
        )


def alike(names: Iterable[str]) -> list[str]:
    """Return the names that differ only in case, composed accents or surrounding spaces, sorted.

    >>> alike(["cat", "Cat", "dog"])
    ['Cat', 'cat']
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[folded(name)].append(name)
    return sorted(name for group in groups.values() if len(group) > 1 for name in group)


def folded(name: str) -> str:
    """Return a name normalized for case, accent composition and surrounding spaces."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def shortened(names: Iterable[str], most: int = 6) -> str:
    """Join names with commas: the first few, and how many more there are.

    >>> shortened("abcdefgh", 3)
    'a, b, c and 5 more'
    """
    names = list(names)
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.casefold())
