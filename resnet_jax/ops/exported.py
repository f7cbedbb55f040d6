"""Exported programs that keep the compiled forms of this machine, on request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from jax import export

from resnet_jax.ops.native.build import FUNCTIONS

#: Part of the key of JAX's caches of traced and lowered functions, as the choice of plain forms is.
_for_this_machine = jax.make_user_context(default_value=False)


@contextlib.contextmanager
def exported_for_this_machine() -> Iterator[None]:
    """Keep the compiled forms in what :func:`jax.export.export` makes inside the ``with`` block.

    Without it an exported program has XLA's forms, to run anywhere. With it the artefact calls code that was compiled
    for this processor: it runs in any process in which ``resnet_jax.ops.native.available()`` was called before, which
    registers that code, and is true, on the same machine or one like it; elsewhere XLA says that it knows no such
    target. JAX allows calls that it does not know only by name: pass ``disabled_checks=native_calls()``.

    >>> with exported_for_this_machine():
    ...     artefact = export.export(jax.jit(lambda x: x), disabled_checks=native_calls())(1.0)
    """
    with _for_this_machine(True):
        yield


def native_calls() -> list[export.DisabledSafetyCheck]:
    """Return what an artefact with compiled forms must be allowed; see :func:`exported_for_this_machine`."""
    return [export.DisabledSafetyCheck.custom_call(f"resnet_jax_{name}") for name in FUNCTIONS]


def keeps_own_forms() -> bool:
    """Return whether what is exported now is to run on this machine."""
    return _for_this_machine.value
