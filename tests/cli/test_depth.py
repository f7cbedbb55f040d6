"""resnet-jax depth profile: named networks, runs, what is written, and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.cli.main import run as run_command
from resnet_jax.data.source import load_dataset
from resnet_jax.depth import DepthProfile, profile
from resnet_jax.models import create_model, init_variables
from resnet_jax.models.spec import ModelSpec
from resnet_jax.report.depth_report import FIGURES
from resnet_jax.runs.analysis import AnalysisConfig, find_target
from resnet_jax.runs.foreign import import_weights
from resnet_jax.runs.images import OtherImages

from .conftest import last_json

SMALL = ["--model.stage-sizes", "1", "2", "--model.widths", "4", "8"]
COLUMNS = ("act_mean", "act_var", "skip_norm", "branch_norm", "branch_skip_cosine", "grad_norm", "update_ratio")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, stripes):
    """A run of two blocks a stage with momentum and a schedule, stopped in the middle of it."""
    path = tmp_path_factory.mktemp("runs") / "net"
    argv = ["train", "digits", "--data.source", f"npz:{stripes}", "--run-dir", str(path), *SMALL]
    assert run_command([*argv, "--train.length", "2 epochs", "--train.batch-size", "16", "--task.loss", "mse"]) == 0
    return path


@pytest.mark.parametrize("verb", ["profile", "jacobian", "lesion", "check"])
def test_a_batch_that_cannot_fit_is_refused_before_its_images_are_made(command, tmp_path, verb):
    status, _, err = command("depth", verb, "resnet20_cifar", "--batch", 100_000_000, "--out", tmp_path / "out")
    assert status == 1
    assert "a train step on 100,000,000 images of 32x32x3 needs about" in err
    assert "(--batch " in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_named_network(command, tmp_path):
    out = tmp_path / "out"
    argv = ("depth", "profile", "resnet20_cifar", *SMALL, "--batch", 4, "--image-size", 8, "--seed", 3, "--out", out)
    status, printed, _ = command(*argv, "--json")
    assert status == 0
    said = last_json(printed)
    assert (said["blocks"], said["out"]) == (3, str(out))
    assert 0 < said["seconds"] < 300
    assert 50e6 < said["peak_bytes"] < 50e9
    assert sorted(path.name for path in out.iterdir()) == sorted((*FIGURES, "profile.npz"))
    with np.load(out / "profile.npz") as arrays:
        assert all(arrays[name].shape == (3,) for name in COLUMNS)

    # the same by hand
    model = create_model("resnet20_cifar", stage_sizes=(1, 2), widths=(4, 8))
    init_key = jax.random.split(jax.random.key(3))[0]
    variables = jax.jit(lambda key: init_variables(model, key, (8, 8, 3)))(init_key)
    subject = find_target(
        "resnet20_cifar", AnalysisConfig(batch=4, data=OtherImages(image_size=8), seed=3, model=model_choices())
    )
    tx = optax.sgd(0.1)
    want = profile(
        model, variables, subject.images, subject.labels, optimizer=(tx, tx.init(variables["params"]))
    ).columns()
    found = DepthProfile.load(out / "profile.npz")
    assert found.about["facts"]["network"].startswith("resnet20_cifar, stage_sizes (1, 2), widths (4, 8): ")
    for name, values in found.columns().items():
        np.testing.assert_allclose(values, want[name], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found.update_norm, 0.1 * found.weight_grad_norm, rtol=1e-4)

    # again into the same directory: its own files are replaced, others are not touched
    (out / "notes.txt").write_text("mine")
    status, _, error = command(*argv)
    assert (status, "holds other things (notes.txt)" in error) == (2, True)
    status, _, _ = command(*argv, "--force", "--norm-mode", "running")
    assert status == 0
    assert (out / "notes.txt").read_text() == "mine"
    again = DepthProfile.load(out / "profile.npz")
    assert "running averages" in again.about["facts"]["normalization"]
    averages = profile(model, variables, subject.images, subject.labels, train=False)
    np.testing.assert_allclose(again.act_var, averages.act_var, rtol=1e-4)
    assert (np.abs(again.act_var / found.act_var - 1) > 0.01).any()
    assert "running averages" in (out / "report.html").read_text()


def model_choices() -> ModelSpec:
    return ModelSpec(stage_sizes=(1, 2), widths=(4, 8))


@pytest.mark.slow
def test_a_run_is_looked_at_with_its_own_images_loss_and_optimizer(command, trained, tmp_path, stripes):
    out = tmp_path / "out"
    status, printed, error = command("depth", "profile", trained, "--batch", 12, "--out", out, "--json")
    assert status == 0, error
    assert last_json(printed)["blocks"] == 3
    found = DepthProfile.load(out / "profile.npz")
    facts = found.about["facts"]
    assert facts["images"].startswith("12 of the run's own training images (seed 0), not augmented; 12x12x3")
    assert facts["weights"] == "of net after step 10"
    assert (
        "the run's own sgd at its base learning rate 0.1 (the schedule has ended at 0), with its state"
        in facts["updates"]
    )
    # the update is that of the restored state: ten steps of momentum
    _, state = find_target(str(trained), AnalysisConfig(batch=12)).optimizer
    steps = [int(leaf) for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert steps == [10]
    momentum = [
        float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert len(momentum) > 10
    assert max(momentum) > 0

    # the loss is the run's, mean squared error, on normalized pixels of the training split
    subject = find_target(str(trained), AnalysisConfig(batch=12))
    assert found.about["loss"] == pytest.approx(loss_by_hand(subject), rel=1e-4)
    assert float(jnp.abs(subject.images.mean())) < 0.5
    assert subject.images.shape == (12, 12, 12, 3)

    # on other images, in another execution: the same network
    scan = ModelSpec(execution="scan")
    with np.load(stripes) as data:
        np.savez(tmp_path / "other.npz", x=data["x"][:100], y=data["y"][:100], class_names=data["class_names"])
    twice = find_target(
        str(trained), AnalysisConfig(batch=12, model=scan, data=OtherImages(source=f"npz:{tmp_path / 'other.npz'}"))
    )
    same = find_target(str(trained), AnalysisConfig(batch=12, model=scan))
    assert twice.facts["images"].startswith("12 images of npz:other.npz (seed 0)")
    assert "blocks" in same.variables["params"]["stage2"] or "block1" in same.variables["params"]["stage2"]
    logits = [jax.jit(partial(s.model.apply, train=False))(s.variables, subject.images) for s in (subject, same)]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_imported_network_has_neither_images_nor_an_optimizer(command, trained, tmp_path):
    file, imported, out = tmp_path / "net.safetensors", tmp_path / "imported", tmp_path / "out"
    assert command("weights", "export", trained, "--format", "cifar", "--out", file)[0] == 0
    import_weights(file, ModelSpec(num_classes=2, stage_sizes=(1, 2), widths=(4, 8)), imported)
    argv = ("depth", "profile", imported, "--batch", 4, "--out", out)
    status, _, error = command(*argv)
    assert (status, "name a data.source, or random (--data.source)" in error) == (2, True)
    status, _, error = command(*argv, "--data.source", "random", "--image-size", 8, "--remat", "block")
    assert status == 0, error
    facts = DepthProfile.load(out / "profile.npz").about["facts"]
    assert facts["weights"] == "of imported, imported"
    assert "imported without an optimizer" in facts["updates"]
    assert facts["images"].endswith("8x8x3")
    assert facts["computed in"] == "float32, execution auto, remat block"


def loss_by_hand(subject) -> float:
    apply = jax.jit(partial(subject.model.apply, train=True, mutable=["batch_stats"]))
    logits, _ = apply(subject.variables, subject.images)
    return float(((logits - jax.nn.one_hot(subject.labels, logits.shape[-1])) ** 2).mean())


def test_images_of_a_data_set_for_a_named_network():
    subject = find_target(
        "resnet20_cifar", AnalysisConfig(batch=5, data=OtherImages(source="digits"), seed=1, model=model_choices())
    )
    assert subject.images.shape == (5, 8, 8, 1)
    assert subject.model.config.in_channels == 1
    assert subject.model.config.num_classes == load_dataset("digits").num_classes
    other = find_target(
        "resnet20_cifar", AnalysisConfig(batch=5, data=OtherImages(source="digits"), seed=2, model=model_choices())
    )
    assert not jnp.array_equal(subject.images, other.images)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "name what to look at"),
        (["profil", "resnet20_cifar"], "did you mean 'profile'"),
        (["profile", "resnet20_cifra"], "did you mean 'resnet20_cifar'"),
        (["profile", "."], "is not a run directory"),
        (["profile", "resnet20_cifar", "--batch", "0"], "batch must be 1 or more"),
        (["profile", "resnet20_cifar", "--batch", "1"], "one image has none to speak of"),
        (["profile", "resnet20_cifar", "--norm-mode", "bacth"], "did you mean 'batch'"),
        (["profile", "resnet20_cifar", "--checkpoint", "best"], "has no checkpoints"),
        (["profile", "resnet20_cifar", "--data.source", "digits", "--batch", "5000"], "more than the 1,258 images"),
        (["profile", "resnet20_cifar", "--data.source", "dogits"], "did you mean 'digits'"),
        (["profile", "resnet20_cifar", "--model.norm", "grup"], "did you mean 'group'"),
        (["profile", "resnet20_cifar", "--model.name", "resnet50"], "has no option --model.name"),
        (["profile", "resnet20_cifar", "--remat", "block", "--model.remat", "conv"], "contradict each other"),
        (["profile", "resnet20_cifar", "--learning-rate", "0"], "learning rate must be above 0"),
    ],
)
def test_what_is_refused(command, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    status, _, error = command("depth", *argv)
    assert (status, said in error) == (2, True), error
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_of_a_run(command, trained, tmp_path):
    out = tmp_path / "out"
    for argv, said in (
        (["--model.norm", "group"], "leave out model.norm"),
        (["--batch", 90], "more than the 84 images"),
        (["--checkpoint", "first"], "unknown checkpoint 'first'"),
        (["--data.source", "digits"], "2, 3, 4, 5, 6, 7, 8, 9 cannot be matched by number"),
    ):
        status, _, error = command("depth", "profile", trained, "--out", out, *argv)
        assert (status, said in error) == (2, True), error
    assert not out.exists()


def test_a_place_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("")
    for out, status_wanted, said in ((tmp_path / "file", 2, "is a file"), (tmp_path / "file" / "x", 1, "cannot make")):
        status, _, error = command("depth", "profile", "resnet20_cifar", *SMALL, "--image-size", 8, "--out", out)
        assert (status, said in error) == (status_wanted, True), error


def test_by_default_each_verb_has_a_folder_of_its_own_beside_the_results(tmp_path):
    from resnet_jax.cli.depth_options import TargetOptions, output_directory

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("")
    for verb in ("profile", "jacobian", "lesion"):
        out = output_directory(TargetOptions(str(run)), ("report.html",), verb)
        assert out == run / "depth" / verb
        out.mkdir(parents=True)
        (out / "report.html").write_text("")
        assert output_directory(TargetOptions(str(run)), ("report.html",), verb) == out  # the same command once more
        assert output_directory(TargetOptions("resnet20_cifar"), (), verb) == Path("depth-resnet20_cifar") / verb


def test_a_check_of_a_run_says_which_verbs_look_at_one(command, tmp_path):
    status, _, error = command("depth", "check", tmp_path)
    assert status == 2
    assert "use depth profile, jacobian or lesion" in error
