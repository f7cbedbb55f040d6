"""Means and deviations over the seeds that did not diverge, and the tables made of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics

import pytest
from hypothesis import given, strategies as st

from resnet_jax.ablation.grid import Axis, Cell, make_cells
from resnet_jax.ablation.result import CellResult, MemberResult
from resnet_jax.ablation.table import comma_separated, markdown

CELLS = make_cells([Axis("model.norm", ("batch", "group", "none", "layer", "instance"))])
SEEDS = (0, 1, 5)


def finished(seed, correct, **more):
    return MemberResult(seed, None, correct, 200, 1.0, "0" * 64, **more)


RESULTS = [
    CellResult(CELLS[0], SEEDS, (finished(0, 180), finished(1, 190), finished(5, 184)), 1000, 70, 12.34),
    CellResult(CELLS[1], SEEDS, (finished(0, 150), MemberResult(1, 7), MemberResult(5, 9)), 1000, 70, 5.0),
    CellResult(CELLS[2], SEEDS, tuple(MemberResult(seed, 3) for seed in SEEDS), 900, 70, 1.0),
    CellResult(CELLS[3], SEEDS, refused="a | b\n is not possible"),
    CellResult(CELLS[4], SEEDS, params=1000),
]


@given(st.lists(st.none() | st.integers(0, 200), min_size=1, max_size=9))
def test_mean_and_sample_deviation_are_those_of_the_seeds_that_did_not_diverge(correct):
    members = tuple(
        MemberResult(seed, 4) if value is None else finished(seed, value) for seed, value in enumerate(correct)
    )
    result = CellResult(CELLS[0], tuple(range(len(correct))), members)
    values = [value / 200 for value in correct if value is not None]
    assert result.mean == (pytest.approx(statistics.fmean(values)) if values else None)
    assert result.std == (pytest.approx(statistics.stdev(values), abs=1e-12) if len(values) > 1 else None)
    assert len(result.diverged) == correct.count(None)
    assert result.status == "done"


def test_a_result_is_read_back_from_its_json_and_goes_on_in_the_order_of_the_seeds():
    for result in RESULTS:
        stored = json.loads(json.dumps(result.to_json()))
        bare = dataclasses.replace(result, members=(), seconds=0.0)
        assert bare.with_stored(stored) == result
    partial = CellResult(CELLS[0], SEEDS).add([finished(5, 1)], 1.0)
    assert partial.status == "partial"
    whole = partial.add([finished(1, 1), finished(0, 2)], 2.0)
    assert ([member.seed for member in whole.members], whole.seconds, whole.status) == ([0, 1, 5], 3.0, "done")


def test_the_markdown_table_has_a_row_per_cell_whatever_became_of_it():
    text = markdown(RESULTS, title="Ablation of digits")
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert rows == [
        "| batch | 92.33 ± 2.52 | 7.67 ± 2.52 | 3 | 0 of 3 | 0 of 3 | 1,000 | 12.3 |",
        "| group | 75.00 | 25.00 | 1 | 2 of 3 | 0 of 3 | 1,000 | 5.0 |",
        "| none | diverged | - | 0 | 3 of 3 | 0 of 3 | 900 | 1.0 |",
        r"| layer | refused: a \| b is not possible | - | - | - | - | - | - |",
        "| instance | not run yet | - | - | - | - | 1,000 | - |",
    ]
    assert "of seeds 0, 1, 5" in text
    half = CellResult(CELLS[0], SEEDS, (finished(0, 180),), 1000, 70, 1.0)
    assert "| batch | 90.00 (1 of 3 seeds run) | 10.00 | 1 | 0 of 1 |" in markdown([half], title="")


def test_the_csv_table_has_the_exact_numbers():
    rows = list(csv.DictReader(io.StringIO(comma_separated(RESULTS))))
    assert [row["status"] for row in rows] == ["done", "done", "done", "refused", "pending"]
    assert [row["id"] for row in rows] == [cell.id for cell in CELLS]
    first = rows[0]
    assert float(first["accuracy_mean"]) == RESULTS[0].mean
    assert float(first["accuracy_std"]) == float(first["error_std"]) == RESULTS[0].std
    assert float(first["error_mean"]) == pytest.approx(1 - 554 / 600)
    assert [first[f"accuracy_seed_{seed}"] for seed in SEEDS] == ["0.9", "0.95", "0.92"]
    second = rows[1]
    assert (second["n"], second["diverged"], second["accuracy_std"]) == ("1", "2", "")
    assert [second[f"diverged_at_seed_{seed}"] for seed in SEEDS] == ["", "7", "9"]
    assert (rows[3]["reason"], rows[3]["n"]) == ("a | b\n is not possible", "")


def test_stuck_seeds_are_counted_beside_diverged_ones_and_stay_in_the_mean():
    members = (finished(0, 20, stuck=True), finished(1, 190, stuck=False), finished(5, 20, stuck=True))
    result = CellResult(CELLS[0], SEEDS, members, 1000, 70, 1.0)
    assert "| 38.33 ± 49.07 | 61.67 ± 49.07 | 3 | 0 of 3 | 2 of 3 |" in markdown([result], title="")
    row = next(csv.DictReader(io.StringIO(comma_separated([result]))))
    assert (row["stuck"], row["stuck_seed_0"], row["stuck_seed_1"]) == ("2", "True", "False")
    assert result.to_json()["stuck"] == [0, 5]
    assert result.with_stored(result.to_json()).stuck == [0, 5]


def test_names_are_shown_in_the_table_as_they_are():
    labels = {"cell": "a|b *c* _d_ <e> [f]", "source": "folder:x\udcff\ny_z"}
    result = CellResult(Cell("id", labels, {}), SEEDS)
    table = markdown([result], title="Ablation of *x*")
    assert "# Ablation of \\*x\\*" in table
    assert "| a\\|b \\*c\\* \\_d\\_ \\<e\\> \\[f\\] | folder:x\\\\xff\\\\ny_z |" in table
    csv = comma_separated([result])
    assert csv.encode()
    assert "a|b *c* _d_ <e> [f]" in csv


def test_another_task_is_tabled_by_its_own_headline():
    members = (
        MemberResult(0, 3),
        *(
            MemberResult(seed, None, None, 200, 0.1, "0" * 64, headline="r2", test_value=0.9 + seed / 100)
            for seed in (1, 5)
        ),
    )
    results = [CellResult(CELLS[0], SEEDS, members, 1000, 70, 12.34), CellResult(CELLS[1], SEEDS)]
    assert (results[0].headline, results[0].scores) == ("r2", [pytest.approx(0.91), pytest.approx(0.95)])
    assert "| test r2 | n | diverged |" in (text := markdown(results, title="x"))
    assert "| 0.93 ± 0.028 | 2 | 1 of 3 |" in text
    assert all(line.count("|") == text.splitlines()[4].count("|") for line in text.splitlines()[4:])
    first, _ = csv.DictReader(io.StringIO(comma_separated(results)))
    assert float(first["r2_mean"]) == pytest.approx(0.93)
    assert "error_mean" not in first
    assert (
        CellResult(CELLS[0], SEEDS)
        .with_stored({"members": [{"seed": 0, "test_correct": 9, "test_examples": 10}], "seconds": 1.0})
        .mean
        == 0.9
    )
