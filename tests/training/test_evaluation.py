"""Sums of an evaluation on the host, of one process and of several."""

from __future__ import annotations

import jax
import numpy as np

from resnet_jax.tasks.classification import Classification
from resnet_jax.training.evaluation import EvaluationSums
from resnet_jax.training.step import make_eval_step
from tests.tools import TinyNet, initialize


def test_rows_of_all_processes_are_masked_as_the_step_saw_them():
    """A process gives half of a batch and reads the outputs of all of it: padding is where the whole batch has it."""
    rng, model = np.random.default_rng(0), TinyNet()
    batch = {"image": rng.normal(size=(8, 4)).astype(np.float32), "label": np.arange(8, dtype=np.int32) % 5}
    batch["mask"] = np.array([1, 1, 0, 1, 1, 1, 0, 0], bool)
    variables = initialize(model, batch["image"])
    out = jax.device_get(jax.jit(make_eval_step(model, logits=True))(variables, batch))
    for part in (slice(0, 8), slice(0, 4), slice(4, 8)):
        sums = EvaluationSums(Classification(5))
        sums.add({name: value[part] for name, value in batch.items()}, out)
        result = sums.result()
        assert result.examples == 5
        assert result.logits is not None
        np.testing.assert_array_equal(result.logits, np.asarray(out["rows"]["logits"])[batch["mask"]])
    sums = EvaluationSums(Classification(5))  # of somebody's own step
    sums.add(batch, {name: value for name, value in out.items() if name != "mask"})
    np.testing.assert_array_equal(sums.result().logits, result.logits)
