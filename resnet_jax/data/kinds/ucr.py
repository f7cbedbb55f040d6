"""``ucr:PATH``: series of the UCR and UEA archives, each a signal (length, dimensions), float32.

``PATH`` is a folder with ``NAME_TRAIN.ts`` and ``NAME_TEST.ts`` (splits train and test), or one file (split all).
Supported are ``.ts``, the format of the archives since 2018 (header lines with ``@``, then one case per line: values
separated by commas, dimensions by colons, the class last), and the UCR archive's ``.tsv`` (the class, then values,
separated by tabs). Classes are in the order of ``@classLabel``; without it they are sorted, as numbers if possible.
``@targetLabel true`` makes them values.

**Unequal length**: shorter series are padded with zeros to the longest of both splits; ``data.signal_length`` chooses
another length, to which longer series are cut. **Missing values** (``?``, ``NaN``) at the end of all dimensions of a
series are taken as its end, as the archives pad them; anywhere else they are rejected, because no number stands for
them. Time stamps are rejected. Numbers are rounded to float32 and otherwise unchanged.

A. Bagnall et al., The UEA multivariate time series classification archive (2018), arXiv:1811.00075.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnet_jax.data.kinds.class_files import read_class_list
from resnet_jax.data.kinds.files import read_text
from resnet_jax.data.kinds.wav import brought_to, length_note
from resnet_jax.data.layout import shortened
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError, nearest

ENDINGS = (".ts", ".tsv")
MAX_BYTES = 4 << 30
EXPECTED = "need a folder with NAME_TRAIN.ts and NAME_TEST.ts (or .tsv), or one such file"
_MISSING = frozenset({"?", "nan", "NaN", "NAN", ""})
_KEYS = ("problemname", "timestamps", "missing", "univariate", "dimensions", "dimension", "equallength", "serieslength")


@dataclass
class Cases:
    """The contents of one file.

    Attributes:
        file: its path.
        series: float32 (length, dimensions) each.
        labels: one string each.
        lines: the line number of each.
        classes: as listed in the header; None if they are not.
        values: whether labels are values to predict.
        cut: number of series that ended in missing values.
        header: key in lower case -> the rest of its line.
    """

    file: Path
    series: list[np.ndarray] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    classes: tuple[str, ...] | None = None
    values: bool = False
    cut: int = 0
    header: dict[str, str] = field(default_factory=dict)


@register_source("ucr", form="ucr:PATH", uses=("class_list", "signal_length"))
def load_ucr(path: str, reading: Reading, /) -> Dataset:
    """Read the series into memory.

    Raises:
        DataError: if it does not exist, has no such file, or a case contradicts the header; with its file and line.
    """
    files = find_files(Path(path).expanduser())
    cases = {split: _read(file) for split, file in files.items()}
    first = next(iter(cases.values()))
    for one in cases.values():
        _check_alike(first, one)
    if reading.channels not in (None, first.series[0].shape[1]):
        raise DataError(
            f"{first.file}: series of {first.series[0].shape[1]} dimensions, and {reading.channels} channels are wanted"
        )
    lengths = np.array([len(series) for one in cases.values() for series in one.series])
    length = reading.signal_length or int(lengths.max())
    names = ("value",) if first.values else _names(cases, reading.class_list)
    splits = {}
    for split, one in cases.items():
        stacked = np.stack([brought_to(series, length) for series in one.series])
        labels = _values(one) if first.values else _labels(one, names)
        splits[split] = ArrayRecords(stacked, labels, name=str(one.file), meaning="signal")
    said = length_note(lengths, length, "series")
    notes = (said,) if said else ()
    if cut := sum(one.cut for one in cases.values()):
        notes = (*notes, f"{cut:,} series end in missing values, which are taken for their end")
    origins = {} if "all" in files else {split: file.name for split, file in files.items()}
    kind = "value" if first.values else "class"
    return Dataset(f"ucr:{path}", splits, names, notes, origins, reading.least_classes, kind)


def find_files(place: Path) -> dict[str, Path]:
    """Return split -> file of the series at a path.

    Raises:
        DataError: if there are none, or files of several data sets.
    """
    if place.is_file():
        if place.suffix.lower() not in ENDINGS:
            raise DataError(f"{place}: it ends in {place.suffix or 'nothing'}; {EXPECTED}")
        return {"all": place}
    if not place.is_dir():
        raise DataError(f"{place}: there is no such file or folder; {EXPECTED}")
    for ending in ENDINGS:
        files = sorted(file for file in place.iterdir() if file.suffix.lower() == ending and file.is_file())
        train = [file for file in files if file.stem.upper().endswith("_TRAIN")]
        if len(train) > 1:
            listed = shortened([file.name for file in train])
            raise DataError(f"{place}: {listed} are several problems; put each into a folder of its own")
        if train:
            test = [file for file in files if file.stem.upper() == train[0].stem.upper()[:-6] + "_TEST"]
            if not test:
                raise DataError(
                    f"{place}: {train[0].name} has no {train[0].stem[:-6]}_TEST{train[0].suffix} beside it; name the "
                    "file itself to have test series taken from it"
                )
            return {"train": train[0], "test": test[0]}
    there = shortened(sorted(entry.name for entry in place.iterdir())) or "nothing"
    raise DataError(f"{place}: found {there}; {EXPECTED}")


def _read(file: Path) -> Cases:
    text = read_text(file, MAX_BYTES)
    cases = Cases(file)
    rows = _ts_rows(text, cases) if file.suffix.lower() == ".ts" else _tsv_rows(text)
    for line, dimensions, label in rows:
        where = f"{file}, line {line}"
        if not label or label == "?":
            raise DataError(f"{where}: the series has no class")
        if cases.classes is not None and label not in cases.classes:
            near = nearest(label, cases.classes)
            hint = f"; did you mean {near!r}?" if near else ""
            raise DataError(
                f"{where}: class {label!r} is none of @classLabel ({shortened(cases.classes)}){hint}; the header has "
                "to list every class"
            )
        series, cut = _series(dimensions, where)
        if cases.series and series.shape[1] != cases.series[0].shape[1]:
            raise DataError(
                f"{where}: {series.shape[1]} dimensions, but line {cases.lines[0]} has {cases.series[0].shape[1]}"
            )
        cases.series.append(series)
        cases.labels.append(label)
        cases.lines.append(line)
        cases.cut += cut
    if not cases.series:
        raise DataError(f"{file}: there are no series in it; {EXPECTED}")
    _check_header(cases)
    return cases


def _ts_rows(text: str, cases: Cases) -> Iterator[tuple[int, list[str], str]]:
    """Yield line, dimensions and label of every case, after parsing the header into ``cases``."""
    in_data = False
    for line, row in enumerate(text.splitlines(), 1):
        row = row.strip()
        if not row or row.startswith(("#", "%")):
            continue
        where = f"{cases.file}, line {line}"
        if in_data:
            *dimensions, label = row.split(":")
            if not dimensions:
                raise DataError(f"{where}: no colon, so no class after the values; {_format(cases)}")
            yield line, dimensions, label.strip()
            continue
        if not row.startswith("@"):
            raise DataError(f"{where}: {row[:40]!r} stands before @data and is no header line (@...); {_format(cases)}")
        key, _, rest = row[1:].partition(" ")
        key, rest = key.lower(), rest.strip()
        if key == "data":
            in_data = True
            _check_readable_header(cases, where)
        elif key in ("classlabel", "targetlabel"):
            flag, *listed = rest.split() or ("",)
            if flag.lower() == "true" and key == "classlabel":
                cases.classes = tuple(listed) or None
            cases.values |= flag.lower() == "true" and key == "targetlabel"
            cases.header[key] = flag.lower()
        elif key in _KEYS:
            cases.header[key] = rest.lower() if key != "problemname" else rest
        else:
            raise DataError(f"{where}: unknown header @{key}; known are @{', @'.join((*_KEYS, 'classLabel', 'data'))}")
    if not in_data:
        raise DataError(f"{cases.file}: no line @data; {_format(cases)}")


def _format(cases: Cases) -> str:
    return f"{cases.file.suffix} has header lines, @data, then one case a line: 0.1,0.2,0.3:CLASS"


def _check_readable_header(cases: Cases, where: str) -> None:
    if cases.header.get("timestamps") == "true":
        raise DataError(f"{where}: series with time stamps are not read; save them at even steps without stamps")
    if "true" not in (cases.header.get("classlabel"), cases.header.get("targetlabel")):
        raise DataError(f"{where}: neither @classLabel true nor @targetLabel true: the series have no labels")


def _tsv_rows(text: str) -> Iterator[tuple[int, list[str], str]]:
    for line, row in enumerate(text.splitlines(), 1):
        if row.strip():
            label, _, values = row.strip().partition("\t")
            yield line, [values.replace("\t", ",")], label.strip()


def _series(dimensions: list[str], where: str) -> tuple[np.ndarray, bool]:
    """Return the values of a case, float32 (length, dimensions), and whether it ended in missing ones."""
    columns = [[value.strip() for value in dimension.split(",")] for dimension in dimensions]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise DataError(f"{where}: dimensions of {min(lengths)} to {max(lengths)} values; a case needs one length")
    end = lengths[0]
    while end and all(column[end - 1] in _MISSING for column in columns):
        end -= 1
    if not end:
        raise DataError(f"{where}: the series has no values")
    for number, column in enumerate(columns, 1):
        missing = [place for place, value in enumerate(column[:end], 1) if value in _MISSING]
        if missing:
            raise DataError(
                f"{where}: {len(missing)} values are missing, the first at place {missing[0]} of dimension {number}: "
                "fill them in first, or leave the series out"
            )
    try:
        values = np.array([column[:end] for column in columns], np.float64).T
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not np.isfinite(values).all():
        raise DataError(f"{where}: infinite values")
    return np.ascontiguousarray(values, np.float32), end < lengths[0]


def _check_header(cases: Cases) -> None:
    """Reject cases that contradict the header."""
    lengths, header = {len(series) for series in cases.series}, cases.header
    dimensions = cases.series[0].shape[1]
    said = header.get("serieslength", "")
    if header.get("univariate") == "true" and dimensions != 1:
        raise DataError(f"{cases.file}: @univariate true, but the cases have {dimensions} dimensions")
    wanted = header.get("dimensions", header.get("dimension", ""))
    if wanted.isdecimal() and int(wanted) != dimensions:
        raise DataError(f"{cases.file}: @dimensions {wanted}, but the cases have {dimensions}")
    if header.get("equallength") == "true" and len(lengths) > 1 and not cases.cut:
        raise DataError(f"{cases.file}: @equalLength true, but series have {min(lengths)} to {max(lengths)} values")
    if said.isdecimal() and int(said) and not cases.cut:
        other = [i for i, series in enumerate(cases.series) if len(series) != int(said)]
        if other and header.get("equallength", "true") == "true":
            line, found = cases.lines[other[0]], len(cases.series[other[0]])
            raise DataError(f"{cases.file}, line {line}: {found} values, but @seriesLength is {said}")


def _check_alike(first: Cases, other: Cases) -> None:
    ours, theirs = first.series[0].shape[1], other.series[0].shape[1]
    if ours != theirs or first.values != other.values:
        what = f"{theirs} dimensions" if ours != theirs else "another kind of labels"
        raise DataError(f"{other.file}: {what} than in {first.file}, which has {ours}; both splits must be alike")


def _names(cases: dict[str, Cases], listed: str | None) -> tuple[str, ...]:
    if listed is not None:
        return read_class_list(listed)
    first = next(iter(cases.values()))
    if first.classes is not None:
        for one in cases.values():
            if one.classes is not None and set(one.classes) != set(first.classes):
                raise DataError(
                    f"{one.file}: @classLabel {shortened(one.classes)}, but {first.file} has {shortened(first.classes)}"
                )
        return first.classes
    names = {label for one in cases.values() for label in one.labels}
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        return tuple(sorted(names))


def _labels(cases: Cases, names: tuple[str, ...]) -> np.ndarray:
    place = {name: label for label, name in enumerate(names)}
    for line, label in zip(cases.lines, cases.labels, strict=True):
        if label not in place:
            raise DataError(f"{cases.file}, line {line}: class {label!r} is none of {shortened(names)}")
    return np.array([place[label] for label in cases.labels], np.int32)


def _values(cases: Cases) -> np.ndarray:
    try:
        return np.array([float(label) for label in cases.labels], np.float32)
    except ValueError as error:
        raise DataError(f"{cases.file}: @targetLabel true, but {error}") from None
