"""The other frameworks' networks: the sizes of ours, parameter by parameter."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.bench.compare import peers_folder
from resnet_jax.bench.workload import peer_network
from resnet_jax.models import abstract_variables, create_model
from resnet_jax.models.rows import MODELS

NAMES = ("resnet20_cifar", "resnet20_cifar_b", "resnet18", "resnet50", "resnet50_v1")

#: Prints how often each number of elements occurs among the parameters, and the shape of the logits.
TORCH = """
import collections, importlib.util, json, sys
import torch
spec = importlib.util.spec_from_file_location("side", sys.argv[1])
side = sys.modules["side"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(side)
network = json.loads(sys.argv[2])
model = side.ResNet(network)
sizes = collections.Counter(p.numel() for p in model.parameters())
model.eval()
x = torch.randn(2, 3, 64, 64)
with torch.inference_mode():
    for module in model.modules():  # statistics as a trained network has them
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(); module.running_var.uniform_(0.5, 2.0)
    plain = model(x)
    for module in model.modules():
        if isinstance(module, side.Units):
            module.fold()
    folded = model(x)
error = float((plain - folded).abs().max() / plain.abs().max())
print(json.dumps({"sizes": sorted(sizes.items()), "shape": list(plain.shape), "error": error}))
"""


def sizes(params) -> Counter[int]:
    return Counter(leaf.size for leaf in jax.tree.leaves(params))


@pytest.fixture(scope="module")
def flax_side():
    spec = importlib.util.spec_from_file_location("flax_peer", peers_folder() / "flax_peer.py")
    module = sys.modules["flax_peer"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["flax_peer"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("resnet50") else name for name in NAMES]
)
def test_plain_flax_has_our_parameters(name, flax_side):
    model = create_model(name)
    network = flax_side._hashable(json.loads(json.dumps(peer_network(model.config))))
    plain = flax_side.ResNet(network, jnp.dtype("float32"))
    shape = MODELS[name].input_shape
    variables = jax.eval_shape(lambda key: plain.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0))
    ours = abstract_variables(model, shape)
    assert sizes(variables["params"]) == sizes(ours["params"])
    assert sizes(variables["batch_stats"]) == sizes(ours["batch_stats"])


@pytest.mark.parametrize("name", NAMES)
def test_pytorch_has_our_parameters_and_folding_keeps_its_logits(name, torch_python):
    model = create_model(name)
    network = json.dumps(peer_network(model.config))
    command = [str(torch_python), "-c", TORCH, str(peers_folder() / "torch_peer.py"), network]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert Counter(dict(result["sizes"])) == sizes(abstract_variables(model, MODELS[name].input_shape)["params"])
    assert result["shape"] == [2, model.config.num_classes]
    assert result["error"] < 1e-4
