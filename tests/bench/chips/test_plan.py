"""Plans for chips: what is refused, the search for the largest batch, and real programs where compilers are there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.bench.chips import described, plan as planned
from resnet_jax.bench.chips.compiled import Request, inference, training
from resnet_jax.bench.chips.plan import largest_batch, plan_chips, usual_augment
from resnet_jax.bench.chips.report import _by_default, chips_table
from resnet_jax.bench.chips.table import GIB
from resnet_jax.bench.workload import Workload
from resnet_jax.cli.plan import run
from resnet_jax.errors import UsageError
from resnet_jax.models import ModelSpec
from resnet_jax.tasks.config import TaskConfig
from resnet_jax.training.placement import Placement

RESULTS = Path(__file__).parents[3] / "experiments" / "results" / "chips"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chips", "v5e:2x2"], "needs --batch-per-chip"),
        (["--chips", "v5e:2x2", "--batch-per-chip", "0"], "needs --batch-per-chip"),
        (["--chips", "v5e:2x2", "--batch", "8"], "the batch is --batch-per-chip"),
        (["--chips", "v5e:2x2", "--devices", "2", "--batch-per-chip", "8"], "the devices are those of the chips"),
        (["--batch", "8", "--infer"], "--infer goes with --chips"),
        (["--batch", "8", "--task.kind", "binary"], "--task goes with --chips"),
        (["--batch-per-chip", "8"], "--batch-per-chip goes with --chips"),
        ([], "give --batch"),
        (
            ["--chips", "v5e:1x1", "--batch-per-chip", "8", "--infer", "--augment", "flip"],
            "leave them out with --infer",
        ),
        (
            ["--chips", "v5e:1x1", "--batch-per-chip", "8", "--infer", "--accumulate", "2"],
            "leave them out with --infer",
        ),
        (["--chips", "v5e:1x1", "--batch-per-chip", "8", "--text", "no/such/file"], "a folder that is there"),
        (["--chips", "v5e:1x1", "--batch-per-chip", "8", "--text", "."], "name a file"),
        (["--chips", "h100", "--batch-per-chip", "8", "--effort", "low"], "of the compiler for TPUs"),
    ],
)
def test_options_that_do_not_go_together(words, message):
    with pytest.raises(UsageError, match=message):
        run(["resnet20_cifar", *words])


def test_what_is_a_field_of_a_run_is_named_as_the_option_it_is_here():
    with pytest.raises(UsageError, match=r"^--fsdp-devices 2 goes with --placement fsdp$"):
        run(["resnet20_cifar", "--batch", "8", "--fsdp-devices", "2"])
    with pytest.raises(UsageError, match="--fsdp-devices 3 must divide the 4 devices"):
        run(["resnet20_cifar", "--batch", "8", "--devices", "4", "--placement", "fsdp", "--fsdp-devices", "3"])


@pytest.mark.parametrize("name", ["plan-resnet20-v5e-2x2", "plan-resnet20-h100", "plan-resnet50-v5e-1x1"])
def test_the_table_is_whole_and_fits_into_100_columns(name):
    lines = chips_table(json.loads((RESULTS / f"{name}.json").read_text())).splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    for part in ("bound, ms (no forecast)", "one step at best", "the host come on top", "effort; nothing ran"):
        assert part in text
    refused = {**json.loads((RESULTS / f"{name}.json").read_text()), "fits": False, "refused": "Used 20 G of 16 G " * 9}
    del refused["program"]
    assert max(map(len, chips_table(refused).splitlines())) <= 100


@pytest.mark.parametrize(("chips", "extra"), [("v5e:2x2", "tpu"), ("h100", "cuda12")])
def test_without_the_compiler_it_says_what_to_install(monkeypatch, chips, extra):
    monkeypatch.setattr(described.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"pip install 'resnet-flax\[{extra}\]'"):
        plan_chips(Request(Workload(ModelSpec("resnet20_cifar"), 8), chips))


@pytest.mark.parametrize("bytes_an_image", [0.037 * GIB, 2.9 * GIB])
@pytest.mark.parametrize("start", [4, 64, 2048])
def test_the_search_for_the_largest_batch(monkeypatch, tiny, bytes_an_image, start):
    """Memory grows a little faster than the batch, as it does in truth; the answer is the largest of its step."""
    room = 16 * GIB

    def fake(request: Request, **_):
        batch = request.workload.batch // 4
        peak = int(0.3 * GIB + bytes_an_image * batch**1.01)
        fits = peak <= room
        return {"fits": fits, **({"memory": {"peak": peak}} if fits else {"refused": "Used too much"})}

    monkeypatch.setattr(planned, "plan_chips", fake)
    lines: list[str] = []
    request = Request(dataclasses.replace(tiny, batch=4 * start), "v5e:2x2")
    found = largest_batch(request, fake(request), lines.append)
    best = found["batch_per_chip"]
    assert found["exact"]
    assert len(lines) == len(found["tried"]) <= planned.MOST
    assert all(line.startswith("batch ") for line in lines)
    largest = max(batch for batch in range(1, 4096) if 0.3 * GIB + bytes_an_image * batch**1.01 <= room)
    assert 0 < best <= largest < best + planned._step(best, 1) + 1


@pytest.mark.parametrize(
    ("task", "label", "outputs"),
    [
        (TaskConfig(), ((16,), "int32"), 10),
        (TaskConfig("multilabel"), ((16, 10), "float32"), 10),
        (TaskConfig("binary"), ((16,), "int32"), 1),
        (TaskConfig("regression"), ((16, 1), "float32"), 1),
    ],
)
def test_the_step_is_the_one_of_a_run(tiny, task, label, outputs):
    """Traced for this machine's devices: uint8 images of the feed's shapes come in, and the task reads its labels."""
    request = Request(dataclasses.replace(tiny, batch=16), "v5e:2x2", usual_augment(8, 2), task)
    request = Request.from_dict(request.to_dict())
    step, (state, batch), model = training(request, Placement.of(jax.devices()))
    assert model.config.num_classes == outputs
    assert batch["image"].dtype == jnp.uint8
    assert (batch["label"].shape, batch["label"].dtype) == label
    assert set(batch) == {"image", "label", "mask", "index", "epoch"}
    assert batch["image"].sharding.shard_shape(batch["image"].shape)[0] == 2
    new, metrics = step.eval_shape(state, batch)
    assert jax.tree.map(jnp.shape, new.params) == jax.tree.map(jnp.shape, state.params)
    assert metrics["loss"].shape == ()


def test_a_network_without_outputs_is_refused(tiny):
    request = Request(dataclasses.replace(tiny, model=tiny.model.replace(num_classes=0)), "v5e:2x2")
    with pytest.raises(UsageError, match=r"model\.num_classes must be 1 or more"):
        inference(request, Placement.of(jax.devices()))


def test_inference_is_folded_and_takes_pixels(tiny):
    request = Request(dataclasses.replace(tiny, mode="infer", batch=16), "v5e:2x2")
    step, (variables, batch), _ = inference(request, Placement.of(jax.devices()))
    assert set(batch) == {"image"}
    assert batch["image"].dtype == jnp.uint8
    assert "batch_stats" not in variables or not jax.tree.leaves(variables["batch_stats"])
    assert step.eval_shape(variables, batch).shape == (16, 10)


def _plan(chips: str, batch: int) -> dict:
    workload = Workload(ModelSpec("resnet20_cifar").replace(dtype="bfloat16"), batch)
    return plan_chips(Request(workload, chips, usual_augment(32, 2), effort="low"))


@pytest.mark.slow
@pytest.mark.skipif(bool(described.missing("tpu")), reason=described.missing("tpu"))
def test_resnet20_on_four_tpus():
    found = _plan("v5e:2x2", 512)
    program, memory = found["program"], found["memory"]
    assert (found["fits"], found["devices"], found["effort"]) == (True, 4, "low")
    assert program["platform"] == "tpu"
    assert program["convolutions_off_unit"] == [], "all on the MXU"
    assert not [each for each in program["activations_moved"] if each["alone"]]
    assert sum(program["convolutions"].values()) == 19 + 19 + 18 + 3, "each forward, both gradients but one, the head"
    assert sum(program["operations"].values()) == pytest.approx(6 * found["macs"] * 128, rel=0.1), "less the padding"
    assert found["compiler"]["flops"] > sum(program["operations"].values())
    assert program["bytes_moved"] < 1.4 * found["compiler"]["bytes_accessed"]
    assert program["serial_collectives"] <= 2 * 19 + 8, "one a batch norm each way, and pieces of the gradient"
    assert memory["arguments"] >= sum(found["arguments"].values())
    assert 0 < found["bound"]["step"] < found["compiler"]["estimated_seconds"]
    assert "on v5e:2x2 (4 x TPU v5 lite)" in chips_table(found)


@pytest.mark.slow
@pytest.mark.skipif(bool(described.missing("tpu")), reason=described.missing("tpu"))
def test_resnet20_on_one_tpu():
    """At most plain Flax's 6.12 million cycles; its 0.527 GiB and what augmentation and the finite check read."""
    program = _plan("v5e:1x1", 128)["program"]
    assert program["convolutions_off_unit"] == []
    assert not [each for each in program["activations_moved"] if each["alone"]]
    assert program["estimated_cycles"] <= 5.7e6
    assert program["kernels"] <= 300
    assert program["bytes_moved"] <= 0.56 * GIB


@pytest.mark.slow
@pytest.mark.skipif(bool(described.missing("gpu")), reason=described.missing("gpu"))
def test_resnet20_on_a_gpu():
    found = _plan("h100", 128)
    program = found["program"]
    assert (found["fits"], found["devices"], program["platform"]) == (True, 1, "gpu")
    assert program["convolutions_off_unit"] == [], "all by cuDNN"
    assert program["activations_moved"] == []
    assert program["kernels"] <= 300, "plain Flax has 396"
    assert program["bytes_moved"] < 0.76 * 2**30, "0.80 where masks of the gradient are written and read"
    assert sum(program["operations"].values()) == pytest.approx(6 * found["macs"] * 128, rel=0.1)
    assert found["bound"]["launches"] > 0
    assert "cuDNN" in chips_table(found)


@pytest.mark.parametrize(
    ("peak", "taken", "said"),
    [(50, 60, "and in the 60.00 GiB that"), (70, 60, "but not in the 60.00 GiB that"), (10, None, "")],
)
def test_what_jax_takes_of_a_gpu_by_default_is_told_apart(peak, taken, said):
    line = _by_default(peak * GIB, {"memory_by_default": None if taken is None else taken * GIB})
    assert said in line
    assert bool(line) == bool(said)
