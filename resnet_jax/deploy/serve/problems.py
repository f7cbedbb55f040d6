"""Errors of a request or of one of its images: an HTTP status, a code for programs, a sentence for people."""

from __future__ import annotations

from typing import Any


class Problem(Exception):
    """A request, or one of its images, that cannot be answered.

    Args:
        status: HTTP status.
        code: one word for programs.
        message: a sentence for people that says what was wrong and what would be right.
        retry_after: seconds after which to try again; 0 if that would not help.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int = 0):
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def as_json(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {"status": self.status, "code": self.code, "message": self.message}


def too_large(message: str) -> Problem:
    """Answer 413: a body, image or list exceeds the limit."""
    return Problem(413, "too_large", message)


def not_an_image(message: str) -> Problem:
    """Answer 415: the content has an unsupported type."""
    return Problem(415, "unsupported_type", message)


def not_readable(message: str) -> Problem:
    """Answer 422: the content has a supported type but is damaged or has the wrong shape."""
    return Problem(422, "unreadable", message)


def busy(message: str) -> Problem:
    """Answer 503: the server is full or not ready."""
    return Problem(503, "busy", message, retry_after=1)
