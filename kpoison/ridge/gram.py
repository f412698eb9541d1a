"""Gram matrices for solvers: how they are made, and why one may be that of no kernel, or know no digit."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._failures import checked_result, program
from kpoison._linear_algebra import cholesky
from kpoison._validation import is_concrete
from kpoison.kernels.base import Kernel

__all__ = [
    "checked_on_sample",
    "gram_failures",
    "gram_matrix",
    "gram_rounding",
    "largest_row_sum",
    "lost_digits",
    "lowest_to_rounding",
    "sample_places",
    "takes_differences",
]

# Coordinates of differences, n²d, that a Gram matrix may be made of: of kernels that feel their digits, of smooth ones.
_DIFFERENCES_UP_TO = 2**26
_CHEAP_DIFFERENCES_UP_TO = 2**22
_FEW_DIGITS = 100.0  # times eps, that a matrix product may cost a smooth kernel where differences are affordable
_NO_DIGIT = 0.1
_SAMPLE = 512


def sample_places(n: int) -> np.ndarray:
    """Points here and there, on which a kernel that is indefinite is likely to show it."""
    return np.linspace(0, n - 1, min(n, _SAMPLE)).astype(int)


def gram_matrix(kernel: Kernel, X: Float[Array, "n ..."], differences: bool | None = None) -> Float[Array, "n n"]:
    """K(X, X) as `fit` computes it.

    Kernels of finite smoothness feel the digits that a matrix product loses for close pairs; up to 2²⁶ coordinates of
    differences (n²d) their Gram matrix is computed pair by pair.  That of smooth ones of differences is up to 2²², or
    up to 2²⁶ where points (known ones) lie so many length scales apart that the product would cost them digits too.
    """
    differences = takes_differences(kernel, X) if differences is None else differences
    return kernel.pairwise(X, X) if differences else kernel.gram(X, X)


def takes_differences(kernel: Kernel, X: Float[Array, "n ..."]) -> bool:
    """Whether `gram_matrix` is made pair by pair."""
    coordinates = len(X) * X.size
    if coordinates > _DIFFERENCES_UP_TO:
        return False
    cheap = kernel.translation_invariant and coordinates <= _CHEAP_DIFFERENCES_UP_TO
    if kernel.smoothness != math.inf or cheap:
        return True
    known = all(is_concrete(leaf) for leaf in jax.tree.leaves((kernel, X)))
    return known and float(_rounding_factor(kernel, X)) > _FEW_DIGITS


@eqx.filter_jit
def _rounding_factor(kernel: Kernel, X: Float[Array, "n ..."]) -> Float[Array, ""]:
    """As one program, not one for each of its thirty operations."""
    return kernel.rounding_factor(X)


def lost_digits(kernel: Kernel, X: Float[Array, "n ..."]) -> list[tuple[Array, str]]:
    """Why `kernel.gram` would not know close points from each other."""
    lost = jnp.finfo(X.dtype).eps * _rounding_factor(kernel, X) > _NO_DIGIT
    message = (
        f"the points of X lie too many length scales apart for {X.dtype}: a matrix product leaves no digit of the "
        f"distances between close ones.  Use float64, or up to n²d = {_DIFFERENCES_UP_TO} outside of jit"
    )
    return [(lost, message)]


def gram_failures(
    kernel: Kernel, bounds: tuple[Array, Array], rounding: Array, asymmetry: Array | float = 0.0
) -> list[tuple[Array, str]]:
    """Why a matrix with these extreme eigenvalues and this asymmetry is none of a kernel."""
    (lowest, highest), name = bounds, type(kernel).__name__
    return [
        (~jnp.isfinite(rounding + highest), f"kernel {name} has non-finite values on X"),
        (asymmetry > rounding, f"kernel {name} is not symmetric on X: k(x, z) and k(z, x) differ"),
        (lowest < -rounding, f"kernel {name} is not positive semi-definite on X"),
    ]


@jax.jit
def gram_rounding(gram: Array) -> Array:
    """How far rounding may have moved the eigenvalues."""
    return 10 * len(gram) * jnp.finfo(gram.dtype).eps * jnp.max(jnp.abs(gram))


@functools.partial(jax.jit, static_argnums=2)
def lowest_to_rounding(part: Float[Array, "m m"], highest: Float[Array, ""], number: int) -> Float[Array, ""]:
    """0 where a part of a matrix of so many points is positive semi-definite to rounding, else −∞: by Cholesky.

    `highest` bounds the eigenvalues.
    """
    # Divided by its size first: of 0, which is positive semi-definite, the rounding would be 0 too.
    unit = jnp.where(highest > 0, highest, 1)
    shift = 10 * number * jnp.finfo(part.dtype).eps
    lower = cholesky(part / unit + shift * jnp.eye(len(part), dtype=part.dtype))
    return jnp.where(jnp.all(jnp.isfinite(lower)), 0.0, -jnp.inf).astype(part.dtype)


@jax.jit
def largest_row_sum(gram: Float[Array, "n n"]) -> Float[Array, ""]:
    """Upper bound on |eigenvalues|."""
    return jnp.max(jnp.sum(jnp.abs(gram), axis=1))


@program
def checked_on_sample(kernel: Kernel, X: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """The points; refused, before anything dear is made, where the kernel is none on some of them.

    An indefinite kernel is likely to show on points here and there.
    """
    constant, points = jax.lax.stop_gradient((kernel, X[sample_places(len(X))]))
    gram, other = constant.gram(points, points), constant.gram(points, jnp.array(points, copy=True))
    highest = largest_row_sum(gram)
    bounds = lowest_to_rounding(0.5 * (gram + gram.T), highest, len(gram)), highest
    asymmetry = jnp.max(jnp.abs(other - other.T))
    return checked_result(X, gram_failures(kernel, bounds, gram_rounding(gram), asymmetry))
