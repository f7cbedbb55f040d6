"""C++ code for what XLA does not do well on the CPU, compiled for this machine and called from XLA.

A core of an AMD EPYC (Zen 5, AVX-512, two cores) can do 285 GFLOP/s of float32 multiply-adds. Of these, XLA:CPU's
convolutions of ResNets reach 90 to 290 forward and 34 to 207 in the weight gradient, and PyTorch's (oneDNN) 60 to 280
and 95 to 260. ``conv.cc`` reaches 145 to 240, and with Winograd's algorithm, which needs fewer products, the equivalent
of 285 to 470. All convolutions of a training step, one by one, take 115 ms of a core for resnet20_cifar (batch 128),
and 1.80 s for resnet50 (batch 16), or 1.56 s into memory that was in use before. PyTorch's, into new memory, take 152
ms and 2.08 s: clearing the pages of a 51 MB result takes as long as computing it. XLA's sums over positions, the basis
of batch norm, run at a few percent of memory speed, those of ``norm.cc`` at a third to all of it. Max pooling takes a
third of XLA's time, its gradient a twentieth.

Inference has its own form, ``gemm.h``. The operations after a convolution are done while its sums are in registers; 1x1
and strided 3x3 convolutions with few or narrow rows are one matrix product; and late layers of a single image are split
by output channels, where each thread packs its part of the kernel as it fetches the next. A core of an AMD EPYC (Zen 4,
peak 117 GFLOP/s with AVX2 and with AVX-512 alike) reaches 80 to 107 in the 1x1 and strided layers of ResNet-50 for 16
images, and 53 to 107 for one, whose late kernels come from memory each time. For all layers together, bias and ReLU
included, this is 1.2 times the form of training with AVX2, and the same with AVX-512. A network that is kept for
inference has its kernels packed once (``packed.h``), those of 3x3 convolutions transformed for Winograd's algorithm, so
that late layers read them in one stream and reach 90 to 105 of those 117.

As with ``torch.compile``, the C++ is compiled on first use with the machine's compiler, for its exact processor, and
kept in the user's cache directory. Without a compiler everything still works, in XLA's own forms; :func:`status` says
which form is used, and why.
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
