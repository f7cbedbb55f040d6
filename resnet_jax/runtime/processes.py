"""The processes of one training: the index of this one, and what they must agree on. A single process always agrees.

Devices are handled by JAX; this module is about the hosts: which one writes files and prints, and decisions that all
must make alike because the next program that they run together would otherwise wait forever.

Every function below :func:`is_main` must be called by all processes, in the same order.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from resnet_jax import errors

Result = TypeVar("Result")
Failure = TypeVar("Failure", bound=BaseException)

#: Approximate seconds between two exchanges of requests.
EVERY = 1.0
#: Maximum number of calls between two exchanges.
MOST_CALLS = 1000


def index() -> int:
    """Return the index of this process, from 0."""
    import jax

    return jax.process_index()


def count() -> int:
    """Return the number of processes."""
    import jax

    return jax.process_count()


def is_main() -> bool:
    """Return whether this process is the one that writes files and prints."""
    return index() == 0


def barrier(name: str) -> None:
    """Wait until every process has reached this point; ``name`` identifies it, the same in all of them."""
    if count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def greatest(values: Any) -> Any:
    """Return the maximum of each number over the processes, float64 (n,)."""
    import numpy as np

    values = np.asarray(values, np.float64)
    if count() == 1:
        return values
    from jax.experimental import multihost_utils

    # as bytes: JAX would turn float64 into float32, which changes even a time in seconds
    gathered = multihost_utils.process_allgather(np.frombuffer(values.tobytes(), np.uint8))
    return np.frombuffer(np.ascontiguousarray(gathered).tobytes(), np.float64).reshape(count(), -1).max(axis=0)


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return bool(greatest([flag])[0])


def from_main(value: Any) -> Any:
    """Return the main process's value (plain JSON: numbers, strings, lists, dicts) in every process."""
    if count() == 1:
        return value
    import json

    import numpy as np
    from jax.experimental import multihost_utils

    text = json.dumps(value).encode() if is_main() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    buffer = np.zeros(size, np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))))


def gathered(value: Any) -> list[Any]:
    """Return the values (plain JSON) of all processes, in order, in every process."""
    if count() == 1:
        return [value]
    import json

    import numpy as np
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = greatest([len(text) if number == index() else 0 for number in range(count())]).astype(int)
    buffer = np.zeros(sizes.max(), np.uint8)
    buffer[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(buffer))
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def require_same(value: Any, what: str) -> None:
    """Refuse to continue if a value (plain JSON) is not the same in all processes.

    Args:
        value: the value of this process.
        what: its name for the message.

    Raises:
        RunError: if it differs, in all processes.
    """
    values = gathered(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise agreed(
                errors.RunError(f"{what} is {values[0]!r} in process 0 and {other!r} in process {number} of {count()}")
            )


def on_main(work: Callable[[], Result]) -> Result | None:
    """Run ``work`` in the main process, while the others wait; an exception is raised in all of them.

    It starts once all processes have reached this point, so it may change what they have read before.

    Returns:
        Its return value in the main process; None in the others.

    Raises:
        ResNetJaxError: the main process's own error, in every process: of the same class, with the same words.
    """
    if count() == 1:
        return work()
    barrier("before the main process")
    result, failed = None, None
    if is_main():
        try:
            result = work()
        except errors.ResNetJaxError as error:
            failed = error
    raised = from_main(None if failed is None else [type(failed).__name__, str(failed)])
    if failed is not None:
        raise agreed(failed)
    if raised is not None:
        kind = getattr(errors, raised[0], errors.RunError)
        kind = kind if kind is not errors.CheckError else errors.RunError
        raise agreed(kind(raised[1]))
    return result


@contextlib.contextmanager
def held_by_main(holds: Callable[[], contextlib.AbstractContextManager[Result]]) -> Iterator[Result | None]:
    """Hold something in the main process within the block, such as a lock; no process continues without it.

    Args:
        holds: returns the context manager; an exception on entry is raised in all processes.

    Yields:
        What the context manager yields in the main process; None in the others.
    """
    with contextlib.ExitStack() as stack:
        yield on_main(lambda: stack.enter_context(holds()))


def agreed(error: Failure) -> Failure:
    """Mark an error as one that every process raises here, so that none needs to be told of it."""
    error.in_all_processes = True  # pyright: ignore[reportAttributeAccessIssue]
    return error


def is_agreed(error: BaseException) -> bool:
    """Return whether an error is raised in every process alike."""
    return bool(getattr(error, "in_all_processes", False)) or count() == 1


def fetched(tree: Any) -> Any:
    """Return the arrays of a tree on the host, complete in every process, wherever their parts are.

    One array at a time, so that no device has to hold more than one of them completely.
    """
    import jax

    if count() == 1:
        return jax.device_get(tree)

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)


class Agreement:
    """A decision that all processes make alike after a call of a program that they run together, such as to stop.

    Requests are exchanged after a number of calls that is the same in all processes: about once a second, given the
    time that the slowest process takes for a call, so that no step waits for the network. A single process gets its
    request at once.

    Args:
        every: seconds between two exchanges.
        exchange: numbers of this process -> the maximum over all processes.
        alone: whether there is only one process.
        clock: returns the time in seconds.

    >>> Agreement(alone=True).after_call(stop=2.0, save=0.0)
    {'stop': 2.0, 'save': 0.0}
    """

    def __init__(
        self,
        *,
        every: float = EVERY,
        exchange: Callable[[Any], Any] = greatest,
        alone: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every, self._exchange, self._clock = every, exchange, clock
        self.alone = count() == 1 if alone is None else alone
        self._since, self._until, self._began = 0, 1, clock()
        self._wishes: dict[str, float] = {}

    @property
    def due(self) -> bool:
        """Whether the next :meth:`after_call` exchanges requests, the same in all processes."""
        return self.alone or self._since + 1 >= self._until

    def after_call(self, **wishes: float) -> dict[str, float]:
        """Return the requests of the processes, the maximum of each; all 0 if no exchange is due.

        A request is kept until it has been exchanged.

        Args:
            **wishes: requests of this process, 0 for no; the same names in all of them.
        """
        if self.alone:
            return wishes
        for name, wish in wishes.items():
            self._wishes[name] = max(wish, self._wishes.get(name, 0.0))
        exchanges, self._since = self.due, self._since + 1
        if not exchanges:
            return dict.fromkeys(wishes, 0.0)
        names, seconds = sorted(wishes), (self._clock() - self._began) / self._since
        *found, slowest = self._exchange([*(self._wishes[name] for name in names), seconds])
        self._since, self._until = 0, self._calls(float(slowest))
        self._wishes, self._began = {}, self._clock()
        return {name: float(value) for name, value in zip(names, found, strict=True)}

    def _calls(self, seconds: float) -> int:
        """Return how many calls of this duration come before the next exchange."""
        return int(min(max(self._every / seconds if seconds > 0 else MOST_CALLS, 1), MOST_CALLS))


def describe() -> Mapping[str, int]:
    """Return the index of this process and the number of processes, for records."""
    return {"process": index(), "processes": count()}
