"""32 clients over loopback: throughput of `resnet-jax serve` compared with `bench infer` and LitServe.

    uv run python experiments/serve_load.py --network resnet18 --litserve-python PYTHON --out DIRECTORY

PYTHON has litserve and this package. Clients send one JPEG per request (to LitServe in JSON, its usual form), keep
their connections, and run in this process next to the server, on the same cores. Every side is measured for `--seconds`
in each of `--rounds` turns, one after another; figures are medians. The baseline is `resnet-jax bench infer` with the
same network and batch, before and after. Weights are random, because speed does not depend on them. Writes
load_NETWORK.json: images/s, their ratios, p50 and p95 of a request, and p95 relative to the seconds of a full batch.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

BATCH = 16
PEER = Path(__file__).parent / "benchmarks" / "peers" / "litserve_peer.py"


def make_run(network: str, path: Path) -> None:
    """Write a run directory of a named network with random weights."""
    import dataclasses

    import jax

    from resnet_jax.models.initialize import init_variables
    from resnet_jax.models.rows import MODELS
    from resnet_jax.models.spec import ModelSpec
    from resnet_jax.runs.directory import DatasetInfo
    from resnet_jax.runs.foreign import write_network
    from resnet_jax.runs.network import build_network
    from resnet_jax.runs.recipes import load_recipe

    side, classes = MODELS[network].image_size, MODELS[network].config.num_classes
    names = tuple(f"class {n}" for n in range(classes))
    card = DatasetInfo(names, (side, side, 3), (0.5,) * 3, (0.25,) * 3, {})
    config = dataclasses.replace(load_recipe("digits"), model=ModelSpec(network))
    model: Any = build_network(config, card)
    write_network(
        path,
        config,
        card,
        init_variables(model, jax.random.key(0), (side, side, 3)),
        step=0,
        origin={"made": "random weights"},
    )


async def load(port: int, body: bytes, kind: str, clients: int, seconds: float) -> dict[str, float]:
    """Send a body from so many clients, one after the other each; return images/s and latencies."""
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    request, times, until = head.encode() + body, [], time.perf_counter() + seconds

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < until:
            writer.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b" 200 " not in answer[:16]:
                raise SystemExit(f"port {port} answered {answer[:200]!r}")
            await reader.readexactly(int(answer.split(b"content-length:")[1].split(b"\r\n")[0]))
            times.append(time.perf_counter() - began)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    taken, ordered = time.perf_counter() - began, sorted(times)
    found = {"images_per_second": len(times) / taken, "p50": median(times)}
    return {**found, "p95": ordered[int(0.95 * len(ordered))]}


def wait_for(port: int, path: str, process: subprocess.Popen[Any]) -> None:
    """Wait until a server answers 200."""
    import urllib.request

    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("the server ended")
        try:
            if urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).status == 200:
                return
        except OSError:
            time.sleep(0.3)
    raise SystemExit(f"nothing at port {port} answers")


def baseline(network: str) -> float:
    """Return images/s of `bench infer`."""
    command = ["-m", "resnet_jax", "bench", "infer", network, "--batch", str(BATCH), "--rounds", "3", "--json"]
    done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["ours"]


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser()
    for name, default in (("network", "resnet18"), ("litserve-python", ""), ("out", "")):
        parser.add_argument(f"--{name}", default=default)
    for name, default in (("clients", 32), ("rounds", 3), ("seconds", 8), ("port", 8130)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    import cv2
    import numpy as np

    from resnet_jax.bench.processor import describe_processor, processor_line
    from resnet_jax.models.rows import MODELS

    side = MODELS[given.network].image_size
    scene = cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8), (side, side))
    image = cv2.imencode(".jpg", scene)[1].tobytes()
    as_json = json.dumps({"image": base64.b64encode(image).decode()}).encode()
    bodies = {"ours": (image, "image/jpeg"), "litserve": (as_json, "application/json")}
    with tempfile.TemporaryDirectory() as folder:
        run, ports = Path(folder) / "run", {"ours": given.port, "litserve": given.port + 1}
        make_run(given.network, run)
        bench = [baseline(given.network)]
        sides = {"ours": [sys.executable, "-m", "resnet_jax", "serve", str(run), "--access-log", "none",
                          "--port", str(given.port)]}  # fmt: skip
        if given.litserve_python:
            sides["litserve"] = [given.litserve_python, str(PEER), str(run), str(given.port + 1), str(BATCH)]
        found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        servers = {name: subprocess.Popen(side, start_new_session=True) for name, side in sides.items()}
        try:
            for name, server in servers.items():
                wait_for(ports[name], "/healthz" if name == "ours" else "/health", server)
                asyncio.run(load(ports[name], *bodies[name], given.clients, 2))
            for _ in range(given.rounds):
                for name in sides:
                    found[name].append(asyncio.run(load(ports[name], *bodies[name], given.clients, given.seconds)))
        finally:
            servers["ours"].terminate()
            servers["ours"].wait(60)
            for server in servers.values():  # LitServe leaves processes behind
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
        bench.append(baseline(given.network))
    middle = {name: {key: median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()}
    full = BATCH / median(bench)
    ours = middle["ours"]
    result = {
        "network": given.network, "cores": len(os.sched_getaffinity(0)),
        "processor": processor_line(describe_processor()),
        "clients": given.clients, "bench_infer": bench, "batch_seconds": full, **middle,
        "over_bench": ours["images_per_second"] / median(bench), "p95_over_batch": ours["p95"] / full,
    }  # fmt: skip
    if "litserve" in middle:
        result["over_litserve"] = ours["images_per_second"] / middle["litserve"]["images_per_second"]
    print(json.dumps(result, indent=1))
    if given.out:
        Path(given.out).mkdir(parents=True, exist_ok=True)
        (Path(given.out) / f"load_{given.network}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
