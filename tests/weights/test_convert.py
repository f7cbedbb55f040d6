from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import DataError, UsageError
from resnet_jax.models import abstract_variables, create_model
from resnet_jax.weights import from_variables, load_state_dict, save_safetensors, to_variables
from resnet_jax.weights.names import name_map
from tests.tools import paths, random_variables
from tests.weights.torch_writer import checkpoint

CIFAR = create_model("resnet20_cifar", stage_sizes=(1, 1, 1))
TINY = create_model("resnet50", stage_sizes=(2, 1), widths=(4, 8), num_classes=5)


def trees_equal(a, b):
    assert paths(a) == paths(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def exported(model=CIFAR, format="cifar"):
    return from_variables(random_variables(model, (32, 32, model.config.in_channels)), model, format)


@pytest.mark.parametrize(
    ("name", "widths", "format"),
    [
        ("resnet18", (8, 12, 16, 20), "torchvision"),
        ("resnet50", (4, 6, 8, 10), "torchvision"),
        ("resnet20_cifar", (16, 32, 64), "cifar"),
        ("resnet20_cifar_b", (16, 32, 64), "cifar"),
        ("resnet20_cifar_b", (16, 32, 64), "torchvision"),
    ],
)
def test_round_trip_is_the_identity_both_ways(name, widths, format):
    model = create_model(name, in_channels=1, widths=widths)
    variables = random_variables(model, (32, 32, 1))
    state_dict = from_variables(variables, model, format)
    back = to_variables(state_dict, model)
    trees_equal(back, variables)
    assert all(leaf.flags.c_contiguous and leaf.dtype == np.float32 for leaf in jax.tree.leaves(back))
    again = from_variables(back, model, format)
    assert list(again) == list(state_dict)
    for name, array in state_dict.items():
        np.testing.assert_array_equal(again[name], array)
        assert array.flags.c_contiguous


def assert_equal_or_beside(a, b):
    """Equal to the last bit; variables that a conversion scales may end one unit in the last place beside."""
    assert paths(a) == paths(b)
    scaled = ("params/stem/conv/gain", "params/head/kernel")
    for path, x, y in zip(paths(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if path in scaled:
            np.testing.assert_array_max_ulp(x, y, maxulp=1)
        else:
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("name", "format", "choices"),
    [
        ("resnext50_32x4d", "torchvision", {"groups": 4, "base_width": 32}),
        ("resnetrs50", "timm", {}),
        ("ecaresnet50t", "timm", {}),
        ("resnet50s", "timm", {}),
        ("resnetv2_50d", "timm", {}),
        ("bit_r50x1", "timm", {"norm_groups": 4}),
        ("nf_seresnet50", "timm", {"shortcut": "D"}),
        ("nf_gain_resnet50", "timm", {"shortcut": "D"}),
        ("resnet50", "transformers", {}),
        ("seresnet50", "pytorchcv", {}),
        ("seresnet20_cifar", "pytorchcv", {}),
        ("sepreact20_cifar", "pytorchcv", {}),
        ("fixup_resnet20_cifar", "fixup", {}),
        ("fixup_resnet50", "fixup", {}),
        ("resnet18", "torchvision", {"spatial_dims": 1}),
        ("resnetv2_50", "timm", {"spatial_dims": 3}),
    ],
)
@pytest.mark.slow
def test_round_trip_of_a_block_of_each_kind(name, format, choices):
    model = create_model(name, stage_sizes=(1, 1), widths=(8, 16), stem_width=8, num_classes=5, **choices)
    variables = random_variables(model, (32,) * model.config.spatial_dims + (3,))
    state_dict = from_variables(variables, model, format)
    back = to_variables(state_dict, model, format)
    if model.config.is_nf:
        assert_equal_or_beside(back, variables)
    else:
        trees_equal(back, variables)
    assert {array.dtype for array in state_dict.values()} == {np.dtype(np.float32)}
    elements = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert sum(array.size for array in state_dict.values()) == elements


def test_layouts_of_other_shapes():
    """Each foreign array by hand: which of its elements is which of ours."""
    rs = create_model("resnetrs50", stage_sizes=(1,), widths=(8,))
    variables = random_variables(rs, (32, 32, 3))
    state_dict = from_variables(variables, rs, "timm")
    squeeze = variables["params"]["stage1"]["block0"]["branch"]["se"]["reduce"]["kernel"]
    assert state_dict["layer1.0.se.fc1.weight"].shape == (8, 32, 1, 1)
    assert state_dict["layer1.0.se.fc1.weight"][3, 20, 0, 0] == squeeze[20, 3]

    eca = create_model("ecaresnet50d", stage_sizes=(1,), widths=(64,))
    state_dict = from_variables(random_variables(eca, (32, 32, 3)), eca, "timm")
    taps = to_variables(state_dict, eca)["params"]["stage1"]["block0"]["branch"]["eca"]["conv"]["kernel"]
    assert (state_dict["layer1.0.se.conv.weight"].shape, taps.shape) == ((1, 1, 5), (5, 1, 1))
    np.testing.assert_array_equal(state_dict["layer1.0.se.conv.weight"][0, 0], taps[:, 0, 0])

    v2 = create_model("resnetv2_18", stage_sizes=(1,), widths=(8,), num_classes=5)
    state_dict = from_variables(random_variables(v2, (32, 32, 3)), v2, "timm")
    assert state_dict["head.fc.weight"].shape == (5, 8, 1, 1)
    assert to_variables(state_dict, v2)["params"]["head"]["kernel"][7, 3] == state_dict["head.fc.weight"][3, 7, 0, 0]

    fixup = create_model("fixup_resnet20_cifar", stage_sizes=(1,), widths=(8,))
    state_dict = from_variables(random_variables(fixup, (32, 32, 3)), fixup, "fixup")
    assert state_dict["layer1.0.bias2a"].shape == (1,)
    params = to_variables(state_dict, fixup)["params"]
    assert params["stage1"]["block0"]["branch"]["bias2a"] == state_dict["layer1.0.bias2a"][0]
    assert params["stage1"]["block0"]["bias1a"].shape == ()

    line = create_model("resnet18", stage_sizes=(1,), widths=(8,), spatial_dims=1)
    state_dict = from_variables(random_variables(line, (32, 3)), line, "torchvision")
    assert state_dict["conv1.weight"].shape == (8, 3, 7)
    kernel = to_variables(state_dict, line)["params"]["stem"]["conv"]["kernel"]
    assert kernel[5, 2, 4] == state_dict["conv1.weight"][4, 2, 5]


def test_normalizer_free_nets_have_the_activations_gain_elsewhere():
    """In timm gamma multiplies every weight, also the first; ours follows each activation, also the last."""
    model = create_model("nf_resnet50", stage_sizes=(1,), widths=(8,), shortcut="D", activation="silu")
    state_dict = from_variables(random_variables(model, (32, 32, 3)), model, "timm")
    params = to_variables(state_dict, model)["params"]
    gamma = 1.7881293296813965  # models.md 1.8, SiLU
    stem, head, block = params["stem"]["conv"], params["head"], params["stage1"]["block0"]["branch"]
    assert state_dict["stem.conv.gain"].shape == (8, 1, 1, 1)
    np.testing.assert_allclose(stem["gain"], gamma * state_dict["stem.conv.gain"][:, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(head["kernel"], state_dict["head.fc.weight"].T / gamma, rtol=1e-6)
    np.testing.assert_array_equal(head["bias"], state_dict["head.fc.bias"])
    np.testing.assert_array_equal(block["conv1"]["gain"], state_dict["stages.0.0.conv1.gain"][:, 0, 0, 0])


def test_a_tensor_without_its_unit_axes_is_refused():
    model = create_model("resnetv2_18", stage_sizes=(1,), widths=(8,), num_classes=5)
    state_dict = from_variables(random_variables(model, (32, 32, 3)), model, "timm")
    state_dict["head.fc.weight"] = state_dict["head.fc.weight"][:, :, 0, 0]
    with pytest.raises(DataError, match=r"head\.fc\.weight is \(5, 8\); need \(5, 8, 1, 1\)$"):
        to_variables(state_dict, model)


def test_averaging_a_deep_stem():
    model = create_model("resnet18d", stage_sizes=(1,), widths=(8,))
    state_dict = from_variables(random_variables(model, (32, 32, 3)), model, "timm")
    grey = create_model("resnet18d", stage_sizes=(1,), widths=(8,), in_channels=1)
    with pytest.raises(DataError, match=r"conv1\.0\.weight is .*: 3 input channels instead of 1; stem='mean'"):
        to_variables(state_dict, grey)
    kernel = to_variables(state_dict, grey, stem="mean")["params"]["stem"]["conv1"]["kernel"]
    response = np.moveaxis(state_dict["conv1.0.weight"].sum(axis=1), 0, -1)
    np.testing.assert_allclose(kernel[:, :, 0], response, rtol=1e-5, atol=1e-6)


def test_standardized_stems_are_not_averaged():
    model = create_model("bit_r50x1", stage_sizes=(1,), widths=(32,), in_channels=1)
    with pytest.raises(UsageError, match=r"stem='mean' would not keep .* weight_standardization is standard"):
        to_variables({}, model, "timm", stem="mean")


@pytest.mark.parametrize("file", ["net.safetensors", "zip.pt", "legacy.pt"])
def test_round_trip_through_files(tmp_path, file):
    variables = random_variables(TINY, (32, 32, 3))
    state_dict = from_variables(variables, TINY, "torchvision")
    if file == "net.safetensors":
        save_safetensors(state_dict, tmp_path / file)
    else:
        (tmp_path / file).write_bytes(checkpoint(state_dict, legacy=file == "legacy.pt"))
    trees_equal(to_variables(load_state_dict(tmp_path / file), TINY), variables)


def test_layouts():
    state_dict = exported(TINY, "torchvision")
    variables = to_variables(state_dict, TINY, "torchvision")
    kernel = state_dict["conv1.weight"]
    assert kernel.shape == (4, 3, 7, 7)
    assert variables["params"]["stem"]["conv"]["kernel"][1, 5, 2, 3] == kernel[3, 2, 1, 5]
    assert variables["params"]["head"]["kernel"][7, 3] == state_dict["fc.weight"][3, 7]
    block = variables["batch_stats"]["stage2"]["block0"]
    np.testing.assert_array_equal(block["shortcut"]["norm"]["var"], state_dict["layer2.0.downsample.1.running_var"])
    np.testing.assert_array_equal(block["branch"]["norm3"]["mean"], state_dict["layer2.0.bn3.running_mean"])


def test_every_tensor_goes_to_the_variable_of_its_name():
    names = name_map(TINY, "torchvision")
    state_dict = exported(TINY, "torchvision")
    marked = {name: np.full(array.shape, index, np.float32) for index, (name, array) in enumerate(state_dict.items())}
    variables = to_variables(marked, TINY)
    order = list(marked)
    for path, leaf in zip(paths(variables), jax.tree.leaves(variables), strict=True):
        assert (leaf == order.index(names[path])).all()


def test_arrays_are_copies_in_the_networks_dtype():
    state_dict = {name: array.astype(jnp.bfloat16) for name, array in exported().items()}
    variables = to_variables(state_dict, CIFAR)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    mean = variables["batch_stats"]["stem"]["norm"]["mean"]
    np.testing.assert_array_equal(mean, state_dict["bn1.running_mean"].astype(np.float32))
    state_dict = exported()
    variables = to_variables(state_dict, CIFAR)
    assert not np.shares_memory(variables["params"]["head"]["bias"], state_dict["linear.bias"])


def test_one_error_lists_every_fault():
    state_dict = exported()
    del state_dict["bn1.running_mean"], state_dict["layer2.0.conv1.weight"]
    state_dict["layer9.conv"] = state_dict["extra.bias"] = np.zeros(3, np.float32)
    state_dict["layer1.0.bn1.weight"] = np.zeros(17, np.float32)
    state_dict["bn1.bias"] = np.zeros(16, np.int64)
    before = dict(state_dict)
    with pytest.raises(DataError) as caught:
        to_variables(state_dict, CIFAR)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == "these tensors do not fit the network (weight format 'cifar'), 6 faults:"
    assert sorted(lines[1:]) == [
        "bn1.bias is int64; need a floating-point type",
        "layer1.0.bn1.weight is (17,); need (16,)",
        "missing bn1.running_mean (16,)",
        "missing layer2.0.conv1.weight (32, 16, 3, 3)",
        "unexpected extra.bias (3,)",
        "unexpected layer9.conv (3,)",
    ]
    assert state_dict == before


def test_another_depth_is_refused():
    with pytest.raises(DataError, match=r"unexpected layer1\.1\.conv1\.weight"):
        to_variables(exported(create_model("resnet20_cifar", stage_sizes=(2, 1, 1))), CIFAR)


def test_other_classes_only_on_request():
    state_dict = exported()
    model = create_model("resnet20_cifar", stage_sizes=(1, 1, 1), num_classes=7)
    message = r"linear\.weight is \(10, 64\); need \(7, 64\): 10 classes instead of 7; head='new'"
    with pytest.raises(DataError, match=message):
        to_variables(state_dict, model)
    fresh = random_variables(model, (32, 32, 3), seed=9)
    variables = to_variables(state_dict, model, head="new", fresh=fresh)
    trees_equal(variables["params"]["head"], fresh["params"]["head"])
    same = to_variables(state_dict, CIFAR)
    trees_equal(variables["params"]["stage3"], same["params"]["stage3"])
    assert paths(variables) == paths(fresh)
    wrong = random_variables(CIFAR, (32, 32, 3))
    for other in (None, {"params": {}}, wrong):
        with pytest.raises(UsageError, match=r"head='new' needs fresh=.*no params/head/kernel \(64, 7\)"):
            to_variables(state_dict, model, head="new", fresh=other)


def test_features_without_the_files_classifier():
    model = create_model("resnet20_cifar", stage_sizes=(1, 1, 1), num_classes=0)
    with pytest.raises(DataError, match=r"unexpected linear\.weight"):
        to_variables(exported(), model, "cifar")
    assert "head" not in to_variables(exported(), model, "cifar", head="new")["params"]


@pytest.mark.parametrize("channels", [1, 4])
def test_other_input_channels_only_on_request(channels):
    state_dict = exported()
    model = create_model("resnet20_cifar", stage_sizes=(1, 1, 1), in_channels=channels)
    message = rf"conv1\.weight is .*: 3 input channels instead of {channels}; stem='mean'"
    with pytest.raises(DataError, match=message):
        to_variables(state_dict, model)
    variables = to_variables(state_dict, model, stem="mean")
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, channels, 16)
    response = np.moveaxis(state_dict["conv1.weight"].sum(axis=1), 0, -1)  # to an image of equal channels
    np.testing.assert_allclose(kernel.sum(axis=2), response, rtol=1e-5, atol=1e-6)
    trees_equal(to_variables(state_dict, CIFAR, stem="mean"), to_variables(state_dict, CIFAR))


def test_export_of_other_variables_is_refused():
    variables = random_variables(CIFAR, (32, 32, 3))
    wrong = create_model("resnet20_cifar", stage_sizes=(1, 1, 1), num_classes=7)
    with pytest.raises(
        DataError, match=r"params/head/bias: \(10,\), need \(7,\)\n.*head/kernel: \(64, 10\), need \(64, 7\)"
    ):
        from_variables(variables, wrong, "cifar")
    with pytest.raises(DataError, match=r"batch_stats/stem/norm/mean: none, need \(16,\)"):
        from_variables({"params": variables["params"]}, CIFAR, "cifar")


@pytest.mark.parametrize("request_", [{"head": "nwe"}, {"stem": "man"}])
def test_unknown_request(request_):
    with pytest.raises(UsageError, match=r"unknown (head 'nwe'; did you mean 'new'|stem 'man'; did you mean 'mean')"):
        to_variables(exported(), CIFAR, **request_)


@pytest.mark.parametrize(
    "kernel", [np.zeros((16, 0, 3, 3), np.float32), np.zeros((16, 3, 3, 3), np.int8), np.zeros(16)]
)
def test_averaging_does_not_hide_a_fault(kernel):
    model = create_model("resnet20_cifar", stage_sizes=(1, 1, 1), in_channels=1)
    with pytest.raises(DataError, match=r"1 faults:\n  conv1\.weight is"):
        to_variables({**exported(), "conv1.weight": kernel}, model, stem="mean")


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "encoder.", "net.0.", "student.model.backbone."])
def test_words_that_begin_all_names_are_taken_off_when_the_rest_fits(prefix):
    state_dict = exported()
    prefixed = {prefix + name: array for name, array in state_dict.items()}
    trees_equal(to_variables(prefixed, CIFAR), to_variables(state_dict, CIFAR))
    trees_equal(to_variables(prefixed, CIFAR, "cifar"), to_variables(state_dict, CIFAR))


def test_words_of_the_format_itself_stay():
    model = create_model("resnet50", stage_sizes=(1, 1), widths=(8, 16), stem_width=8, num_classes=0)
    state_dict = from_variables(random_variables(model, (32, 32, 3)), model, "transformers")
    assert all(name.startswith("resnet.") for name in state_dict)
    back = to_variables({f"model.{name}": array for name, array in state_dict.items()}, model)
    trees_equal(back, to_variables(state_dict, model))


def test_a_network_beside_other_tensors_is_found_in_the_format_of_its_own_names():
    """A Lightning checkpoint: no name fits as it stands, and its classifier is there."""
    given = {f"model.{name}": array for name, array in exported().items()}
    given |= {"criterion.weight": np.zeros(10, np.float32)}
    with pytest.raises(DataError, match=r"key=model takes those and leaves 1 aside \(criterion\.weight\)$") as caught:
        to_variables(given, CIFAR)
    assert "there is no classifier" not in str(caught.value)


def test_a_backbone_beside_another_head_is_refused_with_what_takes_it():
    state_dict = exported()
    given = {f"backbone.{name}": array for name, array in state_dict.items() if not name.startswith("linear")}
    given |= {"head.weight": np.zeros((10, 64), np.float32), "head.bias": np.zeros(10, np.float32)}
    with pytest.raises(
        DataError, match=r"key=backbone takes those and leaves 2 aside \(head\.weight, head\.bias\)"
    ) as e:
        to_variables(given, CIFAR)
    assert "num_classes=0" in str(e.value)
    features = create_model("resnet20_cifar", stage_sizes=(1, 1, 1), num_classes=0)
    backbone = {name.removeprefix("backbone."): array for name, array in given.items() if name.startswith("backbone.")}
    assert "head" not in to_variables(backbone, features)["params"]
    with pytest.raises(DataError, match=r"2 faults:\n(.|\n)*there is no classifier: num_classes=0"):
        to_variables(backbone, CIFAR)


def test_values_no_network_can_compute_with_are_refused_by_name():
    state_dict = exported()
    state_dict["layer1.0.conv1.weight"][0, 0, 0, :2] = np.nan, np.inf
    state_dict["bn1.running_var"][3] = -1e-3
    del state_dict["bn1.bias"]
    with pytest.raises(DataError) as caught:
        to_variables({f"model.{name}": array for name, array in state_dict.items()}, CIFAR)
    assert sorted(line.strip() for line in str(caught.value).splitlines()[1:]) == [
        "bn1.running_var: 1 of 16 variances are negative",
        "layer1.0.conv1.weight: 2 of 2304 values are NaN or infinite in float32",
        "missing bn1.bias (16,)",
    ]
    state_dict = exported()
    state_dict["linear.bias"] = state_dict["linear.bias"].astype(np.float64) + 1e300  # no float32
    with pytest.raises(DataError, match=r"linear\.bias: 10 of 10 values are NaN or infinite in float32"):
        to_variables(state_dict, CIFAR)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_precisions_come_in_converted(dtype):
    state_dict = {name: array.astype(dtype) for name, array in exported().items()}
    variables = to_variables(state_dict, CIFAR)
    bias = variables["params"]["head"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, state_dict["linear.bias"].astype(np.float32))


@pytest.mark.parametrize("format", ["torchvison", "keras"])
def test_unknown_format(format):
    with pytest.raises(UsageError, match="unknown weight format"):
        to_variables(exported(), CIFAR, format)


@pytest.mark.parametrize(
    ("depth", "file", "correct", "count"),
    [
        (20, "resnet20-12fca82f.th", 932, 1017),
        pytest.param(44, "resnet44-014dd654.th", 59, 64, marks=pytest.mark.slow),
        pytest.param(44, "resnet44-014dd654.th", 950, 1017, marks=pytest.mark.slow),
    ],
)
def test_published_cifar_nets_give_torchs_logits(shared_data, depth, file, correct, count):
    """Weights, images and PyTorch's logits: akamaster/pytorch_resnet_cifar10; its input is normalized as ImageNet's."""
    folder = shared_data / "pytorch-cifar-resnets"
    model = create_model(f"resnet{depth}_cifar")
    variables = to_variables(load_state_dict(folder / file), model)
    assert paths(variables) == paths(abstract_variables(model, (32, 32, 3)))
    expected = np.load(folder / "torch-logits.npz")[f"resnet{depth}"][:count]
    with np.load(shared_data / "cifar10-test-lossless-1017.npz") as test_set:
        pixels, labels = test_set["x"][:count], test_set["y"][:count]
    images = (pixels / 255 - np.array([[[[0.485, 0.456, 0.406]]]])) / np.array([[[[0.229, 0.224, 0.225]]]])
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images.astype(np.float32))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert int((np.argmax(logits, axis=1) == labels).sum()) == correct
