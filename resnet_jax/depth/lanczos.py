"""Krylov methods based on products: extreme singular values and eigenvalues, and the distribution of the rest.

An operator is a function that multiplies a vector; nothing is materialized. ``k`` products of it (and of its transpose)
with the growing basis of a Krylov space give a small bidiagonal (Golub and Kahan 1965) or tridiagonal (Lanczos 1950)
matrix. The singular values or eigenvalues of that matrix are the *Ritz values*. The outermost approach the operator's
extremes from inside, each with a bound on its distance to a true one. All together, weighted, they are the Gauss
quadrature nodes of the operator's spectral density (stochastic Lanczos quadrature; Ubaru, Chen and Saad 2017).

Every new vector is orthogonalized twice against the whole basis. When the Krylov space is exhausted, which is the rule
here rather than the exception (the Jacobian of a block whose branch is zero is the identity, exhausted after one step),
the iteration continues from a new random direction, decoupled from what came before.

Why not matfree (0.6.3)? Its ``bidiag`` and ``tridiag_sym`` divide by the norm of that exhausted remainder, so
identities and orthogonal maps give NaN; its buffers have the default float type, which under ``jax_enable_x64`` is not
that of a float32 vector; and it evaluates the function again in each product, where one linearization is enough.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

Product = Callable[[Any], Any]

#: A remainder this small relative to the operator's norm is rounding: the Krylov space is exhausted.
_EXHAUSTED = 16.0


class Ritz(NamedTuple):
    """Ritz values of one operator from one start vector, ascending, float64 ``(k,)``.

    Attributes:
        values: approximate singular values or eigenvalues.
        weights: weights of the Gauss quadrature; they sum to 1.
        residuals: for each value there is a true one within this distance.
    """

    values: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray


def golub_kahan(
    product: Product,
    transposed: Product,
    start: Float[Array, " n"],
    large: int,
    iterations: int,
    key: Key[Array, ""],
    *,
    traced: bool = True,
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Return diagonal and upper diagonal of B with ``A V = U B``, V and U with orthonormal columns, ``V[:, 0] ~
    start``.

    Args:
        product: multiplies a vector ``(n,)`` by A, ``(large,)``.
        transposed: multiplies a vector ``(large,)`` by A's transpose.
        start: any vector of A's shorter side.
        large: A's longer side; at least ``n``.
        iterations: k, at most ``n``.
        key: PRNG key for the directions after an exhausted Krylov space.
        traced: run as one loop in a compiled function; otherwise step by step, for products that are compiled functions
            themselves and should not be compiled into a loop.

    Returns:
        ``(k,)`` and ``(k,)``: the last number of the second couples the space to what lies outside it.

    >>> a = jnp.diag(jnp.arange(1.0, 5.0))
    >>> numbers = golub_kahan(lambda v: a @ v, lambda u: a.T @ u, jnp.ones(4), 4, 4, jax.random.key(0))
    >>> singular_ritz(*numbers).values.round(4).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    n, dtype = start.size, start.dtype

    def step(i: Any, state: Any) -> Any:
        us, vs, diagonal, upper, v = state
        vs = vs.at[i].set(v)
        scale = jnp.maximum(jnp.max(diagonal), jnp.max(upper))
        u_key, v_key = jax.random.split(jax.random.fold_in(key, i))
        u, alpha = extend(us, product(v), scale, u_key)
        us, diagonal = us.at[i].set(u), diagonal.at[i].set(alpha)
        v, beta = extend(vs, transposed(u), jnp.maximum(scale, alpha), v_key)
        return us, vs, diagonal, upper.at[i].set(beta), v

    state = (
        jnp.zeros((iterations, large), dtype),
        jnp.zeros((iterations, n), dtype),
        jnp.zeros((iterations,), dtype),
        jnp.zeros((iterations,), dtype),
        start / jnp.linalg.norm(start),
    )
    state = _loop(iterations, step, state, traced)
    return state[2], state[3]


def lanczos(
    product: Product,
    start: Float[Array, " n"],
    iterations: int,
    key: Key[Array, ""],
    *,
    within: Callable[[Array], Array] = lambda v: v,
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Return diagonal and off-diagonal of T with ``A V = V T`` for a symmetric A; arguments as in :func:`golub_kahan`.

    Args:
        product: multiplies a vector ``(n,)`` by A.
        start: any vector.
        iterations: k.
        key: PRNG key for the directions after an exhausted Krylov space.
        within: projects a vector onto the subspace in which A lives. Numbers beyond its dimension are 0 and
            meaningless: cut them off before :func:`symmetric_ritz`.

    >>> a = jnp.diag(jnp.arange(-1.0, 3.0))
    >>> values = symmetric_ritz(*lanczos(lambda v: a @ v, jnp.ones(4), 4, jax.random.key(0))).values
    >>> (values.round(3) + 0.0).tolist()
    [-1.0, 0.0, 1.0, 2.0]
    """
    dtype = start.dtype

    def step(i: Any, state: Any) -> Any:
        vs, diagonal, off, v = state
        vs = vs.at[i].set(v)
        w = product(v)
        alpha = jnp.vdot(v, w, precision=lax.Precision.HIGHEST)
        diagonal = diagonal.at[i].set(alpha)
        scale = jnp.maximum(jnp.max(jnp.abs(diagonal)), jnp.max(off))
        v, beta = extend(vs, w, scale, jax.random.fold_in(key, i), within)
        return vs, diagonal, off.at[i].set(beta), v

    zeros = jnp.zeros((iterations,), dtype)
    start = within(start)
    state = (jnp.zeros((iterations, start.size), dtype), zeros, zeros, start / jnp.linalg.norm(start))
    state = _loop(iterations, step, state, traced=True)
    return state[1], state[2]


@functools.partial(jax.jit, static_argnames="within")
def extend(
    basis: Float[Array, "k n"],
    w: Float[Array, " n"],
    scale: Float[Array, ""],
    key: Key[Array, ""],
    within: Callable[[Array], Array] = lambda v: v,
) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """Return the direction of ``w`` orthogonal to ``basis``, and its length.

    Args:
        basis: orthonormal rows; unused rows are zero.
        w: a vector.
        scale: norm of the operator as far as it is known.
        key: PRNG key for a random direction of length 0 if ``w`` lies in the span of the basis; zeros if the basis
            fills the space.
        within: projects that direction onto the subspace in question.
    """

    def orthogonal(w):
        for _ in range(2):
            coefficients = jnp.matmul(basis, w, precision=lax.Precision.HIGHEST)
            w = w - jnp.matmul(coefficients, basis, precision=lax.Precision.HIGHEST)
        return w

    def fresh():
        direction = within(jax.random.normal(key, w.shape, w.dtype))
        whole, direction = jnp.linalg.norm(direction), orthogonal(direction)
        left = jnp.linalg.norm(direction)
        # with a basis that fills the space, only rounding remains
        full = left <= jnp.sqrt(jnp.finfo(w.dtype).eps) * whole
        return jnp.where(full, 0.0, direction / jnp.where(full, 1.0, left))

    w = orthogonal(w)
    norm = jnp.linalg.norm(w)
    # not "norm > ...", so that NaN stays NaN
    exhausted = norm <= _EXHAUSTED * jnp.finfo(w.dtype).eps * scale
    return lax.cond(exhausted, fresh, lambda: w / norm), jnp.where(exhausted, 0.0, norm)


def _loop(iterations: int, step: Callable[[Any, Any], Any], state: Any, traced: bool) -> Any:
    if traced:
        return lax.fori_loop(0, iterations, step, state)
    for i in range(iterations):
        state = step(i, state)
    return state


def singular_ritz(diagonal: Any, upper: Any) -> Ritz:
    """Return the Ritz values from the result of :func:`golub_kahan`; NaN where the operator was not finite.

    With ``B q = s p`` there is a singular value within ``upper[-1] |p[-1]|`` of s; the rounding of the products is
    added to that.
    """
    eps = np.finfo(np.asarray(diagonal).dtype).eps
    diagonal, upper = np.asarray(diagonal, np.float64), np.asarray(upper, np.float64)
    if not (np.isfinite(diagonal).all() and np.isfinite(upper).all()):
        return _not_finite(diagonal)
    p, values, q = np.linalg.svd(np.diag(diagonal) + np.diag(upper[:-1], 1))
    residuals = upper[-1] * np.abs(p[-1]) + _EXHAUSTED * eps * values[0]
    return Ritz(values[::-1], np.square(q[:, 0])[::-1], residuals[::-1])


def symmetric_ritz(diagonal: Any, off: Any) -> Ritz:
    """Return the Ritz values from the result of :func:`lanczos`; NaN where the operator was not finite."""
    eps = np.finfo(np.asarray(diagonal).dtype).eps
    diagonal, off = np.asarray(diagonal, np.float64), np.asarray(off, np.float64)
    if not (np.isfinite(diagonal).all() and np.isfinite(off).all()):
        return _not_finite(diagonal)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1))
    residuals = off[-1] * np.abs(vectors[-1]) + _EXHAUSTED * eps * np.abs(values).max()
    return Ritz(values, np.square(vectors[0]), residuals)


def _not_finite(like: np.ndarray) -> Ritz:
    return Ritz(*(np.full(like.shape, np.nan) for _ in range(3)))


def operator_ritz(
    function: Callable[[Array], Array], x: Array, iterations: int, keys: Key[Array, " probes"]
) -> tuple[Float[Array, "probes k"], Float[Array, "probes k"]]:
    """Return the result of :func:`golub_kahan` for the Jacobian of ``function`` at ``x``, for several random starts.

    The start is on the shorter side, so that the singular values are the ``min(inputs, outputs)`` ones that need not be
    0. The function is linearized once. Call this in a compiled function.

    Args:
        function: a function of one float array of any shape.
        x: the point.
        iterations: at most ``min(inputs, outputs)``.
        keys: one for each start.
    """
    y, linear = jax.linearize(function, x)
    pull = jax.linear_transpose(linear, x)

    def forward(v):
        return linear(v.reshape(x.shape)).reshape(-1)

    def backward(u):
        return pull(u.reshape(y.shape))[0].reshape(-1)

    wide = y.size < x.size
    products = (backward, forward) if wide else (forward, backward)

    def one(key):
        start, go_on = jax.random.split(key)
        v = jax.random.normal(start, (min(x.size, y.size),), x.dtype)
        return golub_kahan(*products, v, max(x.size, y.size), iterations, go_on)

    return lax.map(one, keys)


def chain_ritz(
    push: Product, pull: Product, inputs: int, outputs: int, dtype: DTypeLike, iterations: int, keys: Any
) -> tuple[Array, Array]:
    """Return the same for an operator whose products are compiled functions of flat vectors, step by step."""
    products, small, large = ((pull, push), outputs, inputs) if outputs < inputs else ((push, pull), inputs, outputs)
    rows = []
    for key in keys:
        start, go_on = jax.random.split(key)
        v = jax.random.normal(start, (small,), dtype)
        rows.append(golub_kahan(*products, v, large, iterations, go_on, traced=False))
    return jnp.stack([row[0] for row in rows]), jnp.stack([row[1] for row in rows])
