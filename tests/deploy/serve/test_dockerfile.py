"""The Dockerfile without Docker: what it copies is there, and every command in it parses and names what exists."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from resnet_jax.cli.options import parse
from resnet_jax.cli.serve import ServeOptions

ROOT = Path(__file__).parents[3]


def instructions() -> list[tuple[str, str]]:
    """Return the words and arguments of the Dockerfile, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def of(word: str) -> list[str]:
    """Return the arguments of all instructions of a kind."""
    return [rest for each, rest in instructions() if each == word]


def test_what_it_copies_is_there_and_is_all_that_the_build_reads():
    copied = [name for rest in of("COPY") for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied), copied
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "resnet_jax", project["readme"], *project["license-files"]} <= set(copied)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not set(copied) & set(ignored)
    assert {".git", ".venv"} <= set(ignored)


def test_its_python_and_its_extra_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = tuple(map(int, re.findall(r"^python:(\d+)\.(\d+)-slim$", of("FROM")[0])[0]))
    least = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    assert version >= least
    (extra,) = [name for rest in of("RUN") for name in re.findall(r'"\.\[(\w+)\]"', rest)]
    assert extra in project["optional-dependencies"]


def test_its_commands_parse():
    for command in of("RUN"):
        subprocess.run([shutil.which("sh") or "sh", "-n", "-c", command], check=True)
        words = shlex.split(command)
        if words[:2] == ["python", "-c"]:
            compile(words[2], "Dockerfile", "exec")
    (health,) = of("HEALTHCHECK")
    command = json.loads(health[health.index("[") :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "Dockerfile", "exec")
    assert f":{of('EXPOSE')[0]}/healthz" in command[2]
    program, verb = json.loads(of("ENTRYPOINT")[0])
    assert program in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    options = parse(ServeOptions, json.loads(of("CMD")[0]), verb=verb, about="")
    assert (str(options.run), options.host, options.port) == ("/run-dir", "0.0.0.0", int(of("EXPOSE")[0]))


def test_its_variables_are_ours_and_its_user_has_no_rights():
    ours = [name for rest in of("ENV") for name in re.findall(r"(RESNET_JAX_\w+)=", rest)]
    known = "".join(path.read_text() for path in (ROOT / "resnet_jax" / "runtime").glob("*.py"))
    assert ours
    assert all(f'"{name}"' in known for name in ours)
    assert of("USER")[-1] not in ("", "root", "0")
    assert [word for word, _ in instructions()][-2:] == ["ENTRYPOINT", "CMD"]


def test_what_it_compiles_is_there():
    from resnet_jax.ops import native

    if not native.available():
        pytest.skip("there is no compiler here")
    assert isinstance(native.status(), str)
