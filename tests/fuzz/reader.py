"""What a reader under test is: valid files, which of them is changed, and how they are read."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import mutated

Wrap = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        name: of it.
        files: name -> content of a valid tree.
        read: reads the tree at a path.
        targets: names of the files that are changed; empty for all.
        text: whether these are texts.
        inner: parts of a file that are changed before it is sealed (compressed, given its checksum): the part, and what
            makes the file of it. Else everything would be refused for its checksum.
    """

    name: str
    files: Mapping[str, bytes]
    read: Callable[[Path], Any]
    targets: tuple[str, ...] = ()
    text: bool = False
    inner: Mapping[str, tuple[tuple[bytes, Wrap], ...]] = field(default_factory=dict)

    def input(self, rng: random.Random) -> tuple[str, bytes]:
        """Return a file and a content for it, by chance."""
        name = rng.choice(self.targets or tuple(self.files))
        parts = self.inner.get(name, ())
        if parts and rng.random() < 0.6:
            part, wrap = rng.choice(parts)
            with contextlib.suppress(struct.error, ValueError, OverflowError):
                return name, wrap(mutated(part, rng, text=self.text))
        return name, mutated(self.files[name], rng, text=self.text)

    def prepare(self, root: Path) -> None:
        """Write the valid tree."""
        for name, content in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)


def trial(reader: Reader, root: Path, name: str, content: bytes) -> None:
    """Let a reader read its tree with one file changed, which is as it was afterwards."""
    try:
        (root / name).write_bytes(content)
        reader.read(root)
    finally:
        (root / name).write_bytes(reader.files[name])
