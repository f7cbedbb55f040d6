"""Every choice of a network can be made from a configuration, and so from the command line."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import yaml

from resnet_jax.ablation.grid import parse_axis
from resnet_jax.cli.options import parse
from resnet_jax.cli.train import TrainOptions
from resnet_jax.errors import UsageError
from resnet_jax.models import create_model
from resnet_jax.models.config import CHOICES, ResNetConfig
from resnet_jax.models.norms import NORMS
from resnet_jax.models.spec import ModelSpec
from resnet_jax.runs.analysis import AnalysisConfig, named_target
from resnet_jax.runs.build import build_model
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo
from resnet_jax.runs.images import OtherImages
from resnet_jax.runs.recipes import load_recipe, parse_config

#: What the run decides, not its user: how many devices share the batch, their axis, the outputs of several heads.
OF_THE_RUN = {"norm_devices", "axis_name", "head_outputs"}
#: A value other than the default of every field, and what must go with it.
VALUES: dict[str, Any] = {
    "stage_sizes": (1, 2, 1), "widths": (4, 8, 16), "block": "bottleneck", "order": "pre",
    "frontend": "standardize", "symbols": 9, "mel_rate": 8000, "mel_window": 200, "mel_hop": 80, "mel_bands": 40,
    "mel_time_mask": 5, "mel_band_mask": 4, "stem": "imagenet",
    "stem_width": 12, "stem_pool": "zero_max", "whiten_window": 3, "transition": "conv_pool",
    "shortcut": "C", "stride_in": "1x1", "output_stride": 16, "groups": 2,
    "base_width": 32, "branch_widths": (4, 5, 6, 7, 8, 9, 10, 11, 12), "norm": "group",
    "norm_eps": 1e-3, "norm_momentum": 0.5,
    "norm_running_variance": "unbiased",
    "norm_groups": 4, "norm_scope": "frozen", "ghost_size": 3, "norm_group_devices": 2, "residual": "rezero",
    "alpha": 0.5, "weight_standardization": "standard", "ws_eps": 1e-4, "conv_bias": True, "attention": "se",
    "se_ratio": 0.5,
    "se_divisor": 2, "dropout": 0.25, "head": "fpn", "head_width": 64, "head_depth": 2,
    "pyramid_stride": 16, "pyramid_extra": 1, "head_dropout": 0.5,
    "drop_path": 0.125, "head_pool": "max",
    "activation": "gelu_erf", "init": "normal_0.01", "head_init": "zeros", "logit_scale": 0.125, "num_classes": 7,
    "in_channels": 5,
    "spatial_dims": 1, "execution": "scan", "remat": "conv", "dtype": "bfloat16", "param_dtype": "float32",
}  # fmt: skip
TOGETHER: dict[str, dict[str, Any]] = {
    "mel_time_mask": {"frontend": "log_mel", "spatial_dims": 1},
    "mel_band_mask": {"frontend": "log_mel", "spatial_dims": 1},
    "stem_pool": {"stem": "imagenet"},
    "output_stride": {"stem": "imagenet"},
    "groups": {"block": "bottleneck"},
    "base_width": {"block": "bottleneck"},
    "ghost_size": {"norm_scope": "ghost"},
    "norm_group_devices": {"norm_scope": "device_group"},
}


def options_of_a_network() -> set[str]:
    return {field.name for field in dataclasses.fields(ResNetConfig)} - OF_THE_RUN


def test_every_choice_of_a_network_is_an_option():
    assert set(ModelSpec.option_hints()) - {"name"} == options_of_a_network() == set(VALUES)
    for name in OF_THE_RUN:
        with pytest.raises(UsageError, match=f"unknown field of a network '{name}'"):
            ModelSpec("resnet20_cifar", **{name: 1})


#: Of each kind of value one; the slow tests have all.
_QUICK = {"stage_sizes", "block", "head", "symbols", "norm_eps", "ghost_size", "conv_bias", "dtype", "output_stride"}


@pytest.mark.parametrize(
    "field", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VALUES]
)
def test_every_choice_can_be_made_in_yaml_and_on_the_command_line(field):
    choices = {**TOGETHER.get(field, {}), field: VALUES[field]}
    written = {name: list(value) if isinstance(value, tuple) else value for name, value in choices.items()}
    from_yaml = parse_config(yaml.safe_dump({"model": {"name": "resnet20_cifar", **written}}), where="x").model
    words = []
    for name, value in choices.items():
        words += [f"--model.{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    default = TrainOptions(load_recipe("digits"))
    typed = parse(TrainOptions, words, verb="train", about="", default=default).config.model
    assert typed == from_yaml == ModelSpec("resnet20_cifar", **choices)
    assert getattr(typed.config(), field) == VALUES[field]


def test_the_help_of_a_choice_lists_its_values_and_ranges(capsys):
    with pytest.raises(SystemExit):
        parse(TrainOptions, ["--help"], verb="train", about="", default=TrainOptions(load_recipe("digits")))
    printed = re.sub(r"[\s│]+", " ", capsys.readouterr().out).replace(", ", ",")
    for name, values in CHOICES.items():
        assert f"--model.{name.replace('_', '-')} {{None,{','.join(values)}}}" in printed
    assert "--model.spatial-dims {None,1,2,3}" in printed
    assert "--optim.schedule.kind {constant,multistep,cosine,polynomial,onecycle,exponential}" in printed
    assert re.search(r"--optim.learning-rate FLOAT The base [^-]*\(positive\)", printed)
    assert re.search(r"--optim.schedule.end-value \{None\}\|FLOAT cosine,polynomial: [^-]*\(in \[0,1\]\)", printed)
    assert re.search(r"--seed INT Seed of [^-]*\(0 or more\)", printed)
    assert "--model.output-stride {None,8,16,32}" in printed
    assert re.search(r"--model.dropout \{None\}\|FLOAT Dropout rate before [^-]*\(in \[0,1\)\)", printed)
    assert re.search(r"--model.norm-groups \{None\}\|INT Number of groups [^-]*\(1 or more\)", printed)


def test_every_field_is_documented_once_and_shortly():
    docs = ModelSpec.option_docs()
    assert [name for name in ModelSpec.option_hints() if not 10 < len(docs.get(name, "")) <= 120] == []


def test_a_spec_is_a_value():
    spec = ModelSpec("resnet20_cifar", widths=[4, 8, 16], dtype=jnp.bfloat16, norm=None)
    assert spec.changes == {"widths": (4, 8, 16), "dtype": "bfloat16"}
    same = ModelSpec("resnet20_cifar", dtype="bfloat16", widths=(4, 8, 16))
    assert (spec, hash(spec)) == (same, hash(same))
    assert spec != same.replace("resnet32_cifar")
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec
    assert ModelSpec(**spec.to_dict()) == spec
    assert eval(repr(spec)) == spec
    assert spec.replace(dtype=None, groups=2).changes == {"widths": (4, 8, 16), "groups": 2}
    with pytest.raises(AttributeError, match="replace"):
        spec.name = "resnet18"
    assert spec.config(num_classes=3, widths=(1, 1, 1)).widths == (4, 8, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nrom": "group"}, "unknown field of a network 'nrom'; did you mean 'norm'"),
        ({"norm": "gruop"}, "unknown norm 'gruop'; did you mean 'group'"),
        ({"groups": 0}, "groups must be 1 or more, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"widths": (4, 0)}, "widths must be 1 or more, got 0"),
        ({"spatial_dims": 4}, "spatial_dims must be 1, 2 or 3, got 4"),
        ({"dtype": "float31"}, "unknown dtype 'float31'"),
    ],
)
def test_a_spec_refuses_what_no_network_has(changes, message):
    with pytest.raises(UsageError, match=message):
        ModelSpec("resnet20_cifar", **changes)
    text = yaml.safe_dump({"model": {name: list(v) if isinstance(v, tuple) else v for name, v in changes.items()}})
    with pytest.raises(
        UsageError, match=r"model\." if "nrom" in changes else message.replace("unknown ", "unknown model.")
    ):
        parse_config(text, where="x")


def test_a_registered_norm_is_an_option_like_our_own(monkeypatch):
    monkeypatch.setitem(NORMS, "mine", NORMS["batch"])
    spec = ModelSpec("resnet20_cifar", norm="mine")
    assert parse_config("model: {norm: mine}", where="x").model == spec
    default = TrainOptions(load_recipe("digits"))
    typed = parse(TrainOptions, ["--model.norm", "mine"], verb="train", about="", default=default)
    assert typed.config.model == spec
    assert parse_axis("model.norm", "batch,mine").values == ("batch", "mine")
    with pytest.raises(UsageError, match=r"unknown model\.norm 'mime'; did you mean 'mine'"):
        parse(TrainOptions, ["--model.norm", "mime"], verb="train", about="", default=default)


def test_a_configuration_that_lists_every_field_still_loads():
    """As run directories were written before: null where the named network's own value is kept."""
    text = (Path(__file__).parent / "runs" / "config_before.yaml").read_text()
    config = parse_config(text, where="config.yaml")
    assert config.model == ModelSpec("resnet20_cifar", norm="group", norm_groups=8, widths=(8, 16, 32))
    assert config == dataclasses.replace(load_recipe("digits"), model=config.model)


def test_block_and_spatial_dims_arrive_in_the_network():
    config = ModelSpec("resnet20_cifar", block="bottleneck", spatial_dims=1).config()
    assert (config.block, config.spatial_dims) == ("bottleneck", 1)


@pytest.mark.parametrize("dims", [1, 3])
def test_images_do_not_go_into_a_network_for_signals_or_volumes(dims):
    card = DatasetInfo(("a", "b"), (8, 8, 1), (0.5,), (0.5,), {"train": 4})
    with pytest.raises(UsageError, match=rf"model.spatial_dims {dims} .*2 spatial dimensions.*leave it out"):
        build_model(RunConfig(model=ModelSpec(spatial_dims=dims)), card)


@pytest.mark.parametrize("dims", [1, 3])
def test_random_images_have_the_dimensions_of_the_network(dims):
    choices = {"spatial_dims": dims, "stage_sizes": (1,), "widths": (4,)}
    subject = named_target(
        "resnet20_cifar", AnalysisConfig(batch=2, data=OtherImages(image_size=4), model=ModelSpec(**choices))
    )
    assert subject.images.shape == (2, *(4,) * dims, 3)


def test_without_a_size_they_have_that_of_the_named_network(monkeypatch):
    from resnet_jax.runs import analysis as examine

    seen = []

    def stop(config, shape, model):
        seen.append(shape)
        raise KeyboardInterrupt

    monkeypatch.setattr(examine, "random_images", stop)
    with pytest.raises(KeyboardInterrupt):
        named_target("resnet20_cifar", AnalysisConfig(batch=2, model=ModelSpec(spatial_dims=3)))
    assert seen == [(32, 32, 32, 3)]


def test_float64_is_refused_with_what_a_command_line_can_do():
    assert not jax.config.read("jax_enable_x64")
    with pytest.raises(UsageError, match="JAX_ENABLE_X64=1"):
        create_model("resnet20_cifar", dtype="float64")
