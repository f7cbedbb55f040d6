"""Kill trainings at random moments with SIGKILL, run the same command again, and compare with an undisturbed run.

Claim: whatever the moment, the killed run ends like the undisturbed one. The whole saved state (parameters, batch
statistics, optimizer, moving averages, keys) and the test metrics agree bit for bit, and every step occurs exactly once
in metrics.jsonl, depth.jsonl and TensorBoard.

    uv run python experiments/chaos.py --kills 100 --json

Four settings take turns: a digits run (moving averages, gradients through depth) and a run on files in CIFAR-10's own
format (accumulation, augmentation in threads; the published archive with ``--cifar PATH``, otherwise images composed of
the digits), each with one process and with two processes of one device each, started by ``resnet-jax launch``. A
quarter of the kills fall between the start of the process and its first step (imports, restoring, compiling), the
others while it trains, validates, saves, tests or draws. With two processes, either one of them or the whole group is
killed.

The last line contains ``kills``, ``identical`` (kills whose run ended identically), ``lost_steps``, ``doubled_steps``,
``repeated_steps`` (all steps repeated after kills, as the runs log them), ``most_repeated`` (after a single kill),
``save_interval`` and the kills of each setting. Hardware: any CPU; about 15 s per kill on two cores. With ``--out
FILE`` every run is a line in that file, and an interrupted command resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

SAVE_EVERY, STEPS = 10, {"digits": 120, "cifar": 80}
#: A wait that ends: seconds that one session of a run may take before the experiment gives up.
PATIENCE = 600
#: Of a row: measured by the clock, so never the same twice.
TIMES = ("images_per_second",)
SMALL = ["--model.stage-sizes", "1", "1", "1", "--model.widths", "8", "16", "32"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained, and by how many processes."""

    data: str
    processes: int
    source: str = ""

    @property
    def name(self) -> str:
        """Of the setting."""
        return f"{self.data}-{self.processes}"

    def command(self, run_dir: Path) -> list[str]:
        """Return the words that train it, the same at every start."""
        common = [
            "--run-dir", str(run_dir), "--train.save-every", f"{SAVE_EVERY} steps", "--train.save-share", "1",
            "--train.log-every", "1 steps", "--train.limit", f"{STEPS[self.data]} steps", *SMALL,
        ]  # fmt: skip
        match self.data:
            case "digits":
                own = ["digits", "--train.ema.decay", "0.99", "--train.depth-every", "3 steps"]
            case _:
                own = ["cifar10-resnet20", "--data.source", self.source, "--train.batch-size", "32"]
                own += [
                    "--train.accumulate",
                    "2",
                    "--train.validate-every",
                    "40 steps",
                    "--train.early-stopping.patience",
                ]
                own += ["3"]
        verb = ["-m", "resnet_jax", "train", *own, *common]
        if self.processes == 1:
            return [sys.executable, *verb]
        launch = ["-m", "resnet_jax", "launch", "--local", str(self.processes), "--"]
        return [sys.executable, *launch, *verb[2:]]


def composed_cifar(folder: Path) -> str:
    """Write files in CIFAR-10's binary format whose images are scikit-learn's digits, enlarged and shifted."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    rng = np.random.default_rng(0)
    home = folder / "cifar-10-batches-bin"
    home.mkdir(parents=True, exist_ok=True)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (home / "batches.meta.txt").write_text("\n".join(names) + "\n")
    pixels = np.kron(digits.images / 16 * 255, np.ones((1, 4, 4))).astype(np.uint8)
    for number, name in enumerate([*(f"data_batch_{part}.bin" for part in range(1, 6)), "test_batch.bin"]):
        rows = rng.choice(len(pixels), 240, replace=False)
        planes = np.stack([np.roll(pixels[rows], shift, axis=2) for shift in (0, number, -number)], 1)
        labels = digits.target[rows].astype(np.uint8)[:, None]
        (home / name).write_bytes(np.concatenate([labels, planes.reshape(len(rows), -1)], 1).tobytes())
    return f"cifar:{home}"


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines without what the clock measured; a cut last line is not one."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        found.append({key: value for key, value in row.items() if key not in TIMES})
    return found


def last_step(run_dir: Path) -> int:
    """Return the newest step that the run has logged."""
    return max((int(row.get("step", 0)) for row in rows_of(run_dir / "metrics.jsonl")), default=0)


def scalars_of(run_dir: Path) -> list[tuple[str, int, float]]:
    """Return every scalar in the TensorBoard files, as they are, without any purging."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted((run_dir / "tensorboard").glob("*tfevents*")):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            record = data[at + 12 : at + 12 + size]
            if len(record) < size:
                break
            event: Any = event_pb2.Event.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
            found += [
                (value.tag, event.step, value.simple_value)
                for value in event.summary.value
                if value.tag.split("/")[-1] not in TIMES
            ]
            at += 16 + size
    return sorted(found)


def state_digest(run_dir: Path) -> str:
    """Return the SHA-256 of every array of the newest saved state, read by Orbax alone, on one device."""
    import jax
    from jax.sharding import SingleDeviceSharding
    from orbax.checkpoint import v1 as ocp

    folder = run_dir / "checkpoints" / "last"
    newest = str(folder / max((path.name for path in folder.iterdir() if path.name.isdecimal()), key=int))
    here = SingleDeviceSharding(jax.devices()[0])
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it tells that the progress beside the state has no arrays
    saved: Any = ocp.checkpointables_metadata(newest).metadata["state"]
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), saved)
    state = ocp.load_checkpointables(newest, {"state": like})["state"]
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return digest.hexdigest()


def outcome(run_dir: Path) -> dict[str, Any]:
    """Return what has to be the same in two finished runs."""
    summary = json.loads((run_dir / "summary.json").read_text())
    kept = ("test_accuracy", "test_loss", "best_val_accuracy", "steps", "finished", "tested", "params_digest")
    return {
        "state": state_digest(run_dir),
        "summary": {name: summary[name] for name in kept},
        "metrics": rows_of(run_dir / "metrics.jsonl"),
        "depth": rows_of(run_dir / "depth.jsonl"),
        "scalars": scalars_of(run_dir),
    }


def surplus(found: dict[str, Any], wanted: dict[str, Any]) -> tuple[int, int]:
    """Return how many rows and scalars of the one are missing in the other, and how many it has more than once."""
    lost = doubled = 0
    for name in ("metrics", "depth", "scalars"):
        have, want = (Counter(json.dumps(row, sort_keys=True) for row in one[name]) for one in (found, wanted))
        lost += sum((want - have).values())
        doubled += sum((have - want).values())
    return lost, doubled


class Session:
    """One start of the command, in a process group of its own."""

    def __init__(self, setting: Setting, run_dir: Path, log: Path) -> None:
        devices = "--xla_force_host_platform_device_count=1"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices}
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            setting.command(run_dir), stdout=self._log, stderr=self._log, env=environment, start_new_session=True
        )

    @property
    def over(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def kill(self, rng: random.Random, processes: int) -> str:
        """Kill all processes, or one of several, whose death has to end the others; wait until none is left."""
        members = workers_of(self.process.pid) if processes > 1 else []
        if members and rng.random() < 0.5:
            killed, what = [rng.choice(members)], "one process"
        else:
            killed, what = [*members, self.process.pid], "all"
        for number in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.wait()
        until = time.monotonic() + PATIENCE
        while any(is_alive(number) for number in members):
            if time.monotonic() > until:
                sys.exit(f"of the processes {members} one was killed, and another lives on")
            time.sleep(0.05)
        return what

    def wait(self) -> int:
        """Wait for the end; nothing of the group may stay."""
        try:
            status = self.process.wait(timeout=PATIENCE)
        finally:
            with_group_gone(self.process.pid)
            self._log.close()
        return status


def workers_of(parent: int) -> list[int]:
    """Return the children of a process that train (Linux)."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(number) for number in children.read_text().split()] if children.is_file() else []


def is_alive(number: int) -> bool:
    """Return whether there is a process of that number (Linux)."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def with_group_gone(group: int) -> None:
    """Kill what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def reference(setting: Setting, work: Path) -> tuple[dict[str, Any], float]:
    """Train without a kill; return the outcome and the seconds before its first step."""
    run_dir = work / f"{setting.name}-alone"
    if not (run_dir / "summary.json").is_file():
        first = None
        for _ in range(2):  # the first start compiles; the second says how long a start takes
            shutil.rmtree(run_dir, ignore_errors=True)
            began, first = time.monotonic(), None
            session = Session(setting, run_dir, work / f"{setting.name}-alone.log")
            while not session.over:
                if first is None and last_step(run_dir):
                    first = time.monotonic() - began
                time.sleep(0.05)
            if session.wait() != 0:
                sys.exit(f"the run without kills failed; see {work / f'{setting.name}-alone.log'}")
        (run_dir / "seconds.json").write_text(json.dumps(first))
    return outcome(run_dir), float(json.loads((run_dir / "seconds.json").read_text()))


def victim(setting: Setting, work: Path, wanted: dict[str, Any], start: float, most: int, seed: int) -> dict[str, Any]:
    """Train with up to ``most`` kills; return how it ended."""
    rng, total = random.Random(f"{setting.name}-{seed}"), STEPS[setting.data]
    run_dir, log = work / f"{setting.name}-{seed}", work / f"{setting.name}-{seed}.log"
    shutil.rmtree(run_dir, ignore_errors=True)
    kills: list[dict[str, Any]] = []
    while True:
        before = last_step(run_dir)
        session, early = Session(setting, run_dir, log), rng.random() < 0.25
        until = time.monotonic() + (rng.uniform(0, start) if early else PATIENCE)
        goal = (
            rng.randint(before + 1, max(before + 2, before + (total - before) * 2 // 3)) if len(kills) < most else None
        )
        while not session.over and goal is not None and time.monotonic() < until:
            if not early and last_step(run_dir) >= goal:
                time.sleep(rng.uniform(0, 0.2))
                break
            time.sleep(0.01)
        if session.over or goal is None:
            status = session.wait()
            if status != 0:
                return {"setting": setting.name, "seed": seed, "kills": kills, "identical": False, "status": status}
            if (run_dir / "summary.json").is_file():
                break
            continue
        how = session.kill(rng, setting.processes)
        kills.append({"early": early, "how": how, "step": last_step(run_dir)})
    found = outcome(run_dir)
    lost, doubled = surplus(found, wanted)
    repeated = [int(row["repeated"]) for row in rows_of(run_dir / "events.jsonl") if row.get("event") == "restore"]
    same = {name: found[name] == wanted[name] for name in wanted}
    shutil.rmtree(run_dir)
    return {
        "setting": setting.name,
        "seed": seed,
        "kills": kills,
        "identical": all(same.values()),
        "same": same,
        "lost": lost,
        "doubled": doubled,
        "repeated": repeated,
    }


def run(settings: list[Setting], work: Path, kills: int, per_run: int, out: Path | None) -> dict[str, Any]:
    """Kill until there were so many; return what came of it."""
    done = rows_of(out) if out is not None else []
    made, references = Counter(row["setting"] for row in done), {}
    while sum(len(row["kills"]) for row in done) < kills:
        setting = min(settings, key=lambda one: made[one.name])
        if setting.name not in references:
            references[setting.name] = reference(setting, work)
        wanted, start = references[setting.name]
        row = victim(setting, work, wanted, start, per_run, made[setting.name])
        made[setting.name] += 1
        done.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return summed(done)


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over all runs."""
    repeated = [count for row in rows for count in row.get("repeated", ())]
    return {
        "kills": sum(len(row["kills"]) for row in rows),
        "identical": sum(len(row["kills"]) for row in rows if row["identical"]),
        "lost_steps": sum(row.get("lost", 0) for row in rows),
        "doubled_steps": sum(row.get("doubled", 0) for row in rows),
        "repeated_steps": sum(repeated),
        "most_repeated": max(repeated, default=0),
        "save_interval": SAVE_EVERY,
        "runs": len(rows),
        "runs_identical": sum(bool(row["identical"]) for row in rows),
        "early_kills": sum(kill["early"] for row in rows for kill in row["kills"]),
        "settings": dict(Counter(row["setting"] for row in rows for _ in row["kills"])),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs",
    }


def main() -> None:
    """Read the command line, kill, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--per-run", type=int, default=4, help="kills of one run at most")
    parser.add_argument("--settings", nargs="+", default=["digits-1", "cifar-1", "digits-2", "cifar-2"])
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as published; else composed of digits")
    parser.add_argument("--work", type=Path, help="where the runs go (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="a line for every run; what is there already counts")
    parser.add_argument("--json", action="store_true", help="print the figures as the last line (they always are)")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="chaos-"))
    work.mkdir(parents=True, exist_ok=True)
    source = f"cifar:{options.cifar}" if options.cifar else composed_cifar(work / "data")
    split = [name.rsplit("-", 1) for name in options.settings]
    settings = [Setting(data, int(processes), source if data == "cifar" else "") for data, processes in split]
    figures = run(settings, work, options.kills, options.per_run, options.out)
    if options.work is None:
        shutil.rmtree(work)
    print(json.dumps(figures))
    sys.exit(0 if figures["kills"] == figures["identical"] and not figures["doubled_steps"] else 1)


if __name__ == "__main__":
    main()
