"""One measurement in a separate process: ``python -m resnet_jax.bench.child NAME '{...}'``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from resnet_jax.errors import ResNetJaxError, RunError, UsageError

#: What a child returns instead of a result, with the message.
_REFUSED = "refused by resnet_jax"


def run_child(name: str, spec: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run the measurement ``name`` in a new process and return its result.

    Raises:
        UsageError: the child's message about an invalid request.
        RunError: if it failed: its message, or the last line it wrote.
    """
    command = [sys.executable, "-m", "resnet_jax.bench.child", name, json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    if done.returncode != 0:
        if (said := _refused(done.stdout)) is not None:
            raise (UsageError if done.returncode == UsageError.exit_code else RunError)(said)
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        from resnet_jax.training.need import explain_end

        end = explain_end(f"it ended with {done.returncode}: {lines[-1]}")
        raise RunError(f"{spec['model']['name']}: the process that measures {name}: {end}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _refused(out: str) -> str | None:
    """Return the message of a foreseen error of the measurement; None if it ended otherwise."""
    lines = out.strip().splitlines()
    return json.loads(lines[-1])[_REFUSED] if lines and lines[-1].startswith(f'{{"{_REFUSED}"') else None


def first_step(spec: dict[str, Any]) -> dict[str, Any]:
    """Build, initialize, compile and make one train step; the clock starts after the imports."""
    import jax

    from resnet_jax.bench.ours import Ours, environment, on_this_device
    from resnet_jax.bench.workload import Workload

    hits: list[str] = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event) if event == "/jax/compilation_cache/cache_hits" else None
    )
    found = environment()  # with the native convolutions, compiled once for a machine and not for a process
    began = time.perf_counter()
    ours = Ours(on_this_device(Workload.from_dict(spec)))
    ours.dispatch()
    ours.wait()
    took = time.perf_counter() - began
    return {**ours.facts, "first_step_seconds": took, "cache_hits": len(hits), **found}


def plan(spec: dict[str, Any]) -> dict[str, Any]:
    """Compile for as many simulated devices as the environment creates; nothing runs."""
    from resnet_jax.bench.plan import compile_plan
    from resnet_jax.bench.workload import Workload

    return compile_plan(Workload.from_dict(spec))


def chips(spec: dict[str, Any]) -> dict[str, Any]:
    """Compile for described chips; nothing runs."""
    from resnet_jax.bench.chips.compiled import compile_for_chips

    return compile_for_chips(spec)


def main() -> None:
    """Run the measurement named on the command line."""
    name, spec = sys.argv[1:]
    try:
        result = {"first_step": first_step, "plan": plan, "chips": chips}[name](json.loads(spec))
    except ResNetJaxError as error:
        print(json.dumps({_REFUSED: str(error)}))
        sys.exit(error.exit_code)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
