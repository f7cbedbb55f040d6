"""The convolution family against its definition in float64 and against ``lax``, under every transformation.

Values and gradients of every form are compared with :class:`tests.ops.exact.Conv`. What holds of the primitives, and so
of every form alike (higher derivatives, nested batching, refusals), is tested once. The gradients are the primitives
themselves: that no derivative leaves the family is read off the program.
"""

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
from resnet_jax.ops import conv_cpu, conv_spec, tiles
from resnet_jax.ops.conv_spec import ConvSpec
from tests.ops import exact
from tests.ops.exact import close
from tests.ops.programs import executed

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
    "volume": ((2, 5, 4, 6, 3), (3, 3, 3, 3, 5), {"padding": (1, 1, 1)}),
    "volume_strided": ((2, 6, 5, 4, 3), (3, 3, 3, 3, 4), {"strides": (2, 2, 2), "padding": (1, 1, 1)}),
    "volume_uneven": ((2, 7, 6, 5, 2), (4, 2, 3, 2, 3), {"strides": (3, 2, 2), "padding": (2, 0, 1)}),
    "volume_thin": ((2, 1, 3, 3, 4), (3, 3, 3, 4, 2), {"padding": (1, 1, 1)}),
    "volume_overpadded": ((1, 3, 4, 4, 2), (2, 3, 3, 2, 2), {"padding": (3, 1, 1)}),
    "one_pixel": ((1, 1, 1, 8), (3, 3, 8, 8), {"padding": (1, 1)}),
}
#: Those with a compiled form; test_which_form_is_taken checks it.
COMPILED = (
    "pointwise", "pointwise_padded", "winograd", "rows", "rows_unpadded", "rows_overpadded", "strided", "one_pixel",
    "one_dim", "volume", "volume_strided", "volume_uneven", "volume_thin", "volume_overpadded",
)  # fmt: skip


def in_form(**names):
    """Parametrize a test over the form and the cases that are worth computing in it."""
    pairs = [(form, name) for form, chosen in names.items() for name in chosen]
    return pytest.mark.parametrize(("form", "name"), pairs, indirect=["form"])


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
    """Return our convolution, that of lax, the exact one, and operands."""
    x, w, arguments = CASES[name]
    return (*both(w, **arguments), exact.Conv(**arguments), *arrays(x, w, **kwargs))


def energy(f):
    """Return a scalar function that is not bilinear, so that its second derivatives are full."""
    return lambda x, w: jnp.sum(jnp.sin(f(x, w) * 0.3))


def energy_gradient(conv, x, w):
    """Return the exact gradients of ``energy``."""
    return conv.vjp(x, w, 0.3 * np.cos(0.3 * conv(x, w)))


def with_gradients(f):
    """Return the output of ``f`` and both gradients of its energy, as one function."""
    return lambda x, w: (f(x, w), jax.grad(energy(f), (0, 1))(x, w))


@functools.cache
def expected(name):
    """Return what ``with_gradients`` gives: computed once for all forms."""
    _, _, conv, x, w = case(name)
    return conv(x, w), energy_gradient(conv, x, w)


@in_form(compiled=COMPILED, plain=CASES)
def test_value_and_gradients_of_every_form(form, name):
    ours, _, _, x, w = case(name)
    close(jax.jit(with_gradients(ours))(x, w), expected(name))


def higher(f):
    """Return a tangent and two Hessian-vector products of the energy of ``f``, as one function."""

    def everything(x, w, dx, dw):
        gradient = jax.grad(energy(f), (0, 1))
        reverse_over_reverse = jax.grad(
            lambda x, w: sum(jnp.vdot(a, b) for a, b in zip(gradient(x, w), (dx, dw), strict=True)), (0, 1)
        )
        tangent = jax.jvp(f, (x, w), (dx, dw))[1]
        return tangent, jax.jvp(gradient, (x, w), (dx, dw))[1], reverse_over_reverse(x, w)

    return everything


@pytest.mark.parametrize("name", ["strided", "grouped", "three_dims"])
def test_higher_derivatives_are_those_of_lax_and_stay_in_the_family(name):
    ours, reference, _, x, w = case(name)
    operands = x, w, *arrays(x.shape, w.shape, seed=1)
    close(jax.jit(higher(ours))(*operands), jax.jit(higher(reference))(*operands))
    found = executed(higher(ours), *operands)
    assert min(found["conv"], found["conv_input_gradient"], found["conv_weight_gradient"]) > 0
    assert not found["conv_general_dilated"]


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (2, 1)])
@in_form(compiled=["strided"], plain=["grouped"])
def test_vmap_over_inputs_kernels_and_both(form, name, axes):
    ours, _, conv, x, w = case(name)
    rng = np.random.default_rng(2)
    x, w = (
        a if axis is None else np.stack([a * number for number in rng.normal(size=2).astype(np.float32)], axis)
        for a, axis in zip((np.asarray(x), np.asarray(w)), axes, strict=True)
    )

    def inner_and_outer(x, w):
        each = jax.vmap(jax.grad(energy(ours), (0, 1)), axes)
        return each(x, w), jax.grad(energy(jax.vmap(ours, axes)), (0, 1))(x, w)

    members = [
        [a if axis is None else np.take(a, i, axis) for a, axis in zip((x, w), axes, strict=True)] for i in range(2)
    ]
    inner = [np.stack(gradients) for gradients in zip(*(energy_gradient(conv, *m) for m in members), strict=True)]
    outer = [d.sum(0) if axis is None else np.moveaxis(d, 0, axis) for d, axis in zip(inner, axes, strict=True)]
    close(jax.jit(inner_and_outer)(x, w), (tuple(inner), tuple(outer)))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ((0, None), (0, 0)),
        ((None, 0), (0, None)),
        ((0, 0), (0, 0)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (((0, 0), (None, 0)), ((0, 0), (0, None)))),
    ],
)
def test_nested_vmap(outer, inner):
    ours, _, conv, x, w = case("strided")

    def lead(operand):
        return tuple(n for n, axes in ((2, outer), (3, inner)) if axes[operand] is not None)

    x, w = arrays((*lead(0), *x.shape), (*lead(1), *w.shape))

    def member(a, operand, i, j):
        return np.asarray(a)[tuple(at for at, axes in ((i, outer), (j, inner)) if axes[operand] is not None)]

    each = [[energy_gradient(conv, member(x, 0, i, j), member(w, 1, i, j)) for j in range(3)] for i in range(2)]
    nested = jax.vmap(jax.vmap(jax.grad(energy(ours), (0, 1)), inner), outer)
    close(jax.jit(nested)(x, w), tuple(np.stack([[e[k] for e in row] for row in each]) for k in range(2)))


def test_many_members_run_in_a_loop():
    ours, _, conv, x, w = case("pointwise")
    count = conv_cpu.UNROLLED_MEMBERS + 1
    (w,) = arrays((count, *w.shape))
    mapped = jax.jit(jax.vmap(ours, (None, 0)))
    assert "stablehlo.while" in mapped.lower(x, w).as_text()
    close(mapped(x, w), np.stack([conv(x, each) for each in w]))
    assert "stablehlo.while" not in mapped.lower(x, w[:-1]).as_text()
    assert ours(x, w[0]).shape == mapped(x, w[:0]).shape[1:]  # no member at all


DIMENSION = st.tuples(
    st.integers(1, 4),  # window
    st.integers(1, 3),  # stride
    st.integers(0, 3),  # padding
    st.integers(1, 2),  # dilation
    st.integers(0, 4),  # pixels more than one window needs
)


@pytest.mark.parametrize("form", ["plain"], indirect=True)  # the compiled form has such a test of its own
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    dims=st.lists(DIMENSION, min_size=1, max_size=3),
    n=st.integers(1, 3),
    groups=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_convolution(form, dims, n, groups, seed):
    window, strides, padding, dilation, extra = zip(*dims, strict=True)
    size = [max(1, (k - 1) * d + 1 - 2 * p) + e for k, d, p, e in zip(window, dilation, padding, extra, strict=True)]
    arguments = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    ours, conv = both((*window, 0, 0), **arguments)[0], exact.Conv(**arguments)
    x, w = arrays((n, *size, 2 * groups), (*window, 2, groups), seed=seed)
    close(jax.jit(with_gradients(ours))(x, w), (conv(x, w), energy_gradient(conv, x, w)))


def test_finite_differences():
    with jax.enable_x64(True):
        ours, _, _, x, w = case("grouped", dtype=np.float64)
        check_grads(jax.jit(ours), (x, w), order=2, modes=("rev",), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("bfloat16", 2e-2), ("float16", 2e-3)])
@pytest.mark.parametrize("name", [pytest.param("pointwise_strided", marks=pytest.mark.slow), "strided"])
def test_other_floats(name, dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        ours, _, conv, x, w = case(name, dtype=dtype)
        got = jax.jit(with_gradients(ours))(x, w)
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(dtype)}
        close(got, (conv(x, w), energy_gradient(conv, x, w)), rtol)


def test_half_precision_sums_in_float32():
    """4096 ones: a sum kept in bfloat16 would stop at 256."""
    x, g = jnp.ones((16, 16, 16, 1), jnp.bfloat16), jnp.ones((16, 16, 16, 1), jnp.bfloat16)
    spec = ConvSpec(size=(16, 16), window=(1, 1), strides=(1, 1), padding=(0, 0), dilation=(1, 1))
    assert float(conv_cpu.weight_gradient(x, g, spec=spec, devices=1)[0, 0, 0, 0]) == 4096


@in_form(compiled=["strided"], plain=["winograd", "grouped"])
def test_inside_scan_and_remat(form, name):
    ours, _, conv, x, w = case(name)

    @jax.checkpoint
    def body(carry, w):
        return carry + energy(ours)(x, w), None

    (ws,) = arrays((2, *w.shape))
    gradient = jax.jit(jax.grad(lambda ws: lax.scan(body, jnp.zeros(()), ws)[0]))
    close(gradient(ws), np.stack([energy_gradient(conv, x, w)[1] for w in ws]))


def two_devices(axis="data"):
    return jax.make_mesh((2,), (axis,), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


@pytest.mark.parametrize("name", ["pointwise", "winograd", "rows", "strided"])
def test_a_split_batch_is_never_gathered(name):
    mesh = two_devices()
    ours, _, conv, x, w = case(name)
    x = jnp.concatenate([x[:3]] * 4)
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    compiled = jax.jit(jax.grad(energy(ours), (0, 1)), in_shardings=(split, whole)).lower(x, w).compile()
    text = compiled.as_text()
    assert "all-reduce" in text
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute", "resnet_jax_conv"))
    assert compiled.output_shardings[0].is_equivalent_to(split, x.ndim)
    close(compiled(jax.device_put(x, split), jax.device_put(w, whole)), energy_gradient(conv, x, w))


def test_a_split_batch_with_groups_is_gathered_by_no_weight_gradient():
    """XLA itself gathers the batch for a grouped convolution, ours and lax's; no more than that."""
    mesh = two_devices()
    ours, _, conv, x, w = case("grouped")
    shardings = (NamedSharding(mesh, P("data")), NamedSharding(mesh, P()))
    gradient = jax.jit(jax.grad(energy(ours), (0, 1)), in_shardings=shardings)
    g = jnp.asarray(conv(x, w), x.dtype)
    weights = jax.jit(lambda x, g: jax.vjp(ours, x, w)[1](g)[1], in_shardings=shardings[:1] * 2)
    text = weights.lower(x, g).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text
    close(gradient(x, w), energy_gradient(conv, x, w))


def test_shard_map(form):
    ours, _, _, x, w = case("rows")

    def total(x, w):
        return lax.psum(energy(ours)(x, w), "data")

    mapped = jax.shard_map(total, mesh=two_devices(), in_specs=(P("data"), P()), out_specs=P())
    gradient = jax.jit(jax.grad(mapped, (0, 1)))
    assert ("resnet_jax_conv_weight_gradient" in gradient.lower(x, w).as_text()) == (form == "compiled")
    close(gradient(x, w), expected("rows")[1])


def test_pmap():
    ours, _, _, x, w = case("rows")
    dx, dw = jax.pmap(jax.grad(energy(ours), (0, 1)), in_axes=(0, None))(x.reshape(2, 2, *x.shape[1:]), w)
    close((np.asarray(dx).reshape(x.shape), np.asarray(dw).sum(0)), expected("rows")[1])


def test_a_split_kernel_in_shard_map():
    ours, _, _, x, w = case("strided")
    w_split = P(None, None, None, "model")
    mapped = jax.shard_map(ours, mesh=two_devices("model"), in_specs=(P(), w_split), out_specs=w_split)
    close(jax.jit(mapped)(x, w), expected("strided")[0])


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("pointwise", "winograd")), "strided", "grouped"]
)
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

    ours, reference, _, x, w = case(name)
    assert convolutions(ours) == convolutions(reference) != []


def test_eager_numpy_and_no_jit():
    ours, _, _, x, w = case("strided")
    close(ours(np.asarray(x), np.asarray(w)), expected("strided")[0])
    with jax.disable_jit():
        close(ours(x, w), expected("strided")[0])


def test_exported_with_an_unknown_batch_for_every_platform():
    ours, _, _, x, w = case("winograd")
    (batch,) = export.symbolic_shape("batch")
    abstract = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = export.export(jax.jit(lambda x: ours(x, w)), platforms=("cpu", "cuda", "tpu"))(abstract)
    assert "resnet_jax_conv" not in exported.mlir_module()
    close(exported.call(x), expected("winograd")[0])


def test_one_device_calls_the_compiled_form(form):
    ours, _, _, x, w = case("strided")
    text = jax.jit(jax.grad(energy(ours), (0, 1))).lower(x, w).as_text()
    assert ("resnet_jax_conv_weight_gradient" in text) == (form == "compiled")


def test_precision_is_that_of_the_call():
    ours, _, _, x, w = case("rows")
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
    ours, reference, _, _, w = case("strided")
    for x in (jnp.ones((0, 8, 7, 4)), jnp.ones((2, 0, 7, 4))):
        shape = jax.eval_shape(reference, x, w).shape
        close(jax.jit(with_gradients(ours))(x, w), (np.zeros(shape), (np.zeros(x.shape), np.zeros(w.shape))))
    ours, _ = both((5, 5, 4, 6))
    assert ours(jnp.ones((2, 3, 3, 4)), jnp.ones((5, 5, 4, 6))).shape == (2, 0, 0, 6)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("winograd", "forward"),
        ("winograd", "input_gradient"),
        ("winograd", "weight_gradient"),
        ("rows", "weight_gradient"),
    ],
)
@pytest.mark.parametrize("form", ["plain"], indirect=True)
def test_tiles_do_not_change_the_numbers(form, name, operation, monkeypatch):
    """One image a tile, on one device or as if split over two."""
    monkeypatch.setattr(conv_cpu, "WINOGRAD_TILE_BYTES", 1)
    monkeypatch.setattr(conv_cpu, "ROWS_TILE_BYTES", 1)
    x_shape, w_shape, arguments = CASES[name]
    spec = ConvSpec(x_shape[1:-1], w_shape[:-2], (1, 1), arguments["padding"], (1, 1))
    _, _, conv, x, w = case(name)
    y = conv(x, w)
    dx, dw = conv.vjp(x, w, y)
    g = jnp.asarray(y, x.dtype)
    *operands, result = {"forward": (x, w, y), "input_gradient": (g, w, dx), "weight_gradient": (x, g, dw)}[operation]

    @jax.jit
    def on_one_and_two(*operands):
        return [getattr(conv_cpu, operation)(*operands, spec=spec, devices=devices) for devices in (1, 2)]

    close(on_one_and_two(*operands), [result, result])


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("pointwise", "fdx"),
        ("pointwise_strided", "fdx"),
        ("pointwise_padded", ""),
        ("winograd", "fdx"),
        ("rows", "x"),
        ("rows_unpadded", "x"),
        ("rows_overpadded", "x"),
        ("strided", ""),
        ("strided_narrow", ""),
        ("dilated", ""),
        ("grouped", ""),
        ("depthwise", ""),
        ("one_dim", ""),
        ("three_dims", ""),
        ("one_pixel", "x"),
    ],
)
def test_which_form_is_taken(form, name, products):
    """``products`` names the operations without any convolution: f forward, d input gradient, x weight gradient."""
    x_shape, w_shape, arguments = CASES[name]
    dims = len(w_shape) - 2
    ones, zeros = (1,) * dims, (0,) * dims
    spec = ConvSpec(
        x_shape[1:-1], w_shape[:-2], arguments.get("strides", ones), arguments.get("padding", zeros),
        arguments.get("dilation", ones), arguments.get("groups", 1),
    )  # fmt: skip
    x, w = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x_shape, w_shape))
    g = jax.eval_shape(functools.partial(conv_spec.forward, spec=spec), x, w)
    found, called = "", ""
    calls = {"f": (conv_cpu.forward, x, w), "d": (conv_cpu.input_gradient, g, w), "x": (conv_cpu.weight_gradient, x, g)}
    for letter, (operation, *operands) in calls.items():
        taken = executed(functools.partial(operation, spec=spec, devices=1), *operands).keys()
        found += letter if not taken & {"conv_general_dilated", "ffi_call"} else ""
        called += letter if "ffi_call" in taken else ""
        assert "ffi_call" not in executed(functools.partial(operation, spec=spec, devices=2), *operands)
    assert (found, called) == (("", "fdx") if form == "compiled" and name in COMPILED else (products, ""))


@pytest.mark.parametrize(
    ("batch", "devices", "most", "expected"),
    [(128, 1, 5, 4), (128, 8, 100, 16), (7, 1, 3, 1), (6, 1, 0, 1), (6, 2, 3, 3)],
)
def test_images_per_tile(batch, devices, most, expected):
    assert tiles.images_per_tile(batch, devices, most) == expected
