"""Where state, batches and outputs lie, and that a mesh and its placement are taken alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from resnet_jax.training.compile import compile_eval_step, compile_train_step, create_state
from resnet_jax.training.mesh import batch_sharding, replicated
from resnet_jax.training.placement import Placement, as_placement, make_mesh, shard_batch
from tests.tools import TinyNet, jitted_step


def test_a_mesh_and_its_placement_are_taken_alike():
    mesh = make_mesh(jax.devices()[:2])
    placement = as_placement(mesh)
    assert as_placement(placement) is placement
    assert placement == Placement.of(jax.devices()[:2])
    assert (placement.size, placement.platform, placement.process_count, placement.is_main) == (2, "cpu", 1, True)
    assert placement.devices == jax.devices()[:2]
    for devices in (mesh, placement):
        batch = shard_batch({"x": np.arange(6).reshape(3, 2)}, devices, axis=1)
        assert batch["x"].sharding == placement.batch(axis=1) == batch_sharding(devices, 1)
        assert replicated(devices) == placement.state() == placement.outputs


def test_the_state_is_made_where_the_placement_says_and_stays_there():
    """Also where its parts lie in different ways: nobody but the placement decides."""
    tx, shape = optax.sgd(0.1), (4,)

    class Half(Placement):
        def state(self, tree=None):
            if tree is None:
                return None
            where = {2: NamedSharding(self.mesh, PartitionSpec(None, "data"))}
            whole = NamedSharding(self.mesh, PartitionSpec())
            return jax.tree.map(lambda leaf: where.get(leaf.ndim if leaf.shape[-1:] == (4,) else 0, whole), tree)

    placement = Half(make_mesh(jax.devices()[:2]))
    state = create_state(TinyNet(), tx, jax.random.key(0), shape, mesh=placement)
    kernel = state.params["Dense_0"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, "data")
    assert placement.abstract(state).params["Dense_0"]["kernel"].sharding == kernel.sharding
    plain = create_state(TinyNet(), tx, jax.random.key(0), shape, mesh=placement.mesh)
    host = {"image": np.ones((4, 4), np.float32), "label": np.arange(4, dtype=np.int32)}
    step = jitted_step(TinyNet(), tx)
    results = [
        compile_train_step(step, devices, donate=False)(one, shard_batch(host, devices))
        for devices, one in ((placement, state), (placement.mesh, plain))
    ]
    np.testing.assert_allclose(results[0][1]["loss"], results[1][1]["loss"], rtol=1e-6)
    eval_step = compile_eval_step(lambda variables, batch: {"sum": batch["image"].sum()}, placement)
    assert eval_step({}, shard_batch(host, placement))["sum"] == jnp.float32(16)
