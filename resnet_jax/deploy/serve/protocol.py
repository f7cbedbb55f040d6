"""Connections: limited in number, and closed if a request does not arrive or an answer is not read.

uvicorn only times idle connections between two requests: a head that arrives byte by byte would hold its connection
forever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from resnet_jax.deploy.serve.metrics import Metrics
from resnet_jax.deploy.serve.options import Limits

_BODY = b'{"error": {"status": %d, "code": "%s", "message": "%s"}}'
TAKING = 10.0
"""Seconds in which an answer must be read, in addition to the time for computing it."""


def _plain(status: int, phrase: bytes, code: bytes, message: bytes, more: bytes = b"") -> bytes:
    body = _BODY % (status, code, message)
    head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n"
    return head % (status, phrase, len(body), more) + body


REFUSED = _plain(503, b"Service Unavailable", b"busy", b"too many connections: try again", b"retry-after: 1\r\n")
TOO_SLOW = _plain(408, b"Request Timeout", b"too_slow", b"the head of the request did not come")


def protocol_class(limits: Limits, metrics: Metrics) -> type[asyncio.Protocol]:
    """Return a protocol for uvicorn: one of its own, with limits.

    Of its two protocols, the one in C (httptools) is used if it is installed.
    """
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Base
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol as Base

    class Guarded(Base):  # pyright: ignore[reportGeneralTypeIssues]
        """A connection with limits."""

        _refused = False
        _since = 0.0
        _began = False
        _seen: Any = None

        def connection_made(self, transport: Any) -> None:
            if len(self.connections) >= limits.connections:
                self._refused = True
                metrics.refused.inc()
                transport.write(REFUSED)
                transport.close()
                return
            self._since = self.loop.time()
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            if not self._refused:
                super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._refused:
                self._began = True
                super().data_received(data)

        def eof_received(self) -> None:
            if not self._refused:
                super().eof_received()

        def close_if_overdue(self, now: float) -> None:
            """Close the connection if the expected data has not arrived in time."""
            cycle: Any = self.cycle
            active = cycle is not None and not cycle.response_complete
            seen = (cycle, active)
            if seen != self._seen:
                self._seen, self._since, self._began = seen, now, self._began and active
            waited = now - self._since
            if active:
                if waited > limits.upload_seconds + limits.seconds + TAKING:
                    metrics.closed.inc()
                    self.transport.abort()
            elif waited > limits.head_seconds and not self.transport.is_closing():
                metrics.closed.inc()
                if self._began:
                    self.transport.write(TOO_SLOW)
                self.transport.close()

    return Guarded
