"""An ablation from end to end: its cells equal separate runs, and stopped anywhere it comes to the same table."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import signal

import jax
import numpy as np
import pytest
import yaml

from resnet_jax.ablation import cell, run as ablation_run
from resnet_jax.ablation.directory import Definition
from resnet_jax.ablation.grid import Axis, parse_axis
from resnet_jax.ablation.run import ablate
from resnet_jax.errors import RunError, UsageError
from resnet_jax.report.depth_file import read_depth
from resnet_jax.report.metrics_file import read_metrics
from resnet_jax.runs import build
from resnet_jax.runs.data import load_images
from resnet_jax.runs.defaults import with_values
from resnet_jax.runs.fit import fit
from resnet_jax.training.early_stopping import EarlyStopping
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.loop import Interrupted
from tests.ablation.conftest import SEEDS, STEPS, everything, tiny_config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted ablation: its directory and its result."""
    out = tmp_path_factory.mktemp("ablations") / "whole"
    return out, ablate(everything(), out, skip_incompatible=True)


def without_seconds(result):
    cells = [{key: value for key, value in cell.items() if key != "seconds"} for cell in result["cells"]]
    return {**result, "cells": cells, "out": None}


def test_the_result_has_what_a_program_needs(whole):
    out, result = whole
    assert (result["recipe"], result["seeds"], result["out"]) == ("digits", [0, 3], str(out))
    learns, diverges, cannot = result["cells"]
    assert (learns["cell"], learns["status"], learns["n"], learns["diverged"]) == ("learns", "done", 2, {})
    assert learns["mean"] == pytest.approx(sum(learns["values"].values()) / 2)
    assert learns["mean"] > 0.15
    assert learns["std"] > 0
    assert (learns["params"], learns["steps"]) == (1362, STEPS)
    assert learns["seconds"] > 0
    assert (diverges["status"], diverges["mean"], diverges["std"], diverges["n"]) == ("done", None, None, 0)
    assert diverges["values"] == {"0": None, "3": None}
    assert set(diverges["diverged"]) == {"0", "3"}
    assert all(1 <= step <= STEPS for step in diverges["diverged"].values())
    assert (cannot["status"], cannot["params"]) == ("refused", None)
    assert "fixup replaces normalization" in cannot["refused"]


def test_the_directory_has_everything_and_no_checkpoint_of_a_finished_cell(whole):
    out, result = whole
    assert {path.name for path in out.iterdir()} == {
        ".lock", "ablation.yaml", "cells", "table.md", "table.csv", "curves.png"
    }  # fmt: skip
    assert {path.name for path in (out / "cells").iterdir()} == {"learns", "diverges"}
    files = {".written.json", "config.yaml", "data.json", "environment.json", "metrics.jsonl", "result.json"}
    assert {path.name for path in (out / "cells" / "learns").iterdir()} == files
    assert json.loads((out / "cells" / "learns" / "result.json").read_text()) == result["cells"][0]
    assert yaml.safe_load((out / "ablation.yaml").read_text())["cells"]["diverges"] == {"optim.learning_rate": 1e30}
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "table.md").read_text()
    assert "| learns | " in table
    assert "| diverges | diverged | - | 0 | 2 of 2 |" in table
    assert "| cannot be | refused: these choices do not go together: residual fixup" in table
    rows = read_metrics(out / "cells" / "learns" / "metrics.jsonl")
    assert [(row["kind"], row["seed"], row["step"]) for row in rows] == [
        ("epoch", seed, step) for step in (9, 18) for seed in SEEDS
    ]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "epoch"} <= set(rows[0])
    rows = read_metrics(out / "cells" / "diverges" / "metrics.jsonl")
    assert [row["seed"] for row in rows if row["kind"] == "diverged"] == list(SEEDS)


def test_a_cell_that_breaks_says_where_in_fault_json_as_a_run_does(whole):
    out, result = whole
    assert not (out / "cells" / "learns" / "fault.json").exists()
    fault = json.loads((out / "cells" / "diverges" / "fault.json").read_text())
    seed = SEEDS[fault["member"]]
    assert fault["step"] == result["cells"][1]["diverged"][str(seed)]
    assert fault["kind"] in ("parameters", "activation", "loss", "gradient", "statistics", "update"), fault["said"]
    assert fault["where"]
    assert len(fault["examples"]) == tiny_config().train.batch_size
    assert {block["block"] for block in fault["blocks"]} == {"stage1/block0"}


@pytest.mark.slow
def test_every_seed_is_the_training_run_of_that_seed(whole, tmp_path):
    """The same validation in every epoch and the same test as ``train`` with that seed, within float rounding."""
    out, result = whole
    rows = read_metrics(out / "cells" / "learns" / "metrics.jsonl")
    for member in result["cells"][0]["members"][1:]:  # not the one that is the recipe's anyway
        seed = member["seed"]
        summary = fit(dataclasses.replace(tiny_config(), seed=seed), tmp_path / str(seed)).summary
        assert abs(member["test_correct"] - summary.test_correct) <= 1
        assert member["test_loss"] == pytest.approx(summary.test_loss, rel=1e-4)
        alone = [row for row in read_metrics(tmp_path / str(seed) / "metrics.jsonl") if row["kind"] == "epoch"]
        mine = [row for row in rows if row["seed"] == seed]
        for name in ("loss", "val_loss"):
            assert [row[name] for row in mine] == pytest.approx([row[name] for row in alone], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("choices", [{}, {"steps_per_dispatch": 4}])
def test_seeds_stop_early_select_their_best_and_are_probed_as_their_training_runs(tmp_path, choices):
    config = tiny_config(
        length="3 epochs", early_stopping=EarlyStopping(1), select="best", depth_every="4 steps", **choices
    )
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=0.8))
    [found] = ablate(Definition(config, named={"all": {}}, seeds=SEEDS), tmp_path / "x")["cells"]
    cell_run = tmp_path / "x" / "cells" / "all"
    rows = read_metrics(cell_run / "metrics.jsonl")
    for one in found["members"]:
        seed, folder = one["seed"], tmp_path / str(one["seed"])
        summary = fit(dataclasses.replace(config, seed=seed), folder).summary
        assert abs(one["test_correct"] - summary.test_correct) <= 1
        assert one["test_loss"] == pytest.approx(summary.test_loss, rel=1e-2)
        mine = [row["step"] for row in rows if row["seed"] == seed and row["kind"] == "epoch"]
        assert mine[-1] == summary.steps
        probed, alone = read_depth(cell_run / f"depth-seed{seed}.jsonl"), read_depth(folder / "depth.jsonl")
        np.testing.assert_array_equal(probed.steps, alone.steps)
        np.testing.assert_allclose(probed.grad_norm, alone.grad_norm, rtol=1e-2)


@pytest.mark.slow
def test_a_seed_diverges_where_its_training_run_does(whole, tmp_path):
    diverged = whole[1]["cells"][1]["diverged"]["0"]
    config = tiny_config()
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=1e30))
    with pytest.raises(RunError, match=f"diverged at step {diverged}:"):
        fit(config, tmp_path / "diverges")


def test_a_finished_ablation_is_not_trained_again(whole, monkeypatch):
    out, result = whole
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*") if path.is_file()}
    monkeypatch.setattr(ablation_run, "train_cell", lambda *_: pytest.fail("trained again"))
    assert ablate(everything(), out, skip_incompatible=True) == result
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.fixture
def stop_after(monkeypatch):
    """Have the next ablation stopped after so many steps, counted over all its populations (and one look a cell)."""

    class StopAfter(StopRequest):
        def __init__(self, looks):
            super().__init__()
            self.left = looks

        def __bool__(self):
            self.left -= 1
            if self.left == 0:
                self.signal = signal.SIGINT
            return self.signal is not None

    def use(looks):
        @contextlib.contextmanager
        def stop_on_signals():
            yield StopAfter(looks)

        monkeypatch.setattr(ablation_run, "stop_on_signals", stop_on_signals)

    return use


@pytest.mark.slow
@pytest.mark.parametrize("before_the_next", [False, True])
def test_stopped_in_a_cell_and_before_the_next_it_comes_to_the_same_table(whole, tmp_path, stop_after, before_the_next):
    _, expected = whole
    stop_after(1 + 13)  # a look before the cell, one a step: in its second epoch
    with pytest.raises(Interrupted) as stopped:
        ablate(everything(), tmp_path, skip_incompatible=True)
    assert stopped.value.step == 13
    assert (tmp_path / "cells" / "learns" / "checkpoints" / "seeds-0-3" / "last" / "13").is_dir()
    assert "| learns | not run yet |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "curves.png").is_file()
    if before_the_next:
        stop_after(6)  # four looks are left in this cell, as the last step does not look; then one before the second
        with pytest.raises(Interrupted) as stopped:
            ablate(everything(), tmp_path, skip_incompatible=True)
        assert stopped.value.step == STEPS
        assert "| diverges | not run yet |" in (tmp_path / "table.md").read_text()
    stop_after(10**6)
    result = ablate(everything(), tmp_path, skip_incompatible=True)
    assert without_seconds(result) == without_seconds(expected), "to the last bit: digests are compared"
    rows, whole_rows = (read_metrics(path / "cells" / "learns" / "metrics.jsonl") for path in (tmp_path, whole[0]))
    assert rows == whole_rows


@pytest.mark.slow
def test_seeds_in_parts_give_the_same_and_finished_parts_are_kept(whole, tmp_path, stop_after):
    learns = Definition(tiny_config(), named={"learns": {}}, seeds=SEEDS)
    stop_after(1 + STEPS + 2)  # the first seed is done
    with pytest.raises(Interrupted):
        ablate(learns, tmp_path, members_at_once=1)
    assert "(1 of 2 seeds run)" in (tmp_path / "table.md").read_text()
    first = json.loads((tmp_path / "cells" / "learns" / "result.json").read_text())
    assert (first["status"], [member["seed"] for member in first["members"]]) == ("partial", [0])
    stop_after(10**6)
    [found] = ablate(learns, tmp_path, members_at_once=1)["cells"]
    assert found["members"][0] == first["members"][0]
    for got, expected in zip(found["members"], whole[1]["cells"][0]["members"], strict=True):
        assert got["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-4)
    rows = read_metrics(tmp_path / "cells" / "learns" / "metrics.jsonl")
    assert [(row["seed"], row["step"]) for row in rows] == [(0, 9), (0, 18), (3, 9), (3, 18)]


def test_cells_that_cannot_be_built_are_listed_before_anything_is_trained(tmp_path):
    axes = (parse_axis("model.norm", "batch,none"), parse_axis("model.residual", "plain,fixup,zero_gamma"))
    with pytest.raises(UsageError) as refused:
        ablate(Definition(tiny_config(), axes), tmp_path / "x")
    message = str(refused.value)
    assert "2 of 6 cells cannot be built; nothing was trained" in message
    assert "\n  norm-batch_residual-fixup: these choices do not go together" in message
    assert "\n  norm-none_residual-zero_gamma: these choices do not go together" in message
    assert "skip_incompatible" in message
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (Definition(tiny_config(batch_size=5000)), "larger than the 1258 training examples"),
        (
            Definition(tiny_config(), (Axis("model.norm", ("batch", "grup")), parse_axis("task.loss", "mze,mse"))),
            r"3 of 4 cells cannot be built.*\n.*norm-batch_loss-mze: unknown task.loss .*'mze'; did you mean 'mse'",
        ),
        (Definition(dataclasses.replace(tiny_config(), init_from="somewhere")), "leave out init_from"),
    ],
)
def test_ablations_that_cannot_be_run_are_refused(tmp_path, definition, message):
    with pytest.raises(UsageError, match=message):
        ablate(definition, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_when_nothing_is_left_skipping_does_not_help(tmp_path):
    definition = Definition(tiny_config(), (Axis("model.norm", ("grup", "bach")),))
    with pytest.raises(UsageError, match=r"2 of 2 cells(.|\n)*There is nothing to train"):
        ablate(definition, tmp_path / "x", skip_incompatible=True)
    with pytest.raises(UsageError, match="members_at_once must be 1 or more"):
        ablate(definition, tmp_path / "x", members_at_once=0)


def test_a_choice_that_only_fails_in_training_is_found_before_it(tmp_path):
    """Ghost groups of 7 do not divide a batch of 128; initialization and evaluation never notice."""
    cells = {"ghost": {"model.norm_scope": "ghost", "model.ghost_size": 7}}
    with pytest.raises(UsageError, match="7"):
        ablate(Definition(tiny_config(), named=cells), tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory", RunError, "2 seeds of cell base do not fit .* members_at_once below 2"),
        ("INTERNAL: something else", jax.errors.JaxRuntimeError, "something else"),
    ],
)
def test_too_little_memory_is_told_with_the_way_out(tmp_path, monkeypatch, text, kind, message):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(build, "create_population", fail)
    with pytest.raises(kind, match=message):
        ablate(Definition(tiny_config(), seeds=SEEDS), tmp_path / "x")


def test_another_process_in_the_directory_is_respected(whole):
    out, _ = whole
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process is training in"):
            ablate(everything(), out, skip_incompatible=True)


def test_another_ablation_in_the_directory_is_refused(whole):
    with pytest.raises(RunError, match=r"seeds: \[0, 3\] -> \[0\]"):
        ablate(dataclasses.replace(everything(), seeds=(0,)), whole[0], skip_incompatible=True)


def test_statistics_measured_anew_are_refused_for_a_cell(tmp_path):
    """Averages of snapshots go with a population; what is measured on training images is of a run alone."""
    images = load_images(tiny_config())
    for values, refused in (({"train.ema.reestimate": 0}, False), ({}, True)):
        config = with_values(tiny_config(), {"train.ema.kind": "swa", **values})
        with pytest.raises(UsageError, match="goes with a run alone") if refused else contextlib.nullcontext():
            cell.check_cell(config, images, config.train.placed(jax.devices()[:1]))
