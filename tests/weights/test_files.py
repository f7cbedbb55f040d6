from __future__ import annotations

import json
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors import safe_open

from resnet_jax.errors import DataError, UsageError
from resnet_jax.runtime.plain_pickle import Global, Inert
from resnet_jax.weights.files import clean, load_state_dict, read_weights, save_safetensors
from tests.weights.torch_writer import Call, Ref, checkpoint

ARRAYS = {"conv1.weight": np.arange(8, dtype=np.float32).reshape(2, 4), "fc.bias": np.ones(2, np.float16)}
BATCHES = {"bn1.num_batches_tracked": np.array(5)}


def same(back, arrays):
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", ["", "state_dict", "model", "net", "model_state_dict", "ema"])
def test_torch_checkpoints(tmp_path, legacy, wrap):
    named = {f"module.{name}": array for name, array in {**ARRAYS, **BATCHES}.items()}
    (tmp_path / "net.bin").write_bytes(checkpoint(named, legacy=legacy, wrap=wrap))
    same(load_state_dict(tmp_path / "net.bin"), ARRAYS)


def test_a_prefix_that_only_some_names_have_stays():
    arrays = {"module.conv1.weight": ARRAYS["conv1.weight"], "fc.bias": ARRAYS["fc.bias"]}
    same(clean(arrays, "net.pt").tensors, arrays)


def test_safetensors_there_and_back(tmp_path):
    arrays = {**ARRAYS, "strided": np.arange(12.0).reshape(3, 4).T}
    save_safetensors(arrays, tmp_path / "net.safetensors", {"architecture": "resnet18"})
    back = load_state_dict(str(tmp_path / "net.safetensors"))
    same({name: back[name] for name in arrays}, arrays)
    assert len(back) == len(arrays)
    with safe_open(tmp_path / "net.safetensors", "np") as file:  # the package's own reader sees the same
        assert file.metadata() == {"format": "pt", "architecture": "resnet18"}
        np.testing.assert_array_equal(file.get_tensor("strided"), arrays["strided"])
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def safetensors(dtype: str, shape: list[int], data: bytes) -> bytes:
    header = json.dumps({"module.x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def test_bfloat16_in_safetensors(tmp_path):
    values = np.array([1.5, -2.0], jnp.bfloat16)
    (tmp_path / "net.safetensors").write_bytes(safetensors("BF16", [2], values.tobytes()))
    same(load_state_dict(tmp_path / "net.safetensors"), {"x": values})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (safetensors("F32", [2], b"1234"), "not a safetensors file, or a damaged one"),
        (safetensors("F32", [1], b"1234")[:-1], "not a safetensors file, or a damaged one"),
        (safetensors("U16", [2], b"1234"), r"tensor 'module.x' is of type U16; known are F64, F32"),
        (struct.pack("<Q", 2) + b"{}", "no state dict in it, which maps names to tensors; it holds nothing"),
    ],
)
def test_safetensors_that_are_none(tmp_path, data, message):
    (tmp_path / "net.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=rf"net\.safetensors: {message}"):
        load_state_dict(tmp_path / "net.safetensors")


def test_missing_safetensors(tmp_path):
    with pytest.raises(DataError, match="cannot read this file: No such file"):
        load_state_dict(tmp_path / "net.safetensors")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_safetensors_give_a_value_or_a_data_error(tmp_path_factory, data):
    damaged = bytearray(safetensors("F32", [2, 1], b"12345678"))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(damaged[: data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))])
    try:
        assert all(isinstance(array, np.ndarray) for array in load_state_dict(path).values())
    except DataError:
        return


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([np.ones(2)], "net.pt: no state dict in it, which maps names to tensors, but a list"),
        ({}, "no state dict in it, which maps names to tensors; it holds nothing"),
        ({"state_dict": {}}, r"no state dict in it, .* it holds 'state_dict' \(dict\)"),
        (Inert("net.Net"), r"net\.pt: a whole pickled object \(net\.Net\), .* torch\.save\(model\.state_dict\(\)"),
        (
            {"epoch": 1, "model": Inert("net.Net", True)},
            r"whole pickled modules: 'model' \(net\.Net\); .*state_dict\(\)",
        ),
        ({"net": {"w": np.ones(2), "cfg": Inert("a.B")}}, r"'net' is not a state dict, .* 'cfg' \(a pickled a\.B\)"),
        ({"w": np.ones(2), "dtype": Global("torch.half")}, r"it holds 'dtype' \(the name torch\.half\)"),
        ({"epoch": 3, "w": np.ones(2)}, r"not a state dict, .* it holds 'epoch' \(int\)"),
        ({0: np.ones(2)}, r"it holds 0 \(ndarray\)"),
    ],
)
def test_no_state_dict(content, message):
    with pytest.raises(DataError, match=message):
        clean(content, "net.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_training_scripts_checkpoint(tmp_path, legacy):
    extra = {
        "epoch": 3,
        "args": Call(Ref("argparse", "Namespace"), ()),
        "best_acc1": Call(Ref("numpy._core.multiarray", "scalar"), ("f8", "x")),
        "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "started": Call(Ref("datetime", "datetime"), ("x",)),
        "classes": Call(Ref("builtins", "set"), (["cat"],)),
    }
    named = {f"_orig_mod.module.{name}": array for name, array in {**ARRAYS, **BATCHES}.items()}
    (tmp_path / "net.tar").write_bytes(checkpoint(named, legacy=legacy, wrap="net", **extra))
    read = read_weights(tmp_path / "net.tar")
    same(read.tensors, ARRAYS)
    assert (read.key, read.prefix) == ("net", "_orig_mod.module.")


#: Two axes make a mapping a candidate; what training scripts keep beside it is none.
NET = {"conv1.weight": np.ones((2, 2)), "fc.bias": np.ones(2)}
BESIDE = {
    "optimizer": {"state": {0: {"exp_avg": np.ones((2, 2))}}, "param_groups": [{"lr": np.ones((1, 1))}]},
    "sharded": {"state": {"conv1.weight": {"exp_avg": np.ones((2, 2))}}, "param_groups": []},
    "best": np.ones(()),
    "rng": {"torch": np.zeros(9, np.uint8), "cuda": np.zeros(9, np.uint8)},
    "meters": {"confusion": np.ones((3, 3), np.int64)},
    "losses": [np.ones(4)],
}


@pytest.mark.parametrize("path", ["net", "a.b.c", "0", "nets.1", ""])
def test_the_only_mapping_of_tensors_is_found_wherever_it_is(path):
    content = dict(NET)
    for step in reversed(path.split(".") if path else []):
        content = {**BESIDE, step: content} if not step.isdigit() else [{}] * int(step) + [content]
    read = clean(content, "net.pt")
    assert read.key == path
    same(read.tensors, NET)


def test_several_mappings_are_listed_and_one_is_chosen():
    ema = {name: 2 * array for name, array in NET.items()}
    content = {"epoch": 1, "model": NET, "averages": {"ema": ema}}
    with pytest.raises(
        UsageError, match=r"holds 2 mappings.*: model \(2 tensors\), averages\.ema \(2 tensors\); .*key=model"
    ):
        clean(content, "net.pt")
    same(clean(content, "net.pt", "model").tensors, NET)
    for key in ("averages.ema", "averages"):
        same(clean(content, "net.pt", key).tensors, ema)
    with pytest.raises(UsageError, match=r"under 'emo'; it holds model \(2 tensors\), averages\.ema"):
        clean(content, "net.pt", "emo")
    same(clean({"model": NET, "same": NET}, "net.pt").tensors, NET)  # one mapping, referred to twice


@pytest.mark.parametrize(
    "key", ["state_dict.module.encoder_q", "state_dict.encoder_q", "encoder_q", "module.encoder_q"]
)
def test_a_key_may_go_on_into_the_names(key):
    both = {f"module.encoder_{e}.{name}": array for e in "qk" for name, array in NET.items()}
    read = clean({"state_dict": both}, "net.pt", key)
    same(read.tensors, NET)
    assert read.prefix == "module.encoder_q."
    assert read.left_aside == ("encoder_k.conv1.weight", "encoder_k.fc.bias")
    with pytest.raises(
        UsageError, match=r"under 'encoder'; it holds state_dict \(4 tensors\); names begin with module"
    ):
        clean({"state_dict": both}, "net.pt", "encoder")


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("module.", ["module.fc.weight", "module.fc.bias"]),
        ("_orig_mod.", ["_orig_mod.fc.weight", "_orig_mod.fc.bias"]),
        ("module._orig_mod.", ["module._orig_mod.fc.weight", "module._orig_mod.fc.bias"]),
        ("module.", ["module.fc._orig_mod.weight", "module._fsdp_wrapped_module.fc.bias"]),
    ],
)
def test_what_only_wraps_a_network_is_taken_off_its_names(prefix, names):
    read = clean({name: np.ones(2) for name in names}, "net.pt")
    assert sorted(read.tensors) == ["fc.bias", "fc.weight"]
    assert read.prefix in (prefix, "")


def test_a_key_of_one_of_several_may_go_on_into_its_names():
    content = {
        net: {f"backbone.{name}": factor * array for name, array in NET.items()} | {"head.weight": np.ones((2, 2))}
        for net, factor in (("student", 1), ("teacher", 2))
    }
    read = clean(content, "net.pt", "teacher.backbone")
    same(read.tensors, {name: 2 * array for name, array in NET.items()})
    assert (read.key, read.prefix, read.left_aside) == ("teacher", "backbone.", ("head.weight",))


def test_names_that_would_become_one_keep_their_wrappers():
    arrays = {"_orig_mod.fc.bias": np.ones(2), "fc.bias": np.zeros(2)}
    same(clean(arrays, "net.pt").tensors, arrays)


def test_counters_are_left_out_wherever_they_are():
    arrays = {
        "n_averaged": np.array(5),
        "module.fc.bias": np.ones(2),
        "module.deep.bn.num_batches_tracked": np.array(3),
    }
    same(clean(arrays, "net.pt").tensors, {"fc.bias": np.ones(2)})


@pytest.mark.parametrize("name", ["net", "net.pth", "net.bin"])
def test_content_decides_what_a_file_is_and_not_its_name(tmp_path, name):
    save_safetensors(ARRAYS, tmp_path / name)
    back = load_state_dict(tmp_path / name)
    same({name: back[name] for name in ARRAYS}, ARRAYS)  # safetensors has an order of its own
    (tmp_path / "torch.safetensors").write_bytes(checkpoint(ARRAYS, legacy=False))
    same(load_state_dict(tmp_path / "torch.safetensors"), ARRAYS)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_an_exported_file_is_as_readable_as_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_safetensors(ARRAYS, tmp_path / "net.safetensors")
        save_safetensors(ARRAYS, tmp_path / "net.safetensors")  # over one that is there
    finally:
        os.umask(before)
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="directory"):
        save_safetensors(ARRAYS, tmp_path / "none" / "net.safetensors")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        save_safetensors(ARRAYS, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_deep_or_wide_file_does_not_take_long():
    content: dict = dict(NET)
    for _ in range(100_000):
        content = {"x": content}
    with pytest.raises(DataError, match="no state dict"):
        clean(content, "net.pt")
    wide = {str(place): {"w": np.ones((1, 1))} for place in range(20_000)}
    with pytest.raises(UsageError, match=r"holds 20000 mappings .* and 19992 more"):
        clean(wide, "net.pt")
    long = {f"{'module.' * 20_000}fc.bias": np.ones(2)}
    assert len(clean(long, "net.pt").tensors) == 1
    while content:  # Python frees deeply nested dictionaries by recursion
        content = content.pop("x", {})
