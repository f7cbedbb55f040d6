"""YAML that stands for more than it says, for something else, or for itself."""

from __future__ import annotations

import time

import pytest
import yaml

from resnet_jax.errors import UsageError
from resnet_jax.runs.recipes import parse_config
from resnet_jax.runtime import plain_yaml
from resnet_jax.runtime.plain_yaml import load_yaml, load_yaml_and_keys

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k0: 1}\n" + "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "with its aliases it stands for more than .* values; at most 100,000"),
        (MERGES, "with its aliases it stands for"),
        ("&a [*a]", "refers to itself"),
        ("a: &a {b: *a}", "refers to itself"),
        ("[" * 1000, "more than 64 deep"),
        ("{a: " * 1000, "more than 64 deep"),
        ("- " * 1000 + "a", "more than 64 deep"),
        ("a: " + "9" * 101, "an integer has 101 digits"),
        ("a: 1" + ":59" * 100_000, "an integer has 300,001 digits"),
        ("a" * 600_000, "it has 600,000 characters; at most 524,288"),
        ("a: 2001-99-99", "a value is not what its form says"),
        ("a: !!int ''", "a value is not what its form says"),
        ("a: !!timestamp x", "a value is not what its form says"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("? [a]\n: 1", "unhashable key"),
    ],
)
def test_it_is_refused_soon_and_without_memory(text, message):
    began = time.perf_counter()
    with pytest.raises(yaml.YAMLError, match=message):
        load_yaml(text)
    with pytest.raises(UsageError, match="x is not valid YAML"):
        parse_config(text, where="x")
    assert time.perf_counter() - began < 5


def test_what_is_plain_is_as_pyyaml_reads_it():
    text = "on: [1, 2.5, ~, yes, 010, 1e3, 2001-01-02, 'a']\n010: {x: &x {k: 1}, y: *x, z: {<<: *x, m: 2}}\n"
    assert load_yaml(text) == yaml.safe_load(text)
    assert load_yaml("") is None
    assert load_yaml_and_keys(text)[1] == ["on", "010"]
    assert load_yaml("[" * plain_yaml.MAX_DEPTH + "]" * plain_yaml.MAX_DEPTH)
    assert parse_config("data: {mean: &m [0.5], std: *m}", where="x").data.std == (0.5,)


def test_aliases_in_a_tuple_of_the_configuration_take_no_memory():
    """Each value of such a list is checked, and shown in the message."""
    text = LAUGHS.replace("a11:", "train: {observers: []}\ndata:\n  mean:")
    with pytest.raises(UsageError, match="with its aliases it stands for"):
        parse_config(text, where="x")
