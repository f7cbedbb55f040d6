"""The same batches whoever makes them: threads, worker processes, parts of several processes, fresh or resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resnet_jax.data.folder import load_folder
from resnet_jax.data.pipeline import EvalBatches, TrainBatches
from resnet_jax.data.records import ArrayRecords, Source
from resnet_jax.data.shared import Slots, dump, load
from resnet_jax.data.transform import Geometry
from resnet_jax.errors import DataError, RunError, UsageError
from resnet_jax.runtime.ahead import in_threads
from resnet_jax.runtime.imports import import_modules

OWN = """
import dataclasses, os, time
import numpy as np
from resnet_jax.data.transforms import register_transform
from resnet_jax.errors import DataError

@register_transform("brighten_for_executors")
@dataclasses.dataclass(frozen=True)
class Brighten:
    where = "host"
    def apply(self, example, rng, spec):
        return {**example, "image": example["image"] // 2 + np.uint8(rng.random() * 100)}

@dataclasses.dataclass(frozen=True, eq=False)
class Own:
    labels: np.ndarray
    spec = property(lambda self: ONE.spec)
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, index):
        if index == 5:
            raise DataError("example 5 is broken")
        if index == 6:
            raise ZeroDivisionError("a mistake of the source")
        time.sleep(0.01)
        print("what a source prints is no answer")
        return {"image": np.full((4, 4, 3), index, np.uint8), "label": self.labels[index]}
    def describe(self, index):
        return f"own {index}"

from resnet_jax.data.records import ArrayRecords
ONE = ArrayRecords(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, int))
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("own") / "own_for_executors.py"
    path.write_text(OWN)
    import_modules([str(path)])
    return next(module for module in sys.modules.values() if getattr(module, "__file__", None) == str(path))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A folder of small JPEGs of different sizes."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(26):
        pixels = cv2.resize(rng.integers(0, 256, (4, 4, 3), np.uint8), (20 + number, 30 - number))
        path = root / "ab"[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    return load_folder(str(root)).splits["all"]


def digest(batches: Iterable[dict[str, np.ndarray]]) -> str:
    found = hashlib.sha256()
    for batch in batches:
        for name in sorted(batch):
            found.update(name.encode() + str(batch[name].dtype).encode() + batch[name].tobytes())
    return found.hexdigest()


def joined(*parts: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    for batches in zip(*parts, strict=True):
        yield {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def children() -> list[int]:
    """Return the worker processes of this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"resnet_jax.data.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


STEPS = 40  # of 13 an epoch


def test_batches_are_the_same_whoever_makes_them(photographs, own):
    geometry = Geometry(8, "random_resized", after=(own.Brighten(),))

    def run(shards: int, start: int = 0, **how: int) -> str:
        parts = [TrainBatches(photographs, 2, seed=1, geometry=geometry, shard=(r, shards)) for r in range(shards)]
        return digest(joined(*(part.iterate(start, STEPS, **how) for part in parts)))

    resumed = int(np.random.default_rng(os.getpid()).integers(1, STEPS))
    for start, shards in ((0, 2), (resumed, 1)):
        expected = run(1, start, threads=0)
        for threads in (1, 2, 8):
            assert run(shards, start, threads=threads) == expected, (threads, shards, start)
        assert run(3 - shards, start, threads=2, workers=1) == expected, (start, "workers")
    assert not children()


@pytest.mark.slow
def test_real_processes_and_workers_give_the_same_200_batches(photographs, tmp_path):
    """All of {1, 2, 8 threads} x {1, 2 processes} x {fresh, resumed} x {threads, workers}, each rank a process."""
    program = tmp_path / "rank.py"
    program.write_text(
        "import sys\n"
        "import numpy as np\n"
        "from resnet_jax.data.folder import load_folder\n"
        "from resnet_jax.data.pipeline import TrainBatches\n"
        "from resnet_jax.data.transform import Geometry\n"
        "root, rank, ranks, start, threads, workers, out = sys.argv[1:]\n"
        "batches = TrainBatches(load_folder(root).splits['all'], 4, seed=1, geometry=Geometry(8, 'random_resized'),\n"
        "                       shard=(int(rank), int(ranks)))\n"
        "made = list(batches.iterate(int(start), 200, threads=int(threads), workers=int(workers)))\n"
        "np.savez(out, **{name: np.stack([one[name] for one in made]) for name in made[0]})\n"
    )
    root = str(Path(photographs.describe(0)).parents[1])
    found: dict[int, set[str]] = {}
    for start in (0, 77):
        for threads in (1, 2, 8):
            for workers in (0, 2):
                for ranks in (1, 2):
                    outs = [tmp_path / f"{rank}.npz" for rank in range(ranks)]
                    running = [
                        subprocess.Popen(
                            [sys.executable, program, root]
                            + [str(part) for part in (rank, ranks, start, threads, workers, outs[rank])]
                        )
                        for rank in range(ranks)
                    ]
                    assert [process.wait(120) for process in running] == [0] * ranks
                    parts = [dict(np.load(out)) for out in outs]
                    whole = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
                    steps = range(STEPS - start)
                    found.setdefault(start, set()).add(digest({n: v[step] for n, v in whole.items()} for step in steps))
    batches = TrainBatches(photographs, 4, seed=1, geometry=Geometry(8, "random_resized"))
    assert found == {start: {digest(batches.iterate(start, STEPS, threads=0))} for start in (0, 77)}


@pytest.mark.slow
def test_evaluation_in_workers_and_errors_in_place_of_their_batch(own):
    """What is wrong in a worker is raised here, of its own kind, after the batches before it; nothing is left."""
    source = own.Own(np.arange(8) % 2)
    with pytest.raises(ZeroDivisionError, match="a mistake of the source") as caught:
        list(EvalBatches(ArrayAndOwn(source, [0, 1, 2, 3, 6]), 2).iterate(workers=1, threads=1))
    assert "in a worker process" in caught.value.__notes__[0]
    stream = EvalBatches(source, 2).iterate(workers=1, threads=2)
    assert [next(stream)["index"].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match=r"^example 5 is broken$"):
        next(stream)
    assert not children()


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayAndOwn:
    """Some examples of a source."""

    whole: Any
    chosen: list[int]

    labels = property(lambda self: self.whole.labels[self.chosen])
    spec = property(lambda self: self.whole.spec)

    def __len__(self):
        return len(self.chosen)

    def __getitem__(self, index):
        return self.whole[self.chosen[index]]

    def describe(self, index):
        return self.whole.describe(self.chosen[index])


def test_a_worker_that_is_killed_ends_the_run_at_once_and_says_so(own):
    batches = TrainBatches(own.Own(np.arange(5)), 2, seed=0)
    stream = batches.iterate(0, 10_000, workers=2, threads=1, prefetch=1)
    next(stream)
    victim = children()[0]
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(RunError, match=f"data worker process {victim} was ended by SIGKILL, as the system ends"):
        for _ in stream:
            pass
    assert time.monotonic() - began < 20
    assert not children()


def test_workers_end_with_the_stream_and_are_bounded_before(own):
    batches = TrainBatches(own.Own(np.arange(5)), 2, seed=0)
    stream = batches.iterate(0, 10_000, workers=1, threads=1, prefetch=2)
    next(stream)
    assert len(children()) == 1
    stream.close()
    assert not children()


@dataclasses.dataclass(frozen=True)
class Local:
    """A source with what no other process can have."""

    hold: Any
    labels = np.zeros(4, np.int32)
    spec = ArrayRecords(np.zeros((1, 4, 4), np.uint8), np.zeros(1, int)).spec

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": np.zeros((4, 4, 1), np.uint8)}

    def describe(self, index):
        return "local"


def test_a_source_that_cannot_be_sent_is_refused():
    for held in (threading.Lock(), lambda: None):
        with pytest.raises(
            UsageError, match=r"data.workers 2: the source or a transform cannot be sent .* data.threads"
        ):
            next(TrainBatches(Local(held), 2, seed=0).iterate(0, 4, workers=2))


def test_what_the_main_program_defines_is_not_in_a_worker(tmp_path):
    """It is not run again, so that a script needs no guard; it says what to do."""
    script = tmp_path / "script.py"
    script.write_text(
        "from tests.data.test_executor import Local\n"
        "from resnet_jax.data.pipeline import TrainBatches\n"
        "from resnet_jax.errors import UsageError\n"
        "class Mine(Local): pass\n"
        "try:\n"
        "    next(TrainBatches(Mine(1), 2, seed=0).iterate(0, 4, workers=1))\n"
        "except UsageError as error:\n"
        "    print(error)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert "a worker process cannot open the source (AttributeError:" in done.stdout
    assert "put it in a module, or a file given by --imports" in done.stdout


def test_threads_make_no_more_than_is_allowed_ahead():
    made: list[int] = []
    stream = in_threads(lambda step: made.append(step) or step, range(100), threads=2, ahead=3)
    assert [next(stream) for _ in range(4)] == [0, 1, 2, 3]
    time.sleep(0.05)
    assert len(made) <= 7
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_shared_memory_has_no_name_and_is_given_back():
    before = len(os.listdir("/proc/self/fd"))
    arrays = {"image": ((3, 5), np.dtype(np.uint8)), "label": ((3,), np.dtype(np.float32))}
    slots = Slots(arrays, 4)
    other = Slots(arrays, 4, os.dup(slots.descriptor))
    slots.views(2)["label"][:] = [1, 2, 3]
    assert other.views(2)["label"].tolist() == [1, 2, 3]
    assert other.views(1)["label"].tolist() == [0, 0, 0]
    value = {"arrays": [np.arange(1000), np.zeros(0)], "more": "text"}
    descriptor = dump(value)
    found = load(descriptor)
    np.testing.assert_array_equal(found["arrays"][0], np.arange(1000))
    assert not found["arrays"][0].flags.writeable
    assert not found["arrays"][0].flags.owndata
    os.close(descriptor)
    slots.close()
    other.close()
    del found
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # what is mapped may stay until it is collected
    assert not [name for name in os.listdir("/dev/shm") if "resnet" in name]
