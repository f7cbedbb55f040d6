"""Every reader of files that somebody else may have made, by name."""

from __future__ import annotations

from tests.fuzz.images import images, masks
from tests.fuzz.reader import Reader
from tests.fuzz.runs import run_files, weight_files
from tests.fuzz.sources import sources


def readers() -> dict[str, Reader]:
    """Return every reader by name."""
    return {reader.name: reader for reader in (*images(), *masks(), *sources(), *weight_files(), *run_files())}
