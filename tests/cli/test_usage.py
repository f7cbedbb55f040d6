"""Wrong requests: one screen, the right exit status, what would be right, and no traceback."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from resnet_jax.errors import UsageError
from tests.cli.conftest import last_json


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train"], "name a recipe first"),
        (["train", "--train.length", "3 epochs"], "name a recipe first"),
        (["train", "digist"], "unknown recipe 'digist'; did you mean 'digits'"),
        (["train", "missing.yaml"], "no such recipe file: missing.yaml"),
        (["train", "digits", "--optim.learnig-rate", "1"], "--optim.learning-rate"),
        (["train", "digits", "--train.length", "0 epochs"], "train.length must be more than nothing"),
        (["train", "digits", "--train.length", "1.5"], "train.length: cannot read the duration '1.5'"),
        (["train", "digits", "--model.name", "resnet05"], "did you mean 'resnet50'"),
        (["train", "digits", "--model.shortcut", "E"], "unknown model.shortcut 'E'. Known: A, A_end"),
        (["train", "digits", "--model.num-classes", "3"], "model.num_classes 3 is too few: the data has 10"),
        (["train", "digits", "--optim.name", "sdg"], "did you mean 'sgd'"),
        (["train", "digits", "--optim.b1", "0.3"], "sgd does not use b1"),
        (["train", "digits", "--task.loss", "mze"], "did you mean 'mse'"),
        (["train", "digits", "--train.batch-size", "5000"], "larger than the 1258 training examples"),
        (["train", "digits", "--train.batch-size", "101"], "101 cannot be shared equally by 2 devices"),
        (["train", "digits", "--train.steps-per-dispatch", "0"], "train.steps_per_dispatch must be 1 or more"),
        (["train", "digits", "--data.mixup", "-1"], "data.mixup must be 0 or more, got -1.0"),
        (["train", "digits", "--data.cutout", "-1"], "data.cutout must be 0 or more, got -1"),
        (
            ["train", "digits", "--train.loss-scale.initial", "8"],
            "train.loss_scale goes with model.dtype float16; float32",
        ),
        (["train", "digits", "--data.source", "foldr:x"], "did you mean 'folder'"),
        (["train", "digits", "--data.val-fraction", "0", "--train.select", "best"], "need validation images"),
        (["train", "digits", "--data.crop", "centre"], "data.crop must be none or random_resized"),
        (["train", "digits", "--data.mean", "0.5", "0.5", "--data.std", "1", "1"], "images have 1 channels"),
        (["models", "vgg*"], "no network matches 'vgg*'"),
    ],
)
def test_wrong_usage_is_status_2(argv, message, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = command(*argv)
    assert status == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def images(folder, count=2):
    import cv2

    folder.mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((8, 8, 3), index, np.uint8))


def no_class(path):
    path.mkdir()


def one_class(path):
    images(path / "cat")


def empty_class(path):
    images(path / "cat")
    (path / "dog").mkdir()


def broken_image(path):
    images(path / "cat", 60)
    images(path / "dog", 60)
    (path / "dog" / "7.png").write_bytes(b"not an image")


def sizes_differ(path):
    import cv2

    images(path / "cat", 60)
    images(path / "dog", 60)
    cv2.imwrite(str(path / "dog" / "7.png"), np.zeros((9, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_class, "data"),
        (one_class, "cat"),
        (empty_class, "dog"),
        (broken_image, "7.png"),
        (sizes_differ, "image_size"),
    ],
)
def test_bad_images_are_named_with_status_1(make, message, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "data")
    status, _, err = command("train", "digits", "--data.source", "folder:data", "--train.batch-size", "8")
    assert status == 1
    assert message in err
    assert "Traceback" not in err


def test_labels_out_of_range_are_named(command, tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.zeros((9, 8, 8, 3), np.uint8), y=np.array([0, 1, 2, 0, 1, -4, 0, 1, 2]))
    status, _, err = command("train", "digits", "--data.source", f"npz:{tmp_path / 'bad.npz'}")
    assert status == 1
    assert "-4" in err
    assert "5" in err


def test_a_run_directory_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = command("train", "digits", "--run-dir", tmp_path / "file" / "run")
    assert status == 1
    assert "cannot write the run directory" in err


def test_debug_shows_the_traceback(command):
    with pytest.raises(UsageError):
        command("train", "digist", "--debug")


def test_help_and_version(command):
    status, out, _ = command("--help")
    assert status == 0
    assert all(verb in out for verb in ("train", "eval", "predict", "models"))
    status, out, _ = command("--version")
    assert (status, out.strip()[0].isdigit()) == (0, True)
    for verb in ("train", "eval", "predict", "models"):
        status, out, _ = command(verb, "--help")
        assert status == 0
        assert "--json" in out


def test_models_lists_exact_sizes(command):
    status, out, err = command("models", "resnet20_*", "--json")
    assert status == 0
    assert last_json(out) == [
        {"name": "resnet20_cifar", "params": 269722, "batch_stats": 1376, "macs": 40551040, "input": [32, 32, 3]},
        {"name": "resnet20_cifar_b", "params": 272474, "batch_stats": 1568, "macs": 40813184, "input": [32, 32, 3]},
    ]
    assert "269,722" in err


def test_the_program_itself_exits_with_the_status():
    program = [sys.executable, "-c", "from resnet_jax.cli import main; main()", "train", "digist"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown recipe 'digist'")


def test_ctrl_c_while_jax_is_imported_is_one_line():
    code = """
import importlib
program = importlib.import_module("resnet_jax.cli.main")
def pressed(_):
    raise KeyboardInterrupt
program.run = pressed
program.main(["models"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Stopped at once.\n")


@pytest.mark.parametrize("argv", [["models", "resnet20_cifar"], ["models", "--help"]])
@pytest.mark.slow
def test_nobody_reads_and_nothing_is_said(argv):
    """The status is 128 + SIGPIPE, as in a shell."""
    code = f"from resnet_jax.cli.main import main; main({argv})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(), said) == (141, "")
