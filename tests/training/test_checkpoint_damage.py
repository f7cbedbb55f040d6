"""Checkpoints that are not what was written: named, set aside or passed over, and the one before is used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from resnet_jax.errors import DamagedError, RunError
from resnet_jax.runtime.events import EventLog, read_events
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.manifest import MANIFEST, METADATA, Score, verify
from tests.training.test_checkpoint import NOTE, assert_same, new_state


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Two checkpoints of each kind: ``last`` of steps 2 and 3, ``best`` of 1 and 2, of which 2 is better."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save("best", new_state(1), NOTE, score=Score("accuracy", 0.5))
        checkpoints.save("last", new_state(1), NOTE)
        checkpoints.save("last", new_state(2), NOTE, score=Score("accuracy", 0.7))
        checkpoints.save("last", new_state(3), NOTE)
    (folder / "best" / "1").mkdir(exist_ok=True)  # it is not kept: put back, to have one to fall back to
    with Checkpoints(folder.with_name("other")) as checkpoints:
        checkpoints.save("best", new_state(1), NOTE, score=Score("accuracy", 0.5))
    shutil.copytree(folder.with_name("other") / "best" / "1", folder / "best" / "1", dirs_exist_ok=True)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def flip(file: Path, bit: int = 3) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1 << bit
    file.write_bytes(data)


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


class Said(list):
    """What a user is told."""

    def __call__(self, text: str) -> None:
        self.append(text)


def test_one_bit_flipped_in_any_file_is_found(saved, tmp_path):
    """Everywhere: the arrays, what Orbax keeps of them, and the manifest itself."""
    checkpoint = saved / "last" / "3"
    assert verify(checkpoint, 3).step == 3
    names = [path.relative_to(checkpoint) for path in files_of(checkpoint) if path.stat().st_size]
    assert {"manifest.json", METADATA} <= {str(name) for name in names}
    for number, name in enumerate(names):
        copy = Path(shutil.copytree(checkpoint, tmp_path / str(number)))
        flip(copy / name, number % 8)
        with pytest.raises(DamagedError, match=name.name):
            verify(copy, 3)


@pytest.mark.parametrize("name", [MANIFEST, METADATA, "state/_METADATA"])
@pytest.mark.parametrize("how", ["remove", "cut", "grow", "pipe", "folder"])
def test_a_file_that_is_gone_cut_or_no_file_is_found(folder, how, name):
    file = folder / "last" / "3" / name
    content = file.read_bytes()
    file.unlink()
    match how:
        case "cut":
            file.write_bytes(content[:-1])
        case "grow":
            file.write_bytes(content + b" ")
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
    with pytest.raises(DamagedError, match=file.name):
        verify(folder / "last" / "3", 3)


def test_the_run_itself_sets_a_damaged_one_aside_and_goes_on_from_the_one_before(folder, tmp_path):
    flip(next((folder / "last" / "3" / "state").rglob("d/*")))
    said, events = Said(), tmp_path / "events.jsonl"
    with Checkpoints(folder, events=EventLog(events), warn=said) as checkpoints:
        state, progress = checkpoints.resume(new_state(0))
        assert checkpoints.steps("last") == [2]
    assert_same(state, new_state(2))
    assert progress == NOTE
    assert (folder / "damaged" / "last-3" / MANIFEST).is_file()
    assert len(said) == 1
    assert "last/3 is damaged: the content of state/" in said[0]
    assert said[0].endswith("it was set aside as damaged/last-3; last/2 is used instead")
    rows = [
        {key: row.get(key) for key in ("event", "what", "kind", "step", "instead_of")} for row in read_events(events)
    ]
    assert rows == [
        {"event": "damaged", "what": "last/3", "kind": None, "step": None, "instead_of": None},
        {"event": "fallback", "what": None, "kind": "last", "step": 2, "instead_of": 3},
    ]


def test_a_reader_moves_nothing_and_says_what_it_used(folder):
    flip(folder / "last" / "3" / MANIFEST)
    before = sorted(folder.rglob("*"))
    said = Said()
    leaf = jax.ShapeDtypeStruct((2, 3), jnp.float32, sharding=new_state(0).params["layer"]["kernel"].sharding)
    with Checkpoints(folder, owner=False, warn=said) as checkpoints:
        loaded, step = checkpoints.restore_part("last", {"params": {"layer": {"kernel": leaf}}})
    assert step == 2
    np.testing.assert_array_equal(loaded["params"]["layer"]["kernel"], 2.0)
    assert sorted(folder.rglob("*")) == before
    assert len(said) == 1
    assert said[0].endswith("manifest.json is not what was written; last/2 is used instead")


def test_the_best_is_that_with_the_best_score_and_else_the_next(folder):
    said = Said()
    with Checkpoints(folder, owner=False, warn=said) as checkpoints:
        assert [entry.step for entry in checkpoints.scores()] == [2, 1]
        assert_same(checkpoints.restore("best", new_state(0))[0], new_state(2))
        assert said == []
    flip(next((folder / "best" / "2" / "state").rglob("d/*")))
    with Checkpoints(folder, warn=said) as checkpoints:
        assert_same(checkpoints.restore("best", new_state(0))[0], new_state(1))
    assert "best/1 is used instead" in said[0]
    assert (folder / "damaged" / "best-2").is_dir()


def test_another_state_is_not_taken_for_the_best_because_the_manifest_of_the_best_is_damaged(folder):
    """Its score is in the manifest: without it, it would only seem not to be the best."""
    flip(folder / "best" / "2" / MANIFEST)
    said = Said()
    with Checkpoints(folder, owner=False, warn=said) as checkpoints:
        assert_same(checkpoints.restore("best", new_state(0))[0], new_state(1))
    assert len(said) == 1
    assert said[0].endswith("best/2 is damaged: manifest.json is not what was written; best/1 is used instead")


def test_without_an_intact_last_the_run_goes_on_from_the_best_state(folder):
    for step in (2, 3):
        flip(next((folder / "last" / str(step) / "state").rglob("d/*")))
    said = Said()
    with Checkpoints(folder, warn=said) as checkpoints:
        state, _ = checkpoints.resume(new_state(0))
        assert_same(state, new_state(2))
        checkpoints.save("last", new_state(3), NOTE)
    assert "last/3 is damaged" in said[0]
    assert "last/2 is damaged" in said[0]
    assert said[0].endswith("No 'last' checkpoint is left; the run resumes from the newest 'best' one")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps("last") == [3]


def test_with_none_left_it_says_what_to_do_every_time(folder):
    """A second start must not take the run for one that has not begun."""
    for checkpoint in (*(folder / "last").iterdir(), *(folder / "best").iterdir()):
        (checkpoint / METADATA).unlink()
    for _ in range(2):
        with Checkpoints(folder, warn=Said()) as checkpoints:
            assert checkpoints.is_begun()
            with pytest.raises(DamagedError, match=r"No other .* is left.*delete .*or give another run directory"):
                checkpoints.resume(new_state(0))
    with Checkpoints(folder, owner=False) as checkpoints, pytest.raises(DamagedError, match="set aside"):
        checkpoints.restore("last", new_state(0))


def test_a_best_state_of_a_future_that_is_given_up_is_not_the_best_any_more(folder):
    """Going on from an older ``last`` the run makes it again, or does not; it is kept only where there is no other."""
    shutil.rmtree(folder / "last" / "3")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save("best", new_state(9), {"epoch": 9}, score=Score("accuracy", 0.9))
        assert checkpoints.restore("best", new_state(0))[0].step == 9
    with Checkpoints(folder) as checkpoints:
        assert_same(checkpoints.resume(new_state(0))[0], new_state(2))
        assert_same(checkpoints.restore("best", new_state(0))[0], new_state(2))
        checkpoints.save("best", new_state(9), {"epoch": 10}, score=Score("accuracy", 0.8))  # made again, otherwise
        checkpoints.save("last", new_state(10), NOTE)
        assert checkpoints.restore("best", new_state(0))[1] == {"epoch": 10}


def write_old(folder: Path, step: int) -> None:
    """Write a checkpoint as versions before manifests did, with Orbax's own manager."""
    policies = ocp.training.save_decision_policies, ocp.training.preservation_policies
    manager = ocp.training.Checkpointer(
        str(folder),
        save_decision_policy=policies[0].FixedIntervalPolicy(1),
        preservation_policy=policies[1].LatestN(2),
        cleanup_tmp_directories=True,
    )
    manager.save_checkpointables(step, {"state": new_state(step), "progress": NOTE})
    manager.close()


def test_a_run_of_before_manifests_goes_on_and_is_written_anew(tmp_path):
    write_old(tmp_path / "last", 1)
    said = Said()
    with Checkpoints(tmp_path, warn=said) as checkpoints:
        state, progress = checkpoints.resume(new_state(0))
        assert_same(state, new_state(1))
        assert progress == NOTE
        checkpoints.save("last", new_state(2), NOTE)
    assert [text.split("last/1 ")[1] for text in said] == [
        "was written before checkpoints had digests; it is not verified"
    ]
    with Checkpoints(tmp_path, warn=said) as checkpoints:
        assert checkpoints.steps("last") == [1, 2]
        assert_same(checkpoints.resume(new_state(0))[0], new_state(2))
    assert len(said) == 1
    (tmp_path / "last" / "2" / MANIFEST).unlink()  # this is no old one: it says so itself
    with Checkpoints(tmp_path, warn=said) as checkpoints:
        assert_same(checkpoints.resume(new_state(0))[0], new_state(1))
    assert "manifest.json is missing" in said[1]


def test_a_later_format_is_refused_by_name_and_left_alone(folder):
    from resnet_jax.training import manifest

    path = folder / "last" / "3" / MANIFEST
    content = json.loads(path.read_text())
    del content["digest"]
    path.write_text(manifest._text({**content, "format": 3}))
    with Checkpoints(folder) as checkpoints, pytest.raises(RunError, match=r"last/3 has format 3.*up to 2: update"):
        checkpoints.resume(new_state(0))
    assert path.is_file()
    path.write_text(path.read_text().replace('"format": 3', '"format": 2'))  # and a flipped bit is no later format
    with Checkpoints(folder, warn=Said()) as checkpoints:
        assert_same(checkpoints.resume(new_state(0))[0], new_state(2))
