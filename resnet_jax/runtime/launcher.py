"""Several processes of one command on this machine: started, listened to, and ended together.

The first process has this one's standard output and error; of the others standard error is passed on with their number
before each line. Every process is in a session of its own, so that a Ctrl-C in the terminal comes once, from here.
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

#: Seconds that the others have to end by themselves after one has failed; then they are killed.
GRACE = 8.0
#: Seconds that they have when a signal asked all of them to save and stop.
SAVING = 120.0

#: Variable with the number of the launching process.
LAUNCHER = "RESNET_JAX_LAUNCHER"

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
#: Where JAX begins to say, for pages, that another process is gone.
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
        words: of the command, verb first.
        count: processes.
        devices: of each process (default: on CPUs one, of GPUs an equal share).
        command: what takes the words.
        environ: environment variables.
        grace: seconds that the others have to end after one has failed.

    Raises:
        UsageError: more GPUs are asked for than there are.
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
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def devices_of(count: int, devices: int | None, environ: Mapping[str, str], root: Path = Path("/dev")) -> list[dict]:
    """Return the environment variables that give every process its devices.

    Args:
        count: processes.
        devices: of each.
        environ: environment variables; ``CUDA_VISIBLE_DEVICES`` lists the GPUs to share, ``JAX_PLATFORMS`` may say cpu.
        root: where the system lists its devices.

    Raises:
        UsageError: there are fewer GPUs.

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
    """Return the exit status of a process as a shell gives it: 128 + the signal that killed it."""
    return 128 - code if code < 0 else code


def how_ended(code: int) -> str:
    """Say how a process ended.

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
            # of several at once the cause is what a signal from outside has killed; others abort as they find it gone
            number, code = first = min(failed, key=lambda each: (each[1] >= 0, each[1] == -signal.SIGABRT, each[0]))
            until = time.monotonic() + (SAVING if asked() else grace)
            if not asked():
                _say(f"process {number} of {len(started)} {how_ended(code)}; the others end too")
        if time.monotonic() >= until:
            names = ", ".join(map(str, running))
            _say(f"killed, for they did not end within {SAVING if asked() else grace:.0f} s: process {names}")
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
    """Pass signals on to the processes for the time of the block; yields what says whether there was one."""
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
    """Print the lines of a process with its number, but not the pages in which JAX says that another is gone."""
    assert one.stderr is not None
    for raw in one.stderr:
        line = raw.decode("utf-8", "replace")
        if _ABORT.match(line):
            _print(f"[{number}] ended, for the first process was gone\n" if line.startswith("F") else "")
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
    """Let this process be told to stop, by SIGTERM, when the one that launched it is killed; on Linux."""
    parent = environ.get(LAUNCHER, "")
    if not sys.platform.startswith("linux") or not parent.isdecimal() or int(parent) != os.getppid():
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
