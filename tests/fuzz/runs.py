"""Files of weights, and of run directories and what else this package writes."""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.packing import RNG, entries, npy, zipped
from tests.fuzz.reader import Reader
from tests.weights.torch_writer import checkpoint


def _weights(root: Path) -> None:
    from resnet_jax.weights.files import read_weights
    from resnet_jax.weights.notes import read_notes

    (path,) = root.iterdir()
    found = read_weights(path)
    read_notes(found.metadata, path.name)


def _notes() -> str:
    from resnet_jax.weights.notes import KEY, Notes

    return Notes("resnet18", {}, ("a", "b"), (8, 8, 3), "none", (0.5,), (0.2,), "cross_entropy").as_metadata()[KEY]


def _manifest() -> bytes:
    from resnet_jax.training.manifest import MANIFEST, stamped, write_manifest

    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), stamped("last", 4, {"state/x": (5, "0" * 64)}, None))
        return (Path(folder) / MANIFEST).read_bytes()


def weight_files() -> list[Reader]:
    from safetensors.numpy import save

    arrays = {"conv.weight": RNG.normal(size=(2, 3)).astype(np.float32), "fc.bias": np.zeros(3, np.float16)}
    safe = save(arrays, {"format": "pt", "resnet_jax": _notes()})
    zipped = checkpoint(arrays, legacy=False)
    with zipfile.ZipFile(io.BytesIO(zipped)) as file:
        parts = {info.filename: file.read(info) for info in file.infolist()}
    return [
        Reader("safetensors", {"w.safetensors": safe}, _weights),
        Reader("torch zip", {"w.pt": zipped}, _weights, inner={"w.pt": entries(parts, 0)}),
        Reader("torch legacy", {"w.pt": checkpoint(arrays, legacy=True)}, _weights),
    ]


def run_files() -> list[Reader]:
    from resnet_jax.ablation.grid import load_cells
    from resnet_jax.depth.arrays import open_arrays
    from resnet_jax.report.depth_file import read_depth
    from resnet_jax.report.event_records import file_version, read_scalars, scalar
    from resnet_jax.report.metrics_file import read_metrics
    from resnet_jax.runs.config import config_to_yaml
    from resnet_jax.runs.corrupt import read_corrupt
    from resnet_jax.runs.directory import DatasetInfo, RunDirectory
    from resnet_jax.runs.recipes import load_recipe
    from resnet_jax.runtime.events import read_events
    from resnet_jax.training.manifest import MANIFEST, METADATA, read_manifest

    config = config_to_yaml(load_recipe("digits")).encode()
    info = DatasetInfo(("a", "b"), (8, 8, 1), (0.5,), (0.2,), {"train": 10}, "0" * 16, label_counts=(5, 5))
    data = json.dumps(dataclasses.asdict(info)).encode()
    metrics = b'{"kind": "train", "step": 1, "loss": 0.5}\n{"kind": "epoch", "step": 2, "epoch": 1, "loss": 0.4}\n'
    depth = b'{"blocks": ["a", "b"], "stage": [0, 0]}\n{"step": 1, "grad_norm": [0.5, 0.25]}\n'
    event = b'{"time": "2026-01-01T00:00:00+00:00", "event": "save", "step": 5}\n'
    corrupt = b'{"split": "train", "index": 3, "where": "a.png", "reason": "cut"}\n'
    manifest = _manifest()
    events = file_version() + scalar("loss", 0.5, 1) + scalar("loss", 0.25, 2)

    def run(call: Callable[[RunDirectory], Any]) -> Callable[[Path], Any]:
        return lambda root: call(RunDirectory.existing(root))

    kept = {"config.yaml": config, "data.json": data}
    stored = {"a.npy": npy(np.arange(4.0)), "about.npy": npy(np.array('{"a": 1}'))}
    return [
        Reader("class names", {"names.json": b'["cat", "dog"]'}, _class_list, text=True),
        Reader("recipe", {"r.yaml": config}, lambda root: load_recipe(str(root / "r.yaml")), text=True),
        Reader("config.yaml", kept, run(lambda found: found.read_config()), ("config.yaml",), text=True),
        Reader("data.json", kept, run(lambda found: found.read_data()), ("data.json",), text=True),
        Reader(
            "summary.json",
            {**kept, "summary.json": b'{"test": {"accuracy": 0.5}, "steps": 3, "finished": "now"}'},
            run(lambda found: found.read_summary()),
            ("summary.json",),
            text=True,
        ),
        Reader(
            "start.json",
            {**kept, "start.json": b'{"from": "x", "sha": "y"}'},
            run(lambda found: found.read_start()),
            ("start.json",),
            text=True,
        ),
        Reader(
            "metrics.jsonl", {"metrics.jsonl": metrics}, lambda root: read_metrics(root / "metrics.jsonl"), text=True
        ),
        Reader("depth.jsonl", {"depth.jsonl": depth}, lambda root: read_depth(root / "depth.jsonl"), text=True),
        Reader("events.jsonl", {"events.jsonl": event}, lambda root: read_events(root / "events.jsonl"), text=True),
        Reader(
            "corrupt.jsonl", {"corrupt.jsonl": corrupt}, lambda root: read_corrupt(root / "corrupt.jsonl"), text=True
        ),
        Reader("checkpoint manifest", {MANIFEST: manifest, METADATA: b"{}"}, read_manifest, text=True),
        Reader("TensorBoard events", {"a.tfevents.1": events}, read_scalars),
        Reader(
            "ablation cells",
            {"c.yaml": b"gn: {model.norm: group}\nbn: {}\n"},
            lambda root: load_cells(root / "c.yaml"),
            text=True,
        ),
        Reader(
            "depth arrays",
            {"a.npz": zipped(stored)},
            lambda root: open_arrays(root / "a.npz"),
            inner={"a.npz": entries(stored)},
        ),
    ]


def _class_list(root: Path) -> None:
    from resnet_jax.data.classes import read_class_names

    read_class_names(root / "names.json", 2)
