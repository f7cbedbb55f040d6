"""What the tests of operations with compiled forms share."""

from __future__ import annotations

import jax
import pytest

from resnet_jax.ops import native


@pytest.fixture(params=["compiled", "plain"])
def form(request, monkeypatch):
    """Run a test with the compiled forms and without; nothing that the other left compiled is used."""
    if request.param == "plain":
        monkeypatch.setattr(native, "available", lambda: False)
    elif not native.available():
        pytest.skip("no C++ compiler")
    jax.clear_caches()
    yield request.param
    jax.clear_caches()
