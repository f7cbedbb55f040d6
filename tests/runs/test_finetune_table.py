"""The table of before and after, and what it says of the linear probe."""

from __future__ import annotations

import pytest

from resnet_jax.runs.finetune_table import ALL, BEFORE, HEAD, PROBE, SCRATCH, Row, Table, table_of


def table(*after: float, probe: float = 0.8, stage: str = ALL) -> Table:
    rows = [
        Row(stage, after, "all of it", (0.9,) * len(after), 30, 5.0),
        Row(PROBE, (probe,), "a regression", seconds=1.0),
        Row(BEFORE, (0.1,), "chance"),
    ]
    return table_of(rows, title="net to data", test_examples=200)


@pytest.mark.parametrize(
    ("after", "said", "beats"),
    [
        ((0.85,), "Fine-tuning beats the linear probe: +5.00 points over linear probe (one seed).", True),
        ((0.85, 0.86, 0.84), "Fine-tuning beats the linear probe: +5.00 points", True),
        ((0.85, 0.60, 0.96), "Fine-tuning is not distinguishable from the linear probe: +0.33", True),
        ((0.80,), "Fine-tuning does NOT beat the linear probe: +0.00", False),
        ((0.7, 0.71), "Fine-tuning does NOT beat the linear probe: -9.50", False),
        ((0.9, 0.9), "(2 seeds, all alike)", True),
    ],
)
def test_the_verdict_is_plain(after, said, beats):
    found = table(*after)
    assert said in found.verdict()
    assert found.to_json()["beats_probe"] == beats
    assert found.verdict() in found.markdown()


def test_rows_are_in_the_order_of_the_stages_and_margins_are_paired_by_seed():
    found = table_of(
        [
            Row(SCRATCH, (0.5, 0.6, 0.7), "", (None, None, None), 40),
            Row(ALL, (0.6, 0.7, 0.8), "", (0.5, 0.7, 0.9), 30),
            Row(HEAD, (0.4, 0.4, 0.4), "", (), 10),
            Row(PROBE, (0.55,), ""),
            Row(BEFORE, (0.1,), ""),
        ],
        title="",
        test_examples=10,
    )
    assert [row.stage for row in found.rows] == [BEFORE, PROBE, HEAD, ALL, SCRATCH]
    margins = {margin.over: margin for margin in found.margins()}
    assert list(margins) == [BEFORE, PROBE, HEAD, SCRATCH]
    assert margins[SCRATCH].mean == pytest.approx(0.1)
    assert margins[SCRATCH].sure is None, "each seed by exactly as much: there is no spread to judge by"
    assert margins[PROBE].mean == pytest.approx(0.15)
    difference = margins[PROBE].difference
    assert difference is not None
    assert (difference.how, difference.seeds, margins[PROBE].sure) == ("paired", (3, 3), False)
    cells = {row[0]: row for row in found.cells()}
    assert cells["whole network"][1:6] == ("70.00 %", "10.00", "3", "70.00 %", "30")
    assert cells["linear probe"][1:4] == ("55.00 %", "", "")
    lines = found.markdown().splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    row = found.to_json()["rows"][3]
    assert (row["mean"], row["std"], row["accuracy"]) == (pytest.approx(0.7), pytest.approx(0.1), (0.6, 0.7, 0.8))


def test_without_the_whole_network_the_classifier_is_the_result():
    assert table(0.85, stage=HEAD).verdict().startswith("Training the classifier beats the linear probe")
