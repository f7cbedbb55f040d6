"""Several processes of one command on this machine: started, monitored, and ended together.

The first process uses this one's standard output and error; the standard error of the others is passed on with their
number before each line. Every process has its own session, so that a Ctrl-C in the terminal reaches it once, from here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from resnet_jax.errors import UsageError
from resnet_jax.runtime.distributed import COORDINATOR, PROCESS, PROCESSES, SWITCH

#: Seconds that the others have to end on their own after one has failed; then they are killed.
GRACE = 8.0
#: Seconds that they have if a signal asked all of them to save and stop.
SAVING = 120.0

#: Variable with the ID of the launching process.
LAUNCHER = "RESNET_JAX_LAUNCHER"

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
#: Where JAX's long messages about a lost process begin.
_ABORT = re.compile(r"^[EF]\d{4} .*(coordination_service|client\.h:)")


def launch(
    words: Sequence[str],
    count: int,
    *,
    devices: int | None = None,
    command: Sequence[str] = (sys.executable, "-m", "resnet_jax"),
    environ: Mapping[str, str] = os.environ,
    grace: float = GRACE,
) -> int:
    """Run a command in several processes on this machine; return the exit status of the first that failed, or 0.

    Args:
        words: arguments of the command, verb first.
        count: number of processes.
        devices: devices per process (default: one on CPUs, an equal share of the GPUs).
        command: the program that takes the arguments.
        environ: environment variables.
        grace: seconds that the others have to end after one has failed.

    Raises:
        UsageError: if there are fewer GPUs than requested.
    """
    address = f"127.0.0.1:{free_port()}"
    common = {SWITCH: "on", COORDINATOR: address, PROCESSES: str(count), LAUNCHER: str(os.getpid())}
    environments = [
        {**environ, **each, **common, PROCESS: str(number)}
        for number, each in enumerate(devices_of(count, devices, environ))
    ]
    started: list[subprocess.Popen[bytes]] = []
    listeners = []
    with _passed_on(started) as asked:
        try:
            for number, variables in enumerate(environments):
                piped = None if number == 0 else subprocess.PIPE
                one = subprocess.Popen(
                    [*command, *words],
                    env=variables,
                    stderr=piped,
                    start_new_session=True,
                )
                started.append(one)
                if piped is not None:
                    listeners.append(threading.Thread(target=_pass_on, args=(one, number), daemon=True))
                    listeners[-1].start()
            return _wait(started, asked, grace)
        finally:
            for one in started:
                if one.poll() is None:
                    one.kill()
                    one.wait()
            for listener in listeners:
                listener.join(timeout=1.0)
            for one in started:
                if one.stderr is not None:
                    one.stderr.close()


def free_port() -> int:
    """Return an unused port of this machine."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def devices_of(count: int, devices: int | None, environ: Mapping[str, str], root: Path = Path("/dev")) -> list[dict]:
    """Return the environment variables that assign every process its devices.

    Args:
        count: number of processes.
        devices: devices per process.
        environ: environment variables; ``CUDA_VISIBLE_DEVICES`` lists the GPUs to share, ``JAX_PLATFORMS`` may be cpu.
        root: where the system lists its devices.

    Raises:
        UsageError: if there are fewer GPUs.

    >>> devices_of(2, 1, {"CUDA_VISIBLE_DEVICES": "4,5,6"})[1]
    {'JAX_NUM_CPU_DEVICES': '1', 'CUDA_VISIBLE_DEVICES': '5'}
    """
    found: list[dict] = [{} if devices is None else {"JAX_NUM_CPU_DEVICES": str(devices)} for _ in range(count)]
    if environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return found
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    names = sorted(path.name[6:] for path in root.glob("nvidia[0-9]*")) if listed is None else listed.split(",")
    gpus = [name for name in names if name]
    if not gpus:
        return found
    each = devices or max(len(gpus) // count, 1)
    if count * each > len(gpus):
        raise UsageError(
            f"{count} processes of {each} GPUs need {count * each}, and there are {len(gpus)}: start fewer, or set "
            "JAX_PLATFORMS=cpu for a try without them"
        )
    return [
        {**one, "CUDA_VISIBLE_DEVICES": ",".join(gpus[number * each : (number + 1) * each])}
        for number, one in enumerate(found)
    ]


def status_of(code: int) -> int:
    """Return the exit status of a process as in a shell: 128 + the signal that killed it."""
    return 128 - code if code < 0 else code


def how_ended(code: int) -> str:
    """Describe how a process ended.

    >>> how_ended(-9), how_ended(1)
    ('was killed by SIGKILL', 'ended with status 1')
    """
    if code >= 0:
        return f"ended with status {code}"
    if code == -signal.SIGABRT:
        return "was ended by SIGABRT, as JAX does where another process was not heard of; its own lines say which"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _wait(started: Sequence[subprocess.Popen[bytes]], asked: Callable[[], bool], grace: float) -> int:
    """Wait until all have ended; return the status of the first that failed."""
    first: tuple[int, int] | None = None
    until = float("inf")
    while running := [number for number, one in enumerate(started) if one.poll() is None]:
        failed = [(number, one.returncode) for number, one in enumerate(started) if one.returncode]
        if failed and first is None:
            # of several at once, the cause is the one killed by a signal from outside; others abort when they find
            # it gone
            number, code = first = min(failed, key=lambda each: (each[1] >= 0, each[1] == -signal.SIGABRT, each[0]))
            until = time.monotonic() + (SAVING if asked() else grace)
            if not asked():
                _say(f"process {number} of {len(started)} {how_ended(code)}; the others end too")
        if time.monotonic() >= until:
            names = ", ".join(map(str, running))
            _say(f"killed because they did not end within {SAVING if asked() else grace:.0f} s: process {names}")
            for number in running:
                started[number].kill()
            until = float("inf")
        time.sleep(0.05)
    if first is None:
        failed = [(number, one.returncode) for number, one in enumerate(started) if one.returncode]
        first = min(failed, key=lambda each: (each[1] >= 0, each[1] == -signal.SIGABRT, each[0]), default=None)
        if first is not None and not asked():
            _say(f"process {first[0]} of {len(started)} {how_ended(first[1])}")
    return 0 if first is None else status_of(first[1])


@contextlib.contextmanager
def _passed_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[Callable[[], bool]]:
    """Forward signals to the processes within the block; yields a function that tells whether there was one."""
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    seen: list[int] = []

    def handle(number: int, _frame: object) -> None:
        seen.append(number)
        for one in started:
            with contextlib.suppress(OSError):
                one.send_signal(number)

    main = threading.current_thread() is threading.main_thread()
    for number in numbers if main else ():
        if before[number] != signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items() if main else ():
            signal.signal(number, handler or signal.SIG_DFL)


def _pass_on(one: subprocess.Popen[bytes], number: int) -> None:
    """Print the lines of a process with its number, except JAX's long messages about a lost process."""
    assert one.stderr is not None
    for raw in one.stderr:
        line = raw.decode("utf-8", "replace")
        if _ABORT.match(line):
            _print(f"[{number}] ended because the first process was gone\n" if line.startswith("F") else "")
            if line.startswith("F"):
                for _ in one.stderr:
                    pass
                return
            continue
        _print(f"[{number}] {line}")


def _say(line: str) -> None:
    _print(f"resnet-jax launch: {line}\n")


def _print(text: str) -> None:
    if text and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def end_with_launcher(environ: Mapping[str, str] = os.environ) -> None:
    """Have this process receive SIGTERM when the one that launched it is killed; on Linux."""
    parent = environ.get(LAUNCHER, "")
    if not sys.platform.startswith("linux") or not parent.isdecimal() or int(parent) != os.getppid():
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
