"""Standard output that cannot print a character, or not at all: the work goes on, the exit status tells."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from resnet_jax.cli.streams import READER_GONE, Steady, final_status

NAMES = "猫 ━ ± \udcff"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_characters_that_an_encoding_has_not_are_escaped(encoding):
    raw = io.BytesIO()
    stream = Steady(io.TextIOWrapper(raw, encoding=encoding, write_through=True), "it")
    print(NAMES, file=stream)
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert text.rstrip() == NAMES.encode(encoding, "backslashreplace").decode(encoding)
    assert stream.failed is None


def test_a_stream_that_fails_is_left_alone(monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    stream = Steady(Full(), "standard output")
    for _ in range(2):
        print("x", file=stream, flush=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert final_status(3) == 3
    assert final_status(0) == 1
    assert "standard output could not be written: No space left on device" in capsys.readouterr().err
    stream.failed = BrokenPipeError(32, "Broken pipe")
    assert final_status(0) == READER_GONE


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_the_command_line_in_a_bare_environment(tmp_path):
    """ASCII only, no home, no entry of the user, standard output on a full disk; and a platform that is not there."""
    program = (
        "import os, pwd\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from resnet_jax.cli import main\n"
        "main()\n"
    )
    bare = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii", "JAX_PLATFORMS": "cpu"}

    def call(*argv, **more):
        command = [sys.executable, "-c", program, *argv]
        return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=300, **more)

    done = call("models", "resnet20_cifar", stdout=subprocess.PIPE, env=bare)
    assert done.returncode == 0, done.stderr
    assert "269,722" in done.stdout
    assert done.stderr.count("there is no home directory") == 1
    assert "Traceback" not in done.stderr
    run = str(tmp_path / "run")
    quick = ("--model.stage-sizes", "1", "--model.widths", "4", "--train.limit", "3 steps", "--run-dir", run)
    for argv in (("train", "digits", *quick), ("eval", run), ("depth", "profile", run), ("events", run)):
        done = call(*argv, stdout=subprocess.PIPE, env={**bare, "TERM": "dumb", "LANG": "C"}, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    with open("/dev/full", "w") as full:
        done = call("models", "resnet20_cifar", stdout=full, env=bare)
    assert done.returncode == 1
    assert "standard output could not be written: No space left on device" in done.stderr
    done = call("depth", "profile", "resnet20_cifar", stdout=subprocess.PIPE, env={**bare, "JAX_PLATFORMS": "cuda"})
    assert done.returncode == 1
    assert "JAX_PLATFORMS=cuda asks for" in done.stderr
    assert "have: cpu" in done.stderr
