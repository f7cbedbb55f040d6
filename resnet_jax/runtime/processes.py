"""The processes of one training: which this is, and the few things they have to agree on. One process agrees at once.

Devices are JAX's matter; this module is about the hosts: who writes files and prints, and decisions that all of them
have to take alike because the next program that they run together would else wait for ever.
"""

from __future__ import annotations

from typing import Any


def index() -> int:
    """Return which process this is, from 0."""
    import jax

    return jax.process_index()


def count() -> int:
    """Return the number of processes."""
    import jax

    return jax.process_count()


def is_main() -> bool:
    """Return whether this process is the one that writes files and prints."""
    return index() == 0


def barrier(name: str) -> None:
    """Wait until every process has come here; ``name`` says where, the same in all of them."""
    if count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process. All of them have to ask."""
    if count() == 1:
        return flag
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def from_main(value: Any) -> Any:
    """Return the main process's value (plain JSON: numbers, texts, lists, dicts) in every process."""
    if count() == 1:
        return value
    import json

    import numpy as np
    from jax.experimental import multihost_utils

    text = json.dumps(value).encode() if is_main() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    buffer = np.zeros(size, np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))))
