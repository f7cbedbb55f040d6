"""Memory before compiling: what the machine has, what a step needs, and what is said where it does not fit."""

from __future__ import annotations

import types

import jax
import pytest

from resnet_jax.errors import RunError
from resnet_jax.models import create_model
from resnet_jax.training import need

GIB = 2**30


def device(platform="gpu", limit=16 * GIB):
    return types.SimpleNamespace(
        platform=platform, device_kind="NVIDIA A", memory_stats=lambda: {"bytes_limit": limit, "bytes_in_use": 0}
    )


def require(model, shape, batch, limit, **more):
    lines = []
    need.require_memory(model, shape, batch=batch, devices=[device(limit=limit)], warn=lines.append, **more)
    return lines


def test_a_step_that_cannot_fit_is_refused_with_what_does():
    model = create_model("resnet18")
    with pytest.raises(RunError) as caught:
        require(model, (224, 224, 3), 4096, 16 * GIB)
    text = str(caught.value)
    assert "4,096 images of 224x224x3 needs about" in text
    assert "has 16 GiB" in text
    for way in ("train.batch_size 512", "train.accumulate 8", "model.remat block"):
        assert way in text
    assert require(model, (224, 224, 3), 4096, 16 * GIB, accumulate=16) == []
    assert require(model, (224, 224, 3), 256, 16 * GIB) == []


def test_members_one_after_another_need_the_images_of_one():
    model = create_model("resnet18")
    with pytest.raises(RunError, match="on 4,096 images"):
        require(model, (224, 224, 3), 512, 16 * GIB, members=8)
    assert require(model, (224, 224, 3), 512, 16 * GIB, members=8, at_once=1) == []
    with pytest.raises(RunError, match="on 512 images"):  # their states are all there
        require(model, (224, 224, 3), 512, 16 * GIB, members=200, at_once=1)


def test_a_forward_pass_needs_less_and_each_command_has_its_own_options():
    model = create_model("resnet18")
    assert require(model, (224, 224, 3), 4096, 16 * GIB, backward=False) == []
    with pytest.raises(RunError) as caught:
        require(model, (224, 224, 3), 100_000, 16 * GIB, backward=False, options=need.ANALYSIS)
    text = str(caught.value)
    assert "a forward pass on 100,000 images of 224x224x3 needs about" in text
    assert "fit: batch=" in text
    assert "train." not in text
    assert "remat" not in text
    with pytest.raises(RunError, match=r"model\.remat block") as caught:
        require(model, (224, 224, 3), 4096, 16 * GIB, options=need.ANALYSIS)
    assert "accumulate" not in str(caught.value)


def test_the_estimate_is_what_was_measured():
    """Temporaries of compiled steps, experiments/results/bench; the estimate adds four times the parameters."""
    for name, shape, images, measured in (
        ("resnet50", (224, 224, 3), 16, 1.382e9),
        ("resnet20_cifar", (32, 32, 3), 128, 0.21e9),
    ):
        found = need.estimate(create_model(name), shape, images)
        assert found.per_image * images == pytest.approx(measured, rel=0.15)
        assert need.at_most(create_model(name), shape, images) > found.total


def test_what_is_not_free_at_the_moment_is_a_warning(monkeypatch):
    monkeypatch.setattr(need, "memory_of_device", lambda _: (64 * GIB, GIB))
    assert "1 GiB of the 64 GiB" in require(create_model("resnet18"), (224, 224, 3), 256, 0)[0]


def test_the_machine_or_its_control_group_whichever_is_smaller(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nSwapTotal: 0 kB\n")
    assert need.host_memory(tmp_path) == (8 * GIB, 4 * GIB)
    (tmp_path / "proc/self/cgroup").write_text("0::/job/mine\n")
    group = tmp_path / "sys/fs/cgroup/job"
    (group / "mine").mkdir(parents=True)
    (group / "mine/memory.max").write_text("max\n")
    (group / "memory.max").write_text(f"{2 * GIB}\n")
    (group / "memory.current").write_text(f"{GIB}\n")
    assert need.host_memory(tmp_path) == (2 * GIB, GIB)
    assert need.host_memory(tmp_path / "nowhere") == (None, None)


def test_a_device_that_runs_out_says_what_to_lower():
    with (
        pytest.raises(RunError, match=r"3 GiB were asked for at once.*train\.accumulate.*model\.remat"),
        need.memory_told(),
    ):
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: Out of memory allocating {3 * GIB} bytes.")
    with pytest.raises(jax.errors.JaxRuntimeError), need.memory_told():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
    disk = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Failed to write: No space left on device")
    assert not need.is_memory(disk)


def test_a_state_cut_over_devices_needs_less_and_is_named_as_a_way_out():
    """ResNet-50: parameters, gradients, optimizer; where it is cut, the first two are whole for a moment."""
    model = create_model("resnet50")
    whole, cut = (need.estimate(model, (224, 224, 3), 1, fsdp=fsdp).fixed for fsdp in (1, 8))
    assert whole == pytest.approx(4 * 4 * 25.56e6, rel=0.01)
    assert cut == pytest.approx((2 + 3 / 8) / 4 * whole, rel=0.01)
    eight = [device(limit=int(1.2 * cut)) for _ in range(8)]
    lines = []

    def ask(fsdp):
        need.require_memory(model, (32, 32, 3), batch=8, devices=eight, fsdp=fsdp, warn=lines.append)

    ask(8)
    limited = [device(limit=int(0.7 * cut)) for _ in range(8)]
    with pytest.raises(RunError, match=r"train\.placement fsdp shards parameters and optimizer state over 8 devices"):
        need.require_memory(model, (32, 32, 3), batch=8, devices=limited, warn=lines.append)
    with pytest.raises(RunError) as caught:
        need.require_memory(model, (32, 32, 3), batch=8, devices=limited, fsdp=8, warn=lines.append)
    assert "train.placement" not in str(caught.value)


def test_a_teacher_counts():
    student, teacher = create_model("resnet20_cifar"), create_model("resnet152")
    require(student, (32, 32, 3), 8, GIB // 8)
    with pytest.raises(RunError, match="the teacher's forward pass included, on 8 images of 32x32x3 needs about"):
        require(student, (32, 32, 3), 8, GIB // 8, beside=teacher)
