"""What the loop does at the end of a call: go on, end the run, or stop the session. The only place that decides it.

Over several processes all of them have to decide alike, for the next program is run by all of them together.
"""

from __future__ import annotations

import dataclasses

from resnet_jax.training.interrupt import StopRequest
from resnet_jax.training.session import Session


@dataclasses.dataclass(frozen=True)
class Decision:
    """What follows from the steps so far, and from what happened meanwhile.

    Attributes:
        over: the run ends here: all its steps are made, or its time is up.
        stop: somebody asked for the session to stop.
    """

    over: bool
    stop: bool


def decide(step: int, session: Session, stop: StopRequest | None) -> Decision:
    """Decide after a call, once a call.

    Args:
        step: updates done.
        session: knows the plan and the clock.
        stop: whether somebody asked.
    """
    return Decision(over=step == session.plan.total_steps or session.out_of_time, stop=bool(stop))
