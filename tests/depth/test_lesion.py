"""Lesions against networks cut by hand, and the paths of the gradient against all of them."""

from __future__ import annotations

import functools
import itertools
from math import lgamma

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom, kendalltau

from resnet_jax import ops
from resnet_jax.depth import Deletions, delete_blocks, load_arrays, path_lengths, permute_blocks, save_arrays
from resnet_jax.depth.lesion import reorder
from resnet_jax.depth.paths import PathLengths, gradient_through
from resnet_jax.depth.profiling import chart_of, profile
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockNames, instrumented
from resnet_jax.models import ResNet, ResNetConfig, create_model, init_variables
from resnet_jax.models.collections import GATES
from resnet_jax.models.layout import stack
from resnet_jax.tasks.losses import cross_entropy
from resnet_jax.training.compile import INIT_OPTIONS
from resnet_jax.weights import load_state_dict, to_variables
from tests.tools import random_variables

SHAPE = (4, 4, 3)


def network(**choices) -> ResNet:
    choices = {"stem": "cifar", "num_classes": 3, "shortcut": "A", **choices}
    sizes = choices.pop("stage_sizes", (2, 4))
    return ResNet(ResNetConfig(sizes, (2, 4)[: len(sizes)], **choices))


def variables_of(model):
    plain = ResNet(ResNetConfig(**{**model.config.__dict__, "execution": "unroll"}))
    return jax.tree.map(jnp.asarray, stack(random_variables(plain, SHAPE), model.config.execution))


def data(n=10):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, 3, n)


@functools.cache
def applied(model):
    return jax.jit(lambda variables, images: model.apply(variables, images, train=False))


def score(model, variables, images, labels):
    logits = applied(model)(variables, images)
    return float(np.mean(np.argmax(logits, -1) == labels)), float(jnp.mean(cross_entropy(logits, labels)))


def silenced(variables, *names):
    """Return variables of which some blocks' branches give 0: the last norm has neither scale nor bias."""
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    for name in names:
        stage, block = name.split("/")
        params[stage][block]["branch"]["norm2"] = jax.tree.map(jnp.zeros_like, params[stage][block]["branch"]["norm2"])
    return {**variables, "params": params}


@pytest.mark.parametrize("execution", [pytest.param("unroll", marks=pytest.mark.slow), "scan"])
def test_a_block_taken_out_is_one_whose_branch_is_zero(execution):
    sizes = (1, 3)
    listed, model = network(stage_sizes=sizes), network(stage_sizes=sizes, execution=execution)
    images, labels = data()
    variables = variables_of(listed)
    found = delete_blocks(model, variables_of(model), images, labels, counts=(2,), draws=3, batch_size=4)
    assert found.names == ("stage1/block0", "stage2/block0", "stage2/block1", "stage2/block2")
    whole = score(listed, variables, images, labels)
    assert (found.whole_accuracy, found.whole_loss) == pytest.approx(whole)
    for row, name in enumerate(found.names):
        expected = score(listed, silenced(variables, name), images, labels)
        np.testing.assert_allclose((found.accuracy[row], found.loss[row]), expected, rtol=1e-5)
    pairs = [
        score(listed, silenced(variables, *pair), images, labels)[1] for pair in itertools.combinations(found.names, 2)
    ]
    for loss in found.several_loss[0]:
        assert np.abs(np.asarray(pairs) - loss).min() < 1e-5
    assert len(set(found.several_loss[0].tolist())) > 1


def test_a_plain_block_is_passed_by_where_shapes_permit():
    model = network(stage_sizes=(1, 3), shortcut="none")
    images, labels = data()
    variables = variables_of(model)
    found = delete_blocks(model, variables, images, labels)
    np.testing.assert_array_equal(np.isnan(found.loss), [False, True, False, False])
    shorter = network(stage_sizes=(1, 2), shortcut="none")
    for out in (1, 2):
        keep = [index for index in range(3) if index != out]
        cut = {
            collection: {
                **tree, "stage2": {f"block{new}": tree["stage2"][f"block{old}"] for new, old in enumerate(keep)}
            }
            for collection, tree in variables.items()
        }  # fmt: skip
        expected = score(shorter, cut, images, labels)
        np.testing.assert_allclose((found.accuracy[1 + out], found.loss[1 + out]), expected, rtol=1e-5)


@pytest.mark.parametrize("execution", ["unroll", "scan"])
def test_blocks_change_places_with_everything_they_own(execution):
    model = network(execution=execution)
    variables = variables_of(model)
    names = [f"stage{stage}/block{block}" for stage, size in ((1, 2), (2, 4)) for block in range(size)]
    moved = reorder(variables, names, [0, 1, 2, 5, 4, 3])
    listed = variables_of(network())
    for collection in ("params", "batch_stats"):
        by_hand = {**listed[collection]["stage2"]}
        by_hand["block1"], by_hand["block3"] = by_hand["block3"], by_hand["block1"]
        expected = stack({**listed[collection], "stage2": by_hand}, execution)
        jax.tree.map(np.testing.assert_array_equal, moved[collection], expected)
    jax.tree.map(np.testing.assert_array_equal, reorder(variables, names, range(6)), variables)


def test_permutations():
    model = network(stage_sizes=(4,), execution="scan")
    images, labels = data()
    found = permute_blocks(model, variables_of(model), images, labels, swaps=(1, 3), draws=4)
    one = {kendalltau(range(4), order).statistic for order in ([0, 2, 1, 3], [0, 3, 2, 1])}
    assert {round(value, 9) for value in found.correlation[0]} <= {round(float(value), 9) for value in one}
    assert found.loss.shape == (2, 4)
    assert len(set(found.loss.ravel().tolist())) > 1
    short = ResNet(ResNetConfig((2,), (4,), stem="cifar", num_classes=3))
    variables = variables_of(short)
    with pytest.raises(UsageError, match="nothing can change places"):
        permute_blocks(short, variables, images, labels)


# ---- paths ------------------------------------------------------------------------------------------------------


def tiny(**choices):
    return ResNet(ResNetConfig((3,), (3,), stem="cifar", num_classes=3, **{"norm": "none", **choices}))


def vectors(model, variables, images, labels):
    """Return the gradient at the first block's input, whole, as a function of the gates of branches and skips."""
    chart = chart_of(model, variables, images, BlockNames(), False)
    first = np.eye(len(chart.names), dtype=np.float32)[0]

    @jax.jit
    def gradient(branch, skip):
        gates = chart.place({"branch": branch, "skip": skip, "first": jnp.asarray(first)})

        def loss(added):
            def hook(block, point, x):
                if point == "input":
                    return x + added * block.get_variable(GATES, "first")
                return ops.gate(x, block.get_variable(GATES, point)) if point in ("branch", "skip") else x

            with instrumented(BlockNames(), hook):
                logits = model.apply({**variables, GATES: gates}, images, train=False)
            return jnp.mean(cross_entropy(logits, labels))

        return jax.grad(loss)(jnp.zeros((*images.shape[:-1], model.config.widths[0])))

    return lambda branch, skip: np.asarray(gradient(*(jnp.asarray(g, jnp.float32) for g in (branch, skip))))


PATHS = list(itertools.product([0.0, 1.0], repeat=3))


def test_all_paths_together_are_the_gradient():
    """The gradient is the sum over all 2^L paths, as vectors; the norms are those of the vectors."""
    model = tiny(norm="batch", execution="scan")
    variables, (images, labels) = variables_of(model), data(4)
    vector = vectors(model, variables, images, labels)
    paths = {b: vector(np.asarray(b), 1 - np.asarray(b)) for b in PATHS}
    whole = vector(np.ones(3), np.ones(3))
    np.testing.assert_allclose(sum(paths.values()), whole, atol=2e-6 * np.linalg.norm(whole))
    found = path_lengths(model, variables, images, labels, draws=40)
    assert found.lengths.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(np.exp(found.log_paths), [1, 3, 3, 1])
    for k, row in enumerate(found.norms):
        of_length = np.asarray([np.linalg.norm(path) for b, path in paths.items() if sum(b) == k])
        assert all(np.abs(of_length / value - 1).min() < 1e-5 for value in row)
        assert all(np.abs(row / value - 1).min() < 1e-5 for value in of_length)  # 40 draws find all three
    np.testing.assert_allclose(found.contribution.sum(), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("choices", [{}, {"order": "pre"}, {"execution": "scan"}, {"norm": "batch"}])
def test_every_path_has_the_gradient_of_a_network_gated_by_hand(choices):
    model = tiny(**choices)
    variables, (images, labels) = variables_of(model), data(4)
    vector = vectors(model, variables, images, labels)
    whole = vector(np.ones(3), np.ones(3))
    plain = profile(model, variables, images, labels, train=False).grad_norm[0]
    np.testing.assert_allclose(np.linalg.norm(whole), plain, rtol=1e-5)
    gradient = gradient_through(model, variables, images, labels, train=False, loss=cross_entropy, anatomy=BlockNames())
    for b in PATHS:
        through = np.asarray(b)
        expected = np.linalg.norm(vector(through, 1 - through))
        np.testing.assert_allclose(gradient(through, 1 - through), expected, rtol=1e-5)
    np.testing.assert_allclose(gradient(np.zeros(3), np.zeros(3)), 0.0)


@pytest.mark.parametrize(("scale", "said"), [(1e-25, "all zero"), (1e25, "not finite")])
def test_gradients_beyond_float32_are_refused(scale, said):
    model = ResNet(ResNetConfig((1,), (2,), stem="cifar", num_classes=3, norm="none"))
    with pytest.raises(UsageError, match=f"{said} in float32.*multiply the loss"):
        path_lengths(model, variables_of(model), *data(4), draws=2, loss=lambda a, b: cross_entropy(a, b) * scale)


def test_lengths_left_out_do_not_move_the_shares():
    """Of equal norms the shares are those of the paths, however many lengths were measured."""
    every = np.arange(541)
    paths = np.asarray([lgamma(541) - lgamma(k + 1) - lgamma(541 - k) for k in every])
    for lengths in (every, every[::12]):
        found = PathLengths(lengths, np.full(len(lengths), -3.0), paths[lengths], np.ones((len(lengths), 1)), 540)
        np.testing.assert_allclose(found.contribution, np.exp(paths[lengths] - 540 * np.log(2)), rtol=1e-9)
        low, high = found.effective_lengths()
        assert (low, high) == tuple(int(q) for q in binom.ppf([0.025, 0.975], 540, 0.5))
    # beside a length whose gradient is 0 nothing is made up
    gap = PathLengths(np.asarray([0, 2, 4]), np.asarray([0.0, -np.inf, 0.0]), paths[:3], np.ones((3, 1)), 4)
    np.testing.assert_allclose(gap.over_all_lengths()[1], [0.5, 0, 0, 0, 0.5])


def test_zero_branches_leave_the_shortest_path_alone():
    model = ResNet(ResNetConfig((2,), (2,), stem="cifar", num_classes=3, norm="none", order="pre", residual="rezero"))
    variables = jax.jit(lambda key: init_variables(model, key, SHAPE), compiler_options=INIT_OPTIONS["cpu"])
    found = path_lengths(model, variables(jax.random.key(0)), *data(4))
    np.testing.assert_allclose(found.contribution, [1, 0, 0])
    assert found.effective_lengths() == (0, 0)


def test_hundreds_of_blocks_do_not_overflow(tmp_path):
    k = np.arange(0, 601, 15)
    paths = np.asarray([lgamma(601) - lgamma(i + 1) - lgamma(601 - i) for i in k])
    found = PathLengths(k, -1.5 * k, paths, np.ones((len(k), 1)), 600)
    # C(600, k) e^(-1.5 k) is a binomial distribution with p = 1 / (1 + e^1.5): mean 109
    low, high = found.effective_lengths()
    assert low < 109 < high < 150
    save_arrays(found, tmp_path / "paths.npz")
    again = load_arrays(PathLengths, tmp_path / "paths.npz")
    np.testing.assert_array_equal(again.contribution, found.contribution)
    with pytest.raises(UsageError, match="is no Deletions: it has no names"):
        load_arrays(Deletions, tmp_path / "paths.npz")


def test_what_cannot_be_done_is_said():
    model = network()
    images, labels = data()
    with pytest.raises(UsageError, match="10 images and 9 labels"):
        delete_blocks(model, variables_of(model), images, labels[:9])
    with pytest.raises(UsageError, match=r"must be 1 to 6, got \(7,\)"):
        delete_blocks(model, variables_of(model), images, labels, counts=(7,))
    with pytest.raises(UsageError, match=r"lengths 0 to 6, got \(9,\)"):
        path_lengths(model, variables_of(model), images, labels, lengths=(9,))
    plain = network(shortcut="none")
    with pytest.raises(UsageError, match="no skip: its gradient has one path"):
        path_lengths(plain, variables_of(plain), images, labels)


@pytest.mark.slow
def test_the_pretrained_network_survives_a_lesion(shared_data):
    """932 of 1,017 whole; without an equal block it names most of the images still."""
    model = create_model("resnet20_cifar")
    state = load_state_dict(shared_data / "pytorch-cifar-resnets" / "resnet20-12fca82f.th")
    with np.load(shared_data / "cifar10-test-lossless-1017.npz") as file:
        pixels, labels = file["x"], file["y"]
    mean, std = np.asarray([0.485, 0.456, 0.406], np.float32), np.asarray([0.229, 0.224, 0.225], np.float32)
    images = (pixels[:256].astype(np.float32) / 255 - mean) / std
    found = delete_blocks(model, to_variables(state, model), images, labels[:256], batch_size=128)
    assert found.whole_accuracy > 0.88  # 232 of the first 256
    equal = [1, 2, 4, 5, 7, 8]
    assert (found.accuracy[equal] > 0.4).all()
    assert (found.accuracy[equal] < found.whole_accuracy + 0.02).all()
