"""SECURITY.md names the limits that there are; .ci/audit finds what a service knows, and says where there is none."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from resnet_jax.runs.links import VARIABLE
from resnet_jax.runtime import limits, plain_yaml, programs
from resnet_jax.runtime.cxx.compiler import DEFAULT_LIMIT, LIMIT

ROOT = Path(__file__).parents[1]


def test_every_limit_is_in_the_table():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    known = {limit.variable: limit.default for limit in limits.LIMITS}
    known |= {LIMIT: int(DEFAULT_LIMIT), programs.LIMIT: programs.DEFAULT_LIMIT}
    for variable, default in known.items():
        assert f"| `{variable}` | {default:,} |" in text
    assert f"`{VARIABLE}`" in text
    assert (
        f"{plain_yaml.MAX_CHARACTERS >> 10} KiB, {plain_yaml.MAX_DEPTH} deep, {plain_yaml.MAX_VALUES:,} values" in text
    )


def answering(found: bool) -> http.server.HTTPServer:
    """Serve what OSV would: of the first package a vulnerability, or of none."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
            results = [{} for _ in asked]
            if found:
                results[0] = {"vulns": [{"id": "GHSA-test", "modified": "2026-01-01T00:00:00Z"}]}
            self.send({"results": results})

        def do_GET(self):
            self.send({"id": "GHSA-test", "modified": "2026-01-01T00:00:00Z", "summary": "bad", "affected": []})

        def send(self, content):
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    return http.server.HTTPServer(("127.0.0.1", 0), Answer)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
@pytest.mark.parametrize(
    ("service", "required", "status", "said"),
    [
        ("clean", "", 0, "audit: Found no known vulnerabilities"),
        ("vulnerable", "", 1, "GHSA-test"),
        ("absent", "", 0, "audit: NOT DONE, the dependencies were not looked at"),
        ("absent", "required", 1, "audit: NOT DONE"),
    ],
)
def test_the_audit_of_the_dependencies(service, required, status, said):
    server = answering(service == "vulnerable")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1] if service != "absent" else 9
    environment = {**os.environ, "OSV_URL": f"http://127.0.0.1:{port}/", "AUDIT": required}
    try:
        command = ["bash", str(ROOT / ".ci" / "audit")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout
