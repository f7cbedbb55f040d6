"""Networks as jax exports: StableHLO for CPU, CUDA and TPU, with their weights and metadata in one zip file.

The file contains ``program.bin`` (:func:`jax.export.Exported.serialize`), a function of the named weights and the
inputs; ``weights.safetensors``; and ``metadata.json`` (:mod:`resnet_jax.deploy.metadata`). Nothing in it is compressed.
A portable program contains XLA's form of every operation, none of them compiled for one processor. A program for this
machine calls the compiled code, which ``metadata.json`` names under ``resnet_jax.compiled``.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from resnet_jax.deploy.artefact import COMPILED, METADATA, PROGRAM, WEIGHTS
from resnet_jax.deploy.function import NetworkFunction
from resnet_jax.deploy.metadata import Metadata
from resnet_jax.errors import UsageError
from resnet_jax.ops import exported_for_this_machine, native, native_calls

PLATFORMS = ("cpu", "cuda", "tpu")


def write_jax_export(
    network: NetworkFunction, metadata: Metadata, path: Path, batch: int | None = None, *, this_machine: bool = False
) -> None:
    """Write a network as a jax export.

    Args:
        network: the function.
        metadata: the metadata to store.
        path: the file to write.
        batch: batch size; None: any.
        this_machine: keep the calls of the code that is compiled for this processor.

    Raises:
        UsageError: there is no such code.
    """
    from safetensors.numpy import save

    weights = {name: np.asarray(leaf, order="C") for name, leaf in flatten_dict(network.variables, sep="/").items()}
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in weights.items()}
    (examples,) = export.symbolic_shape("batch") if batch is None else (batch,)
    inputs = jax.ShapeDtypeStruct((examples, *network.sides, network.channels), network.dtype)

    def outputs(weights: dict[str, jax.Array], images: jax.Array) -> Any:
        return network(unflatten_dict(weights, sep="/"), images)

    texts = metadata.as_texts()
    if this_machine:
        compiled = native.identity()
        if compiled is None:
            raise UsageError(f"this_machine: nothing is compiled for this processor: {native.status()}")
        texts[COMPILED] = compiled
        with exported_for_this_machine():
            program = export.export(jax.jit(outputs), platforms=("cpu",), disabled_checks=native_calls())(
                shapes, inputs
            )
    else:
        program = export.export(jax.jit(outputs), platforms=PLATFORMS)(shapes, inputs)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr(PROGRAM, bytes(program.serialize()))
        file.writestr(WEIGHTS, save(weights))
        file.writestr(METADATA, json.dumps(texts, indent=1))
