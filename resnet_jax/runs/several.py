"""A run over several processes: checks that all of them mean the same run and see the same directory."""

from __future__ import annotations

import dataclasses
import json
import platform
import secrets
import time
from pathlib import Path

from resnet_jax.errors import RunError
from resnet_jax.runs.auto import Beginning
from resnet_jax.runs.config import config_to_yaml, differences
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.recipes import parse_config
from resnet_jax.runtime import processes
from resnet_jax.runtime.files import write_whole

#: Seconds within which all others must see a file written by the main process; network file systems have a delay.
SEEN = 30.0


def require_one_run(begun: Beginning) -> None:
    """Reject processes that were started with different configurations.

    Raises:
        RunError: in all of them, with the differences.
    """
    if processes.count() == 1:
        return
    texts = processes.gathered(config_to_yaml(begun.config))
    for number, text in enumerate(texts):
        if text != texts[0]:
            first, other = (parse_config(each, where="") for each in (texts[0], text))
            raise processes.agreed(
                RunError(
                    f"process {number} was started with another configuration than process 0: "
                    f"{'; '.join(differences(first, other))}. Start all of them with the same command"
                )
            )
    processes.require_same(str(begun.run_dir), "the run directory")


def require_one_data(card: DatasetInfo) -> None:
    """Reject processes that read different data, such as an old copy on the disk of one host.

    Raises:
        RunError: in all of them.
    """
    if processes.count() == 1:
        return
    known = processes.gathered([json.dumps(dataclasses.asdict(card)), platform.node()])
    for number, (text, host) in enumerate(known):
        if text != known[0][0]:
            first, other = json.loads(known[0][0]), json.loads(text)
            what = ", ".join(name for name in first if first[name] != other[name])
            raise processes.agreed(
                RunError(
                    f"the data that process {number} reads on {host} is not what process 0 reads on {known[0][1]}: its "
                    f"{what} differ. Give all of them the same files"
                )
            )


def require_shared(run: RunDirectory) -> None:
    """Reject a run directory that is not shared by all processes, such as a folder on each host's own disk.

    Raises:
        RunError: in all of them, with the host that does not see what the main process has written.
    """
    if processes.count() == 1:
        return
    path, mark = run.path / ".processes", processes.from_main(secrets.token_hex(8))
    processes.on_main(lambda: write_whole(path, mark))
    found = processes.gathered([_reads(path, mark), platform.node()])
    processes.on_main(lambda: path.unlink(missing_ok=True))
    for number, (seen, host) in enumerate(found):
        if not seen:
            raise processes.agreed(
                RunError(
                    f"{run.path} is not the same directory in all processes: process {number} on {host} does not see "
                    f"what process 0 on {found[0][1]} has written there. Give a run_dir on a file system that all "
                    "hosts share"
                )
            )


def _reads(path: Path, mark: str, seconds: float = SEEN) -> bool:
    until = time.monotonic() + seconds
    while True:
        try:
            if path.read_text(encoding="utf-8") == mark:
                return True
        except OSError:
            pass
        if time.monotonic() >= until:
            return False
        time.sleep(0.2)
