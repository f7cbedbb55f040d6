"""The verbs that measure: what they refuse, and what they print."""

from __future__ import annotations

import pytest

from resnet_jax.bench.ours import Ours
from resnet_jax.bench.plan import compile_plan
from resnet_jax.bench.workload import Workload
from resnet_jax.errors import RunError
from resnet_jax.models import ModelSpec, ResNetConfig, count, create_model
from resnet_jax.models.rows import MODELS, NamedModel
from tests.cli.conftest import last_json


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bench"], "name what to measure"),
        (["bench", "trian"], "unknown bench verb 'trian'; did you mean 'train'"),
        (["bench", "train", "resnet20_cifar"], "--batch"),
        (["bench", "train", "resnet02_cifar", "--batch", "2"], "unknown model"),
        (["bench", "train", "resnet20_cifar", "--batch", "0"], "batch must be 1 or more"),
        (["bench", "infer", "resnet20_cifar", "--batch", "2", "--steps-per-dispatch", "2"], "for training"),
        (["bench", "train", "resnet20_cifar", "--batch", "2", "--against-python", "none"], "none is no interpreter"),
        (["bench", "compile", "--batch", "2"], "name at least one network"),
        (["plan", "resnet20_cifar", "--batch", "6", "--devices", "4"], "use a multiple of 4"),
    ],
)
def test_wrong_usage_is_status_2(argv, message, command):
    status, _, err = command(*argv)
    assert status == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", ["train", "infer", "compile"])
def test_help(verb, command):
    status, out, _ = command("bench", verb, "--help")
    assert status == 0
    assert all(option in out for option in ("--batch", "--image-size", "--dtype", "--execution", "--remat", "--json"))


@pytest.mark.parametrize(("mode", "what"), [("train", "a train step"), ("infer", "a forward pass")])
def test_a_batch_that_cannot_fit_is_refused_before_its_images_are_made(mode, what, capsys):
    with pytest.raises(RunError, match=rf"{what} on 100,000,000 images .* fit: batch="):
        Ours(Workload(ModelSpec("resnet20_cifar"), 100_000_000, mode=mode))


@pytest.mark.slow
def test_train_prints_a_table_and_one_object(command):
    argv = ["resnet20_cifar", "--batch", "2", "--image-size", "8", "--rounds", "1", "--seconds", "0.1", "--json"]
    status, out, err = command("bench", "train", *argv)
    assert status == 0, err
    result = last_json(out)
    assert result["ours"] > 0
    assert (result["torch"], result["torch_compile"], result["flax"]) == (None, None, None)
    assert (result["model"], result["batch"], result["image_size"]) == ("resnet20_cifar", 2, 8)
    assert "resnet_jax" in err
    assert "of the nearer" in err


def check_plan(command, model, params):
    argv = [model, "--batch", "4", "--devices", "2", "--image-size", "8", "--json"]
    status, out, err = command("plan", *argv)
    assert status == 0, err
    result = last_json(out)
    assert (result["devices"], result["batch"], result["params"]) == (2, 4, params)
    assert result["split"]["batch"] == 2 * (8 * 8 * 3 + 1) * 4, "half of it on each device"
    assert result["memory"]["peak"] > result["memory"]["arguments"] > 0
    assert f"{params:,} parameters" in err
    assert "temporaries are those of the CPU's compiler" in err


@pytest.mark.slow
def test_plan_prints_memory_and_one_object(command):
    check_plan(command, "resnet20_cifar", 269722)


def test_plan_prints_what_its_process_measures(command, monkeypatch):
    """Of a small network, which another process would not know: what that measures is measured in this one."""
    tiny = NamedModel(ResNetConfig((1,), (4,), stem="cifar", num_classes=10), 8, "these tests")
    monkeypatch.setitem(MODELS, "tiny", tiny)
    asked = []

    def here(kind, spec, environment):
        asked.append((kind, " ".join(environment.values())))
        return compile_plan(Workload.from_dict(spec))

    monkeypatch.setattr("resnet_jax.bench.plan.run_child", here)
    check_plan(command, "tiny", count(create_model("tiny"), (8, 8, 3)).params)
    assert [kind for kind, _ in asked] == ["plan"]
    assert "2" in asked[0][1], "of devices"
