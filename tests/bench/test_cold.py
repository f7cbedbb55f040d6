"""Compile time of fresh processes."""

from __future__ import annotations

import pytest

from resnet_jax.bench import cold
from resnet_jax.bench.child import run_child
from resnet_jax.bench.cold import compile_models
from resnet_jax.bench.table import compile_table
from resnet_jax.bench.workload import Workload
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models import ModelSpec


def test_ratios_are_over_the_first_and_cold_means_without_a_cache(monkeypatch):
    asked = []

    def fake(name, spec, environment):
        cached = environment["JAX_ENABLE_COMPILATION_CACHE"] == "true"
        asked.append((name, spec["model"]["name"], cached))
        seconds = {"resnet20_cifar": 2.0, "resnet32_cifar": 3.0}[spec["model"]["name"]]
        row = {"trace_seconds": 1.0, "compile_seconds": seconds, "temp_bytes": 2**20, "cache_hits": int(cached)}
        return {**row, "first_step_seconds": 1.0 if cached else 9.0}

    monkeypatch.setattr(cold, "run_child", fake)
    result = compile_models([Workload(ModelSpec("resnet20_cifar"), 2), Workload(ModelSpec("resnet32_cifar"), 2)])
    assert result["compile_ratio"] == [1.0, 1.5]
    assert result["total_ratio"] == [1.0, 4 / 3]
    first = result["models"][0]
    assert (first["cold_first_step_seconds"], first["warm_first_step_seconds"], first["cache_hits"]) == (9.0, 1.0, 1)
    assert [cached for _, model, cached in asked if model == "resnet20_cifar"] == [False, True, True]
    assert "1.50" in compile_table(result)
    asked.clear()
    result = compile_models([Workload(ModelSpec("resnet20_cifar"), 2)], warm=False)
    assert result["models"][0]["warm_first_step_seconds"] is None
    assert len(asked) == 1
    assert " - " in compile_table(result)


@pytest.mark.slow
def test_what_cannot_be_compiled():
    with pytest.raises(UsageError, match="name at least one network"):
        compile_models([])
    with pytest.raises(UsageError, match="unknown model"):
        compile_models([Workload(ModelSpec("resnet20_cifar"), 2), Workload(ModelSpec("resnet02"), 2)])
    with pytest.raises(UsageError, match=r"^unknown model 'resnet02'"):
        run_child("plan", Workload(ModelSpec("resnet02"), 2).to_dict(), {})
    with pytest.raises(RunError, match="resnet20_cifar: the process that measures nothing: it ended with 1: KeyError"):
        run_child("nothing", Workload(ModelSpec("resnet20_cifar"), 2).to_dict(), {})


@pytest.mark.slow
def test_a_process_with_a_filled_cache_compiles_nothing():
    row = compile_models([Workload(ModelSpec("resnet20_cifar"), 2, image_size=8)])["models"][0]
    assert row["cache_hits"] > 0
    assert 0 < row["warm_first_step_seconds"] < row["cold_first_step_seconds"]
    assert row["compile_seconds"] > 0
    assert row["trace_seconds"] > 0
