"""What XLA does not do well on the CPU, written in C++, compiled for this machine and called from XLA.

XLA:CPU's convolutions reach about half of a core's arithmetic at the widths of a CIFAR network, and a third in their
gradients; PyTorch's (oneDNN) come near to all of it. ``conv.cc`` does too. Its sums over positions, of which batch norm
is made, run at a few percent of the speed of memory, those of ``norm.cc`` at most of it. As ``torch.compile`` does, all
is compiled at first use with the C++ compiler of the machine, for its very processor, and kept in the user's cache
directory. Without a compiler everything works, in XLA's own forms: :func:`status` says which, and why.
"""

from resnet_jax.ops.native.build import available, status
from resnet_jax.ops.native.call import forward, input_gradient, takes, weight_gradient
from resnet_jax.ops.native.channels import collect, moments
from resnet_jax.ops.native.max_pool import max_pool, max_pool_gather, max_pool_scatter

__all__ = [
    "available", "collect", "forward", "input_gradient", "max_pool", "max_pool_gather", "max_pool_scatter", "moments",
    "status", "takes", "weight_gradient",
]  # fmt: skip
