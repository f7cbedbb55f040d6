"""Foreign weights from the command line: in, evaluated, out again, and refused."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from resnet_jax.models import create_model
from resnet_jax.runs.evaluate import load_run
from resnet_jax.weights import from_variables, load_state_dict, save_safetensors
from tests.cli.conftest import last_json
from tests.tools import random_variables


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A safetensors file with the names of the PyTorch CIFAR nets."""
    model = create_model("resnet20_cifar")
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_safetensors(from_variables(random_variables(model, (32, 32, 3)), model, "cifar"), path)
    return path


@pytest.mark.slow
def test_imported_and_exported_is_the_identity(file, tmp_path, command):
    status, out, _ = command(
        "weights", "import", file, "--model", "resnet20_cifar", "--out", tmp_path / "run", "--json"
    )
    assert status == 0
    facts = last_json(out)
    assert (facts["model"], facts["format"], facts["image_shape"]) == ("resnet20_cifar", "cifar", [32, 32, 3])
    assert (facts["mean"], facts["class_names"][0]) == ([0.485, 0.456, 0.406], "airplane")
    again = tmp_path / "again.safetensors"
    status, _, _ = command("weights", "export", tmp_path / "run", "--format", "cifar", "--out", again)
    assert status == 0
    before, after = load_state_dict(file), load_state_dict(again)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor)


@pytest.mark.slow
def test_a_folded_run_gives_the_same_logits(tmp_path, command):
    model = create_model("resnet20_cifar", stage_sizes=(1, 1), widths=(4, 8))
    save_safetensors(from_variables(random_variables(model, (32, 32, 3)), model, "cifar"), tmp_path / "net.safetensors")
    small = ["--model", "resnet20_cifar", "--model.stage-sizes", "1", "1", "--model.widths", "4", "8"]
    status, _, err = command("weights", "import", tmp_path / "net.safetensors", *small, "--out", tmp_path / "run")
    assert status == 0, err
    status, out, _ = command("weights", "fold", tmp_path / "run", "--out", tmp_path / "folded", "--json")
    assert (status, last_json(out)["run_dir"]) == (0, str(tmp_path / "folded"))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    before, after = (load_run(tmp_path / name) for name in ("run", "folded"))
    assert after.card == before.card
    assert (after.config.data, after.config.task.loss) == (before.config.data, before.config.task.loss)
    assert after.model.config.norm == "folded"
    expected, found = (jax.jit(partial(run.model.apply, train=False))(run.variables, images) for run in (before, after))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    status, _, err = command("weights", "fold", tmp_path / "folded", "--out", tmp_path / "twice")
    assert status == 2
    assert "only batch norm can be folded" in err


@pytest.mark.slow
def test_a_pretrained_network_has_its_accuracy_and_logits(shared_data, tmp_path, command):
    """ResNet-20 of akamaster/pytorch_resnet_cifar10: 932 of 1,017, and PyTorch's own logits."""
    weights = shared_data / "pytorch-cifar-resnets"
    source = f"npz:{shared_data / 'cifar10-test-lossless-1017.npz'}"
    command(
        "weights", "import", weights / "resnet20-12fca82f.th", "--model", "resnet20_cifar", "--out", tmp_path / "run"
    )
    logits = tmp_path / "logits.npy"  # their normalization came with them
    status, out, _ = command("eval", tmp_path / "run", "--data.source", source, "--json", "--logits", logits)
    assert status == 0
    assert (last_json(out)["correct"], last_json(out)["examples"]) == (932, 1017)
    with np.load(weights / "torch-logits.npz") as torch:
        np.testing.assert_allclose(np.load(logits), torch["resnet20"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_choices_of_the_network_stand_beside_its_name(tmp_path, command):
    """--model NAME and --model.CHOICE, in either spelling."""
    model = create_model("resnet18", stem="cifar", stage_sizes=(1, 1, 1, 1), widths=(4, 4, 4, 4), num_classes=3)
    file = tmp_path / "net"  # safetensors without the suffix
    save_safetensors(from_variables(random_variables(model, (32, 32, 3)), model, "torchvision"), file)
    choices = ["--model.stem", "cifar", "--model.stage-sizes", "1", "1", "1", "1", "--model.widths", "4", "4", "4", "4"]
    for out, argv in {
        "a": ["--model", "resnet18", *choices, "--num-classes", "3"],
        "b": ["--model=resnet18", *choices, "--model.num-classes=3"],
        "c": [*choices, "--model.num-classes", "3", "--model.name", "resnet18"],
    }.items():
        status, stdout, err = command("weights", "import", file, *argv, "--out", tmp_path / out, "--json")
        assert status == 0, err
        assert last_json(stdout)["image_shape"] == [32, 32, 3]
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\n")
    status, stdout, err = command(
        "weights", "import", file, "--model", "resnet18", *choices, "--num-classes", "3", "--out", tmp_path / "d",
        "--class-names", names, "--image-size", "40", "--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2",
    )  # fmt: skip
    assert status == 0, err
    assert "images         40 pixels (given)" in stdout
    assert "classes        ant, bee, cat (given)" in stdout
    assert "mean 0.5 0.5 0.5, std 0.2 0.2 0.2 (given)" in stdout


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["weights"], 2, "name what to do"),
        (["weights", "imprt"], 2, "did you mean 'import'"),
        (["weights", "import", "FILE", "--model", "resnet32_cifar", "--out", "OUT"], 1, "these tensors do not fit"),
        (["weights", "import", "FILE", "--model", "resnet20", "--out", "OUT"], 2, "unknown model 'resnet20'"),
        (["weights", "import", "FILE", "--model", "resnet20_cifar", "--out", "USED"], 2, "is in use"),
        (["weights", "import", "none.pth", "--model", "resnet20_cifar", "--out", "OUT"], 1, "none.pth"),
        (["weights", "import", __file__, "--model", "resnet20_cifar", "--out", "OUT"], 1, "test_weights.py"),
        (["weights", "import", "FILE", "--model", "resnet20_cifar", "--out", "OUT", "--mean", "1"], 2, "mean and std"),
        (
            ["weights", "import", "FILE", "--model", "resnet20_cifar", "--out", "OUT", "--crop", "x"],
            2,
            "random_resized",
        ),
        (["weights", "import", "FILE", "--out", "OUT"], 2, "(--model NAME)"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_leaves_nothing(file, tmp_path, command, argv, status, message):
    out = tmp_path / "out"
    names = {"FILE": file, "OUT": out, "USED": file.parent}
    got, _, err = command(*[names.get(arg, arg) for arg in argv])
    assert got == status
    assert message in err
    assert not out.exists()
