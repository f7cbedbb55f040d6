"""The server process: socket, compilation in the background, signals, and shutdown in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from resnet_jax.deploy.packages import is_installed, package
from resnet_jax.deploy.serve.access import VARIABLE, is_loopback
from resnet_jax.deploy.serve.app import Service
from resnet_jax.deploy.serve.guard import AccessLog, Guard
from resnet_jax.deploy.serve.options import Limits
from resnet_jax.deploy.serve.protocol import protocol_class
from resnet_jax.errors import UsageError
from resnet_jax.runtime.ending import Stopped, leave

SPARE = 64
"""File descriptors reserved for other purposes than connections."""


def require_packages() -> None:
    """Raise UsageError, with what to install, if a package is missing."""
    for module, name in (
        ("starlette", None),
        ("uvicorn", None),
        ("python_multipart", "python-multipart"),
        ("prometheus_client", "prometheus-client"),
    ):
        package(module, "resnet-jax serve", name)


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet.

    Raises:
        UsageError: the address is in use, or does not belong to this machine.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"cannot listen on port {port}: ports are 0 to 65,535, and 0 picks a free one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen at {host} port {port}: {said}; port 0 picks a free one") from error
    return bound


def allow_descriptors(limits: Limits) -> int:
    """Raise the process's limit of open files if possible; return the number of connections it allows."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = limits.connections + SPARE
        if soft != resource.RLIM_INFINITY and soft < wanted:
            allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            return max(1, allowed - SPARE)
    return limits.connections


def serve(
    service: Service,
    bound: socket.socket,
    *,
    host: str,
    token: bytes | None,
    log: AccessLog,
    say: Callable[[str], None],
) -> None:
    """Serve until a signal arrives, then raise :class:`.Stopped`. The server is ready once the network is compiled.

    Args:
        service: answers requests.
        bound: the result of :func:`bind`.
        host: the requested address.
        token: token that requests must present, or None.
        log: log of requests.
        say: prints a line.

    Raises:
        Stopped: a signal arrived; accepted requests have been answered.
        Exception: the network could not be compiled.
    """
    uvicorn = package("uvicorn", "resnet-jax serve")
    limits, metrics = service.limits, service.metrics
    app = Guard(service.application(), metrics, token=token, host=host, log=log)
    config = uvicorn.Config(
        app,
        http=protocol_class(limits, metrics),
        loop="uvloop" if is_installed("uvloop") else "asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(limits.drain_seconds) or 1,
    )
    server = _server_class(uvicorn)(config)
    metrics.follow(
        lambda: service.pipeline.inside, lambda: service.memory.held, lambda: len(server.server_state.connections)
    )
    where = bound.getsockname()
    name = f"[{where[0]}]" if ":" in where[0] else where[0]
    address = f"http://{name}:{where[1]}"
    if token is None and not is_loopback(host):
        say(f"warning: anybody who reaches {address} may use this server: give it a token (--token-file or {VARIABLE})")
    say(f"Listening at {address}, process {os.getpid()}; compiling {service.engine.name} ...")
    failed: list[BaseException] = []

    def warm() -> None:
        try:
            service.warm()
        except BaseException as error:
            failed.append(error)
            server.should_exit = True
        else:
            say(f"Ready: {service.engine.name} at {address}")

    warming = threading.Thread(target=warm, name="warm", daemon=True)
    warming.start()
    try:
        server.run(sockets=[bound])
    finally:
        service.stop(limits.drain_seconds)
        log.close()
    if failed:
        raise failed[0]
    if server.stopped_by is not None:
        raise Stopped(server.stopped_by, "answered what was accepted")


def _server_class(uvicorn: Any) -> Any:
    """Return uvicorn's server with the signal handling of our commands."""

    class Server(uvicorn.Server):
        """Stops gracefully at the first signal, and immediately at the second."""

        stopped_by: signal.Signals | None = None

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            names = ("SIGINT", "SIGTERM", "SIGHUP")
            watched = [getattr(signal, name) for name in names if hasattr(signal, name)]
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {one: signal.getsignal(one) for one in watched if signal.getsignal(one) != signal.SIG_IGN}
            for one in before:
                signal.signal(one, self._stop)
            try:
                yield
            finally:
                for one, handler in before.items():
                    signal.signal(one, handler)

        def _stop(self, number: int, _frame: Any) -> None:
            if self.stopped_by is not None:
                leave(signal.Signals(number), f"\n{signal.Signals(number).name} again: stopped immediately.\n")
            self.stopped_by, self.should_exit = signal.Signals(number), True
            print(
                f"\n{self.stopped_by.name}: finishing accepted requests; send it again to stop immediately.",
                file=sys.stderr,
            )

        async def on_tick(self, counter: int) -> bool:
            """Close overdue connections, once a second."""
            if counter % 10 == 0:
                now = asyncio.get_running_loop().time()
                for connection in list(self.server_state.connections):
                    connection.close_if_overdue(now)
            return await super().on_tick(counter)

    return Server
