"""One network's variables for another: complete, exact, or refused with everything that differs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import UsageError
from resnet_jax.models import create_model
from resnet_jax.weights.transfer import require_fit, transfer
from tests.tools import random_variables

SMALL = {"stage_sizes": (1, 1), "widths": (4, 8)}


def _model(**choices):
    return create_model("resnet20_cifar", **{**SMALL, **choices})


def _variables(seed: int = 0, **choices) -> dict:
    model = _model(**choices)
    return random_variables(model, (8, 8, model.config.in_channels), seed)


def _flat(tree: dict) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(tree, sep="/").items()}


def test_the_same_network_gets_every_bit() -> None:
    source, fresh = _variables(0), _variables(1)
    got = transfer(source, _model(), fresh)
    assert jax.tree.structure(got) == jax.tree.structure(jax.tree.map(np.asarray, source))
    for path, array in _flat(source).items():
        np.testing.assert_array_equal(_flat(got)[path], array)


def test_a_new_classifier_is_the_fresh_one_and_nothing_else_is() -> None:
    source, fresh = _variables(0), _variables(1, num_classes=3)
    got = _flat(transfer(source, _model(num_classes=3), fresh, head="new"))
    for path, array in got.items():
        expected = _flat(fresh if path.startswith("params/head/") else source)[path]
        np.testing.assert_array_equal(array, expected)


def test_new_is_new_even_if_the_classes_are_as_many() -> None:
    source, fresh = _variables(0), _variables(1)
    got = _flat(transfer(source, _model(), fresh, head="new"))
    np.testing.assert_array_equal(got["params/head/kernel"], fresh["params"]["head"]["kernel"])


def test_a_network_without_a_classifier_takes_the_rest() -> None:
    got = transfer(_variables(), _model(num_classes=0), {}, head="new")
    assert "head" not in got["params"]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_averaged_channels_answer_equal_channels_as_before(channels: int) -> None:
    source = _variables(0)
    model = _model(in_channels=channels)
    got = transfer(source, model, {}, stem="mean")
    assert got["params"]["stem"]["conv"]["kernel"].shape == (3, 3, channels, 4)
    grey = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    before, after = (
        jax.jit(lambda v, x, m=m: m.apply(v, x, train=False))(v, np.repeat(grey, m.config.in_channels, -1))
        for m, v in ((_model(), source), (model, got))
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_asking_for_the_mean_of_equal_channels_changes_nothing() -> None:
    source = _variables(0)
    got = _flat(transfer(source, _model(), {}, stem="mean"))
    np.testing.assert_array_equal(got["params/stem/conv/kernel"], source["params"]["stem"]["conv"]["kernel"])


def test_what_does_not_change_shapes_may_differ_and_dtypes_are_the_new_ones() -> None:
    source = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _variables(0))
    got = transfer(source, _model(activation="silu"), {})
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}


def test_a_network_without_statistics() -> None:
    got = transfer(_variables(norm="layer"), _model(norm="layer"), {})
    assert got["batch_stats"] == {}


@pytest.mark.parametrize(
    ("source", "target", "handled", "message"),
    [
        ({"num_classes": 3}, {}, {}, "params/head/kernel is (8, 3); need (8, 10): 3 classes instead of 10"),
        ({"num_classes": 3}, {}, {}, "head/bias is (3,); need (10,): 3 classes instead of 10; head 'new'"),
        ({"in_channels": 1}, {}, {"head": "new"}, "1 input channels instead of 3; stem 'mean' averages them"),
        ({"stem": "deep", "in_channels": 1}, {"stem": "deep"}, {}, "params/stem/conv1/kernel is (3, 3, 1, 2)"),
        ({"widths": (4, 16)}, {}, {"head": "new", "stem": "mean"}, "params/stage2/block0/branch/conv1/kernel is"),
        ({"widths": (8, 8)}, {}, {"stem": "mean"}, "params/stem/conv/kernel is (3, 3, 3, 8); need (3, 3, 3, 4)"),
        ({"stage_sizes": (2, 1)}, {}, {}, "unexpected params/stage1/block1/branch/conv1/kernel (3, 3, 4, 4)"),
        ({}, {"stage_sizes": (2, 1)}, {}, "missing params/stage1/block1/branch/conv1/kernel (3, 3, 4, 4)"),
        ({"norm": "layer"}, {}, {}, "missing batch_stats/stem/norm/mean (4,)"),
        ({"num_classes": 0}, {}, {}, "missing params/head/kernel (8, 10)"),
        ({}, {"num_classes": 0}, {}, "unexpected params/head/kernel (8, 10)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(source: dict, target: dict, handled: dict, message: str) -> None:
    with pytest.raises(UsageError, match="these variables do not fit the network") as caught:
        transfer(_variables(**source), _model(**target), {}, **handled)
    assert message in str(caught.value)


def test_all_faults_are_listed_and_counted() -> None:
    flat = _flat(_variables())
    flat["params/extra"] = flat.pop("params/stem/norm/scale")
    flat["batch_stats/stem/norm/mean"] = np.zeros(7)
    with pytest.raises(UsageError, match="3 faults") as caught:
        require_fit(unflatten_dict(flat, sep="/"), _model())
    assert [line.split()[0] for line in str(caught.value).splitlines()[1:]] == [
        "missing", "unexpected", "batch_stats/stem/norm/mean",
    ]  # fmt: skip


def test_a_standardized_stem_is_not_averaged() -> None:
    """Standardization would undo the scale that keeps the response."""
    choices = {"norm": "layer", "weight_standardization": "standard"}
    with pytest.raises(UsageError, match=r"would not keep the response .* weight_standardization is standard"):
        transfer(_variables(in_channels=1, **choices), _model(**choices), {}, stem="mean")


@pytest.mark.parametrize(
    ("handled", "why"),
    [({"head": "nwe"}, "unknown head 'nwe'; did you mean 'new'"), ({"stem": "maen"}, "unknown stem 'maen'")],
)
def test_unknown_words_are_refused(handled: dict, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        transfer({"params": {"w": jnp.zeros(())}}, _model(), {}, **handled)
