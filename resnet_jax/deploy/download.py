"""A file over HTTPS, whole and compared, or nothing: what a server sends is believed only after its checksum.

Nothing but HTTPS is asked (plain HTTP of this machine alone, for a mirror and for tests), also where a server sends us
on, which it may a few times. What comes is counted, and stopped at a limit whatever the server announced. A connection
that is cut is taken up again where it stopped, if the server can do that. The proxies of the environment are used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from resnet_jax.errors import DataError

CHUNK = 1 << 20
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class UnreachableError(DataError):
    """There is no way to a server from here."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """When a server is given up on.

    Attributes:
        silence: seconds without a byte.
        whole: seconds for all of the file.
        redirects: how often it may send us on.
        attempts: connections, each of which goes on where the one before was cut.
    """

    silence: float = 30.0
    whole: float = 3600.0
    redirects: int = 5
    attempts: int = 4


@dataclasses.dataclass(frozen=True)
class Received:
    """What came.

    Attributes:
        sha256: of the file.
        size: bytes.
        announced: SHA-256 that the first server announced, as the hub does; "" if none did.
        revision: which commit of a repository, as the hub says; "" if nobody does.
    """

    sha256: str
    size: int
    announced: str = ""
    revision: str = ""


def download(
    url: str, out: Path, *, most: int, check: Callable[[Received], None], patience: Patience | None = None
) -> Received:
    """Fetch a file; it appears at ``out`` only when ``check`` has accepted it.

    Args:
        url: HTTPS, or HTTP on this machine.
        out: the file to write; its folder is made.
        most: bytes that it may have.
        check: is given what came, and raises where that is not the file that was meant; nothing is then left.
        patience: when the server is given up on.

    Raises:
        DataError: it cannot be had: with the address and the reason.
        OSError: ``out`` cannot be written.
    """
    patience = patience or Patience()
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(out) as (file, path):
        received = _receive(url, file, most, patience)
        check(received)
        file.flush()
        os.fsync(file.fileno())
        os.replace(path, out)
    return received


@contextlib.contextmanager
def partial_file(out: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give a new file beside ``out``, readable as the umask says, which is gone when the block ends."""
    descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent)
    try:
        umask = os.umask(0)
        os.umask(umask)
        with contextlib.suppress(OSError):
            os.chmod(name, 0o666 & ~umask)
        with open(descriptor, "w+b") as file:
            yield file, Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _receive(url: str, file: BinaryIO, most: int, patience: Patience) -> Received:
    _require_safe(url)
    redirects = _Redirects(patience.redirects)
    opener = urllib.request.build_opener(redirects)
    opener.addheaders = [("User-Agent", "resnet-jax"), ("Accept-Encoding", "identity")]
    digest, size, until, reason = hashlib.sha256(), 0, time.monotonic() + patience.whole, "nothing came"
    total: int | None = None
    for _ in range(patience.attempts):
        redirects.left = patience.redirects
        request = urllib.request.Request(url, headers={"Range": f"bytes={size}-"} if size else {})
        try:
            with contextlib.closing(opener.open(request, timeout=patience.silence)) as answer:
                if size and not _goes_on(answer, size):
                    digest, size = hashlib.sha256(), 0
                    file.seek(0)
                    file.truncate()
                length = answer.headers.get("Content-Length", "")
                total = size + int(length) if length.isascii() and length.isdecimal() else None
                if total is not None and total > most:
                    raise DataError(f"{url}: the server announces {total:,} bytes; at most {most:,} are taken")
                while chunk := answer.read1(CHUNK):
                    size += len(chunk)
                    if size > most:
                        raise DataError(f"{url}: more than {most:,} bytes came, which is no such file; stopped")
                    if time.monotonic() > until:
                        raise DataError(f"{url}: not whole after {patience.whole:g} seconds ({size:,} bytes); stopped")
                    digest.update(chunk)
                    file.write(chunk)
        except urllib.error.HTTPError as error:
            error.close()
            raise DataError(f"{url}: the server answers {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise UnreachableError(f"{url} cannot be reached: {_said(error.reason)}") from None
        except http.client.IncompleteRead as error:
            digest.update(error.partial)
            file.write(error.partial)
            size += len(error.partial)
            reason = f"cut after {size:,} bytes"
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = f"{_said(error)} after {size:,} bytes"
        else:
            if total is None or size == total:
                return Received(digest.hexdigest(), size, redirects.announced, redirects.revision)
            reason = f"cut after {size:,} of {total:,} bytes"
        if time.monotonic() > until:
            break
    raise DataError(f"{url}: {reason}; nothing was kept, try again")


def _goes_on(answer: http.client.HTTPResponse, size: int) -> bool:
    """Return whether a server sends the rest of a file from where it was cut."""
    return answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {size}-")


def _said(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return str(reason) or type(reason).__name__


def _require_safe(url: str) -> None:
    """Refuse what is not HTTPS, but for this machine.

    Raises:
        DataError: it is another kind of address.
    """
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in LOOPBACK
    if not local and (parts.scheme != "https" or not parts.hostname):
        raise DataError(f"{url}: files are fetched over https, and not over {parts.scheme or 'anything else'}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server that sends us on, a few times; keeps what the first one says of the file."""

    def __init__(self, most: int):
        self.most = self.left = most
        self.announced = self.revision = ""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Refuse an unsafe address, and one too many; see the base class."""
        try:
            _require_safe(newurl)
            if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
                raise DataError(f"{req.full_url} sends on to {newurl}, which is not https")
            self.left -= 1
            if self.left < 0:
                raise DataError(f"{req.full_url}: the server sends us on more than {self.most} times")
        except DataError:
            fp.close()
            raise
        self.note(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_response(self, request, response):
        """Note what a server says that has the file itself."""
        self.note(response.headers)
        return response

    https_response = http_response

    def note(self, headers) -> None:
        """Keep the checksum and the commit that the hub announces of a file."""
        tag = (headers.get("X-Linked-Etag") or "").strip('W/"')
        if not self.announced and re.fullmatch(r"[0-9a-f]{64}", tag):
            self.announced = tag
        self.revision = self.revision or (headers.get("X-Repo-Commit") or "")[:40]
