"""Help, completion and wrong usage answer before JAX is loaded, and nothing is said on standard error unasked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest

from resnet_jax.cli.main import VERBS
from resnet_jax.cli.plain_types import let_tyro_decide_quickly
from resnet_jax.deploy.explain.methods import METHODS
from resnet_jax.deploy.explain.settings import NAMES

#: What takes from a tenth of a second to several to load.
HEAVY = """
    jax jaxlib flax optax orbax chex jaxtyping ml_dtypes cv2 sklearn scipy matplotlib tensorflow tensorboardX grain
    tensorstore pydantic typeguard asyncio onnx onnxruntime openvino qwix starlette huggingface_hub PIL
"""

#: Wrong usage of many kinds, which none of them has to compute for.
WRONG = [
    ["trian"],
    ["train", "digist"],
    ["train", "digits", "--lr", "1"],
    ["train", "digits", "--model.norm", "bach"],
    ["predict", "nowhere/run", "x.jpg"],
    ["predict", "nowhere"],
    ["explain", "nowhere", "--out", "x"],
    ["export", "nowhere", "--out", "x"],
    ["quantize", "nowhere", "--out", "x"],
    ["prune", "nowhere", "--out", "x"],
    ["card", "nowhere"],
    ["features", "nowhere", "--out", "x"],
    ["eval", "nowhere", "--splt", "val"],
    ["eval", "nowhere"],
    ["compare", "nowhere", "nowhere2"],
    ["checkpoints", "nowhere"],
    ["depth", "check", "resnet05"],
    ["depth", "profile", "resnet05"],
    ["plan", "resnt20", "--batch", "2"],
    ["bench", "train", "resnt20", "--batch", "2"],
    ["weights", "fold", "nowhere", "--out", "x"],
    ["data"],
]

SCRIPT = """
import contextlib, importlib, io, json, sys
from resnet_jax.cli.main import VERBS, main

def call(argv):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(argv)
        except SystemExit as stop:
            code = stop.code
    loaded = [name for name in sys.argv[1].split() if name in sys.modules]
    return [argv, code, out.getvalue()[:60], err.getvalue(), loaded]

done = [call(["--help"]), call(["--version"])]
for verb in VERBS:
    done.append(call([verb, "--help"]))
    module = importlib.import_module("resnet_jax.cli." + verb.replace("-", "_"))
    done += [call([verb, name, "--help"]) for name in getattr(module, "VERBS", {})]
helps = len(done)
for argv in json.loads(sys.argv[2]):
    done.append(call(argv))
print(json.dumps([helps, done]))
"""


def python(*argv, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **environment}
    )


def test_neither_help_nor_wrong_usage_loads_jax_or_anything_else_that_is_slow(tmp_path):
    ran = python("-c", SCRIPT, HEAVY, json.dumps(WRONG), cwd=tmp_path)
    assert ran.stderr == ""
    helps, done = json.loads(ran.stdout)
    for argv, code, out, err, loaded in done[:helps]:
        assert (argv, code, err, loaded) == (argv, 0, "", [])
        assert out.startswith("usage: resnet-jax") or argv == ["--version"]
    assert helps > len(VERBS) + 15
    for argv, code, out, err, loaded in done[helps:]:
        #: recipes are YAML, which pydantic reads
        assert (argv, [name for name in loaded if name != "pydantic"]) == (argv, [])
        assert (argv, code, out) == (argv, 2, "")
        assert "Traceback" not in err


@pytest.mark.slow
def test_every_help_answers_at_once():
    """In seconds of the processor, which other work does not lengthen as much; the bound has slack for both."""
    resource = pytest.importorskip("resource")

    def seconds(*argv):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        assert python("-m", "resnet_jax", *argv).returncode in (0, 2)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return min(used, time.perf_counter() - began)

    for argv in ([], *([verb, "--help"] for verb in VERBS), *WRONG[:6]):
        assert (argv, seconds(*argv) < 1.6 or seconds(*argv) < 1.6) == (argv, True)


#: What JAX, XLA, absl, TensorFlow, OpenCV and Python's warnings write of themselves.
LOG_LINE = re.compile(
    r"^[IWEF]\d{4} \d\d:|^(WARNING|INFO|ERROR|DEBUG)[: ]|^\[ *(WARN|INFO|ERROR)|Warning:|cuInit|TF-TRT|oneDNN|libtpu|"
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+:|XLA service|absl"
)


@pytest.mark.slow
def test_no_line_of_a_library_reaches_a_user_unasked(tmp_path):
    """Standard error of a training, and of what is done with it, in processes of their own."""
    import cv2
    import numpy as np

    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8), np.uint8))
    for argv in (
        ["train", "digits", "--smoke", "--run-dir", "run"],
        ["predict", "run", "x.png"],
        ["eval", "run", "--json"],
        ["summary", "run", "--depth", "1"],
        ["export", "run", "--out", "x.onnx"],
        ["train", "digits", "--smoke", "--run-dir", "run", "--quiet"],
    ):
        ran = python("-m", "resnet_jax", *argv, cwd=tmp_path)
        assert (argv, ran.returncode, [line for line in ran.stderr.splitlines() if LOG_LINE.search(line)]) == (
            argv,
            0,
            [],
        )
        assert "--quiet" not in argv or (ran.stdout, ran.stderr) == ("", "")


def test_tyro_lets_its_check_of_defaults_be_replaced():
    assert let_tyro_decide_quickly()


def test_the_methods_that_help_names_are_those_there_are():
    assert tuple(METHODS) == NAMES
