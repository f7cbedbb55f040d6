"""Who may ask: a token, and the names by which the server may be called."""

from __future__ import annotations

import hmac
import ipaddress
import os
from pathlib import Path

from resnet_jax.errors import UsageError
from resnet_jax.runtime.paths import user_path

VARIABLE = "RESNET_JAX_SERVE_TOKEN"
SHORTEST = 16
"""Characters of a token."""
OPEN = ("/", "/healthz")
"""What is answered without a token: the page, which has none of the network's words, and whether the server works."""


def read_token(file: Path | None) -> bytes | None:
    """Return the token of a file, else of the environment, else None.

    Raises:
        UsageError: the file cannot be read, or the token is too short, or has blanks.
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
    """Return whether a request may be answered; how long the comparison takes tells nothing of the token.

    >>> may(b"secret", "/predict", "Bearer secret"), may(b"secret", "/predict", "secret"), may(None, "/predict", "")
    (True, False, True)
    """
    if token is None or path in OPEN:
        return True
    scheme, _, given = authorization.partition(" ")
    return hmac.compare_digest(given.strip().encode("utf-8", "replace"), token) and scheme.lower() == "bearer"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host.

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
    """Return whether a request's ``Host`` may be: of a server on this machine alone it must be a name of it.

    Else a page of anybody's, whose name is made to mean 127.0.0.1, could read what is answered.

    >>> is_called_right("127.0.0.1", "localhost:8000"), is_called_right("127.0.0.1", "evil.example:8000")
    (True, False)
    """
    if not is_loopback(host):
        return True
    name, _, port = header.strip().rpartition(":")
    return is_loopback(name if name and port.isdecimal() else header.strip())
