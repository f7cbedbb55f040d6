"""Convolutions compiled for this machine's CPU: what XLA does not do well, written in C++ and called from XLA.

XLA:CPU's convolutions reach about half of a core's arithmetic at the widths of a CIFAR network, and a third in their
gradients; PyTorch's (oneDNN) come near to all of it. ``conv.cc`` does too. As ``torch.compile`` does, it is compiled at
first use with the C++ compiler of the machine, for its very processor, and kept in the user's cache directory. Without
a compiler everything works, in XLA's own forms: :func:`status` says which, and why.
"""

from resnet_jax.ops.native.build import available, status
from resnet_jax.ops.native.call import forward, input_gradient, takes, weight_gradient

__all__ = ["available", "forward", "input_gradient", "status", "takes", "weight_gradient"]
