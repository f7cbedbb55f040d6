r"""Spoken digits with held-out takes, and with each speaker left out entirely, from spectrograms and from the waveform.

Claims examined: a small residual network recognizes the digits of known speakers in unseen takes (98.5 % and more),
from log-mel spectrograms and from the waveform alike. For a speaker that it has never heard it recognizes fewer, and
how many fewer depends on the speaker. The training is the recipe `spoken-digits`; the network for the waveform has a
stem of 80 samples (Dai et al. 2016, arXiv 1610.00087).

    uv run python experiments/spoken_digits.py RECORDINGS --out experiments/results/spoken-digits

RECORDINGS contains <digit>_<speaker>_<take>.wav (Jakobovski/free-spoken-digit-dataset). The test split of `takes` is
takes 5 to 9 of every speaker; that of `speaker-NAME` is all takes of that speaker, none of which is trained on. There
is no validation. `--seeds 3`, `--parts takes speaker-lucas`, `--networks mel`. Run the same command again to resume.
Hardware, time and result: experiments/results/spoken-digits/README.md.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.fit import fit
from resnet_jax.runs.recipes import load_recipe
from resnet_jax.runtime.malloc import keep_freed_memory

TEST_TAKES = range(5, 10)
FIELDS: tuple[str, ...] = ("part", "network", "time_stretch", "seed", "correct", "examples", "accuracy", "seconds")


def divide(recordings: Path, part: str, target: Path) -> None:
    """Link the recordings into ``target/train`` and ``target/test``."""
    for file in sorted(recordings.glob("*.wav")):
        _, speaker, take = file.stem.split("_")
        is_test = int(take) in TEST_TAKES if part == "takes" else speaker == part.removeprefix("speaker-")
        link = target / ("test" if is_test else "train") / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(file.resolve())


def configuration(network: str, source: Path, seed: int) -> RunConfig:
    """Return the recipe for a network and a division."""
    recipe = load_recipe("spoken-digits")
    data = dataclasses.replace(recipe.data, source=f"wav:{source}", group_by=None, val_fraction=0.0)
    model = recipe.model
    if network == "waveform":
        mel = {name: None for name in model.changes if name.startswith("mel_")}
        model = model.replace(**mel, frontend="standardize", stem="waveform", stage_sizes=(1, 1, 1, 1),
                              widths=(32, 64, 128, 256))  # fmt: skip
    return dataclasses.replace(recipe, data=data, model=model, seed=seed)


def stretch_of(config: RunConfig) -> str:
    """Return the range of speeds of a run's ``time_stretch``, by which results of earlier recipes differ."""
    [written] = [text for text in config.data.augment if text.startswith("time_stretch")]
    low, high = re.findall(r"\d+\.?\d*", written)
    return f"{low} to {high}"


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--parts", nargs="+")
    parser.add_argument("--networks", nargs="+", default=("mel", "waveform"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/spoken-digits"), help="where the runs themselves go")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    keep_freed_memory()
    speakers = sorted({file.stem.split("_")[1] for file in given.recordings.glob("*.wav")})
    rows: list[dict[str, Any]] = []
    given.out.mkdir(parents=True, exist_ok=True)
    for part in given.parts or ["takes", *(f"speaker-{name}" for name in speakers)]:
        divide(given.recordings, part, given.runs / "data" / part)
        for network in given.networks:
            for seed in range(given.seeds):
                run = given.runs / f"{part}-{network}-{seed}"
                if not (run / "summary.json").is_file():
                    fit(configuration(network, given.runs / "data" / part, seed), run_dir=run)
                found = json.loads((run / "summary.json").read_text())
                stretch = stretch_of(RunDirectory(run).read_config())
                values = (part, network, stretch, seed, found["test_correct"], found["test_examples"],
                          found["test_accuracy"], round(found["seconds"], 1))  # fmt: skip
                rows.append(dict(zip(FIELDS, values, strict=True)))
                print(rows[-1], flush=True)
    file = given.out / "runs.csv"
    if file.is_file():  # rows of other parts, networks and seeds stay
        made = {tuple(str(row[name]) for name in FIELDS[:4]) for row in rows}
        with file.open(newline="") as stream:
            rows += [row for row in csv.DictReader(stream) if tuple(row[name] for name in FIELDS[:4]) not in made]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (*(row[name] for name in FIELDS[:3]), int(row["seed"]))))


if __name__ == "__main__":
    main()
