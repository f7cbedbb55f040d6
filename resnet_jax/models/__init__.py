"""Residual networks as Linen modules. Knows nothing of training or data.

The public names are listed in ``__init__.pyi`` and load on first use. A network's choices, name and options
(`choices`, `config`, `rows`, `spec`) can be read without JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
