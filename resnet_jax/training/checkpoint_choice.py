"""Which checkpoint to load and which to keep: the first intact one in order of preference.

Only the main process looks; :class:`~resnet_jax.training.checkpoint.Checkpoints` tells the others what it found.
"""

from __future__ import annotations

from collections.abc import Callable

from resnet_jax.errors import DamagedError, RunError
from resnet_jax.runtime import processes
from resnet_jax.runtime.events import EventLog
from resnet_jax.training.checkpoint_folder import KINDS, CheckpointFolder, Entry, Kind
from resnet_jax.training.manifest import Score, read_manifest, verify
from resnet_jax.training.retention import Keep, ranked, superfluous_best, superfluous_last

#: The position in the message that no checkpoint is left where findings are inserted, before the advice.
NO_OTHER = ". No other"


class Choice:
    """Looks through the checkpoints of a folder.

    Args:
        folder: the folder of the checkpoints.
        owner: whether the caller is the run itself, which sets damaged checkpoints aside and deletes superfluous ones.
        events: the log that records what happens.
        warn: called with a line for everything the user needs to know.
        keep: how many checkpoints of each kind to keep.

    Attributes:
        stale: steps from an abandoned continuation of the run, which will be made again, or others instead.
        passed_over: damaged checkpoints that stay where they are.
    """

    def __init__(
        self, folder: CheckpointFolder, *, owner: bool, events: EventLog, warn: Callable[[str], None], keep: Keep
    ) -> None:
        self.folder, self._owner, self._events, self._warn, self._keep = folder, owner, events, warn, keep
        self._is_cleared = not owner
        self.stale: dict[Kind, set[int]] = {kind: set() for kind in KINDS}
        self.passed_over: set[tuple[Kind, int]] = set()

    def choose(self, kind: Kind, newest_first: bool, at_most: int | None) -> tuple[int, bool]:
        """Return the step of the first intact checkpoint, and whether it has a manifest to confirm this."""
        damaged: list[tuple[int, str]] = []
        while True:
            steps = [step for step in self._preferred(kind, newest_first) if (kind, step) not in self.passed_over]
            steps = [step for step in steps if at_most is None or step <= at_most]
            if not steps:
                raise self._none_left(kind, [text for _, text in damaged])
            step = steps[0]
            try:
                manifest = verify(self.folder.complete(kind, step), step)
            except DamagedError as error:
                if step in self.listed(kind):  # else its run has deleted it meanwhile, as it is not kept
                    damaged.append((step, self._damaged(kind, step, str(error))))
                continue
            if damaged:
                self.say(f"{'; '.join(text for _, text in damaged)}; {kind}/{step} is used instead")
                self._events.add("fallback", kind=kind, step=step, instead_of=damaged[0][0])
            return step, manifest is not None

    def _damaged(self, kind: Kind, step: int, reason: str) -> str:
        """Set a damaged checkpoint aside; return the message about it."""
        place = self.folder.set_aside(kind, step) if self._owner else None
        if place is None:
            self.passed_over.add((kind, step))
        said = f"the checkpoint {self.folder.complete(kind, step)} is damaged: {reason}"
        self._events.add(
            "damaged", what=f"{kind}/{step}", reason=reason, set_aside=None if place is None else str(place)
        )
        return said if place is None else f"{said}; it was set aside as {place.relative_to(self.folder.path)}"

    def _none_left(self, kind: Kind, damaged: list[str]) -> RunError:
        aside = self.folder.damaged(kind)
        if not damaged and not aside:
            return RunError(f"no {kind!r} checkpoint in {self.folder.path}")
        found = "; ".join(damaged) or f"no intact {kind!r} checkpoint in {self.folder.path}: {len(aside)} set aside"
        other: Kind = "best" if kind == "last" else "last"
        rest = f"There is a {other!r} checkpoint too. " if self.listed(other) else ""
        return DamagedError(
            f"{found}{NO_OTHER} {kind!r} checkpoint is left. {rest}Copy the checkpoints back from elsewhere, or, "
            f"to start over, delete {self.folder.path} or give another run directory"
        )

    def _preferred(self, kind: Kind, newest_first: bool) -> list[int]:
        """Return the steps that may be loaded, in order of preference."""
        if kind == "last" or newest_first:
            return [step for step in reversed(self.listed(kind)) if step not in self.stale[kind]]
        current = ranked(self.current_best())
        stale = ranked(entry for entry in self._best() if entry.step in self.stale["best"])
        broken = self._broken_best()  # nobody knows what they were: they are named before another is taken for the best
        return [*broken, *(entry.step for entry in (*current, *stale) if entry.step not in broken)]

    def listed(self, kind: Kind) -> list[int]:
        """Return the steps of the complete checkpoints, oldest first."""
        self.clear()
        return self.folder.steps(kind)

    def _best(self) -> list[Entry]:
        return [Entry(step, self._score(step)) for step in self.listed("best")]

    def current_best(self) -> list[Entry]:
        """Return the ``best`` checkpoints that are not from an abandoned continuation."""
        return [entry for entry in self._best() if entry.step not in self.stale["best"]]

    def _score(self, step: int) -> Score | None:
        try:
            manifest = read_manifest(self.folder.complete("best", step))
        except RunError:  # damaged: it is found when it is loaded
            return None
        return None if manifest is None else manifest.score

    def _broken_best(self) -> list[int]:
        """Return the steps of the ``best`` checkpoints whose manifest is damaged."""
        found = []
        for step in self.listed("best"):
            try:
                read_manifest(self.folder.complete("best", step))
            except DamagedError:
                found.append(step)
            except RunError:  # of a later format
                continue
        return found

    def go_back_to(self, step: int) -> None:
        """Mark everything saved after ``step`` as abandoned, because those steps will be made again or replaced."""
        if self._owner:
            for kind in KINDS:
                self.stale[kind] |= {later for later in self.folder.steps(kind) if later > step}

    def tidy(self) -> None:
        """Delete superfluous checkpoints."""
        last = self.folder.steps("last")
        going = superfluous_last(last, self._keep, self.stale["last"])
        staying = [step for step in last if step not in going]
        best = superfluous_best(self._best(), staying, self._keep, self.stale["best"])
        self.folder.remove("last", going)
        self.folder.remove("best", set(best) - set(self._broken_best()))

    def clear(self, *, again: bool = False) -> None:
        """Delete what a killed process left behind; once, unless asked again."""
        if (again or not self._is_cleared) and processes.is_main():
            self._is_cleared = True
            for kind in KINDS:
                self.folder.clear(kind)

    def say(self, text: str) -> None:
        """Print a message in the main process."""
        if processes.is_main():
            self._warn(text[:1].upper() + text[1:])
