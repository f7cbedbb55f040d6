"""Former fields that are now transforms of ``data.augment``: crop, pad, flip, cutout, mixup, cutmix.

Each of them edits the list: it replaces the transform that it stands for, inserts it at its usual place, or removes it.
So ``--data.pad 2`` on top of a recipe changes only its crop, and an older recipe yields its list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from resnet_jax.data.augmentations import CutMix, Cutout, Flip, Mix, Mixup, RandomCrop, RandomResizedCrop
from resnet_jax.data.transforms import parse_transform, write_transform
from resnet_jax.errors import UsageError, unknown

#: Former field -> type.
OLD_FIELDS: dict[str, Any] = {
    "crop": Literal["none", "random_resized"],
    "pad": int,
    "flip": bool,
    "cutout": int,
    "mixup": float,
    "cutmix": float,
    "mix_probability": float,
}


def with_old_fields(augment: Iterable[str], given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a list of transforms edited by former fields.

    Args:
        augment: ``data.augment``.
        given: former field -> value.

    Raises:
        UsageError: for a value that the field could not have.

    >>> with_old_fields(["random_crop(4)", "flip"], {"pad": 2, "mixup": 0.4, "cutmix": 1})
    ('random_crop(2)', 'flip', 'mix(0.4, 1.0)')
    >>> with_old_fields(["random_crop(4)", "flip"], {"pad": 0, "flip": False})
    ()
    """
    if not given:
        return tuple(augment)
    _check(given)
    found: list[Any] = [parse_transform(text) for text in augment]
    if "crop" in given:
        crop = RandomResizedCrop() if given["crop"] == "random_resized" else None
        _replace(found, RandomResizedCrop, crop, lambda: 0)
    if "pad" in given:
        pad = RandomCrop(given["pad"]) if given["pad"] else None
        _replace(found, RandomCrop, pad, lambda: sum(each.where == "host" for each in found))
    if "flip" in given:
        _replace(found, Flip, Flip() if given["flip"] else None, lambda: _after(found, ("pixels",)))
    if "cutout" in given:
        cutout = Cutout(given["cutout"]) if given["cutout"] else None
        _replace(found, Cutout, cutout, lambda: _before_mixing(found))
    mixing = {name: given[name] for name in ("mixup", "cutmix", "mix_probability") if name in given}
    if mixing:
        _mix(found, mixing)
    return tuple(write_transform(transform) for transform in found)


def edit_section(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``data`` of a configuration with its former fields in ``augment``.

    >>> edit_section({"source": "digits", "pad": 1})
    {'source': 'digits', 'augment': ['random_crop(1)']}
    """
    given = {name: data[name] for name in OLD_FIELDS if name in data}
    rest = {name: value for name, value in data.items() if name not in given}
    if not given:
        return rest
    return {**rest, "augment": list(with_old_fields(rest.get("augment") or (), given))}


def translate_flags(argv: Sequence[str], augment: Sequence[str]) -> list[str]:
    """Return command-line arguments with former options converted to ``--data.augment``.

    A comma-separated list (an axis of an ablation) is kept: every cell of it edits the list.

    Args:
        argv: the arguments.
        augment: the transforms of the recipe.

    Raises:
        UsageError: for a value that the field could not have, or together with ``--data.augment``.

    >>> translate_flags(["--data.pad", "2", "--seed", "1", "--data.no-flip"], ["random_crop(4)", "flip"])
    ['--seed', '1', '--data.augment', 'random_crop(2)']
    """
    words: list[str] = []
    given: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += [word, *rest]
            break
        typed, equals, text = word.partition("=")
        name = typed.removeprefix("--data.").replace("-", "_")
        if not word.startswith("--data.") or name.removeprefix("no_") not in OLD_FIELDS:
            words.append(word)
        elif name.removeprefix("no_") == "flip" and not (equals or (rest and "," in rest[0])):
            given["flip"] = name == "flip"
        elif "," in (text if equals else "".join(rest[:1])):
            words += [word] if equals else [word, rest.pop(0)]
        elif not equals and (not rest or rest[0].startswith("--")):
            raise UsageError(f"{typed} needs a value")
        else:
            given[name] = _value(name, text if equals else rest.pop(0))
    if not given:
        return words
    if any(word.partition("=")[0] == "--data.augment" for word in words):
        old = ", ".join(f"--data.{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{old} are transforms of --data.augment now, and both are given: write them there")
    return [*words, "--data.augment", *with_old_fields(augment, given)]


def _value(name: str, text: str) -> Any:
    kind = OLD_FIELDS[name]
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UsageError(f"data.{name} must be {wanted}, got {text!r}") from None


def _check(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        kind = OLD_FIELDS[name]
        if name == "crop":
            if value not in ("none", "random_resized"):
                raise UsageError(f"data.crop must be none or random_resized, got {value!r}")
        elif name == "flip":
            if type(value) is not bool:
                raise UsageError(f"data.flip must be true or false, got {value!r}")
        elif type(value) is not int and (kind is int or type(value) is not float):
            raise UsageError(f"data.{name} must be {'a whole number' if kind is int else 'a number'}, got {value!r}")
        elif not math.isfinite(value) or value < 0 or (name == "mix_probability" and value > 1):
            limits = "in [0, 1]" if name == "mix_probability" else "0 or more"
            raise UsageError(f"data.{name} must be {limits}, got {value}")
    if not set(given) <= set(OLD_FIELDS):
        raise unknown("field", next(iter(set(given) - set(OLD_FIELDS))), OLD_FIELDS)


def _replace(found: list[Any], kind: type, new: Any, place: Callable[[], int]) -> None:
    """Put ``new`` where the first transform of this kind is, or at ``place``; None removes all of them."""
    there = [index for index, each in enumerate(found) if isinstance(each, kind)]
    if new is not None:
        if there:
            found[there[0]] = new
            there = there[1:]
        else:
            found.insert(place(), new)
            there = []
    for index in reversed(there):
        del found[index]


def _after(found: list[Any], needs: tuple[str, ...]) -> int:
    """Return the position after the host transforms and those of the device with these needs."""
    last = [n for n, each in enumerate(found) if each.where == "host" or getattr(each, "needs", "any") in needs]
    return last[-1] + 1 if last else 0


def _before_mixing(found: list[Any]) -> int:
    mixing = [index for index, each in enumerate(found) if isinstance(each, (Mixup, CutMix, Mix))]
    return mixing[0] if mixing else len(found)


def _mix(found: list[Any], given: Mapping[str, float]) -> None:
    there = [each for each in found if isinstance(each, (Mixup, CutMix, Mix))]
    if len(there) > 1:
        raise UsageError(
            f"data.{next(iter(given))} could change {' or '.join(write_transform(each) for each in there)}: write "
            "data.augment"
        )
    mixup, cutmix, probability = there[0].alphas() if there else (0.0, 0.0, 1.0)
    mixup, cutmix = float(given.get("mixup", mixup)), float(given.get("cutmix", cutmix))
    probability = float(given.get("mix_probability", probability))
    new: Any = None
    if mixup and cutmix:
        new = Mix(mixup, cutmix, probability)
    elif mixup or cutmix:
        new = Mixup(mixup, probability) if mixup else CutMix(cutmix, probability)
    _replace(found, (Mixup, CutMix, Mix), new, lambda: len(found))  # type: ignore[arg-type]
