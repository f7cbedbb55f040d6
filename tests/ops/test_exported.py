"""Exported programs: to run anywhere, or with the compiled forms of this machine."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from resnet_jax import ops
from resnet_jax.ops import native

#: Runs an artefact, in a process that has not traced anything of ours.
READER = """
import sys
import numpy as np
from jax import export
from resnet_jax.ops import native
assert native.available()
artefact = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
np.save(sys.argv[2], artefact.call(np.load(sys.argv[3])))
"""


def network(x):
    x = ops.finished_conv(x, jnp.ones((3, 3, 3, 8)), jnp.ones(8), strides=(1, 1), padding=(1, 1), relu=True)
    x = ops.max_pool(x, window=3, stride=2, padding=1)
    return ops.global_mean_pool(ops.conv(x, jnp.ones((1, 1, 8, 4)), strides=(1, 1), padding=(0, 0)))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def kept(images):
    """An artefact with the compiled forms."""
    if not native.available():
        pytest.skip(f"nothing compiled: {native.status()}")
    with ops.exported_for_this_machine():
        return export.export(jax.jit(network), disabled_checks=ops.native_calls())(images)


def test_an_artefact_has_the_compiled_forms_only_on_request(kept, images):
    assert "resnet_jax_" not in export.export(jax.jit(network))(images).mlir_module()
    module = kept.mlir_module()
    assert {name for name in native.FUNCTIONS if f"@resnet_jax_{name}" in module} == {
        "conv_finished", "max_pool", "conv_forward", "channel_moments",
    }  # fmt: skip
    np.testing.assert_allclose(kept.call(images), jax.jit(network)(images), rtol=1e-6)


def test_jax_refuses_the_calls_that_nobody_allowed(kept, images):
    with ops.exported_for_this_machine(), pytest.raises(ValueError, match="resnet_jax_"):
        export.export(jax.jit(network))(images)


@pytest.mark.slow
def test_an_artefact_runs_in_another_process(kept, images, tmp_path):
    pytest.importorskip("flatbuffers", reason="jax.export writes files with flatbuffers, which JAX does not require")
    artefact, result, given = tmp_path / "artefact", tmp_path / "result.npy", tmp_path / "images.npy"
    artefact.write_bytes(kept.serialize())
    np.save(given, images)
    subprocess.run([sys.executable, "-c", READER, *map(str, (artefact, result, given))], check=True)
    np.testing.assert_array_equal(np.load(result), jax.jit(network)(images))
