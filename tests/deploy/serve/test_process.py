"""The server as a process on loopback: hostile and slow clients, signals, and that it goes on serving."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from resnet_jax.deploy.serve.process import bind
from resnet_jax.errors import UsageError
from tests.deploy.serve.hostile import bomb
from tests.deploy.serve.tools import image, there

SERVER = """
import dataclasses, sys
from resnet_jax.cli.main import main
import resnet_jax.deploy.serve.engine as engine
from tests.deploy.serve.tools import ColourEngine
engine.open_engine = lambda *_, **__: ColourEngine(float(sys.argv[1]))
main(["serve", "colours", "--port", "0", "--no-drift", *sys.argv[2:]])
"""


def server(folder: Path, *options: str, seconds: float = 0.0, **environment: str):
    """Start a server of the colours, as the command does."""
    return there(["-c", SERVER, str(seconds), *options], folder, PYTHONPATH=os.pathsep.join(("", ".")), **environment)


def raw(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes, and return all that comes until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                parts.append(part)
    return b"".join(parts)


def is_well(url: str) -> bool:
    """Whether an image is answered."""
    found = httpx.post(url + "/predict?top=1", content=image("blue"), timeout=10)
    return found.status_code == 200 and found.json()["images"][0]["classes"][0]["name"] == "blue"


@pytest.mark.slow
def test_hostile_clients_and_a_stop(tmp_path):
    limits = ("--limits.head-seconds", "1", "--limits.upload-seconds", "1.5", "--limits.connections", "40")
    with server(tmp_path, *limits, seconds=0.3) as process:
        url, port = process.url, process.port
        assert is_well(url)
        before = process.resident()
        assert httpx.post(url + "/predict", content=bomb(50_000, 50_000)).status_code == 413
        assert httpx.post(url + "/predict", content=b"text", headers={"content-type": "image/jpeg"}).status_code == 415
        large = httpx.post(url + "/predict", content=bytes(50_000_000), timeout=20)
        assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
        assert process.resident() - before < 40 << 20
        assert raw(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert raw(port, b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 200_000).startswith(b"HTTP/1.1 4")
        # a head that comes byte by byte, and a body that stops
        slow = socket.create_connection(("127.0.0.1", port), timeout=8)
        stuck = socket.create_connection(("127.0.0.1", port), timeout=8)
        stuck.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nabc")
        began, answer = time.monotonic(), b""
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /info HTTP/1.1\r\nhost: localhost\r\nx: yyyyyyyyyyyyyyyyyy":
                slow.sendall(bytes([byte]))
                time.sleep(0.1)
        assert time.monotonic() - began < 6
        with contextlib.suppress(ConnectionError):
            answer = slow.recv(1000)
        assert answer == b"" or b"408" in answer
        assert stuck.recv(1000).startswith(b"HTTP/1.1 408")
        slow.close(), stuck.close()
        # more connections than there may be
        held = [socket.create_connection(("127.0.0.1", port), timeout=8) for _ in range(60)]
        time.sleep(0.2)
        told = [each.recv(20) for each in held[45:]]
        assert all(text.startswith(b"HTTP/1.1 503") for text in told)
        for each in held:
            each.close()
        time.sleep(0.3)
        assert is_well(url)
        # a signal: what was accepted is answered, nothing more is accepted
        waiting = socket.create_connection(("127.0.0.1", port), timeout=20)
        data = image("red")
        head = f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n".encode()
        waiting.sendall(head + data)
        time.sleep(0.15)
        process.process.send_signal(signal.SIGTERM)
        answer = b""
        while part := waiting.recv(65536):
            answer += part
        waiting.close()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"red"' in answer
        assert process.process.wait(20) == 143
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", port), timeout=2)
        lines = [json.loads(line) for line in process.errors.splitlines() if line.startswith("{")]
        assert {line["status"] for line in lines} >= {200, 408, 413, 415}
        assert "Traceback" not in process.errors


def test_an_address_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="cannot listen at 127"):
            bind("127.0.0.1", taken.getsockname()[1])
    for host, port in (("no.such.host.invalid", 8000), ("127.0.0.1", 99_999)):
        with pytest.raises(UsageError, match="cannot listen"):
            bind(host, port)


@pytest.mark.slow
def test_a_request_that_does_not_end_is_not_waited_for(tmp_path):
    options = ("--limits.drain-seconds", "1", "--host", "0.0.0.0")
    with server(tmp_path, *options, RESNET_JAX_SERVE_TOKEN="x" * 20) as process:
        stuck = socket.create_connection(("127.0.0.1", process.port), timeout=8)
        token = b"authorization: Bearer " + b"x" * 20
        stuck.sendall(b"POST /predict HTTP/1.1\r\nhost: a\r\n" + token + b"\r\ncontent-length: 100\r\n\r\nabc")
        time.sleep(0.3)
        assert httpx.get(process.url + "/info").status_code == 401
        began = time.monotonic()
        assert process.stop(signal.SIGINT) == 130
        stuck.close()
        assert time.monotonic() - began < 15
        assert "warning" not in (tmp_path / "out").read_text()
    with server(tmp_path, "--host", "0.0.0.0") as process:
        assert "warning: anybody who reaches" in (tmp_path / "out").read_text()
        assert process.stop() == 143


@pytest.mark.slow
def test_ten_thousand_connections_in_bounded_memory(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine allows {hard:,} open files, and {wanted:,} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    async def attack(port: int) -> dict[str, int]:
        counts = {"refused": 0, "held": 0, "failed": 0}
        writers = []

        async def one() -> None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writers.append(writer)
                writer.write(
                    b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000\r\n\r\n" + bytes(8192)
                )
                async with asyncio.timeout(2):
                    first = await reader.read(15)
                counts["refused" if b"503" in first else "failed"] += 1
            except TimeoutError:
                counts["held"] += 1
            except OSError:
                counts["failed"] += 1

        for start in range(0, 10_000, 500):
            await asyncio.gather(*(one() for _ in range(min(500, 10_000 - start))))
        for writer in writers:
            writer.close()
        return counts

    try:
        with server(tmp_path, "--limits.upload-seconds", "60") as process:
            assert is_well(process.url)
            before, most = process.resident(), 0
            counts = asyncio.run(attack(process.port))
            most = process.resident()
            print(counts, f"{before >> 20} MiB before, {most >> 20} after")
            assert counts["held"] <= 1024 + 10
            assert counts["refused"] >= 5000
            assert most - before < 150 << 20
            time.sleep(1.5)
            assert is_well(process.url)
            assert process.stop() == 143
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
