"""Few damaged files for each reader here, more in the slow suite, and as many as wanted by experiments/fuzz.py."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from resnet_jax.errors import ResNetJaxError
from tests.fuzz.guard import TookTooLong, watching
from tests.fuzz.mutate import mutated
from tests.fuzz.reader import Reader, trial
from tests.fuzz.readers import readers

READERS = readers()
SECONDS, BYTES = 10.0, 512 << 20


@pytest.fixture(scope="module", autouse=True)
def nothing_kept():
    """No cache: what was read once would not be read again."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RESNET_JAX_CACHE", "off")
        yield


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The valid files of every reader, which are read."""
    folders = {}
    for name, reader in READERS.items():
        folders[name] = tmp_path_factory.mktemp("tree")
        reader.prepare(folders[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(folders[name])
    return folders


def check(reader: Reader, root: Path, name: str, content: bytes) -> None:
    """Give a reader a file; it may return anything, or raise an error of ours, and do nothing else."""
    with watching(root, limit=4 * SECONDS) as watched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that a damaged file is left out is what is wanted
        with contextlib.suppress(ResNetJaxError):
            trial(reader, root, name, content)
    assert not watched.acts
    assert watched.seconds < SECONDS
    assert watched.bytes < BYTES


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_give_a_value_or_an_error_of_ours(trees, name):
    rng = random.Random(name)
    for _ in range(6):
        check(READERS[name], trees[name], *READERS[name].input(rng))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_many_damaged_files(trees, name, rng):
    check(READERS[name], trees[name], *READERS[name].input(rng))


@pytest.mark.slow
def test_the_script_counts_them(tmp_path):
    command = [sys.executable, "experiments/fuzz.py", "--inputs", "20", "--only", "json", "--json"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == 0
    assert found["inputs"] == 20 * len(found["readers"]) > 100
    assert found["read"] + found["refused"] == found["inputs"]


def test_what_no_reader_may_do_is_seen(tmp_path):
    import ctypes

    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    with watching(inside) as watched:
        (inside / "a").write_text("")
        (inside / "a").read_text()
        (outside / "a").exists()
    assert watched.acts == []
    acts = {
        "open for writing": lambda: (outside / "a").write_text(""),
        "os.mkdir": lambda: (outside / "b").mkdir(),
        "os.rename": lambda: (inside / "a").rename(outside / "c"),
        "os.system": lambda: os.system("true"),
        "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
        "exec of": lambda: eval("1 + 1"),
        "ctypes.dlopen": lambda: ctypes.CDLL(None),
        "os.kill": lambda: os.kill(os.getpid(), 0),
    }
    for expected, act in acts.items():
        with watching(inside) as watched:
            act()
        assert any(said.startswith(expected) for said in watched.acts), (expected, watched.acts)
    with watching(inside) as watched:
        _ = bytearray(300 << 20)
    assert watched.bytes > 250 << 20
    with pytest.raises(TookTooLong), watching(inside, limit=0.05):
        signal.pause()


def test_changes_are_many_and_come_from_the_seed_alone():
    seed = bytes(range(64))
    found = {mutated(seed, random.Random(number), text=True) for number in range(300)}
    assert len(found) > 280
    assert mutated(seed, random.Random(7)) == mutated(seed, random.Random(7))
    assert mutated(b"", random.Random(1)) is not None
