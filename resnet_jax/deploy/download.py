"""Download a file over HTTPS, complete and verified or not at all: its content is trusted only after the checksum.

Only HTTPS is used (plain HTTP only from this machine, for a mirror and for tests), also after redirects, of which a few
are allowed. The received bytes are counted and the download stops at a limit, whatever size the server announced. An
interrupted download resumes where it stopped if the server supports that. Proxies from the environment are used.
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
    """A server cannot be reached from here."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """When to give up on a server.

    Attributes:
        silence: seconds without a byte.
        whole: seconds for the complete file.
        redirects: number of redirects.
        attempts: number of connections, each of which resumes where the previous one was interrupted.
    """

    silence: float = 30.0
    whole: float = 3600.0
    redirects: int = 5
    attempts: int = 4


@dataclasses.dataclass(frozen=True)
class Received:
    """The result of a download.

    Attributes:
        sha256: SHA-256 of the file.
        size: bytes.
        announced: SHA-256 that the first server announced, as the hub does; "" if none did.
        revision: commit of the repository, as the hub states it; "" if unknown.
    """

    sha256: str
    size: int
    announced: str = ""
    revision: str = ""


def download(
    url: str, out: Path, *, most: int, check: Callable[[Received], None], patience: Patience | None = None
) -> Received:
    """Download a file, which appears at ``out`` only after ``check`` has accepted it.

    Args:
        url: HTTPS, or HTTP on this machine.
        out: the file to write; its folder is created.
        most: maximum size in bytes.
        check: called with the result; raises if this is not the intended file, in which case nothing is kept.
        patience: when to give up on the server.

    Raises:
        DataError: the file cannot be downloaded; the message has the address and the reason.
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
    """Open a new file next to ``out``, with permissions by the umask, that is deleted when the block ends."""
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
                    raise DataError(f"{url}: the server announces {total:,} bytes; at most {most:,} are accepted")
                while chunk := answer.read1(CHUNK):
                    size += len(chunk)
                    if size > most:
                        raise DataError(f"{url}: more than {most:,} bytes arrived, so this is not the file; stopped")
                    if time.monotonic() > until:
                        raise DataError(f"{url}: incomplete after {patience.whole:g} seconds ({size:,} bytes); stopped")
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
    """Return whether a server sends the rest of a file from the point of interruption."""
    return answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {size}-")


def _said(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return str(reason) or type(reason).__name__


def _require_safe(url: str) -> None:
    """Reject addresses that are not HTTPS, except on this machine.

    Raises:
        DataError: the address is of another kind.
    """
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in LOOPBACK
    if not local and (parts.scheme != "https" or not parts.hostname):
        raise DataError(f"{url}: files are fetched over https, and not over {parts.scheme or 'anything else'}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects and keeps what the first server says about the file."""

    def __init__(self, most: int):
        self.most = self.left = most
        self.announced = self.revision = ""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Reject an unsafe address, and one redirect too many; see the base class."""
        try:
            _require_safe(newurl)
            if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
                raise DataError(f"{req.full_url} redirects to {newurl}, which is not https")
            self.left -= 1
            if self.left < 0:
                raise DataError(f"{req.full_url}: the server redirects more than {self.most} times")
        except DataError:
            fp.close()
            raise
        self.note(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_response(self, request, response):
        """Record the headers of the server that holds the file itself."""
        self.note(response.headers)
        return response

    https_response = http_response

    def note(self, headers) -> None:
        """Keep the checksum and the commit that the hub announces for a file."""
        tag = (headers.get("X-Linked-Etag") or "").strip('W/"')
        if not self.announced and re.fullmatch(r"[0-9a-f]{64}", tag):
            self.announced = tag
        self.revision = self.revision or (headers.get("X-Repo-Commit") or "")[:40]
