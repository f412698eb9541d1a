"""First and second derivatives where autodiff usually gives NaN: coincident and collinear points, the origin.

Each is right, or at a cusp the symmetric part, or refused with an error that points to `kernel.smoothness`.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from catalogue import CLASSICAL, COMPOSITE, KINKED, SMOOTH, dear_are_slow, is_cone, networks, quadratures

from kpoison import kernels as kk

X = np.array([0.75, -1.25, 0.5])
ORIGIN = np.zeros(3)
DIRECTION = np.array([0.48, 0.36, 0.8])
PAIRS = {
    "general": (X, np.array([0.3, 0.7, -1.1])),
    "x = z": (X, X),
    "x = 2z": (2 * X, X),
    "x = z/4": (X, 4 * X),
    "x = -z": (X, -X),
    "x = 0": (ORIGIN, X),
    "z = 0": (X, ORIGIN),
    "x = z = 0": (ORIGIN, ORIGIN),
}
NETWORKS = networks(activations=KINKED, depths=(2,)) | networks(activations=SMOOTH, depths=(1,))
CLOSED = CLASSICAL | COMPOSITE | NETWORKS
ALL = CLOSED | quadratures()
# Kinked ones have most of the special cases: all of them.
SOME = [*networks(activations=KINKED), *networks(activations=SMOOTH, depths=(1,), every=False)]
COVER = [*CLASSICAL, *COMPOSITE, *SOME]
CONES = networks(activations=KINKED, biases=(0.0,))

# Values, gradients and Hessians here are sums of about a hundred terms that are not much larger than the result.
ROUNDING = 1000 * np.finfo(float).eps


def cusp(kernel, pair):
    """Whether a second derivative in x or z does not exist there."""
    if kernel.smoothness >= 2:
        return is_cone(kernel) and "0" in pair
    return pair in ("x = z", "x = z = 0") or (is_cone(kernel) and pair != "general")


def stacked(pairs):
    """The pairs as two batches of points, filled up to one size, for which every operation is compiled once."""
    pairs = [*pairs, *["general"] * (len(PAIRS) - len(pairs))]
    return tuple(jnp.asarray(np.stack([PAIRS[pair][side] for pair in pairs])) for side in (0, 1))


def single(pair):
    """The pair as two points."""
    return tuple(map(jnp.asarray, PAIRS[pair]))


def joint_gradient(kernel):
    """(x, z) → gradient in (x, z)."""

    def gradient(x, z):
        return jnp.concatenate(jax.grad(kernel.evaluate, (0, 1))(x, z))

    return gradient


def joint_hessian(kernel):
    """(x, z) → Hessian in (x, z): both arguments and the mixed blocks, jacfwd over jacrev."""

    def hessian(x, z):
        return jnp.block([list(row) for row in jax.jacfwd(jax.jacrev(kernel.evaluate, (0, 1)), (0, 1))(x, z)])

    return hessian


def assert_close(got, expected):
    """To rounding, relative to the largest element, or to one."""
    scale = max(float(np.max(np.abs(expected))), 1.0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING * scale)


# --- Values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", dear_are_slow(COVER))
def test_gradients_are_finite_and_right(name):
    """Right, or the mean of the one-sided derivatives: what central differences in mpmath give in either case."""
    kernel = CLOSED[name]
    # At the origin of a cone that mean is linear in the direction, hence a gradient, for one layer only.
    pairs = [pair for pair in PAIRS if not (is_cone(kernel) and "0" in pair)]
    gradients = jax.vmap(joint_gradient(kernel))(*stacked(pairs))
    for gradient, pair in zip(gradients, pairs, strict=False):
        x, z = PAIRS[pair]
        assert_close(gradient, np.concatenate([oracles.gradient(kernel, x, z), oracles.gradient(kernel, z, x)]))


@pytest.mark.parametrize("name", dear_are_slow(COVER, 2))
def test_hessians_are_finite_and_right(name):
    kernel = CLOSED[name]
    pairs = [pair for pair in PAIRS if not cusp(kernel, pair)]
    hessians = jax.vmap(joint_hessian(kernel))(*stacked(pairs))
    for hessian, pair in zip(hessians, pairs, strict=False):
        assert_close(hessian, oracles.joint_jet(kernel, *PAIRS[pair])[2])


@pytest.mark.slow
def test_quadrature_has_finite_derivatives():
    """With 16 nodes the values are not exact, but the derivatives are those of a smooth function everywhere."""
    kernel = quadratures()["NTK-tanh"]
    derivatives = jax.jit(jax.vmap(lambda x, z: (joint_gradient(kernel)(x, z), joint_hessian(kernel)(x, z))))
    gradients, hessians = derivatives(*stacked(PAIRS))
    assert np.all(np.isfinite(gradients))
    assert np.all(np.isfinite(hessians))
    assert_close(hessians, np.swapaxes(hessians, 1, 2))


@pytest.mark.parametrize("name", networks(activations=KINKED, biases=(0.0,), depths=(1, 3)))
def test_at_the_origin_of_a_cone_the_gradient_is_as_at_a_right_angle(name):
    """There every layer multiplies by weight_std²(1 + slope)²/4; for one layer this is the symmetric part."""
    kernel = networks(activations=KINKED, biases=(0.0,), depths=(1, 3))[name]
    factor = (kernel.weight_std * (1 + kernel.activation.slope) / 2) ** 2
    slope = kernel.weight_std**2 / 3 * factor**kernel.hidden_layers
    if isinstance(kernel, kk.NTK):
        slope *= kernel.hidden_layers + 1
    expected = slope * np.array([[*X, 0, 0, 0], [0, 0, 0, *X], [0] * 6])
    gradients = jax.vmap(joint_gradient(kernel))(*stacked(("x = 0", "z = 0", "x = z = 0")))
    assert_close(gradients[:3], expected)
    if kernel.hidden_layers == 1:
        assert_close(expected[0, :3], oracles.gradient(kernel, ORIGIN, X))


@pytest.mark.parametrize("name", CONES)
def test_a_cone_is_linear_along_its_rays(name):
    """k(cx, z) = c k(x, z): 0 at the origin, x·∇k = k, and on the ray of z the gradient is radial."""
    kernel = CONES[name]
    x, z = stacked(PAIRS)
    values, gradients = jax.vmap(jax.value_and_grad(kernel.evaluate))(x, z)
    assert_close(jnp.sum(gradients * x, axis=1), values)
    for pair, value, gradient in zip(PAIRS, values, np.asarray(gradients), strict=True):
        assert value == 0 or "0" not in pair
        if pair in ("x = z", "x = 2z", "x = z/4"):
            assert_close(gradient, (gradient @ X) / (X @ X) * X)


# --- Cusps -----------------------------------------------------------------------------------------------------

CUSPED = {
    "laplace": kk.Laplace(1.3),
    "sum": kk.RBF(1.3) + kk.Laplace(1.3),
    "product": 2.0 * (kk.RBF(1.3) * kk.Laplace(1.3)),
    **networks(activations=KINKED, depths=(1, 2), every=False),
}
REFUSED = [(name, pair) for name, kernel in CUSPED.items() for pair in PAIRS if cusp(kernel, pair)]


def second_derivatives(kernel, pair):
    """Those that do not exist at the pair."""
    in_x, in_z = jax.hessian(kernel.evaluate), jax.hessian(kernel.evaluate, 1)
    if is_cone(kernel) and kernel.smoothness >= 2:  # at the origin it is linear, indeed 0, in the other argument
        return {"x = 0": (in_x,), "z = 0": (in_z,), "x = z = 0": (in_x, in_z)}[pair]
    return in_x, in_z, jax.jacfwd(jax.jacrev(kernel.evaluate), 1)


def assert_refused(derivative, points):
    # Equinox raises the first, a plain `jax.jit` on a CPU the second.
    with pytest.raises((RuntimeError, ValueError), match=r"see kernel\.smoothness"):
        jax.block_until_ready(derivative(*points))


@pytest.mark.parametrize(("name", "pair"), REFUSED)
def test_second_derivatives_at_a_cusp_are_refused(name, pair):
    """One cusp among ordinary points is enough."""
    for derivative in second_derivatives(CUSPED[name], pair):
        assert_refused(jax.vmap(derivative), stacked([pair]))


@pytest.mark.parametrize(
    ("kernel", "pair", "transforms"),
    [
        (kk.Laplace(1.3), "x = z", ("eager", "jit", "jit of vmap")),
        pytest.param(kk.NTK(1, "relu", 1.4, 0.3), "x = z", ("eager", "jit"), marks=pytest.mark.slow),
        pytest.param(kk.NTK(1, "leaky_relu", 1.4, 0.0), "x = 2z", ("eager", "jit of vmap"), marks=pytest.mark.slow),
        pytest.param(kk.NNGP(1, "relu", 1.4, 0.0), "x = 0", ("eager", "jit of vmap"), marks=pytest.mark.slow),
    ],
    ids=["laplace", "ntk", "ntk on a ray", "nngp at the origin"],
)
def test_they_are_refused_in_every_kind_of_program(kernel, pair, transforms):
    for transform in transforms:
        hessian = jax.hessian(kernel.evaluate)
        if transform == "jit of vmap":
            hessian, ordinary, at_cusp = jax.jit(jax.vmap(hessian)), stacked(["general"]), stacked([pair])
        else:
            hessian = jax.jit(hessian) if transform == "jit" else hessian
            ordinary, at_cusp = single("general"), single(pair)
        assert np.all(np.isfinite(hessian(*ordinary)))
        assert_refused(hessian, at_cusp)


# --- Transformations -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["matern32", "NNGP-relu-1-free"])
def test_all_ways_to_differentiate_agree(name):
    kernel = (ALL | networks(depths=(1,)))[name]
    batches = stacked([pair for pair in PAIRS if not cusp(kernel, pair)])
    v, w = jnp.asarray(DIRECTION), jnp.array([0.6, -0.8, 0.1])

    def directional(x, z):
        """Forward over forward."""
        return jax.jvp(lambda a: jax.jvp(lambda b: kernel.evaluate(b, z), (a,), (v,))[1], (x,), (w,))[1]

    hessian = jax.vmap(joint_hessian(kernel))(*batches)
    xx, xz, zz = hessian[:, :3, :3], hessian[:, :3, 3:], hessian[:, 3:, 3:]
    for function, block in (
        (jax.hessian(kernel.evaluate), xx),
        (jax.hessian(kernel.evaluate, 1), zz),
        (jax.jacrev(jax.jacrev(kernel.evaluate)), xx),
        (jax.jacrev(jax.jacfwd(kernel.evaluate), 1), xz),
        (jax.jacfwd(jax.jacrev(kernel.evaluate), 1), xz),
        (directional, jnp.einsum("nij,i,j->n", xx, v, w)),
    ):
        assert_close(jax.vmap(function)(*batches), block)


@pytest.mark.parametrize("name", ["laplace", "matern32", "NTK-relu-1-free", "NTK-leaky_relu-1-bias", "NTK-erf-1-free"])
def test_compiled_gradients_at_special_points(name):
    """All of them, cusps too, and no error: only second derivatives are refused."""
    gradient = jax.vmap(joint_gradient((ALL | networks(depths=(1,)))[name]))
    expected = gradient(*stacked(PAIRS))
    assert np.all(np.isfinite(expected))
    assert_close(jax.jit(gradient)(*stacked(PAIRS)), expected)


# --- Smoothness ------------------------------------------------------------------------------------------------

SMOOTHNESS = {
    "rbf": math.inf,
    "laplace": 0,
    "matern32": 2,
    "matern52": 4,
    "rational_quadratic": math.inf,
    "linear": math.inf,
    "polynomial": math.inf,
    "sum": math.inf,
    "product": 4,
    "scaled": 2,
    "power": 2,
    "shifted": math.inf,
    **dict.fromkeys(quadratures(), math.inf),
    **dict.fromkeys(networks(kinds=("NTK",), activations=KINKED), 0),
    **dict.fromkeys(networks(kinds=("NNGP",), activations=KINKED), 2),
    **dict.fromkeys(networks(activations=SMOOTH, depths=(1,)), math.inf),
}


def test_the_table_of_smoothness_is_complete():
    assert set(SMOOTHNESS) == set(ALL)


@pytest.mark.parametrize("name", SMOOTHNESS)
def test_smoothness(name):
    assert ALL[name].smoothness == SMOOTHNESS[name]


def test_smoothness_of_a_custom_kernel_is_the_callers_word():
    assert kk.Custom(lambda x, z: x @ z).smoothness == math.inf
    kernel = kk.Custom(lambda x, z: x @ z, smoothness=1)
    assert (kernel.smoothness, (kernel + kk.RBF(1.0)).smoothness, (3.0 * kernel).smoothness) == (1, 1, 1)


@pytest.mark.parametrize(
    ("kernel", "even"),
    [
        (kk.Matern32(1.3), [1, -3]),
        (kk.Matern52(1.3), [1, -5 / 3, 25]),
        (kk.RBF(1.3), [1, -1, 3]),
        (kk.RationalQuadratic(1.3, 0.7), [1, -1, 3 * (1 + 1 / 0.7)]),
    ],
    ids=["matern32", "matern52", "rbf", "rational_quadratic"],
)
def test_as_many_derivatives_as_smoothness_says(kernel, even):
    """On a line through coincident points, in units of 1/ℓ; odd ones vanish."""
    z = jnp.asarray(X)

    def along(t):
        return kernel.evaluate(z + t * kernel.length_scale * DIRECTION, z)

    for expected in [number for term in even for number in (term, 0)][:-1]:
        assert_close(float(along(0.0)), expected)
        along = jax.grad(along)


@pytest.mark.parametrize("kind", [kk.NTK, kk.NNGP])
def test_smoothness_of_a_relu_network_is_that_of_its_kernel(kind):
    """Two more layers do not smooth it: the first derivative that jumps across x = z, from mpmath."""
    kernel = kind(3, "relu", 1.4, 0.3)
    with mp.workdps(oracles.DIGITS):
        function, step = oracles.exact(kernel), mp.mpf(10) ** -20
        z, direction = list(map(mp.mpf, X)), list(map(mp.mpf, DIRECTION))
        line = [function([a + i * step * v for a, v in zip(z, direction, strict=True)], z) for i in range(-3, 4)]
        jumps = []
        for order in (1, 2, 3):
            weights = [(-1) ** (order - i) * mp.binomial(order, i) for i in range(order + 1)]
            right = mp.fsum(weight * line[3 + i] for i, weight in enumerate(weights))
            left = (-1) ** order * mp.fsum(weight * line[3 - i] for i, weight in enumerate(weights))
            # A derivative that is continuous differs by O(step) between the two one-sided stencils.
            jumps.append(abs(right - left) / step**order > mp.mpf(10) ** -10)
    assert jumps.index(True) == kernel.smoothness


# --- Hyper-parameters ------------------------------------------------------------------------------------------

PARAMETERS = {
    "rbf": ["length_scale"],
    "laplace": ["length_scale"],
    "matern32": ["length_scale"],
    "matern52": ["length_scale"],
    "rational_quadratic": ["length_scale", "alpha"],
    "polynomial": ["offset"],
    "scaled": ["scale", "kernel.length_scale"],
    "power": ["kernel.length_scale"],
    "shifted": ["first.offset", "second.value"],
    "sum": ["first.length_scale", "second.offset"],
    "product": ["first.length_scale", "second.weight_std", "second.bias_std"],
    **{name: ["weight_std", "bias_std"] for name in SOME if name.endswith("bias") or "-relu" in name},
    **{name: ["activation.slope"] for name in SOME if "leaky_relu" in name},
}
STEP = 1e-3
STENCIL = np.arange(-2.0, 3.0)
WEIGHTS = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12
# Five-point differences err by step⁴ = 1e-12 and by eps/step = 2e-13, times a few derivatives of order one.
DIFFERENCE_ERROR = {"rtol": 1e-9, "atol": 1e-9}


def parameter(kernel, path):
    """Its value, and the function that puts another in its place."""

    def where(tree):
        for attribute in path.split("."):
            tree = getattr(tree, attribute)
        return tree

    return where(kernel), lambda number: eqx.tree_at(where, kernel, number)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param(name, path, marks=[pytest.mark.slow] if name.startswith(("NTK", "NNGP")) else [])
        for name, paths in PARAMETERS.items()
        for path in paths
    ],
)
def test_derivatives_in_parameters(name, path):
    value, replaced = parameter(CLOSED[name], path)
    batches = stacked(PAIRS)

    def at(number):
        return jax.vmap(replaced(number).evaluate)(*batches)

    derivative = jax.jacfwd(at)(jnp.asarray(value))
    stencil = jax.vmap(at)(value + STEP * STENCIL)
    np.testing.assert_allclose(derivative, jnp.einsum("s,sp->p", WEIGHTS, stencil) / STEP, **DIFFERENCE_ERROR)
    (reverse,) = jax.vjp(at, jnp.asarray(value))[1](jnp.ones(len(PAIRS)))
    assert_close(reverse, jnp.sum(derivative))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("rbf", "length_scale"),
        ("laplace", "length_scale"),
        pytest.param("NTK-relu-2-free", "weight_std", marks=pytest.mark.slow),
        pytest.param("NTK-relu-2-bias", "bias_std", marks=pytest.mark.slow),
        pytest.param("NTK-erf-1-free", "weight_std", marks=pytest.mark.slow),
    ],
)
def test_derivatives_in_parameters_of_input_gradients(name, path):
    """At points that are a distance of 1e-6 apart, where laws are differentiated in ℓ and weight_std."""
    value, replaced = parameter(CLOSED[name], path)
    x, z = jnp.asarray(X + 1e-6 * DIRECTION), jnp.asarray(X)

    def gradient(number):
        return jax.grad(replaced(number).evaluate)(x, z)

    numbers = value + STEP * STENCIL
    derivative = jax.jit(jax.jacfwd(gradient))(jnp.asarray(value))
    stencil = jax.vmap(gradient)(numbers)
    np.testing.assert_allclose(derivative, jnp.einsum("s,sd->d", WEIGHTS, stencil) / STEP, **DIFFERENCE_ERROR)
