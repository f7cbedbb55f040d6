"""Access control: a token, and the host names under which the server may be called."""

from __future__ import annotations

import hmac
import ipaddress
import os
from pathlib import Path

from resnet_jax.errors import UsageError
from resnet_jax.runtime.paths import user_path

VARIABLE = "RESNET_JAX_SERVE_TOKEN"
SHORTEST = 16
"""Minimum length of a token, in characters."""
OPEN = ("/", "/healthz")
"""Paths that need no token: the page, which contains none of the network's words, and the health check."""


def read_token(file: Path | None) -> bytes | None:
    """Return the token from a file, otherwise from the environment, otherwise None.

    Raises:
        UsageError: the file cannot be read, or the token is too short or contains blanks.
    """
    if file is not None:
        try:
            text, where = user_path(file).read_text(encoding="utf-8").strip(), str(file)
        except (OSError, UnicodeError) as error:
            raise UsageError(f"cannot read the token in {file}: {getattr(error, 'strerror', error)}") from error
    elif VARIABLE in os.environ:
        text, where = os.environ[VARIABLE].strip(), VARIABLE
    else:
        return None
    if len(text) < SHORTEST or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            f"the token in {where} must be {SHORTEST} or more ASCII characters without blanks; "
            "`openssl rand -hex 32` makes one"
        )
    return text.encode()


def may(token: bytes | None, path: str, authorization: str) -> bool:
    """Return whether a request may be answered. The comparison takes constant time, so it reveals nothing about the
    token.

    >>> may(b"secret", "/predict", "Bearer secret"), may(b"secret", "/predict", "secret"), may(None, "/predict", "")
    (True, False, True)
    """
    if token is None or path in OPEN:
        return True
    scheme, _, given = authorization.partition(" ")
    return hmac.compare_digest(given.strip().encode("utf-8", "replace"), token) and scheme.lower() == "bearer"


def is_loopback(host: str) -> bool:
    """Return whether a host is reachable only from this machine.

    >>> is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("0.0.0.0"), is_loopback("127.0.0.1.example")
    (True, True, False, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_called_right(host: str, header: str) -> bool:
    """Return whether a request's ``Host`` is allowed. A server for this machine alone must be called by a name of it.

    Otherwise a foreign web page whose host name resolves to 127.0.0.1 could read the answers.

    >>> is_called_right("127.0.0.1", "localhost:8000"), is_called_right("127.0.0.1", "evil.example:8000")
    (True, False)
    """
    if not is_loopback(host):
        return True
    name, _, port = header.strip().rpartition(":")
    return is_loopback(name if name and port.isdecimal() else header.strip())
