"""Residual networks as Linen modules. Knows nothing of training or data.

The public names are listed in ``__init__.pyi`` and load on first use: the choices of a network, its name and its
options (`choices`, `config`, `rows`, `spec`) are read without JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
