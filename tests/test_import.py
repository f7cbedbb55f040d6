"""``import resnet_jax`` is light, and its public surface is what it says."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import resnet_jax
import resnet_jax.depth
import resnet_jax.models
import resnet_jax.training
import resnet_jax.weights

HEAVY = ("tensorflow", "tensorflow_datasets", "grain", "sklearn", "scipy.stats", "matplotlib", "orbax", "cv2", "tyro")


@pytest.fixture(scope="module")
def fresh() -> dict:
    """What a new process says: how long ``import resnet_jax`` takes after jax, flax and optax, and heavy modules."""
    program = f"""
import json, sys, time
def heavy():
    return [name for name in {HEAVY} if name in sys.modules]
start = time.perf_counter(); import jax, flax.linen, optax
base, before = time.perf_counter() - start, heavy()
import resnet_jax
ratio, imported = (time.perf_counter() - start) / base, heavy()
resnet_jax.create_model("resnet20_cifar"), resnet_jax.make_train_step, resnet_jax.OptimConfig, resnet_jax.create_state
print(json.dumps(dict(before=before, ratio=ratio, imported=imported, built=heavy())))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_loads_none_of_the_heavy_packages(fresh):
    assert fresh["before"] == [], "what jax, flax and optax load themselves says nothing of us"
    assert fresh["imported"] == []


def test_import_costs_at_most_what_jax_flax_and_optax_do(fresh):
    """The stated limit is 1.3 times theirs. Ours loads lazily: even after them it must add next to nothing."""
    assert fresh["ratio"] <= 1.3


def test_building_a_network_and_a_step_loads_none_of_them_either(fresh):
    assert fresh["built"] == []


FLOORS = (resnet_jax, resnet_jax.depth, resnet_jax.models, resnet_jax.training, resnet_jax.weights)
SURFACES = [(floor, name) for floor in FLOORS for name in floor.__all__]


@pytest.mark.parametrize(("floor", "name"), SURFACES, ids=[f"{floor.__name__}.{name}" for floor, name in SURFACES])
def test_every_public_name_is_there_and_documented(floor, name):
    value = getattr(floor, name)
    assert not inspect.ismodule(value)  # a module of the same name would take its place
    assert value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="resnet_jax attribute creat_model"):
        _ = resnet_jax.creat_model
    assert set(resnet_jax.__all__) <= set(dir(resnet_jax))
