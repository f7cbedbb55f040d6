"""Signals and gradients through depth. This floor is above ``models`` and knows nothing about training or data.

The public names are listed in ``__init__.pyi`` and load on first use.
"""

import lazy_loader

from resnet_jax.runtime.deprecation import Renamed, with_old_names

_names, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, {"Anatomy": Renamed("BlockNames", since="0.1", until="0.2")}, _names)
