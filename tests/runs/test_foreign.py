"""Foreign files as run directories: what they bring, what a user gives, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from resnet_jax.errors import DataError, UsageError
from resnet_jax.models import ModelSpec, ResNet
from resnet_jax.runs.foreign import import_weights
from resnet_jax.weights import from_variables, save_safetensors
from resnet_jax.weights.known import CIFAR10, IMAGENET
from tests.tools import random_variables
from tests.weights.torch_writer import checkpoint

TINY = ModelSpec("resnet20_cifar", stage_sizes=(1, 1), widths=(4, 8), num_classes=3)


def state_dict(config: ModelSpec, format: str = "cifar") -> dict[str, np.ndarray]:
    model = ResNet(config.config())
    return from_variables(random_variables(model, (32, 32, model.config.in_channels)), model, format)


@pytest.fixture(scope="module")
def tiny():
    return state_dict(TINY)


@pytest.fixture
def put(tmp_path):
    def put(arrays, **options):
        (tmp_path / "net.pth").write_bytes(checkpoint(arrays, legacy=False, **options))
        return tmp_path / "net.pth"

    return put


def test_a_published_network_brings_what_is_known_of_it(put, tmp_path):
    """The CIFAR-10 nets of akamaster/pytorch_resnet_cifar10."""
    imported = import_weights(put(state_dict(ModelSpec())), ModelSpec(), tmp_path / "run")
    assert imported.card.class_names == CIFAR10
    assert (imported.card.mean, imported.card.std) == IMAGENET
    assert imported.run.read_data() == imported.card
    data = imported.run.read_config().data
    assert (data.image_size, data.crop, imported.card.image_shape) == (32, "none", (32, 32, 3))
    assert "as in akamaster/pytorch_resnet_cifar10" in imported.lines["normalization"]
    assert "as in akamaster/pytorch_resnet_cifar10" in imported.lines["classes"]


@pytest.mark.slow
def test_an_imagenet_network_brings_its_size_and_crop(put, tmp_path):
    config = ModelSpec("resnet18")
    imported = import_weights(put(state_dict(config, "torchvision")), config, tmp_path / "run")
    data = imported.run.read_config().data
    assert (data.image_size, data.crop) == (224, "random_resized")
    assert imported.card.class_names[:2] == ("n01440764", "n01443537")
    assert (imported.card.mean, imported.card.std) == IMAGENET


def test_what_is_not_known_is_said_and_left_open(put, tiny, tmp_path):
    imported = import_weights(put(tiny), TINY, tmp_path / "run")
    assert (imported.card.mean, imported.card.class_names) == ((), ("0", "1", "2"))
    assert "not known: give mean and std" in imported.lines["normalization"]
    assert "not known: 3 outputs, called by their numbers" in imported.lines["classes"]


def test_what_the_user_gives_comes_first(put, tiny, tmp_path):
    names = [f"class {index}" for index in range(3)]
    imported = import_weights(
        put(tiny), TINY, tmp_path / "run", image_size=48, crop="random_resized",
        class_names=names, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
    )  # fmt: skip
    data = imported.run.read_config().data
    assert (data.image_size, data.crop, imported.card.image_shape) == (48, "random_resized", (48, 48, 3))
    assert imported.card.class_names == tuple(names)
    assert (imported.card.mean, imported.card.std) == ((0.5,) * 3, (0.25,) * 3)
    assert all("given" in imported.lines[subject] for subject in ("images", "normalization", "classes"))


def test_choices_of_the_network_are_given_too(put, tmp_path):
    """ResNet-18 with a CIFAR stem, as kuangliu/pytorch-cifar has it; its images are of 32 pixels."""
    config = ModelSpec("resnet18", stem="cifar", num_classes=10, stage_sizes=(1,) * 4, widths=(4, 8, 12, 16))
    file = put({f"module.{name}": array for name, array in state_dict(config).items()}, wrap="net", acc=95.0)
    imported = import_weights(file, config, tmp_path / "run")
    assert (imported.card.image_shape, imported.prefix, imported.file.key) == ((32, 32, 3), "module.", "net")
    with pytest.raises(DataError, match=r"a first convolution of 3 pixels; stem='cifar'"):
        import_weights(file, config.replace(stem=None), tmp_path / "other")


def test_the_part_that_was_asked_for_is_taken_and_the_rest_named(put, tiny, tmp_path):
    both = {f"{net}.{name}": array for net in ("student", "teacher") for name, array in tiny.items()}
    both |= {name: array.astype(np.float16) for name, array in both.items() if name.startswith("teacher.bn1")}
    imported = import_weights(put(both, wrap="state_dict"), TINY, tmp_path / "run", key="state_dict.teacher")
    said = imported.lines["tensors"]
    assert "under 'state_dict'" in said
    assert "the prefix 'teacher.' taken off every name" in said
    assert f"{len(tiny)} others left aside (student." in said
    assert "4 of float16, converted to float32" in said
    with pytest.raises(DataError, match=r"under 'student': key=state_dict\.student"):
        import_weights(tmp_path / "net.pth", TINY, tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size=0: it must be 1 pixel or more"),
        ({"crop": "centre"}, "unknown crop 'centre'"),
        ({"mean": (124.0, 116.0, 104.0), "std": (58.0, 57.0, 57.0)}, r"mean 0\.4863 0\.4549 0\.4078"),
        ({"mean": (float("nan"),) * 3, "std": (1.0,) * 3}, "mean and std"),
        ({"mean": (0.5,), "std": (0.5,)}, "mean and std"),
        ({"mean": (0.5,) * 3}, "mean and std"),
        ({"mean": (0.5,) * 3, "std": (0.0,) * 3}, "std must be positive"),
        ({"class_names": ["a", "b"]}, "2 names, the network 3 outputs"),
        ({"class_names": ["a", "b", "a"]}, r"same name for several outputs: 'a' \(outputs 0, 2\)"),
        ({"key": "ema"}, "no mapping of names to tensors under 'ema'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(put, tiny, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        import_weights(put(tiny), TINY, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_values_that_are_no_numbers_are_refused_by_name(put, tiny, tmp_path):
    broken = {**tiny, "bn1.weight": np.full_like(tiny["bn1.weight"], np.nan)}
    with pytest.raises(DataError, match=r"net\.pth: (.|\n)*bn1\.weight: 4 of 4 values are NaN or infinite"):
        import_weights(put(broken), TINY, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["ant\nbee\nCäsar\n", '["ant", "bee", "Cäsar"]', "\ufeffant\r\nbee\r\nCäsar\r\n\r\n"])
def test_class_names_from_a_file(put, tiny, tmp_path, text):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    imported = import_weights(put(tiny), TINY, tmp_path / "run", class_names=tmp_path / "names.txt")
    assert imported.run.read_data().class_names == ("ant", "bee", "Cäsar")


def test_an_exported_file_of_another_version_is_refused(tiny, tmp_path):
    notes = {
        "model": "resnet20_cifar", "choices": {"hats": 3}, "class_names": [], "image_shape": [32, 32, 3],
        "crop": "none", "mean": [], "std": [], "loss": "cross_entropy",
    }  # fmt: skip
    save_safetensors(tiny, tmp_path / "net.safetensors", {"resnet_jax": json.dumps(notes)})
    with pytest.raises(DataError, match="exported by another version: unknown here is hats"):
        import_weights(tmp_path / "net.safetensors", TINY, tmp_path / "run")


def test_a_file_that_says_nothing_needs_the_name_of_its_network(put, tiny, tmp_path):
    with pytest.raises(UsageError, match="name the network: model=NAME"):
        import_weights(put(tiny), ModelSpec(""), tmp_path / "run")
