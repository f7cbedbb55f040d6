from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.errors import DataError, UsageError
from resnet_jax.runtime.plain_pickle import Global
from resnet_jax.weights.files import load_state_dict
from resnet_jax.weights.torch_file import load_torch
from tests.weights.torch_writer import (
    Call,
    Persistent,
    Ref,
    checkpoint,
    container,
    contiguous,
    dumps,
    legacy_file,
    storage,
    tensor,
    zip_file,
)

RNG = np.random.default_rng(0)
ARRAYS = {
    "f32": RNG.normal(size=(3, 2)).astype(np.float32),
    "f64": RNG.normal(size=4),
    "f16": RNG.normal(size=(2, 2)).astype(np.float16),
    "bf16": RNG.normal(size=3).astype(jnp.bfloat16),
    "i64": np.array(7),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 5), np.float32),
}
STORED = np.arange(12, dtype=np.float32)
both = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


@pytest.fixture
def read(tmp_path):
    def read(data: bytes):
        (tmp_path / "net.pt").write_bytes(data)
        return load_torch(tmp_path / "net.pt")

    return read


@both
def test_every_type(read, legacy):
    back = read(checkpoint(ARRAYS, legacy=legacy, wrap="state_dict", epoch=3, lr=[0.1, None], ok=True))
    assert (type(back["state_dict"]), back["epoch"], back["lr"], back["ok"]) == (dict, 3, [0.1, None], True)
    assert list(back["state_dict"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert back["state_dict"][name].dtype == array.dtype
        np.testing.assert_array_equal(back["state_dict"][name], array)


@both
def test_windows_on_a_shared_storage(read, legacy):
    stored = storage("0", STORED, legacy=legacy)
    content = {
        "transposed": tensor(stored, 0, (4, 3), (1, 4)),
        "column": tensor(stored, 1, (3,), (4,)),
        "scalar": tensor(stored, 11, (), ()),
        "odd stride of one": tensor(stored, 2, (1, 2), (2**70, 1)),
        "expanded": tensor(stored, 0, (3, 4), (0, 1)),
    }
    back = read(container(content, {"0": STORED}, legacy=legacy))
    table = STORED.reshape(3, 4)
    np.testing.assert_array_equal(back["transposed"], table.T)
    np.testing.assert_array_equal(back["column"], table[:, 1])
    assert back["scalar"] == 11
    np.testing.assert_array_equal(back["odd stride of one"], [[2, 3]])
    np.testing.assert_array_equal(back["expanded"], np.tile(STORED[:4], (3, 1)))
    assert np.shares_memory(back["column"], back["transposed"])


def test_the_other_builders(read):
    window = contiguous("0", STORED, legacy=False)
    old = Call(Ref("torch._utils", "_rebuild_tensor"), window.arguments[:4])
    parameter = Call(Ref("torch._utils", "_rebuild_parameter"), (window, True, None))
    size = Call(Ref("torch", "Size"), ((2, 3),))
    pairs = Call(Ref("collections", "OrderedDict"), ([["a", 1], ("b", 2)],))
    back = read(zip_file([old, parameter, size, pairs], {"0": STORED}))
    np.testing.assert_array_equal(back[0], STORED)
    np.testing.assert_array_equal(back[1], STORED)
    assert back[2:] == [(2, 3), {"a": 1, "b": 2}]


@both
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (13,), (1,)),
        (12, (), ()),
        (1, (12,), (1,)),
        (0, (2, 2), (11, 1)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (3, (2,), (-1,)),
        (0, (2**40,), (0,)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (2,), (2**63,)),
        (2**64, (1,), (1,)),
        (0, (0, 2**62), (1, 1)),
    ],
)
def test_reaching_outside_the_storage(read, legacy, offset, size, stride):
    content = tensor(storage("0", STORED, legacy=legacy), offset, size, stride)
    with pytest.raises(DataError, match=r"net\.pt: a tensor of offset .* reaches outside its storage of 12 elements"):
        read(container(content, {"0": STORED}, legacy=legacy))


@both
@pytest.mark.parametrize(
    "window", [(0, (1,), ()), (0.5, (1,), (1,)), (0, [1], [1]), (0, (True,), (1,)), (0, (1,) * 33, (1,) * 33)]
)
def test_senseless_windows(read, legacy, window):
    content = tensor(storage("0", STORED, legacy=legacy), *window)
    with pytest.raises(DataError, match="not described by storage, offset, size and stride"):
        read(container(content, {"0": STORED}, legacy=legacy))


@both
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Call(Ref("os", "system"), ("true",)), r"net\.pt: refusing the global os\.system; allowed are collections"),
        (Call(Ref("builtins", "eval"), ("1",)), r"refusing the global builtins\.eval"),
        (Call(Ref("torch", "FloatStorage"), ()), "calls something that is not a function"),
        (Call(Ref("torch._utils", "_rebuild_tensor_v2"), (1, 0, (), ())), "not described by storage"),
        (Call(Ref("torch._utils", "_rebuild_parameter"), (1,)), "parameter without a tensor"),
        (Call(Ref("collections", "OrderedDict"), (3,)), "ordered dictionary that is not made of pairs"),
        (Call(Ref("torch", "Size"), (3,)), "torch.Size that is not"),
        (Persistent(("module", "source", "file")), "not a plain tensor storage"),
        (Persistent(("storage", "FloatStorage", "0", "cpu", 1)), "not a plain tensor storage"),
        (Persistent(("storage", Ref("torch", "Size"), "0", "cpu", 1)), "not a plain tensor storage"),
        (Persistent(("storage", Ref("torch", "FloatStorage"), "0", "cpu", 1, ("k", 0, 1))), "or a view"),
        (Persistent(("storage", Ref("torch", "FloatStorage"), "0", "cpu", 2**40)), "cut short: storage '0' of"),
        (Persistent(("storage", Ref("torch", "FloatStorage"), "0", "cpu", -1)), "does not fit"),
    ],
)
def test_refused(read, legacy, call, message):
    with pytest.raises(DataError, match=message):
        read(container(call, {"0": STORED}, legacy=legacy))


def test_a_storage_keeps_its_size_and_type(read):
    for other in (storage("0", STORED, legacy=False, size=3), storage("0", STORED.astype(np.float64), legacy=False)):
        with pytest.raises(DataError, match="two sizes or two types"):
            read(zip_file([storage("0", STORED, legacy=False), other], {"0": STORED}))


def test_many_small_storages_cannot_add_up_to_more_than_the_file(read):
    stored = [storage(str(index), STORED, legacy=False, size=100) for index in range(50)]
    with pytest.raises(DataError, match="does not fit into the file"):
        read(zip_file(stored, {}))


@both
def test_objects_beside_the_tensors_are_placeholders(read, legacy):
    """A script's own class, a module, numbers of NumPy; tensors with attributes, and tensors of torch's subclasses."""
    window = contiguous("0", STORED, legacy=legacy)
    module = Ref("net", "Net")
    content = {
        "args": Call(Ref("argparse", "Namespace"), ()),
        "best": Call(Ref("numpy.core.multiarray", "scalar"), (Call(Ref("numpy", "dtype"), ("f8",)), "x")),
        "dtype": Ref("torch", "float32"),
        "seen": Call(Ref("collections", "defaultdict"), (Ref("builtins", "list"),)),
        "tensor": window,
        "parameter": Call(Ref("torch._utils", "_rebuild_parameter_with_state"), (window, True, None, {"tag": 1})),
        "image": Call(
            Ref("torch._tensor", "_rebuild_from_type_v2"), (window.function, module, window.arguments, {"tag": 1})
        ),
        "on a TPU": Call(Ref("torch._utils", "_rebuild_device_tensor_from_numpy"), ()),
    }
    back = read(container(content, {"0": STORED}, legacy=legacy))
    for name in ("tensor", "parameter", "image"):
        np.testing.assert_array_equal(back[name], STORED)
    assert back["args"].name == "argparse.Namespace"
    assert back["best"].name == "numpy.core.multiarray.scalar"
    assert back["dtype"] == Global("torch.float32")
    assert back["seen"] == {}
    assert back["on a TPU"].name == "torch._utils._rebuild_device_tensor_from_numpy"


def test_tensors_of_types_that_are_not_read_are_placeholders(read):
    stored = Persistent(("storage", Ref("torch", "QInt8Storage"), "1", "cpu", 12))
    quantized = Call(Ref("torch._utils", "_rebuild_qtensor"), (stored, 0, (12,), (1,), (), False, None))
    plain = tensor(stored, 0, (12,), (1,))
    back = read(zip_file({"q": quantized, "p": plain, "t": contiguous("0", STORED, legacy=False)}, {"0": STORED}))
    assert (back["q"].name, back["p"].name) == ("torch._utils._rebuild_qtensor", "torch.QInt8Storage")
    np.testing.assert_array_equal(back["t"], STORED)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_old_container_in_later_pickle_protocols(read, protocol):
    first = pickle.dumps(0x1950A86A20F9469CFC6C, protocol)
    rest = legacy_file(contiguous("0", STORED, legacy=True), {"0": STORED})[len(dumps(0x1950A86A20F9469CFC6C)) :]
    np.testing.assert_array_equal(read(first + rest), STORED)


def test_missing_files_and_other_formats(read, tmp_path):
    with pytest.raises(DataError, match=r"none\.pt: cannot read this file: No such file"):
        load_torch(tmp_path / "none.pt")
    with pytest.raises(DataError, match=r"net\.pt: the file is empty"):
        read(b"")
    for data in (b"hello", pickle.dumps({"a": 1}), dumps(5)):
        with pytest.raises(DataError, match="not a PyTorch checkpoint"):
            read(data)


def test_zip_files_that_are_not_checkpoints(read):
    content = contiguous("0", STORED, legacy=False)
    with pytest.raises(DataError, match="storage '0' is missing"):
        read(zip_file(content, {}) + b"")
    with pytest.raises(DataError, match="needs 48 bytes, the file has 44"):
        read(zip_file(content, {"0": STORED[1:]}))
    with pytest.raises(DataError, match="big-endian"):
        read(zip_file(content, {"0": STORED}, byteorder="big"))
    with pytest.raises(DataError, match="is compressed"):
        read(zip_file(content, {"0": STORED}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(DataError, match="damaged zip file"):
        read(zip_file(content, {"0": STORED})[:-1])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.txt", "")
    with pytest.raises(DataError, match=r"0 entries NAME/data\.pkl"):
        read(stream.getvalue())


def test_zip_entries_that_overlap(read):
    data = zip_file(1, {str(index): STORED for index in range(30)})
    start = data.index(b"PK\x01\x02")
    first = data[start : data.index(b"PK\x01\x02", start + 4)]
    end = data.rindex(b"PK\x05\x06")
    long = bytearray(first)
    long[20:28] = struct.pack("<II", len(data), len(data))
    bomb = data[:start] + bytes(long) + data[start + len(first) : end] + data[end:]
    with pytest.raises(DataError, match="entries are longer than the file"):
        read(bomb)


def test_legacy_headers(read):
    content = contiguous("0", STORED, legacy=True)
    with pytest.raises(DataError, match="legacy checkpoint of protocol 1002; only 1001"):
        read(legacy_file(content, {"0": STORED}, protocol=1002))
    with pytest.raises(DataError, match="legacy checkpoint of protocol str"):
        read(legacy_file(content, {"0": STORED}, protocol="1001"))
    nested = b"\x80\x02" + b")" + b"\x85" * 100_000 + b"."
    plain = dumps(1001)
    with pytest.raises(DataError, match="legacy checkpoint of protocol tuple"):
        read(legacy_file(content, {"0": STORED}).replace(plain, nested, 1))
    with pytest.raises(DataError, match="big-endian"):
        read(legacy_file(content, {"0": STORED}, little=False))
    with pytest.raises(DataError, match="use 1 storages, the file lists 0"):
        read(legacy_file(content, {}))
    with pytest.raises(DataError, match="does not have the 12 elements"):
        read(legacy_file(content, {"0": STORED[1:]}))
    whole = legacy_file(content, {"0": STORED})
    with pytest.raises(DataError, match="needs 48 bytes, the file has 47: cut short"):
        read(whole[:-1])
    start = whole.index(dumps(["0"]))
    with pytest.raises(DataError, match="not a list of texts"):
        read(whole[:start] + dumps([0]))


SMALL = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "fc.bias": np.ones(2, np.float32)}
OBJECTS = {"args": Call(Ref("argparse", "Namespace"), ()), "seen": Call(Ref("builtins", "set"), ([1, 2],))}
FILES = [
    checkpoint(SMALL, legacy=legacy, wrap="model", epoch=1, **extra)
    for legacy in (False, True)
    for extra in ({}, OBJECTS)
]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_gives_a_value_or_a_data_error(tmp_path_factory, data):
    original = data.draw(st.sampled_from(FILES))
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))]
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    path.write_bytes(damaged)
    with contextlib.suppress(DataError):
        assert len(repr(load_torch(path))) < 100_000
    with contextlib.suppress(DataError, UsageError):
        assert all(isinstance(array, np.ndarray) for array in load_state_dict(path).values())


def test_every_truncation_is_noticed(read):
    for original in FILES:
        for length in range(0, len(original), 7):
            with pytest.raises(DataError):
                read(original[:length])
