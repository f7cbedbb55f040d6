"""Where there is a C++ compiler the compiled operations are there, and are what programs call.

Every other test of them skips without them, and networks then take XLA's slower forms with a warning: C++ that does not
compile any more would be seen here alone.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.bench.processor import describe_processor
from resnet_jax.models import ResNet, ResNetConfig
from resnet_jax.ops import native
from resnet_jax.runtime.cxx import library as cxx
from resnet_jax.weights.fold import folded_config

COMPILER = None if cxx.is_switched_off() else cxx.find_compiler()
INSTRUCTIONS = describe_processor()["instructions"] or ()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason=f"no C++ compiler, or {cxx.SWITCH} is off")

#: What a compiler is told in place of -march=native: AVX2 and FMA, and no AVX-512.
AVX2 = "-march=x86-64-v3"


@needs_compiler
def test_where_there_is_a_compiler_they_are_compiled():
    assert native.status() == "native", "the C++ of resnet_jax/ops/native does not compile or load any more"


def called(function, *shapes) -> set[str]:
    """Return which of the compiled operations a program calls."""
    text = jax.jit(function).lower(*shapes).as_text()
    return set(re.findall(r"custom_call @resnet_jax_(\w+)", text))


@needs_compiler
def test_they_are_what_a_network_is_computed_with():
    config = ResNetConfig((1, 1), (8, 16), stem="imagenet", block="bottleneck", num_classes=4)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def loss(params, rest, images):
        outputs, _ = ResNet(config).apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"])
        return outputs.sum()

    def variables_of(config):
        return jax.eval_shape(functools.partial(ResNet(config).init, train=False), jax.random.key(0), images)

    variables = dict(variables_of(config))
    params = variables.pop("params")
    training = called(jax.grad(loss), params, variables, images)
    assert training >= {
        *("conv_forward", "conv_input_gradient", "conv_weight_gradient", "channel_moments"),
        *("channel_collect", "channel_collect_masked", "max_pool", "max_pool_scatter"),
    }
    folded = folded_config(config)
    predicting = called(functools.partial(ResNet(folded).apply, train=False), variables_of(folded), images)
    assert predicting >= {"conv_finished", "max_pool"}
    assert "conv_forward" not in predicting


def takes(compiler: str, flag: str) -> bool:
    """Whether a compiler knows a flag."""
    command = [compiler, flag, "-E", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


PROGRAM = """
from resnet_jax.ops import native
assert native.status() == "native", native.status()
from tests.ops.native import test_conv, test_finished
for name in test_conv.CASES:
    for operation in test_conv.OPERATIONS:
        test_conv.test_close_to_the_exact_sums(name, operation)
for name in test_finished.CASES:
    test_finished.test_close_to_the_exact_sums(name)
"""


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif("avx512f" not in INSTRUCTIONS, reason="no AVX-512 here: all tests compile them so, or do without")
def test_compiled_without_avx512_they_are_as_close_to_the_exact_sums(tmp_path):
    """In vectors of 8 numbers, as on most processors: on one with AVX-512 no other test compiles them so."""
    assert COMPILER is not None
    if not takes(COMPILER, AVX2):
        pytest.skip(f"{COMPILER} does not take {AVX2}")
    compiler, notes = tmp_path / "compiler", tmp_path / "notes"
    compiler.write_text(
        f'#!/bin/sh\nfor word; do shift; [ "$word" = -march=native ] && word={AVX2}; set -- "$@" "$word"; done\n'
        f'echo "$@" >> {notes}\nexec {shutil.which(COMPILER)} "$@"\n'
    )
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "RESNET_JAX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f" {AVX2} " in notes.read_text()
    assert len(list((tmp_path / "cache" / "native").glob("*.so"))) == 1
