"""Old names work, and say at the user's line what to write."""

from __future__ import annotations

import importlib

import pytest

from resnet_jax import depth
from resnet_jax.runtime.deprecation import Renamed, renamed_argument


def test_an_old_name_is_the_new_one_and_warns_where_it_is_used():
    with pytest.warns(
        DeprecationWarning, match=r"resnet_jax\.depth\.Anatomy is .* 0\.1 .* 0\.2: use .*BlockNames"
    ) as said:
        assert depth.Anatomy is depth.BlockNames  # pyright: ignore[reportAttributeAccessIssue]
    assert [warning.filename for warning in said] == [__file__]
    with pytest.warns(DeprecationWarning, match="Anatomy") as said:
        from resnet_jax.depth import Anatomy  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]
    assert {warning.filename for warning in said} == {__file__}


def test_an_old_name_is_not_among_the_public_ones_and_others_are_unknown_as_before():
    assert "Anatomy" not in depth.__all__  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="depth attribute Anatomi"):
        _ = depth.Anatomi  # pyright: ignore[reportAttributeAccessIssue]
    assert importlib.import_module("resnet_jax.depth").profile is depth.profile


@renamed_argument("rate", Renamed("learning_rate", since="0.2", until="0.4"))
def step(learning_rate: float, momentum: float = 0.9) -> tuple[float, float]:
    """Return the arguments."""
    return learning_rate, momentum


def test_an_argument_by_its_old_name():
    with pytest.warns(DeprecationWarning, match=r"step\(rate=\) is deprecated .* use learning_rate=") as said:
        assert step(rate=0.1, momentum=0.5) == (0.1, 0.5)  # pyright: ignore[reportCallIssue]
    assert [warning.filename for warning in said] == [__file__]
    assert step(0.2) == step(learning_rate=0.2) == (0.2, 0.9)  # warnings are errors here: these give none
    with pytest.raises(TypeError, match="got learning_rate and rate, its old name"):
        step(learning_rate=0.1, rate=0.1)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="step"):
        step(speed=0.1)  # pyright: ignore[reportCallIssue]
    assert step.__doc__ == "Return the arguments."
