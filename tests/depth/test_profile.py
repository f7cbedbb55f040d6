"""Measured in one pass against explicit differentiation of materialised activations.

The quick tests take pairs of a network's choices, in two blocks; the slow ones every distinct network of the zoo.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from resnet_jax import depth
from resnet_jax.depth.profiling import profile
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import BlockNames, instrumented
from resnet_jax.models import ResNet, ResNetConfig, create_model, list_models
from resnet_jax.models.block import Block
from resnet_jax.models.layout import stack, unstack
from resnet_jax.tasks.losses import cross_entropy
from resnet_jax.training.mesh import batch_sharding, make_mesh, replicated
from tests.tools import random_variables

BATCH, LABELS = 8, np.arange(8) % 3


#: Sums over activations, which XLA without optimizations adds up one after the other.
FORWARD_RTOL = 1e-4


def tiny(name: str, sizes: tuple[int, ...] = (1, 1), **choices) -> ResNetConfig:
    """Return the named network's choices, and these, in the smallest blocks that have them."""
    config = create_model(name, **choices).config
    return dataclasses.replace(smallest(config), stage_sizes=sizes, widths=(4, 8)[: len(sizes)], stem_width=4)


def smallest(config: ResNetConfig, equal: int = 1) -> ResNetConfig:
    """Return the network with all its choices, in two small stages, the second with so many equal blocks after one."""
    grouped, stem = config.groups > 1, 4 if config.stem == "cifar" else 8
    return dataclasses.replace(
        config, stage_sizes=(1, 1 + equal), widths=(4, 8), stem_width=stem, groups=2 if grouped else 1,
        base_width=32 if grouped else config.base_width, norm_groups=2, num_classes=3, se_divisor=1, se_ratio=0.5,
        dropout=0.0, head_dropout=0.0, drop_path=0.0, execution="unroll",
    )  # fmt: skip


def pictures(config: ResNetConfig) -> np.ndarray:
    size = 8 if config.stem in ("cifar", "none") else 16
    shape, generator = (BATCH, *(size,) * config.spatial_dims, config.in_channels), np.random.default_rng(1)
    if config.frontend == "one_hot":
        # all of them unlike: equal symbols make equal windows, and of equal largest values the gradient takes either
        return generator.permutation(config.symbols)[: np.prod(shape)].reshape(shape).astype(np.float32)
    return generator.normal(size=shape).astype(np.float32)


class Materialised:
    """A hook that keeps what passes, and adds to it what it is given: the gradient with respect to that is explicit."""

    def __init__(self, added=None):
        self.added, self.seen = added, {}

    def __call__(self, block, point, x):
        self.seen["/".join(block.path), point] = x
        return x if self.added is None else x + self.added["/".join(block.path), point]


@functools.cache
def explicit(config: ResNetConfig, train: bool):
    """Return values and gradients, whole, at every point of every block of an unrolled network."""
    model, images = ResNet(config), pictures(config)
    variables = random_variables(model, images.shape[1:])

    def run(params, added):
        hook = Materialised(added)
        with instrumented(BlockNames(), hook):
            logits, _ = model.apply({**variables, "params": params}, images, train=train, mutable=["batch_stats"])
        return jnp.mean(cross_entropy(logits, LABELS)), hook.seen

    shapes = jax.eval_shape(lambda: run(variables["params"], None)[1])

    @jax.jit
    def everything(params):
        zeros = {place: jnp.zeros(leaf.shape, leaf.dtype) for place, leaf in shapes.items()}
        (gradient, by_place), values = jax.grad(run, (0, 1), has_aux=True)(params, zeros)
        return gradient, by_place, values

    return jax.device_get(everything(variables["params"]))


def norm(x) -> float:
    return float(np.sqrt(np.sum(np.square(np.asarray(x, np.float64)))))


def check(found: depth.DepthProfile, config: ResNetConfig, rtol: float, train: bool = True) -> None:
    """Compare every column with what the materialised arrays give."""
    params_gradient, gradients, values = explicit(config, train)
    for row, name in enumerate(found.names):
        value = {point: np.asarray(x, np.float64) for (block, point), x in values.items() if block == name}
        gradient = {point: x for (block, point), x in gradients.items() if block == name}
        activated = value.get("activated", value["output"])
        expected = {
            "grad_norm": norm(gradient["input"]),
            "grad_norm_out": norm(gradient["output"]),
            "act_mean": value["output"].mean(),
            "act_var": value["output"].var(),
            "act_norm": norm(value["output"]),
            "elements": value["output"].size,
            "zero_share": (activated == 0).mean(),
            "dead_units": (activated == 0).all(axis=tuple(range(activated.ndim - 1))).mean(),
            "branch_norm": norm(value["branch"]),
        }
        stage, block = name.split("/")
        expected["weight_grad_norm"] = np.sqrt(
            sum(norm(leaf) ** 2 for leaf in jax.tree.leaves(params_gradient[stage][block]))
        )
        if "skip" in value:
            inner = np.sum(value["skip"] * value["branch"])
            norms = norm(value["skip"]) * norm(value["branch"])
            expected["skip_norm"] = norm(value["skip"])
            if norms > 0:
                np.testing.assert_allclose(found.branch_skip_cosine[row], inner / norms, atol=1e-5)
            # a skip that is a function of the branch's input parts behind the pre-activation
            behind = norm(gradient["seen"]) > 0
            expected["skip_grad_norm"] = norm(gradient["seen"] if behind else gradient["skip_in"])
            part = "branch_in" if behind or "preact" not in gradient else "preact"
            expected["branch_grad_norm"] = norm(gradient[part])
            # the two parts, as arrays, are the whole
            if not behind:
                both = gradient[part] + gradient["skip_in"]
                np.testing.assert_allclose(both, gradient["input"], rtol=1e-4, atol=1e-6 * expected["grad_norm"])
        for column, one in expected.items():
            tolerance = rtol if "grad" in column else max(rtol, FORWARD_RTOL)
            got = getattr(found, column)[row]
            np.testing.assert_allclose(got, one, rtol=tolerance, atol=1e-6, err_msg=f"{column} of {name}")


@functools.cache
def measured(config: ResNetConfig, execution: str, remat: str, devices: int, train: bool):
    model, images = ResNet(dataclasses.replace(config, execution=execution, remat=remat)), pictures(config)
    variables = stack(random_variables(ResNet(config), images.shape[1:]), execution)
    labels = LABELS
    if devices > 1:
        mesh = make_mesh(jax.devices()[:devices])
        variables = jax.device_put(variables, replicated(mesh))
        images, labels = jax.device_put((images, labels), batch_sharding(mesh))
    return profile(model, variables, images, labels, train=train)


#: Every block, order, shortcut, residual rule, norm and attention, and in each mode of the norms.
PAIRS = {
    "post, B": ("resnet20_cifar", {}, True),
    "post, B, running averages": ("resnet20_cifar", {"stem": "imagenet"}, False),
    "pre, A, gelu": ("preact20_cifar", {"shortcut": "A", "activation": "gelu"}, True),
    "pre, C, SE": ("preact20_cifar", {"shortcut": "C", "attention": "se"}, False),
    "post bottleneck, D, groups": ("resnext29_8x64d_cifar", {"shortcut": "D", "norm": "group"}, True),
    "nf, ECA": ("nf_resnet20_cifar", {"attention": "eca"}, True),
    "fixup, A_end": ("fixup_resnet20_cifar", {"shortcut": "A_end"}, True),
    "plain": ("plain20_cifar", {}, True),
}


#: Not needed for a pair: what the others leave out of the zoo's choices.
LEFT = {"post, B, running averages", "pre, A, gelu", "fixup, A_end", "post bottleneck, D, groups"}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in LEFT else []) for case in PAIRS])
def test_probes_equal_explicit_gradients(case):
    name, choices, train = PAIRS[case]
    config = tiny(name, **choices)
    found = measured(config, "unroll", "none", 1, train)
    check(found, config, rtol=1e-5, train=train)
    if config.norm == "batch":
        assert found.about["normalization"].endswith("statistics of this batch" if train else "running averages")


@functools.cache
def distinct(equal: int) -> dict[ResNetConfig, str]:
    """Return the networks of the zoo that differ when they are small, each with the first of its names."""
    found: dict[ResNetConfig, str] = {}
    for name in list_models():
        found.setdefault(smallest(create_model(name).config, equal), name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("config", distinct(1), ids=distinct(1).values())
def test_probes_equal_explicit_gradients_for_every_network(config):
    check(measured(config, "unroll", "none", 1, True), config, rtol=1e-5)


#: Pre-activation, unit variances by formula, projections with means.
FEW = ("preact110_cifar", "nf_resnet50", "resnet50d")


@pytest.mark.slow
@pytest.mark.parametrize(("execution", "remat"), [("scan", "none"), ("scan", "block"), ("unroll", "block"),
                                                  ("scan", "conv")])  # fmt: skip
@pytest.mark.parametrize("name", FEW)
def test_probes_in_loops_and_rematerialized(name, execution, remat):
    config = smallest(create_model(name).config, equal=2)
    check(measured(config, execution, remat, 1, True), config, rtol=1e-5)


#: Every second one: test_probes_equal_explicit_gradients_for_every_network has them all.
HALF = dict(list(distinct(2).items())[::2])


@pytest.mark.slow
@pytest.mark.parametrize("config", HALF, ids=HALF.values())
def test_probes_in_a_rematerialized_loop_over_8_devices(config):
    check(measured(config, "scan", "block", 8, True), config, rtol=2e-5)


@pytest.mark.slow
def test_probes_in_a_loop_over_2_devices_with_the_optimizer_s_updates():
    config = tiny("preact110_cifar", (3,))
    check(measured(config, "scan", "block", 2, True), config, rtol=2e-5)
    check_updates(config, "scan", "conv")


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["unroll", "scan"])
def test_updates_are_those_of_the_optimizer(execution):
    check_updates(smallest(create_model("resnet20_cifar").config, equal=2), execution, "none")


def check_updates(config: ResNetConfig, execution: str, remat: str) -> None:
    """Compare updates and every parameter's gradient with what is known of them."""
    images = pictures(config)
    model = ResNet(dataclasses.replace(config, execution=execution, remat=remat))
    variables = stack(random_variables(ResNet(config), images.shape[1:]), execution)
    tx = optax.sgd(0.5)
    found = profile(model, variables, images, LABELS, optimizer=(tx, tx.init(variables["params"])))
    check(found, config, rtol=1e-5)
    np.testing.assert_allclose(found.update_ratio, 0.5 * found.weight_grad_ratio, rtol=1e-5)
    gradient, _, _ = explicit(config, True)
    assert len(found.parameters) == len(jax.tree.leaves(gradient))
    for name, block, got in zip(found.parameters, found.parameter_block, found.parameter_grad_norm, strict=True):
        leaf = functools.reduce(lambda node, part: node[part], name.split("/"), unstack(gradient))
        np.testing.assert_allclose(got, norm(leaf), rtol=1e-4, atol=1e-6, err_msg=name)
        assert (block == -1) == (not name.startswith("stage"))
        assert block == -1 or name.startswith(found.names[block])


@pytest.mark.slow
def test_bfloat16_is_near_float32():
    config = tiny("resnet20_cifar")
    wide = measured(config, "unroll", "none", 1, True)
    narrow = measured(dataclasses.replace(config, dtype="bfloat16"), "unroll", "none", 1, True)
    assert narrow.about["dtype"] == "bfloat16"
    np.testing.assert_allclose(narrow.grad_norm, wide.grad_norm, rtol=0.1)
    np.testing.assert_allclose(narrow.act_norm, wide.act_norm, rtol=0.02)


def test_a_file_brings_back_the_profile(tmp_path):
    found = measured(tiny("plain20_cifar"), "unroll", "none", 1, True)
    assert np.isnan(found.skip_norm).all()  # a plain net has none
    assert np.isfinite(found.branch_norm).all()
    found.save(tmp_path / "profile.npz")
    again = depth.DepthProfile.load(tmp_path / "profile.npz")
    assert (again.names, again.parameters, again.about) == (found.names, found.parameters, found.about)
    for name, column in found.columns().items():
        np.testing.assert_array_equal(getattr(again, name), column)
    np.testing.assert_allclose(found.compare(again)["grad_norm"], 1)
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(UsageError, match=r"other.npz is no DepthProfile: it has no names"):
        depth.DepthProfile.load(tmp_path / "other.npz")


# ---- other people's networks ------------------------------------------------------------------------------------


class Their(nn.Module):
    """A block with the two names of the protocol."""

    @nn.compact
    def __call__(self, x, seed: float = 0.0):
        y = nn.Dense(x.shape[-1], name="branch")(nn.relu(x))
        return depth.Identity(name="shortcut")(x) + y


class Net(nn.Module):
    loop: bool = False
    carries: bool = True
    blocks: int = 4

    @nn.compact
    def __call__(self, x, *, train):
        if not self.loop:
            for index in range(self.blocks):
                x = Their(name=f"block{index}")(x)
            return x
        axes = {"params": 0, **(depth.BLOCK_AXES if self.carries else {})}
        body = nn.scan(lambda block, x, _: (block(x), None), length=4, variable_axes=axes, split_rngs={"params": True})
        return body(Their(name="blocks"), x, None)[0]


X = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
LISTED = {
    "params": {
        f"block{seed}": {
            "branch": {
                "kernel": np.random.default_rng(seed).normal(0, 0.4, (5, 5)).astype(np.float32),
                "bias": np.zeros(5, np.float32),
            }
        }
        for seed in range(4)
    }
}


def test_other_peoples_blocks_unrolled_and_in_a_loop():
    x, labels, anatomy, listed = X, np.arange(8) % 5, BlockNames(Their), LISTED
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *listed["params"].values())
    one = profile(Net(), listed, x, labels, anatomy=anatomy)
    other = profile(Net(loop=True), {"params": {"blocks": stacked}}, x, labels, anatomy=anatomy)
    assert one.names == ("block0", "block1", "block2", "block3")
    assert other.names == ("blocks[0]", "blocks[1]", "blocks[2]", "blocks[3]")
    assert one.about["normalization"] == "no batch statistics"
    for name in ("grad_norm", "branch_grad_norm", "skip_grad_norm", "act_var", "branch_norm", "skip_norm"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, err_msg=name)

    @jax.jit
    @jax.grad
    def gradients(added):
        value = jnp.asarray(x)
        for index in range(4):
            value = value + added[index]
            kernel, bias = (listed["params"][f"block{index}"]["branch"][name] for name in ("kernel", "bias"))
            value = value + jax.nn.relu(value) @ kernel + bias[None]
        return jnp.mean(cross_entropy(value, labels))

    np.testing.assert_allclose(one.grad_norm, [norm(g) for g in gradients([jnp.zeros(x.shape)] * 4)], rtol=1e-5)


def test_nothing_is_traced_twice():
    traces = []

    def loss(logits, labels):
        traces.append(None)
        return cross_entropy(logits, labels)

    first, again = (
        profile(Net(), LISTED, images, np.arange(8) % 5, loss=loss, anatomy=BlockNames(Their)) for images in (X, 2 * X)
    )
    assert len(traces) == 1
    assert first.about["loss"] != again.about["loss"]


def test_zero_branches_leave_the_gradient_alone():
    """Every block is the identity, forward and backward."""
    found = profile(Net(), jax.tree.map(np.zeros_like, LISTED), X, np.arange(8) % 5, anatomy=BlockNames(Their))
    np.testing.assert_allclose(found.grad_norm, found.grad_norm[-1], rtol=1e-6)
    np.testing.assert_allclose(found.act_norm, norm(X), rtol=1e-6)
    np.testing.assert_array_equal(found.branch_norm, 0)
    np.testing.assert_array_equal(found.branch_grad_share, 0)


def test_an_overflow_is_not_a_vanished_gradient():
    huge = jax.tree.map(lambda leaf: leaf * np.float32(1e12), LISTED)
    found = profile(Net(), huge, X, np.arange(8) % 5, anatomy=BlockNames(Their))
    assert not np.isfinite(found.about["loss"])
    assert np.isnan(found.grad_norm).all()
    assert np.isnan(found.branch_grad_norm).all()


def test_profiles_of_different_networks_are_not_compared():
    one = profile(Net(), LISTED, X, np.arange(8) % 5, anatomy=BlockNames(Their))
    params = {name: LISTED["params"][name] for name in ("block0", "block1")}
    other = profile(Net(blocks=2), {"params": params}, X, np.arange(8) % 5, anatomy=BlockNames(Their))
    with pytest.raises(UsageError, match="4 blocks from block0 and 2"):
        one.compare(other)


class Rectified(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(x + self.param("bias", nn.initializers.zeros, (x.shape[-1],))[None])


class OneRectified(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return Rectified(name="block")(x)


def test_a_unit_is_dead_where_it_is_so_for_all_images():
    x = np.asarray([[1, -1, -1, 1], [-1, 1, -1, 1]], np.float32)
    variables = {"params": {"block": {"bias": np.zeros(4, np.float32)}}}
    found = profile(OneRectified(), variables, x, np.arange(2), anatomy=BlockNames(Rectified))
    assert (found.dead_units.tolist(), found.zero_share.tolist()) == ([0.25], [0.5])


def test_what_cannot_be_measured_is_said():
    x, loop = X[:4], {"params": {"blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *LISTED["params"].values())}}
    with pytest.raises(UsageError, match=r"called no Block: name the class of its residual blocks: BlockNames\(block"):
        profile(Net(loop=True), loop, x, np.zeros(4, int))
    with pytest.raises(UsageError, match=r"at blocks run in a loop that does not carry their numbers.*BLOCK_AXES"):
        profile(Net(loop=True, carries=False), loop, x, np.zeros(4, int), anatomy=BlockNames(Their))
    with pytest.raises(UsageError, match="4 images and 3 labels"):
        profile(Net(loop=True), loop, x, np.zeros(3, int), anatomy=BlockNames(Their))


def test_block_is_the_default_anatomy():
    assert BlockNames().block is Block
