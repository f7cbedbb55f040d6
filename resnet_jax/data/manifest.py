"""``manifest:PATH``: a table of files, CSV (comma), TSV (tab) or JSON Lines, in UTF-8.

================================  ======================================================================================
column                            content
================================  ======================================================================================
``path``                          an image file, or an ``.npy`` file with one array; relative to the table
``label``                         the class, as text; classes are sorted, numbers as numbers
or ``labels``                     several labels, separated by ``;`` (in JSON Lines a list of texts); empty for none
or ``value``, ``value_NAME`` ...  numbers to predict
``label_NAME``, ``value_NAME``    in addition, further classes and numbers for ``task.heads``; empty for none
``split``                         optional: train, val or test; without it the table is split here
``group``                         optional: the group of the row, such as a patient; with ``data.group_by group``, every
                                  group is in one split
================================  ======================================================================================

Other columns are ignored, which the notes report. All wrong rows are found before anything else is done. The index of a
long table is stored (:mod:`resnet_jax.data.index`).
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from resnet_jax.data.decode import check_channels
from resnet_jax.data.folder import dataset_of
from resnet_jax.data.index import Index, Part, Stamps, kept_index, read_table
from resnet_jax.data.layout import shortened, split_of
from resnet_jax.data.path_table import PathTable
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError, nearest
from resnet_jax.runtime.plain_files import open_file
from resnet_jax.runtime.plain_json import load_json

COLUMNS = "need the columns path, and label, labels (separated by ;) or value (value_NAME, ...), and perhaps split"
SHOWN = 6
"""Number of wrong rows that a message names."""

TableKind = Literal["class", "multi-label", "value"]
"""The kinds of labels of a table."""

Row = tuple[int, dict[str, Any]]
"""1-based line, and column -> its contents."""


@register_source("manifest", form="manifest:PATH", uses=("orientation",))
def load_manifest(path: str, reading: Reading, /) -> Dataset:
    """Read the table; the files it names are not opened yet, but each must exist.

    Raises:
        DataError: if it does not exist, lacks these columns, or has wrong rows; with their lines.
    """
    if reading.pixels == "uint8":
        check_channels(reading.channels)
    table = Path(path).expanduser()
    facts = ["manifest", os.path.abspath(table), str(table)]
    return dataset_of(kept_index(facts, lambda stamps: _index(table, stamps)), f"manifest:{path}", reading)


def _index(table: Path, stamps: Stamps) -> Index:
    columns, rows = _read(table, stamps)
    kind, named = _kind_of(columns, table)
    beside = [name for name in columns if name.startswith(("label_", "value_")) and name not in named]
    if not rows:
        raise DataError(f"{table}: there are no rows in it; {COLUMNS}")
    problems: list[str] = []
    files, sizes, labels, splits, lines, members = [], [], [], [], [], []
    further: dict[str, list[Any]] = {name: [] for name in beside}
    for line, row in rows:
        try:
            file, size = _file(row, table.parent)
            label, split = _label(row, kind, named), _split(row, "split" in columns)
            member = _text(row, "group") if "group" in columns else None
            found = {name: _further(row, name) for name in beside}
        except ValueError as error:
            problems.append(f"line {line}: {error}")
            continue
        files.append(file)
        sizes.append(size)
        labels.append(label)
        splits.append(split)
        lines.append(line)
        members.append(member)
        for name, value in found.items():
            further[name].append(value)
    if problems:
        more = f" and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise DataError(
            f"{table}: {len(problems):,} of {len(rows):,} rows are wrong: {'; '.join(problems[:SHOWN])}{more}"
        )
    twice = _check_files_of_two_splits(table, files, splits, lines)
    names, array = _labels(labels, kind, named)
    field_names, fields = {}, {}
    for name, values in further.items():
        if name.startswith("value_"):
            fields[name] = np.array([math.nan if value is None else value for value in values], np.float32)
        else:
            field_names[name] = _sorted({value for value in values if value is not None})
            place = {value: number for number, value in enumerate(field_names[name])}
            fields[name] = np.array([place.get(value, -1) for value in values], np.int32)
    parts, order = {}, [split for split in ("all", "train", "val", "test") if split in splits]
    given, size = np.array(splits), np.array(sizes)
    prefix = f"{table.parent}{os.sep}" if all(file.startswith(f"{table.parent}{os.sep}") for file in files) else ""
    groups = np.array(members, dtype=str) if "group" in columns else None
    for split in order:
        chosen = np.flatnonzero(given == split)
        table_of_split = PathTable.of((files[i][len(prefix) :] for i in chosen), prefix)
        of_split = None if groups is None else groups[chosen]
        of_fields = {name: values[chosen] for name, values in fields.items()}
        parts[split] = Part(table_of_split, array[chosen], int(size[chosen].sum()), of_split, of_fields)
    others = [name for name in columns if name not in ("path", "split", "group", *named, *beside)]
    notes = (f"columns left out: {shortened(others)}",) if others else ()
    if twice:
        notes = (*notes, f"{twice:,} rows name a file that another row of the same split names too")
    for folder in {os.path.dirname(file) or "." for file in files}:
        stamps.add_folder(folder, os.stat(folder).st_mtime_ns, os.listdir(folder))
    notes = (*notes, f"further columns of every example: {shortened(beside)}") if beside else notes
    return Index(parts, names, notes, {}, kind, field_names)


def _read(table: Path, stamps: Stamps) -> tuple[list[str], list[Row]]:
    """Return the columns and the rows."""
    if not table.is_file():
        what = "this is a folder and no table" if table.is_dir() else "there is no such file"
        raise DataError(f"{table}: {what}; {COLUMNS}")
    try:
        with io.TextIOWrapper(io.BytesIO(read_table(table, stamps)), encoding="utf-8-sig", newline="") as file:
            if table.suffix.lower() in (".jsonl", ".ndjson") or begins_as_json(table):
                return _read_json(table, file)
            reader = csv.DictReader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",", strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows: list[Row] = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{table}: this is not text in UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); save it as "
            "UTF-8"
        ) from error
    except csv.Error as error:
        raise DataError(f"{table}: cannot read it as a table ({error})") from error
    except OSError as error:
        raise DataError(f"{table}: cannot read it ({error.strerror or error})") from error
    return columns, rows


def begins_as_json(table: Path) -> bool:
    with open_file(table) as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _read_json(table: Path, lines: Iterator[str]) -> tuple[list[str], list[Row]]:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = load_json(line)
        except ValueError as error:
            raise DataError(f"{table}: line {number} is no JSON ({error}); need one object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{table}: line {number} is a {type(row).__name__}; need one JSON object a line")
        rows.append((number, row))
        columns.update(dict.fromkeys(row))
    return list(columns), rows


def _kind_of(columns: list[str], table: Path) -> tuple[TableKind, list[str]]:
    """Return what the labels are and the columns that contain them."""
    beside = "label" in columns or "labels" in columns  # value_NAME are then further numbers
    values = [name for name in columns if name == "value" or (name.startswith("value_") and not beside)]
    found: list[tuple[TableKind, list[str]]] = [
        ("class", [name for name in columns if name == "label"]),
        ("multi-label", [name for name in columns if name == "labels"]),
        ("value", values),
    ]
    given: list[tuple[TableKind, list[str]]] = [pair for pair in found if pair[1]]
    if "path" not in columns:
        close = nearest("path", columns) or next((c for c in columns if c.lower() in _CALLED), None)
        hint = f"; call {close!r} path" if close else ""
        raise DataError(f"{table}: no column path; found {', '.join(columns) or 'none'}{hint}; {COLUMNS}")
    if len(given) != 1:
        there = " and ".join(name for _, names in given for name in names) or "no labels"
        raise DataError(f"{table}: found {there} among the columns {', '.join(columns)}; {COLUMNS}")
    return given[0]


_CALLED = ("file", "filename", "filepath", "file_path", "image", "img", "image_path", "filename_path", "name", "id")


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if None in row:
        raise ValueError("more cells than columns: put texts with commas in quotes")
    if value is None:
        raise ValueError(f"no {name}")
    if isinstance(value, (dict, list, bool)):
        raise ValueError(f"{name} is {value!r}; need a text or a number")
    return str(value).strip()


def _file(row: Mapping[str, Any], folder: Path) -> tuple[str, int]:
    """Return the file of a row and its size."""
    path = _text(row, "path")
    if not path:
        raise ValueError("path is empty")
    file = os.path.join(folder, os.path.expanduser(path))
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        raise ValueError(f"there is no file {file}") from None
    if not os.path.isfile(file):
        raise ValueError(f"{file} is no file")
    if not found.st_size:
        raise ValueError(f"{file} is empty (0 bytes)")
    return file, found.st_size


def _label(row: Mapping[str, Any], kind: TableKind, columns: list[str]) -> Any:
    match kind:
        case "class":
            label = _text(row, "label")
            if not label:
                raise ValueError("label is empty")
            return label
        case "multi-label":
            found = row.get("labels")
            if isinstance(found, list):
                if not all(isinstance(name, (str, int)) and not isinstance(name, bool) for name in found):
                    raise ValueError(f"labels is {found!r}; need a list of texts")
                return [str(name).strip() for name in found]
            return [name.strip() for name in _text(row, "labels").split(";") if name.strip()]
        case "value":
            return [_number(row, column) for column in columns]


def _further(row: Mapping[str, Any], column: str) -> Any:
    """Return a further class (a string) or number of a row; None if there is none."""
    if row.get(column) is None or not _text(row, column):
        return None
    return _number(row, column) if column.startswith("value_") else _text(row, column)


def _number(row: Mapping[str, Any], column: str) -> float:
    text = _text(row, column)
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{column} is {text!r}, which is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{column} is {text}; need a finite number")
    return value


def _split(row: Mapping[str, Any], wanted: bool) -> str:
    if not wanted:
        return "all"
    text = _text(row, "split")
    split = split_of(text)
    if split is None:
        raise ValueError(f"split is {text!r}; need train, val or test in every row")
    return split


def _check_files_of_two_splits(table: Path, files: list[str], splits: list[str], lines: list[int]) -> int:
    """Reject a file in two splits; return how many rows repeat one of their own split."""
    seen: dict[str, int] = {}
    twice = 0
    for place, file in enumerate(files):
        first = seen.setdefault(os.path.normpath(file), place)
        if first != place:
            if splits[first] != splits[place]:
                raise DataError(
                    f"{table}: {file} is in {splits[first]} (line {lines[first]}) and in {splits[place]} (line "
                    f"{lines[place]}): what is tested must not be trained on"
                )
            twice += 1
    return twice


def _labels(labels: list[Any], kind: TableKind, columns: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names and the array of all labels."""
    match kind:
        case "class":
            names = _sorted(set(labels))
            place = {name: number for number, name in enumerate(names)}
            return names, np.array([place[label] for label in labels], np.int32)
        case "multi-label":
            names = _sorted({name for row in labels for name in row})
            place = {name: number for number, name in enumerate(names)}
            rows = np.zeros((len(labels), len(names)), np.float32)
            for number, row in enumerate(labels):
                rows[number, [place[name] for name in row]] = 1
            return names, rows
        case "value":
            names = tuple(column.removeprefix("value_") for column in columns)
            return names, np.array(labels, np.float32)


def _sorted(names: set[str]) -> tuple[str, ...]:
    numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numbers else (0, name)))
