"""The wrapper around every request: access control, errors as JSON, counting, and one log line each."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

from resnet_jax.deploy.serve.access import is_called_right, may
from resnet_jax.deploy.serve.metrics import Metrics
from resnet_jax.deploy.serve.options import MIB
from resnet_jax.deploy.serve.problems import Problem
from resnet_jax.report.own_thread import OwnThread

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

LINGER_SECONDS, LINGER_BYTES = 2.0, 64 * MIB
"""How long, and for how many bytes, the body of a rejected request is still read and discarded: the sender sees the
answer only after sending everything."""

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class AccessLog:
    """Writes one JSON object per line, in its own thread, so that a blocked terminal does not delay requests.

    Args:
        stream: the stream to write to; None: nothing is written.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream
        self._thread = OwnThread("access log") if stream is not None else None

    def write(self, **fields: Any) -> None:
        """Write a line."""
        if self._thread is None or self._stream is None:
            return
        stream, line = self._stream, json.dumps(fields) + "\n"
        try:
            self._thread.send(lambda: (stream.write(line), stream.flush()))
        except (OSError, ValueError):  # the reader is gone
            self._thread = None

    def close(self) -> None:
        """Write the remaining lines."""
        if self._thread is not None:
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                self._thread.close(1.0)


class Guard:
    """An ASGI application that wraps another.

    Args:
        app: the inner application, which may raise :class:`Problem`.
        metrics: the counters.
        token: token that every request must present except on open paths; None: no token is needed.
        host: address that the server listens on.
        log: log of requests.
    """

    def __init__(self, app: App, metrics: Metrics, *, token: bytes | None, host: str, log: AccessLog):
        self._app, self._metrics, self._token, self._host, self._log = app, metrics, token, host, log
        self._numbers, self._process = itertools.count(1), f"{os.getpid():x}-{int(time.time()):x}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = _Request(scope, receive, send, f"{self._process}-{next(self._numbers)}")
        try:
            if not is_called_right(self._host, request.header(b"host")):
                raise Problem(421, "wrong_host", "this server accepts only names of this machine in the Host header")
            if not may(self._token, scope["path"], request.header(b"authorization")):
                raise Problem(401, "unauthorized", "send the server's token: Authorization: Bearer TOKEN")
            await self._app(scope, request.receive, request.send)
        except Problem as problem:
            await request.refuse(problem)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await request.refuse(Problem(503, "stopping", "the server is stopping"))
            raise
        except Exception as error:
            print(f"error: {scope['method']} {scope['path']!r}: {type(error).__name__}: {error}", file=sys.stderr)
            await request.refuse(Problem(500, "failed", f"the server failed: {type(error).__name__}"))
        finally:
            self._done(request)

    def _done(self, request: _Request) -> None:
        seconds, scope = time.perf_counter() - request.began, request.scope
        self._metrics.request(scope["path"], request.status, seconds)
        client = scope.get("client") or ("", 0)
        self._log.write(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            id=request.name,
            client=f"{client[0]}:{client[1]}",
            method=scope["method"],
            path=scope["path"][:200],
            status=request.status,
            seconds=round(seconds, 6),
            bytes=request.received,
            **scope.get("noted", {}),
        )


class _Request:
    """One request, as far as it has arrived."""

    def __init__(self, scope: Any, receive: Any, send: Any, name: str):
        self.scope, self.name, self.began = scope, name, time.perf_counter()
        self.status, self.received = 0, 0
        self._receive, self._send = receive, send
        length = self.header(b"content-length")
        self._more = self.header(b"transfer-encoding") != "" or length not in ("", "0")

    def header(self, name: bytes) -> str:
        """Return a header, or an empty string."""
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), "")

    async def receive(self) -> Message:
        """Receive a message and count its bytes."""
        message = await self._receive()
        self.received += len(message.get("body", b""))
        self._more = bool(message.get("more_body"))
        return message

    async def send(self, message: Message) -> None:
        """Send a message. Any unread rest of the body is discarded as it arrives, so that the sender sees the
        answer.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), *_HEADERS, (b"x-request-id", self.name.encode())]
            if self._more:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif self._more and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status:
            return
        body = json.dumps({"error": problem.as_json(), **getattr(problem, "more", {})}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if problem.retry_after:
            headers.append((b"retry-after", str(problem.retry_after).encode()))
        if problem.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        limit = self.received + LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self._more and self.received < limit:
                    await self.receive()
