"""Links in a run directory that point outside it: training there would write wherever they point."""

from __future__ import annotations

import os
from pathlib import Path

from resnet_jax.errors import UsageError

#: ``follow`` allows a run to be written through its links.
VARIABLE = "RESNET_JAX_RUN_LINKS"


def check_links(folder: Path) -> None:
    """Refuse to write to a run directory in which a file or folder is a link to somewhere else.

    A run directory made by someone else may contain ``checkpoints -> /home/you/photos``. The directory itself may be a
    link, because the user chose it.

    Args:
        folder: the run directory.

    Raises:
        UsageError: if it contains such a link; the message says which, and how to allow it.
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
