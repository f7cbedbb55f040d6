"""What the tests of operations with compiled forms share."""

from __future__ import annotations

import jax
import pytest

from resnet_jax.ops import native


@pytest.fixture(params=["compiled", "plain"], scope="module")
def form(request):
    """Run a test with the compiled forms and without; nothing that the other left compiled is used.

    A test of one form alone asks for it: ``@pytest.mark.parametrize("form", ["compiled"], indirect=True)``.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(native, "available", lambda: False)
            patch.setattr(native, "takes", lambda spec, dtype: False)
            patch.setattr(native, "takes_finished", lambda *_, **__: False)
        elif not native.available():
            pytest.skip(f"nothing compiled: {native.status()}")
        jax.clear_caches()
        yield request.param
    jax.clear_caches()
