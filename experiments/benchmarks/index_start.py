"""How long a data set of a million files takes to open, the first and the second time, and how much memory it needs.

Claim: the second time takes less than 5 s, because the index of a folder is cached (resnet_jax/data/index.py); paths
and labels then take the bytes of the file names plus 12 per example.

    uv run python experiments/benchmarks/index_start.py --files 1000000 --out experiments/results/bench/index_start.json

It writes FILES names in 1,000 class folders (train, and val with a fiftieth), as hard links to a few small PNG files so
that the disk holds names and no pixels, opens them in new processes, as `folder:` and as a table (`manifest:`), and
removes them. The kernel already has the names cached, as after a copy; the first scan of a slow disk takes longer. It
takes about 4 minutes on two CPU cores. Expected: experiments/results/bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from resnet_jax.runs.directory import describe_environment

CLASSES = 1000
LINKS = 30_000
"""Names of one file: file systems have a limit."""

OPEN = """
import json, sys, time
import resnet_jax.data
from resnet_jax.data.folder import FolderRecords
from resnet_jax.data.source import load_dataset, find_source
for kind in ("folder", "manifest"): find_source(kind)
def memory(name):
    with open("/proc/self/status") as status:
        return round(next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024)
before = memory("VmRSS")
start = time.perf_counter()
dataset = load_dataset(sys.argv[1])
seconds = time.perf_counter() - start
records = list(dataset.splits.values())
print(json.dumps({
    "seconds": round(seconds, 3),
    "examples": sum(map(len, records)),
    "index_bytes": sum(r.paths.nbytes + r.labels.nbytes for r in records),
    "peak_mib": memory("VmHWM"),
    "before_mib": before,
    "after_mib": memory("VmRSS"),
    "example": records[0].describe(len(records[0]) - 1).rpartition("/set/")[2],
    "shape": list(records[0][len(records[0]) - 1]["image"].shape),
}))
"""


def write(root: Path, files: int) -> None:
    """Write the names, and a table of them."""
    count = max(1, files // CLASSES)
    held = max(1, count // 50)
    image, made, table = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes(), 0, ["path,label,split"]
    source = root / ".source"
    for label in range(CLASSES):
        wnid = f"n{10_000_000 + 13 * label:08}"
        for split, number in (("train", count - held), ("val", held)):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for index in range(number):
                if made % LINKS == 0:
                    source.unlink(missing_ok=True)
                    source.write_bytes(image)
                name = f"{wnid}_{index}.JPEG"
                os.link(source, folder / name)
                table.append(f"{split}/{wnid}/{name},{wnid},{split}")
                made += 1
    (root / "table.csv").write_text("\n".join(table) + "\n")


def opened(source: str, cache: Path) -> dict[str, Any]:
    """Open a source in a new process."""
    environment = {**os.environ, "RESNET_JAX_CACHE": str(cache)}
    found = subprocess.run(
        [sys.executable, "-c", OPEN, source], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="index_start-"))
    try:
        write(place / "set", options.files)
        result: dict[str, Any] = {"files": options.files, "environment": describe_environment()}
        for kind, path in (("folder", place / "set"), ("manifest", place / "set" / "table.csv")):
            cache = place / f"cache-{kind}"
            result[kind] = {turn: opened(f"{kind}:{path}", cache) for turn in ("first", "second", "third")}
            result[kind]["kept_bytes"] = sum(file.stat().st_size for file in cache.rglob("*.npz"))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
