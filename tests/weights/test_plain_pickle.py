from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_jax.weights import plain_pickle
from resnet_jax.weights.plain_pickle import Global

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)


def load(code: bytes, builders=None, persistent=None):
    return plain_pickle.load(io.BytesIO(code), builders or {}, persistent)


@settings(max_examples=40, deadline=None)
@given(PLAIN, st.integers(2, 5))
def test_equals_pickle_on_plain_containers(value, protocol):
    assert load(pickle.dumps(value, protocol)) == value
    assert repr(load(pickle.dumps(value, protocol))) == repr(value)  # True is not 1, a list is not a tuple


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_shared_and_long_values(protocol):
    shared = ["x" * 300, 2**3000]
    back = load(pickle.dumps({"a": shared, "b": shared}, protocol))
    assert back["a"] == shared
    assert back["a"] is back["b"]


def test_stream_is_left_behind_the_pickle():
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps([2]) + b"rest")
    assert plain_pickle.load(stream, {}) == 1
    assert plain_pickle.load(stream, {}) == [2]
    assert stream.read() == b"rest"


def test_strings_of_python_2():
    assert load(b"U\x03abc.") == "abc"
    assert load(b"T\x03\x00\x00\x00abc.") == "abc"


@pytest.mark.parametrize("protocol", [2, 4])
def test_only_named_globals_are_called(protocol):
    code = pickle.dumps(OrderedDict(a=1), protocol)
    assert load(code, {"collections.OrderedDict": lambda arguments: {}}) == {"a": 1}
    with pytest.raises(pickle.UnpicklingError, match=r"refusing the global collections.OrderedDict; allowed are torch"):
        load(code, {"torch.Size": None})


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_refused_and_not_run(protocol, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/run",)

    with pytest.raises(pickle.UnpicklingError, match=r"refusing the global (posix|nt).system"):
        load(pickle.dumps(Payload(), protocol))
    assert not list(tmp_path.iterdir())


def test_a_global_stands_for_itself():
    assert load(b"ctorch\nFloatStorage\n.", {"torch.FloatStorage": None}) == Global("torch.FloatStorage")


def test_persistent_ids():
    assert load(b"K\x07Q.", persistent=lambda identifier: identifier + 1) == 8
    with pytest.raises(pickle.UnpicklingError, match="persistent id is not allowed"):
        load(b"K\x07Q.")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"", "cut short"),
        (b"K", "cut short"),
        (b"X\xff\xff\xff\x7fabc.", "cut short"),
        (b"X\x01\x00\x00\x00\xff.", "damaged"),
        (b"I1\n.", "instruction b'I' is not allowed"),
        (b"\x96" + b"\xff" * 8 + b".", "instruction b'\\\\x96' is not allowed"),
        (b".", "empty stack"),
        (b"t.", "mark it has not set"),
        (b"h\x05.", "memo 5"),
        (b"q\x05.", "object that is not there"),
        (b"K\x01K\x02a.", "fills a list"),
        (b"K\x01K\x01K\x02s.", "fills a dict"),
        (b"](K\x01u.", "fills a dict"),
        (b"}(K\x01u.", "key without a value"),
        (b"}(]K\x02u.", "key of type list"),
        (b"}())K\x02u.", "key of type tuple|key without"),
        (b"K\x01}b.", "fills a dict"),
        (b"K\x01)R.", "not a function"),
        (b"ca\nb\n]R.", "not a function"),
        (b"ca\nc\n)R.", "not a function"),
        (b"K\x01K\x02\x93.", r"refusing the global \(not text\)"),
        (b"c\xff\n\n.", r"refusing the global \\\\xff\."),
    ],
)
def test_senseless_pickles(code, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        load(code, {"a.b": lambda arguments: arguments, "a.c": None})


def test_a_high_memo_index_costs_nothing():
    assert load(b"K\x01r\xff\xff\xff\xff.") == 1


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_noise_is_refused_or_plain(code):
    with contextlib.suppress(pickle.UnpicklingError):
        load(code, {}, lambda identifier: None)
