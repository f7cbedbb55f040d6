"""Labels and targets are matched by name; nothing is guessed, and what is not plain is said."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.data.columns import match_labels, match_targets
from resnet_jax.errors import UsageError

WHERE = {"source": "s", "network": "net"}
ROWS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)


def test_labels_go_to_the_columns_of_their_names():
    found, said = match_labels(ROWS, ["b", "a", "z"], ["a", "b"], **WHERE)
    np.testing.assert_array_equal(found, ROWS[:, [1, 0]])  # nobody has z
    assert "another one in the network" in said[0]
    assert match_labels(ROWS, ["a", "b", "c"], ["a", "b", "c"], **WHERE)[1] == ()


def test_labels_that_the_source_does_not_know_are_in_no_example_and_named():
    found, said = match_labels(ROWS[:, :2], ["a", "b"], ["a", "c", "b"], **WHERE)
    np.testing.assert_array_equal(found[:, 1], 0)
    assert said == ("labels that s does not have, taken to be in none of its examples: c",)


def test_labels_that_the_network_does_not_know_are_refused():
    with pytest.raises(UsageError, match=r"does not know catt \(nearest: 'cat'\)"):
        match_labels(ROWS[:, :2], ["catt", "dog"], ["cat", "dog"], **WHERE)


def test_targets_go_to_the_columns_of_their_names():
    values = np.array([[1.0, 2.0, 3.0]])
    found, said = match_targets(values, ["x", "y", "z"], ["z", "x"], **WHERE)
    np.testing.assert_array_equal(found, [[3.0, 1.0]])
    assert said == ("targets of s that the network does not predict, left out: y",)
    assert "order" in match_targets(values[:, :2], ["x", "y"], ["y", "x"], **WHERE)[1][0]
    with pytest.raises(UsageError, match=r"no wide \(nearest: 'width'\)"):
        match_targets(values[:, :2], ["width", "x"], ["wide", "x"], **WHERE)


def test_one_target_is_taken_for_the_other_and_it_is_said():
    found, said = match_targets(np.array([1.0, 2.0]), ["value"], ["age"], **WHERE)
    assert (found.shape, said) == ((2, 1), ("target value of s is taken for the network's age",))
