"""Batch norm over groups of devices: ghost batches of the same examples, and who communicates with whom."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import UsageError
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.norm import BatchNorm

MESH = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
VARIABLES = BatchNorm().init(jax.random.key(0), jnp.zeros((1, 3, 3, 2)), train=False)


@pytest.fixture
def x():
    """Sixteen examples whose means differ much, so that the groups' statistics do."""
    return jax.random.normal(jax.random.key(1), (16, 3, 3, 2)) + 3.0 * jnp.arange(16.0).reshape(16, 1, 1, 1)


def values_and_gradient(norm, x):
    """Return outputs, new running averages, and the gradient of a function of the outputs."""

    def value(x):
        y, updates = norm.apply(VARIABLES, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y)), (y, updates["batch_stats"])

    gradient, (y, stats) = jax.grad(value, has_aux=True)(x)
    return y, gradient, stats


QUICK = {("jit", 2), ("jit", 4), ("pmap", 2), ("shard_map", 4)}
CASES = [(mapped, size) for mapped in ("jit", "pmap", "shard_map") for size in (1, 2, 4, 8)]


@pytest.mark.parametrize(
    ("mapped", "size"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_a_group_is_a_ghost_batch_of_its_devices_examples(x, mapped, size):
    """Examples of consecutive devices; the running averages are those of the whole batch."""
    ghost = BatchNorm(momentum=0.5, statistics="ghost", ghost_size=2 * size)
    *wanted, stats = jax.jit(lambda x: values_and_gradient(ghost, x))(x)
    axis = {"devices": 8} if mapped == "jit" else {"axis_name": "data"}
    norm = BatchNorm(momentum=0.5, statistics="device_group", group_devices=size, **axis)

    def apply(x):
        return values_and_gradient(norm, x)

    if mapped == "pmap":
        *got, moved = jax.pmap(apply, axis_name="data")(x.reshape(8, 2, 3, 3, 2))
    elif mapped == "shard_map":
        cut, stays = jax.P("data"), {"mean": jax.P(), "var": jax.P()}
        program = jax.shard_map(apply, mesh=MESH, in_specs=cut, out_specs=(cut, cut, stays), check_vma=False)
        *got, moved = jax.jit(program)(x)
    else:
        *got, moved = jax.jit(apply)(jax.device_put(x, jax.NamedSharding(MESH, jax.P("data"))))
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(one).reshape(x.shape), other, rtol=2e-5, atol=2e-5)
    for name, value in stats.items():
        one = np.asarray(moved[name]).reshape(-1, 2)
        np.testing.assert_allclose(one, np.broadcast_to(value, one.shape), rtol=1e-5)


def groups_in(line: str) -> list[list[int]]:
    """Return the devices that communicate with each other in a line of a program."""
    if found := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        assert "device_ids=(" not in line
        if part := re.fullmatch(r"'data':\((\d+)\)(\d+)", found[2]):  # a part of the axis: so many times so many
            before, size = int(part[1]), int(part[2])
            return np.moveaxis(np.arange(8).reshape(before, size, -1), 1, -1).reshape(-1, size).tolist()
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        used = re.findall(r"'(\w+)'", found[2])
        order = [list(axes).index(name) for name in axes if name not in used]
        order += [list(axes).index(name) for name in used]
        ids = np.arange(math.prod(axes.values())).reshape(list(axes.values())).transpose(order)
        return ids.reshape(-1, math.prod(axes[name] for name in used)).tolist()
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[8\]", line):
        return np.arange(8).reshape(int(found[1]), int(found[2])).tolist()
    found = re.search(r"replica_groups=\{(\{.*?\})\}", line)
    assert found, line
    return [[int(one) for one in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])]


@pytest.mark.parametrize("size", [2, 4])
def test_only_the_devices_of_a_group_communicate(size):
    """In the forward and in the backward pass; the running averages, which are of all, are left out."""
    x = jax.ShapeDtypeStruct((16, 3, 3, 2), jnp.float32, sharding=jax.NamedSharding(MESH, jax.P("data")))
    norm = BatchNorm(statistics="device_group", devices=8, group_devices=size)

    def forward(x):
        return norm.apply(VARIABLES, x, train=True, mutable=["batch_stats"])[0]

    def both(x):
        y, back = jax.vjp(forward, x)
        return y, back(y)

    lines = [line for line in jax.jit(both).lower(x).compile().as_text().splitlines() if "replica_groups" in line]
    assert len(lines) >= 2
    wanted = [list(range(first, first + size)) for first in range(0, 8, size)]
    for line in lines:
        assert " all-reduce(" in line
        assert groups_in(line) == wanted


def test_what_groups_cannot_be(x):
    with pytest.raises(UsageError, match="8 devices are not groups of 3"):
        BatchNorm(statistics="device_group", devices=8, group_devices=3).init(jax.random.key(0), x, train=True)
    norm = BatchNorm(statistics="device_group", group_devices=2, axis_name="data")
    program = jax.shard_map(lambda x: values_and_gradient(norm, x)[0], mesh=MESH, in_specs=jax.P("data"),
                            out_specs=jax.P("data"))  # fmt: skip
    with pytest.raises(
        UsageError, match=r"under jit with a sharded batch .*, under pmap, and under shard_map with chec"
    ):
        jax.jit(program)(x)
    alone = BatchNorm(statistics="device_group", group_devices=4)  # as in an analysis: the batch is the group
    np.testing.assert_array_equal(values_and_gradient(alone, x)[0], values_and_gradient(BatchNorm(), x)[0])
    network = ResNetConfig((1,), (8,), norm_scope="device_group", norm_group_devices=4)
    assert network.on_devices(8).norm_devices == 8
    with pytest.raises(UsageError, match=r"needs groups of 4 devices, and there are 6: use a divisor of 6, or norm_sc"):
        network.on_devices(6)
