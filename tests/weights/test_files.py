from __future__ import annotations

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from resnet_jax.errors import DataError
from resnet_jax.weights.files import clean, load_state_dict, save_safetensors
from tests.weights.torch_writer import checkpoint

ARRAYS = {"conv1.weight": np.arange(8, dtype=np.float32).reshape(2, 4), "fc.bias": np.ones(2, np.float16)}
BATCHES = {"bn1.num_batches_tracked": np.array(5)}


def same(back, arrays):
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", ["", "state_dict", "model"])
def test_torch_checkpoints(tmp_path, legacy, wrap):
    named = {f"module.{name}": array for name, array in {**ARRAYS, **BATCHES}.items()}
    (tmp_path / "net.bin").write_bytes(checkpoint(named, legacy=legacy, wrap=wrap))
    same(load_state_dict(tmp_path / "net.bin"), ARRAYS)


def test_a_prefix_that_only_some_names_have_stays():
    arrays = {"module.conv1.weight": ARRAYS["conv1.weight"], "fc.bias": ARRAYS["fc.bias"]}
    same(clean(arrays, "net.pt"), arrays)


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
        (b"", "not a safetensors file, or a damaged one"),
        (safetensors("F32", [2], b"1234"), "not a safetensors file, or a damaged one"),
        (safetensors("F32", [1], b"1234")[:-1], "not a safetensors file, or a damaged one"),
        (safetensors("U16", [2], b"1234"), r"tensor 'module.x' is of type U16; known are F64, F32"),
        (struct.pack("<Q", 2) + b"{}", "no state dict at the top"),
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
        ([np.ones(2)], "net.pt: no state dict at the top or under 'state_dict' or 'model'"),
        ({}, "no state dict"),
        ({"state_dict": {}}, "no state dict"),
        ({"epoch": 3, "w": np.ones(2)}, r"not a state dict, .* it holds 'epoch' \(int\)"),
        ({0: np.ones(2)}, r"it holds 0 \(ndarray\)"),
    ],
)
def test_no_state_dict(content, message):
    with pytest.raises(DataError, match=message):
        clean(content, "net.pt")
