"""Links in a run directory that lead out of it: what is trained there would be written wherever they lead."""

from __future__ import annotations

import os
from pathlib import Path

from resnet_jax.errors import UsageError

#: ``follow`` lets a run be written through its links.
VARIABLE = "RESNET_JAX_RUN_LINKS"


def check_links(folder: Path) -> None:
    """Refuse to write in a run directory in which a file or folder is a link to elsewhere.

    A run directory that somebody else made may hold ``checkpoints -> /home/you/photos``. The directory itself may be a
    link: that is the user's own.

    Args:
        folder: the run directory.

    Raises:
        UsageError: it holds such a link; it says which, and how to allow it.
    """
    if os.environ.get(VARIABLE, "").lower() == "follow":
        return
    inside = os.path.realpath(folder)
    for here, folders, files in os.walk(inside):
        for name in (*folders, *files):
            path = os.path.join(here, name)
            if not os.path.islink(path):
                continue
            target = os.path.realpath(path)
            if os.path.commonpath([inside, target]) != inside:
                raise UsageError(
                    f"{folder}: {os.path.relpath(path, inside)} is a link to {target}, outside of the run directory, "
                    f"and what is trained would be written there; move it here, or set {VARIABLE}=follow if you made it"
                )
