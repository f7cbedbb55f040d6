"""State, step, optimizers, schedules, loop and checkpoints. Builds on ``models``; knows nothing of data or runs.

The public names are listed in ``__init__.pyi`` and are loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
