"""What XLA does not do well on the CPU, written in C++, compiled for this machine and called from XLA.

Of the 285 GFLOP/s that a core of an AMD EPYC (Zen 5, AVX-512, two cores) multiplies and adds in float32, XLA:CPU's
forms of the convolutions of ResNets reach 90 to 290 forward and 34 to 207 in the weight gradient, PyTorch's (oneDNN)
60 to 280 and 95 to 260. ``conv.cc`` reaches 145 to 240, and by Winograd's algorithm, which needs fewer products, the
equivalent of 285 to 470. All convolutions of a training step of resnet20_cifar (batch 128), one by one, take 115 ms of
a core, of resnet50 (batch 16) 1.80 s, or 1.56 s into memory that was in use before; PyTorch's, into new memory, 152 ms
and 2.08 s: to clear the pages of a result of 51 MB takes as long as to compute it.
XLA's sums over positions, of which batch norm is made, run at a few percent of the speed of memory, those of
``norm.cc`` at a third to all of it; max-pooling takes a third of the time, its gradient a twentieth.

Inference has a form of its own, ``gemm.h``: what follows a convolution is done while its sums are in registers, 1x1 and
strided 3x3 convolutions of few or narrow rows are one matrix product, and late layers of a single image are cut by
output channels, each thread packing its part of the kernel as it fetches the next. A core of an AMD EPYC (Zen 4, peak
117 GFLOP/s with AVX2 and with AVX-512 alike) reaches 80 to 107 in the 1x1 and strided layers of ResNet-50 for 16
images, 53 to 107 for one, whose late kernels come from memory each time; with AVX2 this is 1.2 times what the form of
training reaches for all layers together, with AVX-512 the same, with bias and ReLU included. A network that is kept for
inference has its kernels packed once (``packed.h``), those of 3x3 convolutions transformed for Winograd's algorithm, so
that late layers read them in one stream and multiply at 90 to 105 of those 117.

As ``torch.compile`` does, the C++ is compiled at first use with the compiler of the machine, for its very processor,
and kept in the user's cache directory. Without a compiler everything works, in XLA's own forms: :func:`status` says
which, and why.
"""

from resnet_jax.ops.native.build import FUNCTIONS, available, identity, status
from resnet_jax.ops.native.call import forward, input_gradient, takes, weight_gradient
from resnet_jax.ops.native.channels import collect, moments
from resnet_jax.ops.native.finished import finished, takes_finished
from resnet_jax.ops.native.max_pool import max_pool, max_pool_gather, max_pool_scatter
from resnet_jax.ops.native.packed import pack, packed, packed_floats
from resnet_jax.ops.native.probe import join, squares

__all__ = [
    "FUNCTIONS", "available", "collect", "finished", "forward", "identity", "input_gradient", "join", "max_pool",
    "max_pool_gather", "max_pool_scatter", "moments", "pack", "packed", "packed_floats", "squares", "status", "takes",
    "takes_finished", "weight_gradient",
]  # fmt: skip
