"""Activations by name, and the gain that gives each of them unit variance.

``gelu`` is the tanh approximation that JAX and the NF networks' code use: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715
x^3))) (Hendrycks & Gimpel 2016, arXiv 1606.08415). ``gelu_erf`` is the exact x Phi(x), which PyTorch, timm and
transformers call GELU (they call the approximation ``gelu_tanh`` and ``gelu_pytorch_tanh``). The two differ by up to
5e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from resnet_jax import ops
from resnet_jax.models.choices import ActivationChoice

ACTIVATIONS: dict[ActivationChoice, Callable[[jax.Array], jax.Array]] = {
    "relu": ops.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "gelu_erf": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}

#: gamma = 1 / sqrt(Var[f(z)]) for z ~ N(0, 1) (Brock et al. 2021, arXiv 2101.08692, section 4.1; for ReLU it is
#: sqrt(2 / (1 - 1/pi))). The values are the estimates in the authors' code and in timm, up to 0.1 % above the exact
#: ones. With them, timm's weights give timm's logits. The authors' own weights would not give theirs: their networks
#: use "SAME" padding, have a bias in every convolution and guard the variance of the weights differently
#: (1 / sqrt(max(fan_in var, 1e-4))), and none of their file formats is read here.
GAINS: dict[ActivationChoice, float] = {
    "relu": 1.7139588594436646,
    "leaky_relu": 1.70590341091156,
    "elu": 1.2716004848480225,
    "gelu": 1.7015043497085571,
    "gelu_erf": 1.7015043497085571,  # timm uses this for both; the exact values are 1.70092 and 1.70093
    "silu": 1.7881293296813965,
    "tanh": 1.5939117670059204,
}
