"""Residual networks in JAX: pure functions over a TrainState, trained by one compiled, sharded step.

The public names are listed in ``__init__.pyi``, where type checkers and editors find them; they are loaded on first
use, so ``import resnet_jax`` costs little more than JAX and Flax themselves.
"""

import lazy_loader

#: The only definition of the version; the build reads it from here.
__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
