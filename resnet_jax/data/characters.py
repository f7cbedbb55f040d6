"""Characters as numbers: one table for all texts, so that any text is encoded as in training.

Texts are normalized to NFC, lower case, and single spaces. 0 stands for no character, beyond the end of a text.

>>> encoded("Straße").tolist(), SYMBOLS
([20, 21, 19, 2, 74, 6], 275)
"""

from __future__ import annotations

import unicodedata

import numpy as np

_LATIN = "abcdefghijklmnopqrstuvwxyz"
_SIGNS = " 0123456789-,;.!?:'\"/\\|_@#$%^&*~`+=<>()[]{}"


def _lower(first: str, last: str) -> str:
    """Return the letters of a Unicode block that are lower case, or have no case."""
    every = map(chr, range(ord(first), ord(last) + 1))
    return "".join(one for one in every if one.isalpha() and one == one.lower())


#: Letters of Latin, punctuation, Latin-1, Latin Extended-A, Greek and Cyrillic; in the order of their numbers, from 2.
ALPHABET = "".join(
    dict.fromkeys(_LATIN + _SIGNS + _lower("\xaa", "\u017f") + _lower("\u03ac", "\u03ce") + _lower("\u0430", "\u0491"))
)
#: A character that is not in the alphabet.
OTHER = 1
#: Number of codes: no character, unknown character, and the alphabet.
SYMBOLS = len(ALPHABET) + 2
_NUMBERS = {one: number for number, one in enumerate(ALPHABET, 2)}


def plain(text: str) -> str:
    r"""Return a text in NFC, lower case, with single spaces.

    >>> plain("  Two\n Words ")
    'two words'
    """
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def encoded(text: str) -> np.ndarray:
    """Return the numbers of a text's characters, int16 (L,)."""
    return np.array([_NUMBERS.get(one, OTHER) for one in plain(text)], np.int16)


def decoded(numbers: np.ndarray) -> str:
    """Return the text for numbers; an unknown character is shown as a box, none as nothing.

    >>> decoded(encoded("Ein  Text"))
    'ein text'
    """
    return "".join("" if n == 0 else ALPHABET[n - 2] if n > OTHER else "\ufffd" for n in np.ravel(numbers).tolist())
