"""The convolution family against ``lax.conv_general_dilated`` and its autodiff, under every transformation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import export, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jax.test_util import check_grads

from resnet_jax import ops
from resnet_jax.ops import conv_cpu, conv_spec, native, tiles
from resnet_jax.ops.conv_spec import ConvSpec

#: One convolution for each form: shape of x, shape of the kernel, arguments.
CASES = {
    "pointwise": ((3, 6, 5, 4), (1, 1, 4, 3), {}),
    "pointwise_strided": ((3, 6, 5, 4), (1, 1, 4, 3), {"strides": (2, 3)}),
    "pointwise_padded": ((3, 4, 5, 4), (1, 1, 4, 3), {"padding": (1, 0)}),
    "winograd": ((4, 6, 4, 64), (3, 3, 64, 65), {"padding": (1, 1)}),
    "rows": ((4, 7, 6, 8), (3, 2, 8, 9), {"padding": (1, 2)}),
    "rows_unpadded": ((4, 7, 6, 8), (3, 3, 8, 9), {}),
    "rows_overpadded": ((2, 4, 4, 8), (2, 2, 8, 8), {"padding": (3, 3)}),
    "strided": ((3, 8, 7, 4), (3, 3, 4, 6), {"strides": (2, 2), "padding": (1, 1)}),
    "strided_narrow": ((3, 8, 7, 4), (2, 1, 4, 6), {"strides": (3, 2), "padding": (0, 1)}),
    "dilated": ((3, 8, 7, 8), (3, 3, 8, 8), {"dilation": (2, 1), "padding": (2, 1)}),
    "grouped": ((4, 6, 6, 6), (3, 3, 2, 9), {"strides": (1, 2), "padding": (1, 1), "groups": 3}),
    "depthwise": ((4, 6, 6, 4), (3, 3, 1, 4), {"padding": (1, 1), "groups": 4}),
    "one_dim": ((3, 9, 8), (3, 8, 8), {"strides": (2,), "padding": (1,)}),
    "three_dims": ((2, 4, 5, 3, 2), (3, 2, 1, 2, 4), {"strides": (1, 2, 1), "padding": (1, 0, 1)}),
    "one_pixel": ((1, 1, 1, 8), (3, 3, 8, 8), {"padding": (1, 1)}),
}


@pytest.fixture(params=["native", "xla"], scope="module", autouse=True)
def forms(request):
    """Everything in this module holds with the compiled convolutions and without them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "xla":
            patch.setattr(native, "takes", lambda spec, dtype: False)
        elif not native.available():
            pytest.skip(f"no compiled convolutions: {native.status()}")
        jax.clear_caches()
        yield request.param
    jax.clear_caches()


def both(kernel_shape, *, strides=None, padding=None, dilation=None, groups=1):
    """Return our convolution and that of lax with the same arguments."""
    dims = len(kernel_shape) - 2
    strides, padding = strides or (1,) * dims, padding or (0,) * dims
    spatial = "DHW"[-dims:]

    def reference(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            strides,
            [(p, p) for p in padding],
            rhs_dilation=dilation,
            dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
            feature_group_count=groups,
        )

    return (
        functools.partial(ops.conv, strides=strides, padding=padding, dilation=dilation, groups=groups),
        reference,
    )


def arrays(*shapes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def case(name, **kwargs):
    x, w, arguments = CASES[name]
    return (*both(w, **arguments), *arrays(x, w, **kwargs))


def close(got, expected, rtol=2e-5):
    """Compare leaf by leaf: the tolerance is relative to a leaf's largest value, as rounding of sums is."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(np.abs(b).max(initial=0), 1e-30))


def energy(f):
    """Return a scalar function that is not bilinear, so that its second derivatives are full."""
    return lambda x, w: jnp.sum(jnp.sin(f(x, w) * 0.3))


def derivatives(f):
    """Return the output, both gradients, a tangent and a Hessian-vector product of ``f``, as one function."""

    def everything(x, w, dx, dw):
        gradient = jax.grad(energy(f), (0, 1))
        _, tangent = jax.jvp(f, (x, w), (dx, dw))
        forward_over_reverse = jax.jvp(gradient, (x, w), (dx, dw))[1]
        reverse_over_reverse = jax.grad(
            lambda x, w: sum(jnp.vdot(a, b) for a, b in zip(gradient(x, w), (dx, dw), strict=True)), (0, 1)
        )(x, w)
        return f(x, w), gradient(x, w), tangent, forward_over_reverse, reverse_over_reverse

    return everything


@pytest.mark.parametrize("name", CASES)
def test_value_and_derivatives_of_every_form(name):
    ours, reference, x, w = case(name)
    tangents = arrays(x.shape, w.shape, seed=1)
    close(jax.jit(derivatives(ours))(x, w, *tangents), jax.jit(derivatives(reference))(x, w, *tangents))


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (2, 1)])
@pytest.mark.parametrize("name", ["pointwise_strided", "winograd", "rows", "strided", "grouped"])
def test_vmap_over_inputs_kernels_and_both(name, axes):
    ours, reference, x, w = case(name)
    rng = np.random.default_rng(2)

    def stacked(a, axis):
        two = jnp.asarray(rng.normal(size=(2,) + (1,) * a.ndim), a.dtype)
        return a if axis is None else jnp.moveaxis(a[None] * two, 0, axis)

    x, w = stacked(x, axes[0]), stacked(w, axes[1])

    def inner_and_outer(f):
        each = jax.vmap(jax.grad(energy(f), (0, 1)), axes)
        return lambda x, w: (each(x, w), jax.grad(energy(jax.vmap(f, axes)), (0, 1))(x, w))

    close(jax.jit(inner_and_outer(ours))(x, w), jax.jit(inner_and_outer(reference))(x, w))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [((0, None), (0, 0)), ((0, 0), (None, 0)), ((None, 0), (0, None)), ((0, 0), (0, None)), ((0, 0), (0, 0))],
)
def test_nested_vmap(outer, inner):
    ours, reference, x, w = case("strided")

    def lead(operand):
        return tuple(n for n, axes in ((2, outer), (3, inner)) if axes[operand] is not None)

    x, w = arrays((*lead(0), *x.shape), (*lead(1), *w.shape))

    def nested(f):
        return jax.vmap(jax.vmap(jax.grad(energy(f), (0, 1)), inner), outer)

    close(jax.jit(nested(ours))(x, w), jax.jit(nested(reference))(x, w))


def test_many_members_run_in_a_loop():
    ours, reference, x, w = case("pointwise")
    count = conv_cpu.UNROLLED_MEMBERS + 1
    (w,) = arrays((count, *w.shape))
    mapped = jax.jit(jax.vmap(ours, (None, 0)))
    assert "stablehlo.while" in mapped.lower(x, w).as_text()
    close(mapped(x, w), jax.vmap(reference, (None, 0))(x, w))
    assert "stablehlo.while" not in mapped.lower(x, w[:-1]).as_text()
    assert ours(x, w[0]).shape == mapped(x, w[:0]).shape[1:]  # no member at all


DIMENSION = st.tuples(
    st.integers(1, 4),  # window
    st.integers(1, 3),  # stride
    st.integers(0, 3),  # padding
    st.integers(1, 2),  # dilation
    st.integers(0, 4),  # pixels more than one window needs
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    dims=st.lists(DIMENSION, min_size=1, max_size=3),
    n=st.integers(1, 3),
    groups=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_convolution_is_that_of_lax(dims, n, groups, seed):
    window, strides, padding, dilation, extra = zip(*dims, strict=True)
    size = [max(1, (k - 1) * d + 1 - 2 * p) + e for k, d, p, e in zip(window, dilation, padding, extra, strict=True)]
    ours, reference = both((*window, 0, 0), strides=strides, padding=padding, dilation=dilation, groups=groups)
    x, w = arrays((n, *size, 2 * groups), (*window, 2, groups), seed=seed)
    got, expected = (jax.jit(lambda x, w, f=f: (f(x, w), jax.grad(energy(f), (0, 1))(x, w))) for f in (ours, reference))
    close(got(x, w), expected(x, w))


@pytest.mark.parametrize("name", ["winograd", "rows", "grouped"])
def test_finite_differences(name):
    with jax.enable_x64(True):
        ours, _, x, w = case(name, dtype=np.float64)
        check_grads(ours, (x, w), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("bfloat16", 2e-2), ("float16", 2e-3)])
@pytest.mark.parametrize("name", ["pointwise_strided", "rows", "strided"])
def test_other_floats(name, dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        ours, reference, x, w = case(name, dtype=dtype)
        f, g = (jax.jit(lambda x, w, f=f: (f(x, w), jax.grad(energy(f), (0, 1))(x, w))) for f in (ours, reference))
        close(f(x, w), g(x, w), rtol)


def test_half_precision_sums_in_float32():
    """4096 ones: a sum kept in bfloat16 would stop at 256."""
    x, g = jnp.ones((16, 16, 16, 1), jnp.bfloat16), jnp.ones((16, 16, 16, 1), jnp.bfloat16)
    spec = ConvSpec(size=(16, 16), window=(1, 1), strides=(1, 1), padding=(0, 0), dilation=(1, 1))
    assert float(conv_cpu.weight_gradient(x, g, spec=spec, devices=1)[0, 0, 0, 0]) == 4096


@pytest.mark.parametrize("name", ["pointwise", "winograd", "rows", "strided", "grouped"])
def test_inside_scan_and_remat(name):
    ours, reference, x, w = case(name)

    def repeated(f):
        @jax.checkpoint
        def body(carry, w):
            return carry + energy(f)(x, w), None

        return jax.jit(jax.grad(lambda ws: lax.scan(body, jnp.zeros(()), ws)[0]))

    (ws,) = arrays((2, *w.shape))
    close(repeated(ours)(ws), repeated(reference)(ws))


@pytest.mark.parametrize("name", ["pointwise", "winograd", "rows", "strided"])
def test_a_split_batch_is_never_gathered(name):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    ours, reference, x, w = case(name)
    x = jnp.concatenate([x[:3]] * 8)
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    gradient = jax.value_and_grad(energy(ours), (0, 1))
    compiled = jax.jit(gradient, in_shardings=(split, whole)).lower(x, w).compile()
    text = compiled.as_text()
    assert "all-reduce" in text
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute", "resnet_jax_conv"))
    assert compiled.output_shardings[1][0].is_equivalent_to(split, x.ndim)
    x, w = jax.device_put(x, split), jax.device_put(w, whole)
    expected = jax.grad(energy(reference), (0, 1))(jax.device_get(x), jax.device_get(w))
    close(compiled(x, w)[1], expected)


def test_a_split_batch_with_groups_is_gathered_by_no_weight_gradient():
    """XLA itself gathers the batch for a grouped convolution, ours and lax's; no more than that."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    ours, reference, x, w = case("grouped")
    shardings = (NamedSharding(mesh, P("data")), NamedSharding(mesh, P()))
    gradient = jax.jit(jax.grad(energy(ours), (0, 1)), in_shardings=shardings)
    g = reference(x, w)
    weights = jax.jit(lambda x, g: jax.vjp(ours, x, w)[1](g)[1], in_shardings=shardings[:1] * 2)
    text = weights.lower(x, g).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text
    close(gradient(x, w), jax.grad(energy(reference), (0, 1))(x, w))


def test_shard_map_and_pmap():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    ours, reference, x, w = case("rows")

    def total(x, w):
        return lax.psum(energy(ours)(x, w), "data")

    mapped = jax.shard_map(total, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
    expected = jax.grad(energy(reference), (0, 1))(x, w)
    close(jax.jit(jax.grad(mapped, (0, 1)))(x, w), expected)
    dx, dw = jax.pmap(jax.grad(energy(ours), (0, 1)), in_axes=(0, None))(x[:, None], w)
    close((dx[:, 0], dw.sum(0)), expected)


def test_a_split_kernel_in_shard_map():
    mesh = jax.make_mesh((3,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:3])
    ours, reference, x, w = case("rows")
    mapped = jax.shard_map(
        ours, mesh=mesh, in_specs=(P(), P(None, None, None, "model")), out_specs=P(None, None, None, "model")
    )
    close(jax.jit(mapped)(x, w), reference(x, w))


@pytest.mark.parametrize("name", ["pointwise", "winograd", "strided", "grouped"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_exactly_what_lax_emits(name, platform):
    def convolutions(f):
        f = jax.vmap(jax.value_and_grad(energy(f), (0, 1)), (None, 0))
        text = jax.jit(f).trace(x, w[None]).lower(lowering_platforms=(platform,)).as_text()
        return [
            line.split("=", 1)[1].split("(", 1)[0] + line.split(")", 1)[1]
            for line in text.splitlines()
            if "convolution" in line
        ]

    ours, reference, x, w = case(name)
    assert convolutions(ours) == convolutions(reference) != []


def test_eager_numpy_and_no_jit():
    ours, reference, x, w = case("strided")
    close(ours(np.asarray(x), np.asarray(w)), reference(x, w))
    with jax.disable_jit():
        close(ours(x, w), reference(x, w))


def test_exported_with_an_unknown_batch_for_every_platform():
    ours, reference, x, w = case("winograd")
    (batch,) = export.symbolic_shape("batch")
    abstract = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = export.export(jax.jit(lambda x: ours(x, w)), platforms=("cpu", "cuda", "tpu"))(abstract)
    assert "resnet_jax_conv" not in exported.mlir_module()
    close(exported.call(x), reference(x, w))


def test_one_device_calls_the_compiled_form(forms):
    ours, _, x, w = case("strided")
    text = jax.jit(jax.grad(energy(ours), (0, 1))).lower(x, w).as_text()
    assert ("resnet_jax_conv_weight_gradient" in text) == (forms == "native")


def test_precision_is_that_of_the_call():
    ours, _, x, w = case("rows")
    assert "precision=None" in str(jax.make_jaxpr(ours)(x, w))

    def precise(x, w):
        with jax.default_matmul_precision("highest"):
            return ours(x, w)

    text = jax.jit(jax.grad(energy(precise), (0, 1))).trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("precision = [HIGHEST, HIGHEST]") + text.count("precision HIGHEST") >= 3


@pytest.mark.parametrize(
    ("x", "w", "dtype"),
    [
        ((1, 4, 4, 3), (3, 3, 2, 4), np.float32),
        ((1, 4, 4), (3, 3, 2, 4), np.float32),
        ((1, 4, 4, 2), (3, 3, 2, 4), np.float16),
    ],
)
def test_what_does_not_fit_is_refused_as_by_lax(x, w, dtype):
    ours, reference = both(w)
    x, w = arrays(x, dtype=dtype)[0], arrays(w)[0]
    with pytest.raises((TypeError, ValueError)) as expected:
        reference(x, w)
    with pytest.raises(type(expected.value)) as got:
        ours(x, w)
    assert str(got.value) == str(expected.value)


def test_empty_results():
    ours, reference, _, w = case("strided")
    for x in (jnp.ones((0, 8, 7, 4)), jnp.ones((2, 0, 7, 4))):
        close(jax.value_and_grad(energy(ours), (0, 1))(x, w), jax.value_and_grad(energy(reference), (0, 1))(x, w))
    ours, reference = both((5, 5, 4, 6))
    close(
        ours(jnp.ones((2, 3, 3, 4)), jnp.ones((5, 5, 4, 6))), reference(jnp.ones((2, 3, 3, 4)), jnp.ones((5, 5, 4, 6)))
    )


@pytest.mark.parametrize("operation", ["forward", "input_gradient", "weight_gradient"])
@pytest.mark.parametrize("name", ["winograd", "rows"])
def test_tiles_do_not_change_the_numbers(name, operation, monkeypatch):
    """One image a tile, on one device or as if split over two."""
    monkeypatch.setattr(conv_cpu, "WINOGRAD_TILE_BYTES", 1)
    monkeypatch.setattr(conv_cpu, "ROWS_TILE_BYTES", 1)
    x_shape, w_shape, arguments = CASES[name]
    spec = ConvSpec(x_shape[1:-1], w_shape[:-2], (1, 1), arguments["padding"], (1, 1))
    x, w = arrays(x_shape, w_shape)
    (g,) = arrays(conv_spec.forward(x, w, spec).shape, seed=1)
    operands = {"forward": (x, w), "input_gradient": (g, w), "weight_gradient": (x, g)}[operation]
    for devices in (1, 2):
        got = getattr(conv_cpu, operation)(*operands, spec=spec, devices=devices)
        close(got, getattr(conv_spec, operation)(*operands, spec))


def primitives(f, *operands):
    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn.primitive.name
            for value in eqn.params.values():
                if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                    yield from walk(inner)

    return set(walk(jax.make_jaxpr(f)(*operands).jaxpr))


@pytest.mark.parametrize(
    ("name", "products", "compiled"),
    [
        ("pointwise", "fdx", True),
        ("pointwise_padded", "", True),
        ("winograd", "fdx", True),
        ("rows", "x", True),
        ("strided", "", True),
        ("strided_narrow", "", False),
        ("dilated", "", False),
        ("grouped", "", False),
        ("one_dim", "", False),
    ],
)
def test_which_form_is_taken(name, products, compiled, forms):
    """``products`` names the operations without any convolution: f forward, d input gradient, x weight gradient."""
    x_shape, w_shape, arguments = CASES[name]
    dims = len(w_shape) - 2
    ones, zeros = (1,) * dims, (0,) * dims
    spec = ConvSpec(
        x_shape[1:-1], w_shape[:-2], arguments.get("strides", ones), arguments.get("padding", zeros),
        arguments.get("dilation", ones), arguments.get("groups", 1),
    )  # fmt: skip
    x, w = arrays(x_shape, w_shape)
    g = conv_spec.forward(x, w, spec)
    found, called = "", ""
    calls = {"f": (conv_cpu.forward, x, w), "d": (conv_cpu.input_gradient, g, w), "x": (conv_cpu.weight_gradient, x, g)}
    for letter, (form, *operands) in calls.items():
        taken = primitives(functools.partial(form, spec=spec, devices=1), *operands)
        found += letter if not taken & {"conv_general_dilated", "ffi_call"} else ""
        called += letter if "ffi_call" in taken else ""
        assert "ffi_call" not in primitives(functools.partial(form, spec=spec, devices=2), *operands)
    if forms == "native" and compiled:
        assert (found, called) == ("", "fdx")
    else:
        assert (found, called) == (products, "")


@pytest.mark.parametrize(
    ("batch", "devices", "most", "expected"),
    [(128, 1, 5, 4), (128, 8, 100, 16), (7, 1, 3, 1), (6, 1, 0, 1), (6, 2, 3, 3)],
)
def test_images_per_tile(batch, devices, most, expected):
    assert tiles.images_per_tile(batch, devices, most) == expected
