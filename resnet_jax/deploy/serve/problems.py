"""What goes wrong with a request, or with one of its images: a status of HTTP, a word for programs, a sentence."""

from __future__ import annotations

from typing import Any


class Problem(Exception):
    """A request, or one of its images, that cannot be answered.

    Args:
        status: of HTTP.
        code: one word for programs.
        message: a sentence for people: what was wrong, and what would be right.
        retry_after: seconds after which to try again; 0: that would not help.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int = 0):
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def as_json(self) -> dict[str, Any]:
        """Return what is answered."""
        return {"status": self.status, "code": self.code, "message": self.message}


def too_large(message: str) -> Problem:
    """Answer 413: a body, an image or a list that is larger than the limit."""
    return Problem(413, "too_large", message)


def not_an_image(message: str) -> Problem:
    """Answer 415: bytes of a kind that is not read."""
    return Problem(415, "unsupported_type", message)


def not_readable(message: str) -> Problem:
    """Answer 422: of the right kind, and damaged or of the wrong shape."""
    return Problem(422, "unreadable", message)


def busy(message: str) -> Problem:
    """Answer 503: full, or not ready."""
    return Problem(503, "busy", message, retry_after=1)
