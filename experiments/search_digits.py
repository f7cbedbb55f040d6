r"""Trials per CPU-hour: `resnet-jax search` on the digits compared with Optuna with one process per trial.

    uv run python experiments/search_digits.py --trials 48 --lanes 8

All sides use the same sampler (TPE, seed 0), space, length and validation images. Each is a process of its own whose
CPU seconds (user + system, with all its children, including compilation) the operating system counts. Each starts with
an empty cache of compiled programs, which its processes share:

* `ours`            `resnet-jax search` with successive halving
* `ours-full`       the same, with every trial at full length (--no-halving)
* `optuna`          Optuna's ask and tell, one process per trial, every trial at full length
* `optuna-halving`  the same with Optuna's SuccessiveHalvingPruner at the same rungs

Then `--seeds` seeds of each side's best values and of the recipe are trained and tested, and `five-minutes` is a search
of the learning rate alone with `--budget`, whose best value is compared with the recipe's. Writes
results/search/SIDE.json and trials-SIDE.csv; a side whose file exists with the same settings is not run again. Two idle
CPU cores take about 40 minutes with 48 trials; `--small` is a size that only shows that it works.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "search"
SPACE = {
    "optim.learning_rate": {"log": [0.001, 3.0]},
    "optim.weight_decay": {"log": [1e-6, 1e-2]},
    "optim.momentum": {"range": [0.5, 0.98]},
    "task.label_smoothing": {"range": [0.0, 0.2]},
}
RATE = {"optim.learning_rate": {"log": [0.001, 3.0]}}
SIDES = ("ours", "ours-full", "optuna", "optuna-halving")
SMALL = {"model.stage_sizes": [1, 1, 1], "model.widths": [8, 16, 32]}


def base_config(changes: dict[str, Any]) -> Any:
    from resnet_jax.runs.carried import with_options
    from resnet_jax.runs.length import Origin, fit_length
    from resnet_jax.runs.recipes import load_recipe

    config = with_options(load_recipe("digits"), changes)
    return fit_length(config, Origin(load_recipe("digits")), 1437 * 9 // 10 // 64)[0]


def worker(values: dict[str, float], changes: dict[str, Any], ends: list[int]) -> None:
    """Train once: print the validation accuracy at every rung, and go on if the line that is read says so.

    No test, pictures or files: only what a trial needs.
    """
    from resnet_jax.runs.build import build_parts
    from resnet_jax.runs.carried import with_options
    from resnet_jax.runs.data import load_images
    from resnet_jax.runtime.cache import keep_compiled_programs
    from resnet_jax.runtime.malloc import keep_freed_memory

    keep_freed_memory()
    keep_compiled_programs()
    config = with_options(base_config(changes), values)
    images = load_images(config)
    parts = build_parts(config, images, config.train.placed())
    validation = images.splits.val
    assert validation is not None  # the recipe holds some out
    state, start = parts.new_state(), 0
    for end in ends:
        rejected: Any = 0.0
        for call in parts.make_feed().calls(start, end):
            state, metrics = call.run(state)
            rejected = rejected + metrics["rejected"]
        found = parts.evaluate(state.eval_variables, validation).metrics["accuracy"]
        print(json.dumps({"step": end, "value": None if float(rejected) else found}), flush=True)
        start = end
        if float(rejected) or (end != ends[-1] and sys.stdin.readline().strip() != "on"):
            return


def driver(out: Path, trials: int, changes: dict[str, Any], ends: list[int], eta: int) -> None:
    """Optuna's ask and tell, a process a trial, one after the other."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=ends[0], reduction_factor=max(eta, 2))
    study = optuna.create_study(
        storage=f"sqlite:///{out.absolute()}/optuna.db", study_name="x", load_if_exists=True, direction="maximize",
        sampler=sampler, pruner=pruner if eta > 1 else optuna.pruners.NopPruner(),
    )  # fmt: skip
    for _ in range(trials - len(study.trials)):
        trial = study.ask()
        values = {
            name: trial.suggest_float(name, *next(iter(how.values())), log="log" in how) for name, how in SPACE.items()
        }
        command = [sys.executable, __file__, "--worker", json.dumps([values, changes, ends])]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        state, value = optuna.trial.TrialState.FAIL, None
        for line in process.stdout:
            found = json.loads(line)
            if found["value"] is None:
                state = optuna.trial.TrialState.PRUNED
                break
            value = found["value"]
            trial.report(value, found["step"])
            if found["step"] == ends[-1]:
                state = optuna.trial.TrialState.COMPLETE
                break
            state = optuna.trial.TrialState.PRUNED
            if trial.should_prune():
                break
            process.stdin.write("on\n")
            process.stdin.flush()
        process.stdin.close()
        if process.wait():
            raise SystemExit(f"the process of trial {trial.number} failed")
        done = state == optuna.trial.TrialState.COMPLETE
        study.tell(trial, value if done else None, state=None if done else state)
    with (out / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *SPACE, "updates", "val_accuracy", "state"])
        for one in study.trials:
            last = max(one.intermediate_values, default=0)
            score = one.intermediate_values.get(last, "")
            writer.writerow([one.number, *(one.params[name] for name in SPACE), last, score, one.state.name.lower()])


def measured(command: list[str], cache: Path) -> tuple[float, float]:
    """Run a command with an empty cache of programs; return the CPU seconds of its process tree, and seconds."""
    shutil.rmtree(cache, ignore_errors=True)
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_ENABLE_COMPILATION_CACHE": "true",
                   "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"failed: {command}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - began


def typed(changes: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for option, value in changes.items():
        words += [f"--{option.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return words


def run_side(side: str, settings: dict[str, Any], work: Path, results: Path) -> dict[str, Any]:
    path = results / f"{side}.json"
    if path.is_file() and (found := json.loads(path.read_text()))["settings"] == settings:
        print(f"{side}: {path} is there")
        return found
    from resnet_jax.search.halving import rungs

    trials, changes = settings["trials"], settings["changes"]
    length, per_epoch = settings["updates"], settings["updates_per_epoch"]
    eta = 1 if side in ("ours-full", "optuna") else 3
    ends = [rung.updates for rung in rungs(length, eta, 2 * per_epoch)]  # twice the warm-up, as the search has it
    out = work / side
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if side.startswith("ours"):
        (out / "space.yaml").write_text(json.dumps(SPACE))
        command = [
            sys.executable, "-m", "resnet_jax", "search", "digits", "--space", str(out / "space.yaml"), "--trials",
            str(trials), "--lanes", str(settings["lanes"]), "--eta", str(eta), "--out", str(out), *typed(changes),
        ]  # fmt: skip
    else:
        command = [sys.executable, __file__, "--driver", json.dumps([str(out), trials, changes, ends, eta])]
    cpu, wall = measured(command, work / f"{side}-programs")
    rows = list(csv.DictReader((out / "trials.csv").open()))
    whole = [row for row in rows if row["updates"] == str(length) and row["val_accuracy"]]
    best = max(whole, key=lambda row: float(row["val_accuracy"]))
    result = {
        "side": side,
        "settings": settings,
        "rungs": ends,
        "trials": len(rows),
        "of_whole_length": len(whole),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "trials_per_cpu_hour": 3600 * len(rows) / cpu,
        "best_val_accuracy": float(best["val_accuracy"]),
        "best": {name: float(best[name]) for name in SPACE},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}",
    }
    shutil.copy(out / "trials.csv", results / f"trials-{side}.csv")
    path.write_text(json.dumps(result, indent=2) + "\n")
    return result


def test_bests(
    found: dict[str, dict[str, Any]], settings: dict[str, Any], seeds: int, work: Path, results: Path
) -> None:
    """Train and test the best of every side and the recipe with the same seeds."""
    from resnet_jax.runs.carried import with_options
    from resnet_jax.runs.directory import RunDirectory
    from resnet_jax.search.confirm import trained
    from resnet_jax.training.interrupt import StopRequest

    path = results / "tested.json"
    wanted = {side: result["best"] for side, result in found.items()} | {"recipe": {}}
    done = json.loads(path.read_text()) if path.is_file() else {}
    for side, values in wanted.items():
        if done.get(side, {}).get("of") == [values, settings["changes"], seeds]:
            continue
        config = with_options(base_config(settings["changes"]), values)
        folder = work / "tested" / side
        shutil.rmtree(folder, ignore_errors=True)
        result = trained(side, config, range(1000, 1000 + seeds), RunDirectory(folder), StopRequest(), print)
        scores = [member.score for member in result.members]
        done[side] = {"of": [values, settings["changes"], seeds], "test_accuracy": scores}
        path.write_text(json.dumps(done, indent=2) + "\n")
    for side in wanted:
        print(f"test accuracy, {side}: {done[side]['test_accuracy']}")


def five_minutes(settings: dict[str, Any], budget: str, seeds: int, work: Path, results: Path) -> None:
    """Search the rate alone for so long; its best is tested beside the recipe's."""
    path, out = results / "five-minutes.json", work / "five-minutes"
    if path.is_file() and json.loads(path.read_text())["settings"] == {**settings, "budget": budget}:
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "space.yaml").write_text(json.dumps(RATE))
    command = [
        sys.executable, "-m", "resnet_jax", "search", "digits", "--space", str(out / "space.yaml"), "--budget", budget,
        "--lanes", str(settings["lanes"]), "--out", str(out), "--confirm", str(seeds), "--json",
        *typed(settings["changes"]),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    del result["out"], result["best_recipe"]
    path.write_text(json.dumps({"settings": {**settings, "budget": budget}, **result}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="5 min")
    parser.add_argument("--sides", nargs="*", default=SIDES, choices=SIDES)
    parser.add_argument("--small", action="store_true", help="a small network, 3 epochs: shows that it works")
    parser.add_argument("--work", type=Path, default=Path("runs/search-digits"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--driver", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        worker(*given.worker)
        return
    if given.driver is not None:
        driver(Path(given.driver[0]), *given.driver[1:])
        return
    epochs = 3 if given.small else 15
    changes = {**SMALL, "train.length": "3 epochs"} if given.small else {}
    given.results.mkdir(parents=True, exist_ok=True)
    per_epoch = 19
    settings = {
        "trials": given.trials, "lanes": given.lanes, "changes": changes, "space": SPACE, "sampler": "tpe",
        "updates": epochs * per_epoch, "updates_per_epoch": per_epoch,
    }  # fmt: skip
    found = {side: run_side(side, settings, given.work, given.results) for side in given.sides}
    for side, one in found.items():
        print(
            f"{side}: {one['trials']} trials, {one['of_whole_length']} of the whole length, {one['cpu_seconds']:.0f} "
            f"CPU-s, {one['trials_per_cpu_hour']:.0f} trials per CPU-hour, best val {one['best_val_accuracy']:.4f}"
        )
    for ours, theirs in (("ours", "optuna"), ("ours-full", "optuna"), ("ours", "optuna-halving")):
        if ours in found and theirs in found:
            print(f"{ours} / {theirs}: {found[ours]['trials_per_cpu_hour'] / found[theirs]['trials_per_cpu_hour']:.2f}")
    test_bests(found, settings, given.seeds, given.work, given.results)
    five_minutes(settings, given.budget, given.seeds, given.work, given.results)


if __name__ == "__main__":
    main()
