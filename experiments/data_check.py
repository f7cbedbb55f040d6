"""Output of `resnet-jax data check` on one real data set of each kind: images, masks, boxes, series, audio, volumes.

    python experiments/data_check.py --data FOLDER

FOLDER contains the archives named below, as the README of the real data describes them. Each is unpacked and checked,
and the printed report goes to experiments/results/data/check-NAME.txt; check.json contains the numbers. It takes about
a minute of two CPU cores, mostly for the 60,000 images of CIFAR-10, which are checked twice. Expected: every example
can be read and none is in two splits; CIFAR-10 has 72 pairs of near-identical images, 21 of them across training and
test and each within one class, and all 72 show the same picture to the eye, with other colors or a slightly different
crop; the test series of ArrowHead contain one twice.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from resnet_jax.cli.main import run
from resnet_jax.runs.directory import describe_environment

OUT = Path(__file__).parent / "results" / "data"
PACKS = {
    "images": ("cifar10-jpeg", ["folder:cifar10"]),
    "images-imagenet": ("imagenet-samples-100", ["folder:imagenet-samples"]),
    "masks": ("camvid-train-val", ["masks:camvid", "--void-value", "11"]),
    "boxes": ("bccd-train-val", ["voc:bccd"]),
    "sounds": ("spoken-digits-5-speakers", ["wav:spoken-digits/recordings", "--class-pattern", r"^(\d)_"]),
    "series": ("timeseries", ["ucr:timeseries/ArrowHead"]),
    "volumes": ("adrenalmnist3d-train-val", ["volumes:adrenalmnist3d-train-val.npz"]),
}
"""Name of the report -> the pack, and how it is checked."""


def main() -> None:
    """Check them all, and write what is printed and found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the packs")
    packs = parser.parse_args().data.resolve()
    out = OUT.resolve()
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "environment": describe_environment(),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, (pack, command) in PACKS.items():
            _unpack(next(packs.glob(f"{pack}.*")))
            status, printed, numbers = _checked(command)
            shown = " ".join(word if word.isascii() and "(" not in word else f"'{word}'" for word in command)
            text = f"$ resnet-jax data check {shown}\n{printed}exit status {status}\n"
            (out / f"check-{name}.txt").write_text(text)
            found[name] = {"status": status, **_without_lists(numbers)}
            print(text)
    (out / "check.json").write_text(json.dumps(found, indent=1) + "\n")


def _unpack(pack: Path) -> None:
    """Bring a pack into the current directory."""
    if ".tar" in pack.name:
        with tarfile.open(pack) as archive:
            archive.extractall(".", filter="data")
    else:
        os.symlink(pack, pack.name)


def _checked(command: list[str]) -> tuple[int, str, dict[str, Any]]:
    """Return exit status, what is printed, and the numbers."""
    lines, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(errors):
        status = run(["data", "check", *command])
    numbers = io.StringIO()
    with contextlib.redirect_stdout(numbers), contextlib.redirect_stderr(io.StringIO()):
        run(["data", "check", *command, "--json"])
    return status, lines.getvalue() + errors.getvalue(), json.loads(numbers.getvalue().splitlines()[-1])


def _without_lists(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers without the names of files, which the text has."""
    return {
        key: {name: part for name, part in value.items() if name != "listed"} if isinstance(value, dict) else value
        for key, value in numbers.items()
        if key not in ("environment",)
    }


if __name__ == "__main__":
    main()
