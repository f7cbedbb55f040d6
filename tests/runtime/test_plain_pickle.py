from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import functools
import io
import os
import pathlib
import pickle
import re
import sys
import uuid
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.runtime import plain_pickle
from resnet_jax.runtime.plain_pickle import Global, Inert

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


def load(code: bytes, builders=None, persistent=None, *, inert=False):
    return plain_pickle.load(io.BytesIO(code), builders or {}, persistent, inert=inert)


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


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_noise_is_refused_or_plain(code, inert):
    with contextlib.suppress(pickle.UnpicklingError):
        load(code, {}, lambda identifier: None, inert=inert)


class Mode(enum.Enum):
    FAST = "fast"


class Options(dict):
    """A dictionary of a class of its own, with attributes, as configuration libraries make them."""


def options() -> Options:
    result = Options(lr=0.1)
    result.frozen = True
    return result


def a_list_in_itself() -> list:
    result: list = [1]
    result.append(result)
    return result


HARMLESS = {
    "argparse": argparse.Namespace(lr=0.1, folder=pathlib.Path("/data")),
    "numpy scalar": np.float64(0.5),
    "numpy array": np.arange(3),
    "numpy dtype": np.dtype("float32"),
    "date": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(3),
    "path": pathlib.PurePosixPath("/data"),
    "set": {1, 2},
    "set in itself": {frozenset({1}), frozenset()},
    "bytes": b"abc",
    "bytearray": bytearray(b"abc"),
    "complex": 1j,
    "enum": Mode.FAST,
    "class": Mode,
    "function": len,
    "partial": functools.partial(print, 1),
    "bound method": Mode.FAST.name.upper,
    "defaultdict": collections.defaultdict(list, a=[1]),
    "Counter": collections.Counter("abca"),
    "deque": collections.deque([1, 2], 3),
    "dict of another class": options(),
    "keys that are no text": {(1, 2): 3, 1.5: 2, None: 1, Mode.FAST: 0},
    "regular expression": re.compile("a.b"),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=5),
    "slice": slice(1, 2),
    "range": range(3),
    "ellipsis": ...,
    "cycle": a_list_in_itself(),
    "random state": np.random.default_rng(0).bit_generator.state,
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", HARMLESS)
def test_a_harmless_object_is_a_placeholder_and_the_rest_is_read(kind, protocol):
    code = pickle.dumps({"before": [1], "it": HARMLESS[kind], "after": {"lr": 0.1}}, protocol)
    modules = set(sys.modules)
    back = load(code, inert=True)
    assert list(back) == ["before", "it", "after"]
    assert (back["before"], back["after"]) == ([1], {"lr": 0.1})
    assert isinstance(back["it"], (Inert, Global, bytes, dict, list))
    assert set(sys.modules) == modules


def test_a_placeholder_has_a_name_and_nothing_else():
    back = load(pickle.dumps(argparse.Namespace(lr=0.1), 4), inert=True)
    assert (type(back), back.name, back.is_module) == (Inert, "argparse.Namespace", False)
    assert Inert.__slots__ == ("name", "is_module")


class Importer:
    """Asks for a module that is not loaded."""

    def __reduce__(self):
        return (Importer, ())


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_imported_for_a_placeholder(protocol):
    code = pickle.dumps(Importer(), protocol).replace(__name__.encode(), b"x" * len(__name__))
    assert load(code, inert=True).name == f"{'x' * len(__name__)}.Importer"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("posix", "remove"), ("builtins", "eval"), ("builtins", "exec"), ("subprocess", "Popen"),
     ("importlib", "import_module"), ("runpy", "run_path"), ("shutil", "rmtree"), ("ctypes.util", "find_library")],
)  # fmt: skip
def test_what_runs_programs_is_refused_even_as_a_placeholder(module, name, protocol):
    if protocol == 2:
        code = f"c{module}\n{name}\n.".encode()
    else:
        code = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)) + b"\x93."
    with pytest.raises(pickle.UnpicklingError, match=rf"refusing the global {module}\.{name}"):
        load(code, inert=True)


def test_a_pickled_module_is_known_by_its_attributes():
    code = b"cnet\nNet\n)\x81}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_modules}ub."
    assert load(code, inert=True).is_module


def test_deep_and_shared_placeholders_cost_no_more_than_the_file():
    code = b"(" * 100_000 + b"ca\nb\n)R" + b"l" * 0 + b"t" * 100_000 + b"."
    assert isinstance(load(code, inert=True), tuple)
    chain = b"ca\nb\n" + b")R" * 100_000 + b"."
    assert load(chain, inert=True).name == "a.b"
