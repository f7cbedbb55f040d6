"""What happened to a run, an event a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resnet_jax.report.text import visible

Event = Mapping[str, Any]


def line(event: Event) -> str:
    """Return when and what: ``2026-11-29 10:30:01  save  checkpoint last of step 50, ...``.

    >>> line({"time": "2026-11-29T10:30:01.250+00:00", "event": "stop", "step": 1200, "reason": "SIGTERM"})
    '2026-11-29 10:30:01  stop           after step 1,200: SIGTERM'
    """
    when = str(event.get("time", ""))[:19].replace("T", " ")
    return visible(f"{when:<19}  {event['event']!s:<13}  {sentence(event)}")


def sentence(event: Event) -> str:
    """Return what happened; of an event that is not known here, its facts.

    >>> sentence({"event": "restore", "step": 40, "repeated": 3})
    'resumed after step 40; 3 steps are repeated'
    >>> sentence({"event": "mine", "time": "", "colour": "red"})
    'colour red'
    """
    say = _SENTENCES.get(str(event["event"]))
    if say is not None:
        try:
            return say(event)
        except (KeyError, TypeError, ValueError):  # of another version, or edited
            pass
    return ", ".join(f"{name} {_short(value)}" for name, value in event.items() if name not in ("time", "event"))


def _start(event: Event) -> str:
    devices = int(event["devices"])
    rest = f", {devices:,} {'device' if devices == 1 else 'devices'}"
    version = f", resnet-jax {event['version']}" if "version" in event else ""
    return f"process {event['process']} on {event['host']}{rest}{version}"


def _restore(event: Event) -> str:
    repeated = int(event.get("repeated") or 0)
    again = f"; {repeated:,} {'step is' if repeated == 1 else 'steps are'} repeated" if repeated else ""
    return f"resumed after step {event['step']:,}{again}"


def _save(event: Event) -> str:
    blocked = f", {event['blocked']:.3f} s of that in the way of training" if "blocked" in event else ""
    took = f"{_size(event['bytes'])} in {event['seconds']:.2f} s{blocked}"
    return f"checkpoint {event['kind']} of step {event['step']:,}, {took}"


def _damaged(event: Event) -> str:
    aside = event.get("set_aside")
    return f"{event['what']}: {event['reason']}" + (f"; set aside as {aside}" if aside else "")


def _reject(event: Event) -> str:
    member = f" of member {event['member']}" if "member" in event else ""
    count = f", {event['rejected']:,} in a row" if isinstance(event.get("rejected"), int) else ""
    numbers = f"loss {_number(event['loss'])}, gradient {_number(event['grad_norm'])}"
    return f"update {event['step']:,}{member}: {numbers}{count}"


def _rollback(event: Event) -> str:
    return f"loss {_number(event['loss'])} at step {event['step']:,}: back to step {event['to']:,}, in another order"


def _write_failed(event: Event) -> str:
    lost = f"{event['lost']:,} rows are missing" if "lost" in event else "its rows wait in memory"
    return f"{event['what']}: {event['reason']}; {lost}"


_SENTENCES: dict[str, Callable[[Event], str]] = {
    "start": _start,
    "restore": _restore,
    "save": _save,
    "save_failed": lambda e: f"checkpoint {e['kind']} of step {e['step']:,} could not be written: {e['reason']}",
    "interval": lambda e: f"a checkpoint every {e['steps']:,} steps from now on",
    "damaged": _damaged,
    "fallback": lambda e: f"checkpoint {e['kind']} of step {e['step']:,} in place of that of step {e['instead_of']:,}",
    "reject": _reject,
    "rollback": _rollback,
    "write_failed": _write_failed,
    "write_resumed": lambda e: f"{e['what']} can be written again, and has all its rows",
    "left_out": lambda e: f"{e['count']:,} events of the middle were left out: the log was too long",
    "stop": lambda e: f"after step {e['step']:,}: {e['reason']}",
    "end": lambda e: f"after step {e['step']:,}: {e['reason']}",
}


def _number(value: Any) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,} bytes"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
