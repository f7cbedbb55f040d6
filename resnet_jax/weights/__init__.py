"""Read and write checkpoints of other libraries without installing them.

===============  ========================================================
file             concept
===============  ========================================================
``sniff``        what a file is that is not a checkpoint
``torch_file``   PyTorch's two checkpoint containers as NumPy arrays
``select``       which part of a checkpoint is the state dict
``files``        a state dict from a file of any format; safetensors out
``conventions``  other libraries' names for our variables, as data
``names``        look up names, and detect whose they are
``convert``      state dict to variables and back, complete or rejected
``known``        size, normalization and class names of published weights
``notes``        the same for files that this package exports
``transfer``     one network's variables as the start of another
``fold``         batch norm folded into convolutions
===============  ========================================================

>>> from resnet_jax.models import create_model
>>> from resnet_jax.weights import name_map
>>> name_map(create_model("resnet20_cifar"), "cifar")["params/stage1/block0/branch/conv1/kernel"]
'layer1.0.conv1.weight'

The public names are listed in ``__init__.pyi`` and load on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
