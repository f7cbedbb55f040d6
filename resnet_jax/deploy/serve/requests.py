"""Receive the body of a request within limits, and find the images in it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

import numpy as np

from resnet_jax.deploy.serve.engine import Engine
from resnet_jax.deploy.serve.options import MIB, Limits
from resnet_jax.deploy.serve.pipeline import Reader
from resnet_jax.deploy.serve.problems import Problem, busy, not_an_image, not_readable, too_large

Receive = Callable[[], Awaitable[Any]]
Named = list[tuple[str, Reader]]
"""Name and reader of each image."""

INLINE = 1 << 16
"""Bytes of JSON that are parsed in place; larger bodies are parsed in a thread."""


class Memory:
    """Counts the bytes of request bodies in memory.

    Args:
        most: maximum number of bytes.
    """

    def __init__(self, most: int):
        self._most, self.held = most, 0

    @contextlib.contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that adds bytes until the block ends; it raises a Problem, 503, beyond the maximum."""
        mine = 0

        def add(count: int) -> None:
            nonlocal mine
            if self.held + count > self._most:
                raise busy(f"the bodies of other requests fill {self._most // MIB:,} MiB: try again")
            mine += count
            self.held += count

        try:
            yield add
        finally:
            self.held -= mine


async def read_body(headers: Any, receive: Receive, limits: Limits, add: Callable[[int], None]) -> bytes:
    """Receive a body.

    Raises:
        Problem: 413 too large, by its header or while it arrives; 408 too slow; 411 or 400 missing or invalid length;
            503 out of memory; 499 the sender disconnected.
    """
    said = headers.get("content-length", "")
    if said and not (said.isascii() and said.isdecimal()):
        raise Problem(400, "bad_request", f"Content-Length is {said[:40]!r}; need a whole number")
    if said and int(said) > limits.body:
        raise too_large(f"a body of {int(said):,} bytes; at most {limits.body:,} are read")
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(limits.upload_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(499, "gone", "the sender disconnected")
                part = message.get("body", b"")
                length += len(part)
                if length > limits.body:
                    raise too_large(f"a body of more than {limits.body:,} bytes; at most so many are read")
                add(len(part))
                parts.append(part)
                if not message.get("more_body"):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise Problem(
            408, "too_slow", f"the body did not arrive within {limits.upload_seconds:g} seconds ({length:,} bytes had)"
        ) from None


async def images_in(
    headers: Any, body: bytes, engine: Engine, limits: Limits, run: Callable[..., Awaitable[Any]]
) -> tuple[Named, int | None]:
    """Return the images of a body, and the requested number of classes if it has one.

    Args:
        headers: headers of the request.
        body: the complete body.
        engine: reads images.
        limits: limits on images and pixels.
        run: runs a function in a thread.

    Raises:
        Problem: 413 too many images, 415 an unsupported kind of body, 422 no images in it.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    top = None
    if kind == "multipart/form-data":
        files = await _files_in_form(headers, body, limits)
        named: Named = [(name, _file_reader(engine, data, limits)) for name, data in files]
    elif kind in ("application/json", "text/json"):
        large = len(body) > INLINE
        items, top = await run(_parse_json, body, limits) if large else _parse_json(body, limits)
        named = [(str(index), _item_reader(engine, item, limits)) for index, item in enumerate(items)]
    elif kind.startswith("image/") or kind in ("", "application/octet-stream", "application/x-www-form-urlencoded"):
        named = [("0", _file_reader(engine, body, limits))]  # curl --data-binary declares a form
    else:
        raise not_an_image(
            f"Content-Type {kind[:80]!r}; send image/jpeg or image/png, multipart/form-data with files, or "
            "application/json"
        )
    if not named:
        raise not_readable("no image in the request")
    if len(named) > limits.images:
        raise too_large(f"{len(named):,} images in one request; at most {limits.images:,} are answered")
    return named, top


async def _files_in_form(headers: Any, body: bytes, limits: Limits) -> list[tuple[str, bytes]]:
    """Return name and content of the files in a form."""
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    class InMemory(MultiPartParser):
        spool_max_size = limits.body + 1  # the body is in memory anyway, so use no file on disk

    parser = InMemory(headers, stream(), max_files=limits.images, max_fields=16, max_part_size=1 << 10)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        said = str(getattr(error, "message", error))
        if "Too many files" in said:
            raise too_large(f"more than {limits.images:,} files in one form") from error
        raise not_readable(f"a form that cannot be read: {said[:200]}") from error
    found: list[tuple[str, bytes]] = []
    async with contextlib.AsyncExitStack() as closing:
        closing.push_async_callback(form.close)
        for field, value in form.multi_items():
            if isinstance(value, str):
                raise not_readable(f"the field {field[:40]!r} of the form is not a file: send files, with their names")
            found.append((value.filename or str(len(found)), await value.read()))
    return found


def _parse_json(body: bytes, limits: Limits) -> tuple[list[Any], int | None]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise not_readable(f"no JSON: {str(error)[:200]}") from error
    if not isinstance(given, dict) or not isinstance(given.get("images"), list):
        raise not_readable('JSON must be an object with a list: {"images": [...], "top": 5}')
    if strange := sorted(set(given) - {"images", "top"}):
        raise not_readable(f"JSON has {strange[0][:40]!r}, which is not known; known: images, top")
    top = given.get("top")
    if top is not None and (not isinstance(top, int) or isinstance(top, bool) or top < 1):
        raise not_readable(f"top must be a whole number, 1 or more, got {str(top)[:40]}")
    items = given["images"]
    if len(items) > limits.images:
        raise too_large(f"{len(items):,} images in one request; at most {limits.images:,} are answered")
    return items, top


def _file_reader(engine: Engine, data: bytes, limits: Limits) -> Reader:
    return lambda: engine.read(data, limits.pixels)


def _item_reader(engine: Engine, item: Any, limits: Limits) -> Reader:
    def read() -> Any:
        if isinstance(item, str):
            return engine.read(_from_base64(item), limits.pixels)
        return engine.take(_pixels(item, engine.dtype, limits.pixels))

    return read


def _from_base64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise not_readable(f"a text that is not base64: {error}") from error


def _pixels(item: Any, dtype: str, most: int) -> np.ndarray:
    if not isinstance(item, list):
        raise not_readable(f"an image is a list of rows of pixels, or a file in base64; got {type(item).__name__}")
    try:
        array = np.asarray(item)
    except ValueError as error:
        raise not_readable("rows of pixels that are not of equal length") from error
    if array.dtype.kind not in "iuf" or array.size == 0 or array.ndim not in (2, 3):
        raise not_readable(f"pixels must be numbers (height, width, channels), got {array.dtype} {array.shape}")
    if array.shape[0] * array.shape[1] > most:
        raise too_large(f"an image of {array.shape[0]:,}x{array.shape[1]:,} pixels; at most {most:,} are taken")
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        if array.dtype.kind == "f" or array.min() < limits.min or array.max() > limits.max:
            raise not_readable(f"pixels must be whole numbers from {limits.min:,} to {limits.max:,}")
    elif not np.isfinite(array).all():
        raise not_readable("pixels that are not finite")
    return array.astype(dtype)
