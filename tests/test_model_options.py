"""Every choice of a network can be made from a configuration, and so from the command line."""

from __future__ import annotations

import dataclasses
import inspect
import re

import jax
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models import create_model
from resnet_jax.models.config import CHOICES, ResNetConfig
from resnet_jax.runs.analysis import Looking, initial_subject
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import ModelConfig, RunConfig
from resnet_jax.runs.directory import DataCard

#: What the run decides, not its user: how many devices share the batch, and their axis.
OF_THE_RUN = {"norm_devices", "axis_name"}


def names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def test_every_choice_of_a_network_is_an_option():
    assert names(ModelConfig) - {"name"} == names(ResNetConfig) - OF_THE_RUN
    assert set(CHOICES) <= names(ModelConfig)


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "head_init"])
def test_the_help_of_a_choice_names_every_value(choice):
    text = re.search(rf'    {choice}: [^\n]*\n    """(.*?)"""', inspect.getsource(ModelConfig), re.DOTALL)
    assert text is not None
    assert [value for value in CHOICES[choice] if value not in text.group(1)] == []


def test_block_and_spatial_dims_arrive_in_the_network():
    choices = ModelConfig("resnet20_cifar", block="bottleneck", spatial_dims=1).choices()
    config = create_model("resnet20_cifar", **choices).config
    assert (config.block, config.spatial_dims) == ("bottleneck", 1)


@pytest.mark.parametrize("dims", [1, 3])
def test_images_do_not_go_into_a_network_for_signals_or_volumes(dims):
    card = DataCard(("a", "b"), (8, 8, 1), (0.5,), (0.5,), {"train": 4})
    with pytest.raises(UsageError, match=rf"model.spatial_dims {dims} .*2 spatial dimensions.*leave it out"):
        build_model(RunConfig(model=ModelConfig(spatial_dims=dims)), card)


@pytest.mark.parametrize("dims", [1, 3])
def test_random_images_have_the_dimensions_of_the_network(dims):
    choices = {"spatial_dims": dims, "stage_sizes": (1,), "widths": (4,)}
    subject = initial_subject("resnet20_cifar", Looking(batch=2, image_size=4), choices)
    assert subject.images.shape == (2, *(4,) * dims, 3)


def test_without_a_size_they_have_that_of_the_named_network(monkeypatch):
    from resnet_jax.runs import analysis as examine

    seen = []

    def stop(looking, shape, classes):
        seen.append(shape)
        raise KeyboardInterrupt

    monkeypatch.setattr(examine, "_random", stop)
    with pytest.raises(KeyboardInterrupt):
        initial_subject("resnet20_cifar", Looking(batch=2), {"spatial_dims": 3})
    assert seen == [(32, 32, 32, 3)]


def test_float64_is_refused_with_what_a_command_line_can_do():
    assert not jax.config.read("jax_enable_x64")
    with pytest.raises(UsageError, match="JAX_ENABLE_X64=1"):
        create_model("resnet20_cifar", dtype="float64")
