"""The loop's decision at the end of a call: continue, end the run, or stop the session. Nothing else decides it.

With several processes, all must decide alike, because all of them run the next program together.
"""

from __future__ import annotations

import dataclasses
import signal

from resnet_jax.runtime.processes import Agreement, is_main
from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.session import Session


@dataclasses.dataclass(frozen=True)
class Decision:
    """What follows from the steps so far, and from what happened meanwhile.

    Attributes:
        over: the run ends here: all steps are done, or the time is up.
        stop: the session was asked to stop, in any process.
        saves: a wall-clock save is due.
    """

    over: bool
    stop: bool
    saves: bool = False


def decide(
    step: int, session: Session, stop: StopRequest | None, agreement: Agreement | None = None, *, saves: bool = False
) -> Decision:
    """Make the decision, once per call.

    Args:
        step: number of updates done.
        session: provides the plan and the clock.
        stop: the stop request. Afterwards, it holds the signal in every process.
        agreement: the agreement between processes; None for a single process.
        saves: whether this process finds that a wall-clock save is due.
    """
    agreement = agreement or Agreement(alone=True)
    if agreement.due and not agreement.alone:
        session.drain()  # so that the calls in flight are over before the next program, which only exchanges
    asked = float(stop.signal or 0.5) if stop else 0.0  # a half: asked for, and by no signal
    saves = saves and (agreement.alone or is_main())  # one clock, or each of them would have a save of its own
    agreed = agreement.after_call(stop=asked, over=session.out_of_time, saves=saves)
    if stop is not None and agreed["stop"] >= 1:
        stop.signal = signal.Signals(int(agreed["stop"]))
    over = step == session.plan.total_steps or bool(agreed["over"])
    return Decision(over=over, stop=bool(agreed["stop"]), saves=bool(agreed["saves"]))
