"""Random numbers addressed by name: (seed, stream, epoch, index), whoever asks, in any order.

Philox is a counter-based generator (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011): the key is
the seed and the counter is the address, so no state is passed around and threads cannot disturb each other. Only raw
bits and ``random()`` are drawn from it, because NumPy keeps these the same from version to version (NEP 19).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from resnet_jax.errors import UsageError

SPLIT, SHUFFLE, CROP, HOST = range(4)
"""Streams: one per purpose, so that equal seeds for two purposes share nothing. HOST + n is the stream of the n-th host
transform of a list."""

CLASS_ORDER, CLASS_EXAMPLES, FOLDS, SUBSETS, SALT = range(2**32, 2**32 + 5)
"""Further streams, above those of host transforms."""


def philox(seed: int, stream: int, epoch: int = 0, index: int = 0) -> np.random.Philox:
    """Return the bit generator at this address; addresses do not overlap (2^64 blocks each).

    Raises:
        UsageError: if the seed is not in 0 .. 2^64 - 1.
    """
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed {seed} is out of range; need 0 <= seed < 2**64")
    key: Any = _Key(seed)
    return np.random.Philox(seed=key, counter=np.array([0, index, epoch, stream], np.uint64))


class _Key(ISeedSequence):
    """The key itself. If it were passed as ``key``, NumPy would ask the system for unused random bits every time."""

    def __init__(self, key: int) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        return np.array([self._key, *[0] * (n_words - 1)], dtype)


def permutation(count: int, seed: int, stream: int, epoch: int = 0, index: int = 0) -> np.ndarray:
    """Return a permutation of 0 .. count - 1, int64 (count,): the order of ``count`` random 64-bit words.

    >>> permutation(5, seed=0, stream=SHUFFLE).tolist()
    [4, 2, 0, 1, 3]
    """
    return np.argsort(philox(seed, stream, epoch, index).random_raw(count), kind="stable")


def salted(seed: int, salt: int) -> int:
    """Return another seed, derived with a salt; with 0 the seed itself."""
    return seed if salt == 0 else int(philox(seed, SALT, salt).random_raw(1)[0])


def generator(seed: int, stream: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator of one example in one epoch."""
    return np.random.Generator(philox(seed, stream, epoch, index))
