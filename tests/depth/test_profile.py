"""Measured in one pass against explicit differentiation of materialised activations, for every network of the zoo."""

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
from resnet_jax.depth.profiling import cross_entropy, profile
from resnet_jax.errors import UsageError
from resnet_jax.instrument.hooks import Anatomy, instrumented
from resnet_jax.models import ResNet, ResNetConfig, create_model, init_variables, list_models
from resnet_jax.models.block import Block
from resnet_jax.models.layout import stack, unstack
from resnet_jax.training.mesh import batch_sharding, make_mesh, replicated
from tests.tools import random_variables

BATCH, LABELS = 8, np.arange(8) % 3


#: Sums over activations, which XLA without optimizations adds up one after the other.
FORWARD_RTOL = 1e-4


def smallest(config: ResNetConfig, equal: int = 1) -> ResNetConfig:
    """Return the network with all its choices, in two small stages, the second with so many equal blocks after one."""
    grouped, stem = config.groups > 1, 4 if config.stem == "cifar" else 8
    return dataclasses.replace(
        config, stage_sizes=(1, 1 + equal), widths=(4, 8), stem_width=stem, groups=2 if grouped else 1,
        base_width=32 if grouped else config.base_width, norm_groups=2, num_classes=3, se_divisor=1, se_ratio=0.5,
        dropout=0.0, head_dropout=0.0, drop_path=0.0, execution="unroll",
    )  # fmt: skip


def pictures(config: ResNetConfig) -> np.ndarray:
    size = 8 if config.stem == "cifar" else 16
    return np.random.default_rng(1).normal(size=(BATCH, *(size,) * config.spatial_dims, 3)).astype(np.float32)


class Materialised:
    """A hook that keeps what passes, and adds to it what it is given: the gradient with respect to that is explicit."""

    def __init__(self, added=None):
        self.added, self.seen = added, {}

    def __call__(self, block, point, x):
        self.seen["/".join(block.path), point] = x
        return x if self.added is None else x + self.added["/".join(block.path), point]


@functools.cache
def explicit(config: ResNetConfig, train: bool = True):
    """Return values and gradients, whole, at every point of every block of an unrolled network."""
    model, images = ResNet(config), pictures(config)
    variables = random_variables(model, images.shape[1:])

    def run(params, added):
        hook = Materialised(added)
        with instrumented(Anatomy(), hook):
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
def measured(config: ResNetConfig, execution: str, remat: str, devices: int, train: bool = True):
    model, images = ResNet(dataclasses.replace(config, execution=execution, remat=remat)), pictures(config)
    variables = stack(random_variables(ResNet(config), images.shape[1:]), execution)
    labels = LABELS
    if devices > 1:
        mesh = make_mesh(jax.devices()[:devices])
        variables = jax.device_put(variables, replicated(mesh))
        images, labels = jax.device_put((images, labels), batch_sharding(mesh))
    return profile(model, variables, images, labels, train=train)


@pytest.mark.parametrize("name", list_models())
def test_probes_equal_explicit_gradients_for_every_network(name):
    config = smallest(create_model(name).config)
    check(measured(config, "unroll", "none", 1), config, rtol=1e-5)


#: Pre-activation, unit variances by formula, projections with means.
FEW = ("preact110_cifar", "nf_resnet50", "resnet50d")


@pytest.mark.parametrize(("execution", "remat"), [("scan", "none"), ("scan", "block"), ("unroll", "block"),
                                                  ("scan", "conv")])  # fmt: skip
@pytest.mark.parametrize("name", FEW)
def test_probes_in_loops_and_rematerialized(name, execution, remat):
    config = smallest(create_model(name).config, equal=2)
    check(measured(config, execution, remat, 1), config, rtol=1e-5)


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(n, marks=pytest.mark.slow) for n in list_models())])
def test_probes_in_a_rematerialized_loop_over_8_devices(name):
    config = smallest(create_model(name).config, equal=2)
    check(measured(config, "scan", "block", 8), config, rtol=2e-5)


def test_running_averages():
    config = smallest(create_model("resnet20_cifar").config)
    found = measured(config, "unroll", "none", 1, train=False)
    check(found, config, rtol=1e-5, train=False)
    assert found.about["normalization"] == "batch norm, running averages"
    assert measured(config, "unroll", "none", 1).about["normalization"] == "batch norm, statistics of this batch"


def test_bfloat16_is_near_float32():
    config = smallest(create_model("resnet20_cifar").config)
    wide = measured(config, "unroll", "none", 1)
    narrow = measured(dataclasses.replace(config, dtype="bfloat16"), "unroll", "none", 1)
    assert narrow.about["dtype"] == "bfloat16"
    np.testing.assert_allclose(narrow.grad_norm, wide.grad_norm, rtol=0.1)
    np.testing.assert_allclose(narrow.act_norm, wide.act_norm, rtol=0.02)


def test_updates_are_those_of_the_optimizer():
    config = smallest(create_model("resnet20_cifar").config, equal=2)
    images = pictures(config)
    for execution in ("unroll", "scan"):
        model = ResNet(dataclasses.replace(config, execution=execution))
        variables = stack(random_variables(ResNet(config), images.shape[1:]), execution)
        tx = optax.sgd(0.5)
        found = profile(model, variables, images, LABELS, optimizer=(tx, tx.init(variables["params"])))
        np.testing.assert_allclose(found.update_ratio, 0.5 * found.weight_grad_ratio, rtol=1e-5)
        gradient, _, _ = explicit(config)
        assert len(found.parameters) == len(jax.tree.leaves(gradient))
        for name, block, got in zip(found.parameters, found.parameter_block, found.parameter_grad_norm, strict=True):
            leaf = functools.reduce(lambda node, part: node[part], name.split("/"), unstack(gradient))
            np.testing.assert_allclose(got, norm(leaf), rtol=1e-4, atol=1e-6, err_msg=name)
            assert (block == -1) == (not name.startswith("stage"))
            assert block == -1 or name.startswith(found.names[block])


def test_nothing_is_traced_twice():
    config = smallest(create_model("resnet20_cifar").config)
    images, variables = pictures(config), random_variables(ResNet(config), pictures(config).shape[1:])
    traces = []

    def loss(logits, labels):
        traces.append(None)
        return cross_entropy(logits, labels)

    first = profile(ResNet(config), variables, images, LABELS, loss=loss)
    again = profile(ResNet(config), variables, 2 * images, LABELS, loss=loss)
    assert len(traces) == 1
    assert first.about["loss"] != again.about["loss"]


def test_zero_branches_leave_the_gradient_alone():
    """ReZero at its start in pre-activation order: every block is the identity, forward and backward."""
    model = create_model("resnet20_cifar", norm="none", residual="rezero", order="pre", stage_sizes=(4,), widths=(8,),
                         num_classes=3, execution="scan")  # fmt: skip
    images = pictures(model.config)
    variables = init_variables(model, jax.random.key(0), images.shape[1:])
    found = profile(model, variables, images, LABELS)
    np.testing.assert_allclose(found.grad_norm, found.grad_norm[-1], rtol=1e-6)
    np.testing.assert_allclose(found.act_norm, found.act_norm[0], rtol=1e-6)
    np.testing.assert_array_equal(found.branch_norm, 0)
    np.testing.assert_array_equal(found.branch_grad_share, 0)


def test_an_overflow_is_not_a_vanished_gradient():
    config = smallest(create_model("resnet20_cifar").config)
    config = dataclasses.replace(config, norm="none")
    images = pictures(config)
    variables = jax.tree.map(lambda leaf: leaf * 1e12, random_variables(ResNet(config), images.shape[1:]))
    found = profile(ResNet(config), variables, images, LABELS)
    assert not np.isfinite(found.about["loss"])
    assert np.isnan(found.grad_norm).all()
    assert np.isnan(found.branch_grad_norm).all()


def test_a_file_brings_back_the_profile(tmp_path):
    config = smallest(create_model("plain20_cifar").config)
    found = measured(config, "unroll", "none", 1)
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


def test_profiles_of_different_networks_are_not_compared():
    one, other = (
        measured(smallest(create_model("resnet20_cifar").config, equal=n), "unroll", "none", 1) for n in (1, 2)
    )
    with pytest.raises(UsageError, match="3 blocks from stage1/block0 and 4"):
        one.compare(other)


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

    @nn.compact
    def __call__(self, x, *, train):
        if not self.loop:
            for index in range(4):
                x = Their(name=f"block{index}")(x)
            return x
        axes = {"params": 0, **(depth.BLOCK_AXES if self.carries else {})}
        body = nn.scan(lambda block, x, _: (block(x), None), length=4, variable_axes=axes, split_rngs={"params": True})
        return body(Their(name="blocks"), x, None)[0]


def test_other_peoples_blocks_unrolled_and_in_a_loop():
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    loop = Net(loop=True).init(jax.random.key(0), x, train=True)
    listed = {
        "params": {f"block{i}": jax.tree.map(lambda leaf, i=i: leaf[i], loop["params"]["blocks"]) for i in range(4)}
    }
    labels, anatomy = np.arange(8) % 5, Anatomy(Their)
    one = profile(Net(), listed, x, labels, anatomy=anatomy)
    other = profile(Net(loop=True), loop, x, labels, anatomy=anatomy)
    assert one.names == ("block0", "block1", "block2", "block3")
    assert other.names == ("blocks[0]", "blocks[1]", "blocks[2]", "blocks[3]")
    assert one.about["normalization"] == "no batch statistics"
    for name in ("grad_norm", "branch_grad_norm", "skip_grad_norm", "act_var", "branch_norm", "skip_norm"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, err_msg=name)

    def after(start, x):
        for index in range(start, 4):
            kernel, bias = (listed["params"][f"block{index}"]["branch"][name] for name in ("kernel", "bias"))
            x = x + jax.nn.relu(x) @ kernel + bias[None]
        return jnp.mean(cross_entropy(x, labels))

    value = jnp.asarray(x)
    for index in range(4):
        gradient = jax.grad(functools.partial(after, index))(value)
        np.testing.assert_allclose(one.grad_norm[index], norm(gradient), rtol=1e-5)
        kernel, bias = (listed["params"][f"block{index}"]["branch"][name] for name in ("kernel", "bias"))
        value = value + jax.nn.relu(value) @ kernel + bias[None]


def test_what_cannot_be_measured_is_said():
    x = np.ones((4, 5), np.float32)
    loop = Net(loop=True).init(jax.random.key(0), x, train=True)
    with pytest.raises(UsageError, match=r"called no Block: name the class of its residual blocks, Anatomy\(block"):
        profile(Net(loop=True), loop, x, np.zeros(4, int))
    with pytest.raises(UsageError, match=r"at blocks run in a loop that does not carry their numbers.*BLOCK_AXES"):
        profile(Net(loop=True, carries=False), loop, x, np.zeros(4, int), anatomy=Anatomy(Their))
    with pytest.raises(UsageError, match="4 images and 3 labels"):
        profile(Net(loop=True), loop, x, np.zeros(3, int), anatomy=Anatomy(Their))


def test_block_is_the_default_anatomy():
    assert Anatomy().block is Block
