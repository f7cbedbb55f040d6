"""What ends one of several processes ends all: the store of JAX is a dict here, and leaving is written down."""

from __future__ import annotations

import json
import threading
import time

import jax
import pytest

from resnet_jax.errors import DataError, RunError
from resnet_jax.runtime import processes, together
from resnet_jax.runtime.together import ending_together


class Store:
    """The part of the client of ``jax.distributed`` that is used."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def key_value_set(self, key: str, value: str) -> None:
        if key in self.known:
            raise RuntimeError("ALREADY_EXISTS")
        self.known[key] = value

    def key_value_try_get(self, key: str) -> str:
        return self.known[key]

    def key_value_dir_get(self, prefix: str) -> list[tuple[str, str]]:
        return [pair for pair in self.known.items() if pair[0].startswith(prefix)]


@pytest.fixture
def store(monkeypatch) -> Store:
    """This process is the first of two; nobody else is there."""
    from jax._src import distributed

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 0)
    monkeypatch.setattr(distributed.global_state, "client", store := Store())
    for name, seconds in (("LOOK", 0.02), ("GRACE", 0.2), ("KNOWN", 0.1)):
        monkeypatch.setattr(together, name, seconds)
    monkeypatch.setattr(together, "_failed_alone", False)
    monkeypatch.setattr(together, "_lost_others", False)
    return store


def test_an_error_of_one_process_is_told_and_one_of_all_is_not(store):
    with pytest.raises(DataError, match="gone"), ending_together(), ending_together():
        raise DataError("3.jpg is gone")
    said, mine = (value for key, value in sorted(store.known.items()))
    assert mine == "3.jpg is gone"
    assert json.loads(said) == {"process": 0, "message": "3.jpg is gone", "status": 1}
    assert together.has_failed()
    store.known.clear()
    with pytest.raises(RunError, match="locked"), ending_together():
        raise processes.agreed(RunError("locked"))
    with ending_together():
        pass
    assert not store.known


def told(store: Store) -> None:
    """Let the other process fail in the block under way."""
    assert together._current is not None
    store.key_value_set(together._current._key, json.dumps({"process": 1, "message": "3.jpg is gone", "status": 2}))


def test_a_process_that_waits_for_one_that_failed_leaves_with_its_words(store, monkeypatch, capsys):
    left, gone = [], threading.Event()
    monkeypatch.setattr(together, "leave", lambda status, **_: (left.append(status), gone.set()))
    with ending_together():
        told(store)
        assert gone.wait(5)  # as a collective would
    assert left == [2]
    assert "process 1 has failed, and so all end: 3.jpg is gone" in capsys.readouterr().err


def test_a_process_that_ends_by_itself_is_left_alone(store, monkeypatch):
    left: list[int] = []
    monkeypatch.setattr(together, "leave", lambda status, **_: left.append(status))

    def run() -> None:
        told(store)
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")

    with pytest.raises(RunError, match=r"process 1 has failed, and so all end: 3\.jpg is gone"), ending_together():
        run()
    time.sleep(0.4)
    assert not left


def test_a_lost_connection_without_a_reason_says_what_to_do(store):
    said = r"the connection to another process was lost \(UNKNOWN: Gloo.*same command"
    with pytest.raises(RunError, match=said), ending_together():
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
    assert not store.known
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID"), ending_together():  # of this process alone
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes")
    assert all("INVALID_ARGUMENT" in value for value in store.known.values())


def test_an_error_that_all_processes_find_by_themselves_is_said_by_the_first(store, monkeypatch):
    monkeypatch.setattr(processes, "index", lambda: 1)
    found = []
    for of_the_first in ("another configuration", "something else"):
        error = RunError("another configuration")

        def run(said: str = of_the_first, error: RunError = error) -> None:
            assert together._current is not None
            store.key_value_set(f"{together._current._key}/0", said)
            raise error

        with pytest.raises(RunError), ending_together():
            run()
        found.append(processes.is_agreed(error))
    assert found == [True, False]


def test_one_process_does_nothing_of_it(monkeypatch):
    monkeypatch.setattr(together, "_Together", None)
    with pytest.raises(DataError), ending_together():
        raise DataError("gone")
