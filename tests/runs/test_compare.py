"""Runs side by side: rows by configuration, differences by seeds, and what cannot be compared."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import shutil

import pytest

from resnet_jax.errors import DamagedError, RunError, UsageError
from resnet_jax.runs.compare import compare_runs
from resnet_jax.runs.compare_table import as_json, columns, curves_csv, lines, runs_csv, sentences
from resnet_jax.runs.directory import RunDirectory
from tests.composed_runs import CARD, VALUES, compose, tiny

SLOW = {0: 0.80, 1: 0.90, 2: 0.85}
FAST = {0: 0.81, 1: 0.911, 2: 0.862}


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Two rates with three seeds each; the faster one is a little better with every seed. To be read only."""
    folder = tmp_path_factory.mktemp("six")
    return [
        compose(folder / f"rate{rate}-seed{seed}", tiny(seed, rate), (0.5, test, test - 0.01), test)
        for rate, tests in ((0.1, SLOW), (0.2, FAST))
        for seed, test in tests.items()
    ]


def test_runs_that_differ_in_their_seed_are_one_row(six):
    found = compare_runs(six)
    assert found.differing == ("optim.learning_rate",)
    assert [row.label for row in found.rows] == ["learning_rate 0.1", "learning_rate 0.2"]
    mean, std, n = found.rows[0].score("test")
    assert (mean, std, n) == pytest.approx((0.85, 0.05, 3))
    table = columns(found)
    assert table["seeds"] == ["0 1 2"] * 2
    assert table["test accuracy"] == ["85.00 ± 5.00 % (n 3)", "86.10 ± 5.05 % (n 3)"]
    assert table["best validation accuracy"][0] == "85.00 ± 5.00 % (n 3)"
    assert (table["state"], table["steps"], table["epochs"], table["images/s"]) == (
        ["done"] * 2,
        ["30"] * 2,
        ["3"] * 2,
        ["200"] * 2,
    )


def test_the_same_seeds_are_paired(six):
    (text,) = sentences(compare_runs(six))
    assert text == (
        "learning_rate 0.2 is 1.10 points above learning_rate 0.1, 95 % interval 0.85 to 1.35, 3 seeds paired, "
        "p = 0.0027: distinguishable"
    )
    (turned,) = sentences(compare_runs(six[::-1]))  # whichever comes first
    assert turned == text


def test_other_seeds_are_compared_by_welch(six):
    (text,) = sentences(compare_runs(six[:5]))
    assert "2 and 3 seeds, not the same (Welch), p = " in text
    assert text.endswith(": not distinguishable")


def test_one_seed_is_no_test(six):
    (text,) = sentences(compare_runs([six[0], *six[3:]]))
    assert text.endswith("above learning_rate 0.1: no test, it takes 2 seeds of each at least, and there are 3 and 1")
    found = compare_runs(six[:1])
    assert (len(found.rows), found.pairs, found.differing) == (1, (), ())
    assert columns(found)["test accuracy"] == ["80.00 %"]
    assert found.rows[0].label == "digits"


def test_values_that_do_not_vary(tmp_path):
    runs = [
        compose(tmp_path / f"{rate}-{seed}", tiny(seed, rate), (0.5,), test)
        for rate, test in ((0.1, 0.5), (0.2, 0.75))
        for seed in (0, 1)
    ]
    (text,) = sentences(compare_runs(runs))
    assert text.endswith(
        "is 25.00 points above learning_rate 0.1, 2 seeds paired: no test, the values do not vary over seeds"
    )


def test_another_metric(six):
    assert sentences(compare_runs(six, metric="macro_f1"))[0].startswith("learning_rate 0.2 is 0.55 points above")
    found = compare_runs(six, metric="loss")
    assert found.rows[0].score("test")[0] == pytest.approx(0.15)
    assert found.runs[0].best == pytest.approx(0.5)  # the least
    with pytest.raises(UsageError, match=r"unknown metric of .*seed0 'macro_f2'; did you mean 'macro_f1'"):
        compare_runs(six, metric="macro_f2")


def test_rows_by_chosen_options_pair_by_all_else(tmp_path):
    runs = [
        compose(tmp_path / f"{rate}-{decay}-{seed}", with_decay(tiny(seed, rate), decay), (0.5,), test)
        for (rate, decay, seed), test in {
            (0.1, 0.0, 0): 0.50,
            (0.1, 0.01, 0): 0.70,
            (0.2, 0.0, 0): 0.52,
            (0.2, 0.01, 0): 0.725,
        }.items()
    ]
    assert len(compare_runs(runs).rows) == 4
    found = compare_runs(runs, group_by=["optim.learning-rate"])
    assert [len(row.runs) for row in found.rows] == [2, 2]
    (pair,) = found.pairs
    assert pair.difference is not None
    assert (pair.difference.how, pair.difference.mean) == ("paired", pytest.approx(-0.0225))
    assert "Rows hold several values of optim.weight_decay." in lines(found)
    with pytest.raises(UsageError, match=r"unknown option to group by 'optim\.rate'"):
        compare_runs(runs, group_by=["optim.rate"])
    assert "all runs have the same optim.momentum" in compare_runs(runs, group_by=["optim.momentum"]).notes


def with_decay(config, decay):
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, weight_decay=decay))


def test_runs_that_are_not_finished(tmp_path, six):
    going = compose(tmp_path / "going", tiny(3, 0.1), (0.5, 0.6))
    found = compare_runs([*six, going])
    assert columns(found)["state"] == ["3 done, 1 unfinished", "done"]
    assert columns(found)["steps"][0] == "30 20"
    assert "1 of 4 runs of learning_rate 0.1 is unfinished and not in its mean" in found.notes
    assert found.pairs[0].difference is not None
    assert found.pairs[0].difference.how == "paired"  # of those that have a result
    alone = compare_runs([going, compose(tmp_path / "other", tiny(3, 0.2), (0.4,))])
    assert alone.measure == "best"
    assert sentences(alone)[0].startswith("learning_rate 0.1 is 20.00 points above learning_rate 0.2: no test")
    began = compose(tmp_path / "began", tiny(4, 0.1))
    assert compare_runs([began]).rows[0].score("best") == (None, None, 0)
    assert "nothing to compare, learning_rate 0.1 has no test value" in sentences(compare_runs([began, six[3]]))[0]


def test_what_a_reader_has_to_know(tmp_path, six):
    again = compose(tmp_path / "again", tiny(0, 0.1), (0.5,), 0.82, stuck=True)
    found = compare_runs([*six, again, six[0]])
    assert found.rows[0].score("test") == pytest.approx((0.8533333, 0.0450925, 3))  # of 0.80 and 0.82 the mean
    said = " ".join(found.notes)
    assert "1 of the 8 directories named are others again, and count once" in said
    assert "runs of the same seed and options: their mean counts as one" in said
    assert "1 of 4 runs of learning_rate 0.1 ended no better than chance" in said
    other = compose(tmp_path / "other", tiny(5, 0.1), (0.5,), 0.5, card=dataclasses.replace(CARD, labels="f" * 16))
    assert "tests are of different images" in " ".join(compare_runs([six[0], other]).notes)


def test_many_rows_are_compared_with_the_first(tmp_path):
    runs = [compose(tmp_path / str(n), tiny(0, 0.1 * (n + 1)), (0.5,), 0.5) for n in range(8)]
    found = compare_runs(runs)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(row, found.rows[0]) for row in found.rows[1:]]


def test_what_is_no_run(tmp_path, six):
    with pytest.raises(UsageError, match=r"is not a run directory: it has no config\.yaml"):
        compare_runs([six[0], tmp_path / "none"])
    with pytest.raises(UsageError, match="name the run directories"):
        compare_runs([])
    cell = tmp_path / "ablation" / "cells" / "one"
    cell.mkdir(parents=True)
    (tmp_path / "ablation" / "ablation.yaml").write_text("seeds: [0]\n")
    for path, what in ((cell, "a cell of an ablation"), (cell.parent.parent, "an ablation")):
        with pytest.raises(UsageError, match=rf"is {what}, .* its own table of them, .*table\.md"):
            compare_runs([path])
    RunDirectory.open(tmp_path / "unread", tiny())
    with pytest.raises(RunError, match=r"has no data\.json: the run stopped before it began"):
        compare_runs([tmp_path / "unread"])


def test_runs_of_other_tasks_are_refused(tmp_path, six):
    values = compose(tmp_path / "values", tiny(), (0.5,), 0.6, card=VALUES, metric="r2")
    with pytest.raises(UsageError, match="different tasks, compare each kind by itself") as raised:
        compare_runs([six[0], values])
    assert f"regression, r2: {values}" in str(raised.value)
    assert columns(compare_runs([values]))["test r2"] == ["0.6"]


def test_damaged_rows_are_left_out_and_said(tmp_path, six, caplog):
    six = [shutil.copytree(run, tmp_path / run.name) for run in six]
    text = (six[0] / "metrics.jsonl").read_text().splitlines()
    (six[0] / "metrics.jsonl").write_text("\n".join([text[0], "}{", *text[1:], '{"kind": "ep']))
    found = compare_runs(six)
    assert len(found.runs[0].validation) == 3
    assert "line 2" in caplog.text
    (six[1] / "metrics.jsonl").unlink()
    found = compare_runs(six)
    assert found.runs[1].validation == ()
    assert found.runs[1].best == pytest.approx(0.9)  # the summary knows
    assert "has no rows in metrics.jsonl" in caplog.text
    (six[2] / "summary.json").write_text("{}")
    assert compare_runs(six).runs[2].test == pytest.approx(0.85)  # written twice
    (six[2] / ".written.json").unlink()
    with pytest.raises(DamagedError, match=r"summary\.json is damaged"):
        compare_runs(six)


def test_losses_that_are_not_finite_have_no_place(tmp_path):
    run = compose(tmp_path / "run", tiny(), (0.5, math.nan, 0.4))
    (found,) = compare_runs([run]).runs
    assert (found.best, found.state) == (0.5, "unfinished")
    assert math.isnan(found.validation[1][1])


def test_the_tables_for_programs(six):
    found = compare_runs(six)
    runs = list(csv.DictReader(io.StringIO(runs_csv(found))))
    assert [row["seed"] for row in runs] == ["0", "1", "2"] * 2
    assert float(runs[4]["test_accuracy"]) == 0.911
    assert runs[4]["optim.learning_rate"] == "0.2"
    curves = list(csv.DictReader(io.StringIO(curves_csv(found))))
    assert len(curves) == 6 * (3 + 3)
    assert {row["what"] for row in curves} == {"training_loss", "val_accuracy"}
    result = as_json(found)
    assert result["differing"] == ["optim.learning_rate"]
    assert result["rows"][1]["test"]["n"] == 3
    (pair,) = result["differences"]
    assert (pair["how"], pair["distinguishable"]) == ("paired", True)
    assert pair["difference"] == pytest.approx(-0.011)
