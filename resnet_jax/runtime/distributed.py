"""Start of several processes that train together: detects the launcher and starts ``jax.distributed``.

JAX itself detects the launcher (``jax.distributed.initialize()`` without arguments): Open MPI, SLURM, Kubernetes jobs
(JobSet, XPK) and Cloud TPU pods. A launcher with a single process counts as a single process. What a launcher does not
provide can be set in environment variables, which ``resnet-jax launch`` also uses:

================================  =====================================================================================
``RESNET_JAX_DISTRIBUTED``        ``off``: run as a single process, whatever launched it (default: ``on``)
``RESNET_JAX_COORDINATOR``        ``HOST:PORT`` where process 0 waits for the others (also ``JAX_COORDINATOR_ADDRESS``)
``RESNET_JAX_PROCESSES``          the number of processes
``RESNET_JAX_PROCESS``            the index of this one, from 0
``RESNET_JAX_CONNECT_TIMEOUT``    seconds to wait for the others at the start (300)
``RESNET_JAX_HEARTBEAT_TIMEOUT``  seconds without a heartbeat after which a process counts as dead and all others stop
                                  (30)
``JAX_LOCAL_DEVICE_IDS``          GPUs of this process, ``0,1`` (SLURM and Open MPI: the one with its number on the
                                  host)
``JAX_NUM_CPU_DEVICES``           number of devices of this process on CPUs
================================  =====================================================================================

If only the coordinator is set, the two numbers are those of Open MPI or SLURM (``OMPI_COMM_WORLD_SIZE`` and ``_RANK``,
``SLURM_NTASKS`` and ``SLURM_PROCID``), because Open MPI 5 does not provide the address of the first process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from resnet_jax.errors import RunError, UsageError
from resnet_jax.runtime.absent_chips import has_tpu

SWITCH = "RESNET_JAX_DISTRIBUTED"
COORDINATOR = "RESNET_JAX_COORDINATOR"
PROCESSES = "RESNET_JAX_PROCESSES"
PROCESS = "RESNET_JAX_PROCESS"
CONNECT_TIMEOUT = "RESNET_JAX_CONNECT_TIMEOUT"
HEARTBEAT_TIMEOUT = "RESNET_JAX_HEARTBEAT_TIMEOUT"

#: Process counts and indices from launchers that may not provide the address of the first process.
_COUNTS = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("SLURM_NTASKS", "SLURM_PROCID"))
#: Prefixes of variables set by launchers: Open MPI, SLURM, indexed jobs of Kubernetes, TPU pods.
_SIGNS = ("OMPI_", "SLURM_", "JOB_COMPLETION_INDEX", "MEGASCALE_", "JAX_FORCE_TPU_INIT")
#: From this number on, SLURM's steps were not created by ``srun``: the batch script, an interactive shell.
_SPECIAL_STEP = 4294967280

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Launch:
    """What started this process and others with it.

    Attributes:
        by: name of the launcher in messages.
        count: number of processes.
        index: index of this process.
        coordinator: where process 0 waits; None: JAX determines it.
    """

    by: str
    count: int
    index: int
    coordinator: str | None = None


def find_launch(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Return what started this process together with others; None for a single process.

    Raises:
        UsageError: for inconsistent or insufficient variables.
    """
    if environ.get(SWITCH, "").lower() in ("off", "0", "no"):
        return None
    own = _named(environ)
    if own is not None:
        return own if own.count > 1 else None
    cluster = _cluster(environ)
    if cluster is not None:
        return cluster if cluster.count > 1 else None
    size = int(environ.get("OMPI_COMM_WORLD_SIZE") or 1)
    if size > 1:
        raise UsageError(
            f"Open MPI started {size} processes and does not say where the first one is: name it with "
            f"mpirun -x {COORDINATOR}=HOST:PORT, where HOST is the host of rank 0 and PORT is free there, or set "
            f"{SWITCH}=off"
        )
    return None


def _named(environ: Mapping[str, str]) -> Launch | None:
    """Return the values of our own variables; None if they are not set."""
    given = {name: environ[name] for name in (COORDINATOR, PROCESSES, PROCESS) if environ.get(name)}
    coordinator = given.get(COORDINATOR) or environ.get("JAX_COORDINATOR_ADDRESS")
    if not given and not coordinator:
        return None
    count, index = given.get(PROCESSES), given.get(PROCESS)
    by = COORDINATOR
    if count is None and index is None:
        for names in _COUNTS:
            if all(environ.get(name) for name in names):
                count, index = (environ[name] for name in names)
                by = names[0].split("_")[0]
                break
        else:
            if COORDINATOR not in given:  # of another launcher, which JAX knows
                return None
    if coordinator is None or count is None or index is None:
        raise UsageError(
            f"{COORDINATOR} (HOST:PORT of process 0), {PROCESSES} (how many) and {PROCESS} (which, from 0) go "
            f"together; set: {', '.join(f'{name}={value}' for name, value in given.items())}"
        )
    total, which = _number(count, PROCESSES), _number(index, PROCESS)
    if not 0 <= which < total:
        raise UsageError(f"{PROCESS} is from 0 to {PROCESSES} - 1, got {which} of {total}")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"{COORDINATOR} is HOST:PORT, got {coordinator!r}")
    return Launch(by, total, which, coordinator)


def _number(text: str, name: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{name} is a number, got {text!r}")
    return int(text)


def _cluster(environ: Mapping[str, str]) -> Launch | None:
    """Return what JAX detects; None if nothing, or an allocation without a step of several tasks."""
    if "SLURM_JOB_ID" in environ and _alone_in_slurm(environ):
        return None
    if "jax" not in sys.modules and not may_be_launched(environ):  # no reason to load it
        return None
    try:
        from jax._src.clusters import ClusterEnv
    except ImportError:  # JAX has them elsewhere: as it would do, and one process starts at once
        _log.warning(
            "this version of JAX does not say which launcher it sees: set %s, %s, %s", COORDINATOR, PROCESSES, PROCESS
        )
        return None
    for kind in ClusterEnv._cluster_types:
        if kind.opt_in_only_method or (kind.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in environ):
            continue  # a pod that is no part of an indexed job is alone, and JAX would warn of what it does not need
        try:
            if kind.is_env_present():
                return Launch(kind.name or kind.__name__, kind.get_process_count(), kind.get_process_id())
        except Exception as error:  # of the network, of a variable that is none of its own
            raise UsageError(
                f"JAX sees {kind.__name__} and cannot tell how many processes there are ({error}): name them with "
                f"{COORDINATOR}, {PROCESSES} and {PROCESS}, or set {SWITCH}=off"
            ) from error
    return None


def may_be_launched(environ: Mapping[str, str]) -> bool:
    """Return whether there are signs of a launcher that JAX knows, without loading JAX, which takes a second.

    >>> may_be_launched({"HOME": "/home/me"}), may_be_launched({"SLURM_JOB_ID": "1"})
    (False, True)
    """
    signs = any(name.startswith(_SIGNS) for name in environ)
    return signs or (sys.platform == "linux" and has_tpu())  # of a pod, JAX asks the cloud


def _alone_in_slurm(environ: Mapping[str, str]) -> bool:
    """Return whether this is not a multi-task step: a batch script, a shell in an allocation (``salloc``), one task.

    There, ``SLURM_NTASKS`` is that of the allocation, and waiting for that many processes would never end.
    """
    step = environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID") or ""
    if step.isdecimal() and int(step) >= _SPECIAL_STEP:
        return True
    tasks = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or "1"
    return tasks.isdecimal() and int(tasks) <= 1


_started: Launch | None = None


def started() -> Launch | None:
    """Return what this process was started with by :func:`initialize_processes`; None for a single process."""
    return _started


def initialize_processes(launch: Launch | None = None) -> bool:
    """Start ``jax.distributed`` if this process was launched together with others; once, before any use of a device.

    The command line does this automatically; a program that calls :func:`~resnet_jax.fit` must do it first. A second
    call does nothing. JAX's handler of SIGTERM is not installed, because it keeps processes alive.

    Args:
        launch: what to start (default: :func:`find_launch`).

    Returns:
        Whether there are several processes.

    Raises:
        UsageError: if the environment is insufficient, or a device was used before.
        RunError: if the others did not connect in time.
    """
    global _started
    import jax

    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    launch = launch or find_launch()
    if launch is None:
        return False
    connect, heartbeat = (_seconds(CONNECT_TIMEOUT, 300), _seconds(HEARTBEAT_TIMEOUT, 30))
    where: dict[str, Any] = {}
    if launch.coordinator is not None:
        where = {
            "coordinator_address": launch.coordinator,
            "num_processes": launch.count,
            "process_id": launch.index,
            "cluster_detection_method": "deactivate",
        }
        with _gpus_of_slurm(launch) as ids:
            where |= ids
    config: Any = jax.config
    before = config.jax_enable_preemption_service
    config.update("jax_enable_preemption_service", False)
    try:
        with _bounded(launch, connect):  # JAX itself would end the process with a page of text, and so comes later
            jax.distributed.initialize(
                initialization_timeout=connect + 30, heartbeat_timeout_seconds=heartbeat, **where
            )
    except RuntimeError as error:
        raise _not_started(launch, connect, error) from error
    finally:
        config.update("jax_enable_preemption_service", before)
    _started = launch
    return True


@contextlib.contextmanager
def _bounded(launch: Launch, seconds: int) -> Iterator[None]:
    """End this process with a message if the block takes longer: it waits within JAX, where nothing can raise."""

    def end() -> None:
        print(f"error: {_not_found(launch, seconds)}", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _gpus_of_slurm(launch: Launch) -> Iterator[dict[str, Any]]:
    """Yield the GPU of a process if a launcher starts several per host, as JAX does for the launchers it knows."""
    local = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK" if launch.by == "OMPI" else "SLURM_LOCALID")
    several = launch.by in ("OMPI", "SLURM") and local is not None and "JAX_LOCAL_DEVICE_IDS" not in os.environ
    yield {"local_device_ids": [int(local or 0)]} if several else {}


def _seconds(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name} is a number of seconds, 1 or more, got {text!r}")
    return int(text)


def _not_started(launch: Launch, connect: int, error: RuntimeError) -> Exception:
    """Return the message for processes that cannot connect to each other."""
    text = str(error).strip().splitlines()
    reason = text[0][:300] if text else type(error).__name__
    if "before any JAX calls" in str(error):
        return UsageError(
            "several processes are started before any use of a device: call resnet_jax.initialize_processes() first of "
            "all in the program"
        )
    where = f" at {launch.coordinator}" if launch.coordinator else ""
    if "address already in use" in str(error).lower() or "Failed to start RPC server" in str(error):
        return RunError(f"process 0 cannot wait for the others{where}: the port is taken ({reason})")
    return RunError(f"{_not_found(launch, connect)}. JAX says: {reason}")


def _not_found(launch: Launch, seconds: int) -> str:
    where = f" at {launch.coordinator}" if launch.coordinator else ""
    return (
        f"process {launch.index} of {launch.count} (launched by {launch.by}) did not find the others{where} within "
        f"{seconds} s ({CONNECT_TIMEOUT}): look whether all of them run, and whether the host of process 0 can be "
        f"reached there. {SWITCH}=off runs it alone"
    )
