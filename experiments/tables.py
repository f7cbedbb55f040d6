"""Results as data: the CSV files of experiments/results, and the tables in README and docs that are made from them.

    uv run python experiments/tables.py            # writes the CSV files and the tables
    uv run python experiments/tables.py --check    # exit status 1 if any of them is not what it would write

Everything comes from files that runs left: the recipes (``about``), ``bench/*.json`` (comparisons with other
implementations), ``bench/networks-cpu.jsonl`` (``experiments/network_speeds.py``) and ``chips/v5e-1x1.jsonl``
(``experiments/chips_matrix.py``); parameters and multiply-adds are counted here. A cell without a measurement is empty.
It takes several seconds on one core, half of them for the counts in ``networks.csv``, which ``--no-counts`` leaves
unchanged.

- ``networks.csv``: every network: input, parameters, statistics, multiply-adds, MiB in float32, images per second on
  two CPU cores, and what its train step compiles to for a TPU v5e that was not present (a bound and an estimate).
- ``recipes.csv``: every recipe: network, published, expected here, minutes, command, results.
- ``speed.csv``: every measurement next to another implementation.

A table in a page is between ``<!-- table NAME -->`` and ``<!-- end of table -->``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.models import MODELS, count, create_model, list_models
from resnet_jax.runs.recipe_table import figure, readme_table, recipe_rows
from resnet_jax.runs.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
SPEEDS = RESULTS / "bench" / "networks-cpu.jsonl"
CHIPS = RESULTS / "chips" / "v5e-1x1.jsonl"
#: Recipes whose results lie in a folder of another name.
FOLDERS = {
    "bccd": "detection/bccd",
    "cifar10-speed-cpu": "speed-cpu",
    "digits-detection": "detection/digits-detection",
    "digits-multitask": "multitask",
    "spoken-written": "two_towers",
    "text-languages": "languages",
}
BEGIN, END = "<!-- table {} -->\n", "<!-- end of table -->"


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; of a file that is not there, none."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def rounded(value: float | None, digits: int = 3) -> str:
    """Return a measured number with three digits that mean something, or an empty cell."""
    if value is None:
        return ""
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def networks() -> list[dict[str, Any]]:
    """Return a row for every named network."""
    chips = {row["model"]: row for row in lines_of(CHIPS) if row.get("fits")}
    speeds = {(row["network"], row["mode"]): row for row in lines_of(SPEEDS)}
    rows = []
    for name in list_models("*"):
        sizes, shape = count(create_model(name), MODELS[name].input_shape), MODELS[name].input_shape
        row: dict[str, Any] = {"network": name, "input": "x".join(map(str, shape)), "parameters": sizes.params,
                               "statistics": sizes.batch_stats, "multiply_adds": sizes.macs,
                               "mib_float32": rounded(4 * (sizes.params + sizes.batch_stats) / 2**20)}  # fmt: skip
        for mode in ("infer", "train"):
            found = speeds.get((name, mode), {})
            row[f"cpu_{mode}_images_per_second"] = rounded(found.get("images_per_second"))
            row[f"cpu_{mode}_batch"] = found.get("batch", "") if found.get("images_per_second") else ""
        chip = chips.get(name, {})
        row["v5e_batch"] = chip.get("batch_per_chip", "")
        row["v5e_images_per_second_bound"] = rounded(chip.get("images_per_second_bound"))
        estimated = chip.get("estimated_seconds")
        row["v5e_step_ms_estimated"] = rounded(estimated and 1000 * estimated)
        row["v5e_step_peak_mib"] = rounded(chip.get("peak") and chip["peak"] / 2**20)
        row["source"] = MODELS[name].source
        rows.append(row)
    return rows


def recipes() -> list[dict[str, Any]]:
    """Return a row for every recipe."""
    rows = []
    for name, about in recipe_rows():
        published, expected = about.published, about.expected
        folder = f"experiments/results/{FOLDERS.get(name, name)}"
        rows.append({
            "recipe": name, "network": load_recipe(name).model.name, "what": about.what,
            "published": "" if published is None else f"{published.metric} {published.value:g}",
            "metric": "" if expected is None else expected.metric,
            "expected": "" if expected is None else f"{expected.value:g}",
            "tolerance": "" if expected is None else f"{expected.tolerance:g}",
            "seeds": "" if expected is None else expected.seeds, "measured": about.measured or "",
            "minutes": "" if about.minutes is None else f"{about.minutes:g}", "machine": about.machine or "",
            "command": about.command or f"resnet-jax train {name}", "source": about.source,
            "results": folder if (ROOT / folder).is_dir() else "",
        })  # fmt: skip
    return rows


def speed() -> list[dict[str, Any]]:
    """Return a row for every measurement side by side with the others' fastest."""
    rows = []
    for file in sorted((RESULTS / "bench").glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not found.get("fastest_other"):
            continue
        wide = "avx2" not in file.stem and "avx512f" in found["processor"]["instructions"]
        other = found["fastest_other"]
        rows.append({
            "mode": found["mode"], "network": found["model"], "batch": found["batch"],
            "processor": found["processor"]["name"], "instructions": "AVX-512" if wide else "AVX2",
            "cores": found["cores"], "images_per_second": rounded(found["ours"]), "fastest_other": other,
            "its_images_per_second": rounded(found[other]), "ratio": f"{found['over_fastest_other']:.2f}",
            "over_plain_flax": f"{found['over_flax']:.2f}", "date": found["date"][:10],
            "file": file.relative_to(ROOT).as_posix(),
        })  # fmt: skip
    return rows


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV with a header."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int | None = None) -> str:
    """Return a Markdown table; the columns from ``numbers`` on are to the right."""
    texts = len(header) if numbers is None else numbers
    rule = f"|{'---|' * texts}{'---:|' * (len(header) - texts)}\n"
    head, *body = (f"| {' | '.join(line)} |\n" for line in (header, *rows))
    return head + rule + "".join(body)


NAMES = {"torch": "PyTorch", "torch_compile": "`torch.compile`", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the README's table of speeds: the newest of each."""
    newest = {(row["mode"], row["network"], row["batch"], row["instructions"]): row for row in rows}
    return markdown(
        ("on two CPU cores", "images/s", "fastest other (images/s)", "ratio", "run"),
        [(f"{'training' if row['mode'] == 'train' else 'inference'}, {row['network']}, batch {row['batch']}, "
          f"{row['instructions']}", row["images_per_second"], f"{NAMES[row['fastest_other']]} "
          f"{row['its_images_per_second']}", f"**{row['ratio']}**", f"[{row['date']}]({row['file']})")
         for row in sorted(newest.values(), key=lambda row: (row["mode"] == "infer", row["network"], row["batch"]))],
    )  # fmt: skip


#: Metrics as people write them.
METRICS = {"auc": "AUC", "ap50": "AP50", "miou": "mIoU", "class_recall1": "class recall@1"}


def accuracy_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the README's table of what recipes reached here on data that was not composed."""

    def measured(row: dict[str, Any]) -> str:
        name, _, value = figure(about[row["recipe"]].expected, float(row["expected"])).rpartition(" ")  # type: ignore[arg-type]
        return f"{METRICS.get(name, name)} {value}"

    about = dict(recipe_rows())
    found = [row for row in rows if row["expected"] and not row["recipe"].startswith("digits-")]
    return markdown(
        ("recipe", "network and training", "measured here", "minutes on two CPU cores", "run"),
        [(f"`{row['recipe']}`", row["what"], measured(row), row["minutes"],
          f"[results]({row['results']})" if row["results"] else f"`{row['command']}`")
         for row in found],
    )  # fmt: skip


def network_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page of all networks: sizes, and speeds where they were measured."""
    header = ("network", "input", "parameters", "multiply-adds",
              "CPU inference (images/s)", "CPU training (images/s)", "v5e bound (images/s)")  # fmt: skip

    def number(text: str) -> str:
        return f"{float(text):,.0f}" if text and float(text) >= 1000 else text

    return markdown(header, [
        (row["network"], row["input"], number(row["parameters"]), number(row["multiply_adds"]),
         *(number(row[f"{what}_images_per_second{bound}"])
           for what, bound in (("cpu_infer", ""), ("cpu_train", ""), ("v5e", "_bound"))))
        for row in rows
    ], numbers=2)  # fmt: skip


def inserted(text: str, name: str, table: str) -> str:
    """Return a page with a table in its place."""
    begin = BEGIN.format(name)
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"no place for the table {name}: {begin.strip()} ... {END}")
    return f"{before}{begin}\n{table}\n{END}{after}"


def made(counts: bool = True) -> dict[Path, str]:
    """Return every file that this script writes, with its text."""
    file = RESULTS / "networks.csv"
    found = {"networks": networks()} if counts else {}
    found |= {"recipes": recipes(), "speed": speed()}
    files = {RESULTS / f"{name}.csv": csv_text(rows) for name, rows in found.items()}
    every = list(csv.DictReader(io.StringIO(files.get(file) or file.read_text(encoding="utf-8"))))
    tables = {
        ROOT / "README.md": {"speed": speed_table(found["speed"]), "accuracy": accuracy_table(found["recipes"])},
        ROOT / "docs" / "recipes.md": {"recipes": readme_table() + "\n"},
        ROOT / "docs" / "zoo.md": {"networks": network_table(every)},
    }
    for page, placed in tables.items():
        text = page.read_text(encoding="utf-8")
        for name, table in placed.items():
            text = inserted(text, name, table)
        files[page] = text
    return files


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only; exit status 1 where something differs")
    parser.add_argument("--no-counts", action="store_true", help="leave networks.csv as it is")
    given = parser.parse_args()
    files = made(counts=not given.no_counts)
    differing = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in differing:
        print(f"{path.relative_to(ROOT)} {'differs' if given.check else 'written'}")
        if not given.check:
            path.write_text(files[path], encoding="utf-8")
    sys.exit(int(given.check and bool(differing)))


if __name__ == "__main__":
    main()
