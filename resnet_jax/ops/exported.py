"""Exported programs that keep this machine's compiled forms, on request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from jax import export

from resnet_jax.ops.native.build import FUNCTIONS

#: Part of the key of JAX's caches of traced and lowered functions, like the choice of plain forms.
_for_this_machine = jax.make_user_context(default_value=False)


@contextlib.contextmanager
def exported_for_this_machine() -> Iterator[None]:
    """Keep the compiled forms in the results of :func:`jax.export.export` inside the ``with`` block.

    Otherwise an exported program uses XLA's forms and runs anywhere. With this, it calls code that was compiled for
    this processor. It then runs in any process on this machine, or one like it, in which
    ``resnet_jax.ops.native.available()`` has been called, which registers that code, and has returned True; elsewhere
    XLA reports an unknown target. JAX allows calls that it does not know only by name: pass
    ``disabled_checks=native_calls()``.

    >>> with exported_for_this_machine():
    ...     artefact = export.export(jax.jit(lambda x: x), disabled_checks=native_calls())(1.0)
    """
    with _for_this_machine(True):
        yield


def native_calls() -> list[export.DisabledSafetyCheck]:
    """Return what an export with compiled forms must be allowed; see :func:`exported_for_this_machine`."""
    return [export.DisabledSafetyCheck.custom_call(f"resnet_jax_{name}") for name in FUNCTIONS]


def keeps_own_forms() -> bool:
    """Return whether exports are currently made for this machine."""
    return _for_this_machine.value
