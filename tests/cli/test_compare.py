"""``resnet-jax compare``: the table for people, one object for programs."""

from __future__ import annotations

from tests.cli.conftest import last_json
from tests.composed_runs import compose, tiny


def test_it_prints_a_table_and_a_verdict(tmp_path, command):
    runs = [
        compose(tmp_path / f"{rate}-{seed}", tiny(seed, rate), (0.5, 0.6), rate + 0.01 * seed * (1 + rate))
        for rate in (0.1, 0.2)
        for seed in (0, 1, 2)
    ]
    status, out, err = command("compare", *runs)
    assert (status, err) == (0, "")
    head, first, second, *_ = out.splitlines()
    assert head.split()[:4] == ["what", "runs", "seeds", "steps"]
    assert first.startswith("learning_rate 0.1  3")
    assert second.startswith("learning_rate 0.2  3")
    assert "3 seeds paired, p = " in out
    status, out, err = command(
        "compare", *runs, "--json", "--out", tmp_path / "out", "--group-by", "optim.learning-rate"
    )
    result = last_json(out)
    assert (status, len(result["rows"]), result["differences"][0]["how"]) == (0, 2, "paired")
    assert result["report"] == str(tmp_path / "out" / "report.html")
    assert "report.html" in err


def test_wrong_usage_is_one_line(tmp_path, command):
    status, _, err = command("compare", tmp_path)
    assert (status, "is not a run directory" in err) == (2, True)
    status, _, err = command("compare")
    assert status == 2
