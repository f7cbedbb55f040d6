"""What becomes of predictions: lines on a terminal, rows of CSV or objects of JSON in a file, as they come."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from resnet_jax.errors import UsageError
from resnet_jax.report.coco_json import Located, coco_object, write_coco
from resnet_jax.report.text import say, visible
from resnet_jax.runtime.files import Appended

#: Suffixes of the files that predictions can be written to.
SUFFIXES = (".csv", ".jsonl")
#: Names of unreadable images that are kept for the last message.
NAMED = 6


class Predictions:
    """Where predictions go. Counts them, and names on standard error what could not be read.

    Args:
        failures: where the errors are said.

    Attributes:
        count: images so far.
        failed: those that could not be read.
        bad: names of the first of them.
    """

    def __init__(self, failures: Console):
        self.count, self.failed = 0, 0
        self.bad: list[str] = []
        self._failures = failures

    def add(
        self,
        image: str,
        classes: Sequence[str],
        probabilities: Sequence[float],
        error: str | None = None,
        values: Sequence[float] = (),
        boxes: Sequence[Sequence[float]] = (),
        sides: tuple[int, int] | None = None,
    ) -> None:
        """Take one: classes or labels, likeliest first, and their probabilities; or targets and values; or why not.

        Of an image with ``sides`` they are classes and scores of boxes, any number of them.
        """
        self.count += 1
        if error is not None:
            self.failed += 1
            self.bad += [image] if len(self.bad) < NAMED else []
            say(self._failures, f"error: {error}")
            self._write({"image": image, "error": error})
        elif sides is not None:
            found = {"classes": list(classes), "scores": list(probabilities), "boxes": [list(box) for box in boxes]}
            self._write({"image": image, "height": sides[0], "width": sides[1], **found})
        elif values:
            self._write({"image": image, "values": dict(zip(classes, values, strict=True))})
        else:
            self._write({"image": image, "classes": list(classes), "probabilities": list(probabilities)})

    def close(self) -> None:
        """End it."""

    def result(self) -> Any:
        """Return what the command prints with ``--json``."""
        return {"images": self.count, "failed": self.failed}

    def _write(self, row: dict[str, Any]) -> None:
        raise NotImplementedError


class OnTerminal(Predictions):
    """Shows every prediction as a line, and keeps all for the result if asked to."""

    def __init__(self, console: Console, failures: Console, *, keep: bool):
        super().__init__(failures)
        self._console, self._keep = console, keep
        self._rows: list[dict[str, Any]] = []

    def result(self) -> Any:
        """Return the predictions, one object for each image, if they were kept."""
        return self._rows if self._keep else super().result()

    def _write(self, row: dict[str, Any]) -> None:
        if self._keep:
            self._rows.append(row)
        if "values" in row:
            self._show(row["image"], [f"{visible(name)} {value:.6g}" for name, value in row["values"].items()])
        elif "boxes" in row:
            self._show(row["image"], _counted(row["classes"], row["scores"]))
        elif "error" not in row:
            pairs = zip(row["classes"], row["probabilities"], strict=True)
            self._show(row["image"], [f"{visible(name)} {probability:.1%}" for name, probability in pairs] or ["none"])

    def _show(self, image: str, found: Sequence[str]) -> None:
        say(self._console, f"{visible(image)}: {'  '.join(found)}")


def _counted(classes: Sequence[str], scores: Sequence[float]) -> list[str]:
    """Say how many boxes of each class there are, and the score of the best.

    >>> _counted(["cat", "dog", "cat"], [0.9, 0.8, 0.5])
    ['2 cat (0.90)', '1 dog (0.80)']
    """
    best: dict[str, float] = {}
    for name, score in zip(classes, scores, strict=True):
        best.setdefault(name, score)
    return [f"{list(classes).count(name)} {visible(name)} ({score:.2f})" for name, score in best.items()] or ["none"]


class InFile(Predictions):
    """Appends every prediction to a file, which is emptied first: ``.csv`` with a header, or ``.jsonl``.

    A row of CSV has ``image, class_1, probability_1, ..., error``, or a column for every target in place of these.
    Bytes of a name that are not UTF-8 become escapes.

    Args:
        path: the file.
        top: classes of each image.
        failures: where the errors are said.
        targets: names of the values that are predicted, if it is values.
        boxes: whether it is boxes, of which there is no CSV.

    Raises:
        UsageError: another suffix.
        OSError: it cannot be written, from here and from the methods; with its path.
    """

    def __init__(self, path: Path, top: int, failures: Console, *, targets: Sequence[str] = (), boxes: bool = False):
        super().__init__(failures)
        if boxes and path.suffix.lower() != ".jsonl":
            raise UsageError(f"{path}: boxes are written as .json (COCO's format) or .jsonl; give a name that ends so")
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{path}: predictions are written as {' or '.join(SUFFIXES)}; give a name that ends so")
        self._path, self._top, self._csv = path, top, path.suffix.lower() == ".csv"
        self._targets = tuple(targets)
        path.write_text("")
        self._file = Appended(path)
        if self._csv:
            ranks = [f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "probability")]
            self._file.write(_row(["image", *(self._targets or ranks), "error"]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def result(self) -> Any:
        """Return how many images there were, and the file."""
        return {**super().result(), "out": str(self._path)}

    def _write(self, row: dict[str, Any]) -> None:
        if not self._csv:
            self._file.write(json.dumps({**row, "image": visible(row["image"])}, ensure_ascii=False))
            return
        if self._targets:
            values = (
                [f"{value:.9g}" for value in row["values"].values()] if "values" in row else [""] * len(self._targets)
            )
            self._file.write(_row([visible(row["image"]), *values, row.get("error", "")]))
            return
        pairs = zip(row.get("classes", ()), row.get("probabilities", ()), strict=True)
        cells = [cell for name, probability in pairs for cell in (name, f"{probability:.6g}")]
        cells += [""] * (2 * self._top - len(cells))
        self._file.write(_row([visible(row["image"]), *cells, row.get("error", "")]))


class InCoco(Predictions):
    """Keeps all boxes, and writes them at the end as JSON in COCO's format (:mod:`resnet_jax.report.coco_json`).

    Args:
        path: the file, ``.json``.
        names: of the classes.
        failures: where the errors are said.
    """

    def __init__(self, path: Path, names: Sequence[str], failures: Console):
        super().__init__(failures)
        self._path, self._names, self._found = path, list(names), list[Located]()

    def close(self) -> None:
        """Write the file."""
        write_coco(self._path, coco_object(self._found, self._names))

    def result(self) -> Any:
        """Return how many images there were, and the file."""
        return {**super().result(), "out": str(self._path)}

    def _write(self, row: dict[str, Any]) -> None:
        if "boxes" not in row:
            return
        labels = np.array([self._names.index(name) for name in row["classes"]], np.int64)
        boxes, scores = np.array(row["boxes"], np.float64).reshape(-1, 4), np.array(row["scores"])
        self._found.append(Located(visible(row["image"]), (row["height"], row["width"]), boxes, labels, scores))


def _row(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
