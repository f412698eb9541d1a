"""grad: in m, λ, ζ, x0, ℓ, weight_std and the label, equal to finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenario import (
    CLUSTERS_ARE_SLOW,
    CONDITION,
    FUNCTIONS,
    NUMBERS,
    RNG,
    RUN_TIME,
    Numbers,
    X,
    Y,
    as_arrays,
    fitted,
    poisoned,
)

import kpoison as kp

EPS = np.finfo(float).eps


def five_point(function, h):
    """f'(0) to h⁴, and an estimate of its error: the difference to the same at 2h, sixteen times larger."""

    def slope(h):
        f = [float(function(k * h)) for k in (-2, -1, 1, 2)]
        return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)

    return slope(h), abs(slope(h) - slope(2 * h))


def assert_grad_is_a_finite_difference(function, numbers, fields=Numbers._fields, condition=CONDITION):
    shapes = jax.eval_shape(function, as_arrays(numbers))
    weights = [RNG.normal(size=leaf.shape) for leaf in jax.tree.leaves(shapes)]

    @jax.jit
    def value(numbers):
        leaves = jax.tree.leaves(function(numbers))
        return sum(jnp.sum(w * leaf) for w, leaf in zip(weights, leaves, strict=True))

    start = as_arrays(numbers)
    size = abs(float(value(start))) + 1
    gradient = jax.jit(jax.grad(value))(start)
    for field in fields:
        at = getattr(start, field)
        # Steps of 1e-3 of a positive number keep it positive; points are of size 1.
        step = 1e-3 * (float(at) if at.ndim == 0 else 1)
        direction = RNG.normal(size=at.shape) if at.ndim else 1.0

        def along(t, field=field, at=at, direction=direction):
            return value(start._replace(**{field: at + t * direction}))

        expected, truncation = five_point(along, step)
        found = float(np.sum(getattr(gradient, field) * direction))
        # Rounding of f, 10·eps·cond·|f|, is divided by the step.
        rounding = 10 * EPS * condition * size / step
        assert truncation + rounding < 1e-4 * (size + abs(expected)), field  # or the test could not fail
        assert abs(found - expected) <= truncation + rounding, field


@pytest.mark.parametrize("name", CLUSTERS_ARE_SLOW)
def test_in_every_number(name):
    assert_grad_is_a_finite_difference(FUNCTIONS[name], NUMBERS)


@pytest.mark.parametrize(
    "kernel",
    [kp.kernels.Laplace, pytest.param(kp.kernels.Matern32, marks=pytest.mark.slow)],
    ids=["laplace", "matern32"],
)
def test_of_less_smooth_kernels(kernel):
    assert_grad_is_a_finite_difference(lambda a: FUNCTIONS["spike"](a, kernel), NUMBERS)


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "name"), [("relu", "spike"), ("erf", "efficacy")])
def test_of_neural_kernels_in_weight_std(activation, name):
    def function(a):
        return FUNCTIONS[name](a, lambda weight_std: kp.kernels.NTK(1, activation, weight_std, 0.3))

    # weight_std 1.3: the kernel is at most 10 on these points.
    assert_grad_is_a_finite_difference(function, NUMBERS._replace(scale=1.3), condition=10 * CONDITION)


@pytest.mark.slow
def test_forward_is_reverse():
    function = FUNCTIONS["spike"]
    start = as_arrays(NUMBERS)
    forward, reverse = jax.jit(jax.jacfwd(function))(start), jax.jit(jax.jacrev(function))(start)
    for a, b in zip(jax.tree.leaves(forward), jax.tree.leaves(reverse), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=100 * EPS * CONDITION * (1 + np.abs(b).max()))


@pytest.mark.slow
def test_no_poison_is_an_ordinary_point():
    # Not 0/0: a gradient in m at m = 0 exists from the right, and is right.
    start = as_arrays(NUMBERS)
    for name in ("gain", "efficacy", "spike", "efficacy of a cluster"):

        @jax.jit
        def value(count, function=FUNCTIONS[name]):
            return jnp.sum(function(start._replace(count=count)))

        found = float(jax.jit(jax.grad(value))(0.0))
        f = [float(value(h)) for h in (0.0, 1e-3, 2e-3, 3e-3, 4e-3)]
        expected = (-25 * f[0] + 48 * f[1] - 36 * f[2] + 16 * f[3] - 3 * f[4]) / (12 * 1e-3)
        # Taylor: h⁴ f⁽⁵⁾/5 with derivatives growing as n!(k̃/ρ + 1)ⁿ < 120·3.3⁵ at ρ = 0.4; rounding is eps·cond/h.
        assert abs(found - expected) <= 1e-12 / 5 * 120 * 3.3**5 * 10 + 10 * EPS * CONDITION * 10 / 1e-3, name
        if name == "spike":  # quadratic in m: the first derivative vanishes, the second does not
            assert found == 0
            assert 1e-3 < float(jax.grad(jax.grad(value))(0.0)) < 1e3


@pytest.mark.parametrize("at", [pytest.param("a probe", marks=pytest.mark.slow), "the clone", "a training point"])
def test_efficacy_gradient_is_the_gradient_of_efficacy_and_its_jacobian_the_hessian(at):
    clean, poison = fitted(NUMBERS), poisoned(NUMBERS)
    x = {"a probe": NUMBERS.x[0], "the clone": NUMBERS.zeta, "a training point": np.asarray(clean.X[0])}[at]

    def change(x):
        return kp.efficacy(clean, poison, x, 0.05)

    def gradient(x):
        return kp.efficacy_gradient(clean, poison, x, 0.05)

    np.testing.assert_allclose(jax.grad(change)(x), gradient(x), rtol=0, atol=100 * EPS * CONDITION)
    hessian = jax.jit(jax.hessian(change))(x)
    direction = np.array([0.3, -0.8, 0.5])
    steps = [np.asarray(gradient(x + k * 1e-3 * direction)) for k in (-2, -1, 1, 2)]
    expected = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / 12e-3
    # h⁴/30 times a fifth derivative, of size 10 for a Gaussian of ℓ = 1.5, and eps·cond/h.
    np.testing.assert_allclose(hessian @ direction, expected, rtol=0, atol=1e-11 + 10 * EPS * CONDITION / 1e-3)


@pytest.mark.slow
def test_a_hessian_at_a_cusp_is_refused():
    clean = fitted(NUMBERS, kp.kernels.Laplace)
    hessian = jax.hessian(lambda x: kp.efficacy(clean, poisoned(NUMBERS), x, 0.05))
    assert np.all(np.isfinite(hessian(NUMBERS.x[0])))
    for x in (NUMBERS.zeta, clean.X[0]):
        with pytest.raises(RUN_TIME, match="does not exist"):
            jax.block_until_ready(hessian(x))


@pytest.mark.slow
def test_at_coincident_points():
    # x0 on ζ, ζ on a training point: derivatives of smooth kernels are finite and right there.
    numbers = NUMBERS._replace(zeta=np.asarray(fitted(NUMBERS).X[2]), x=np.asarray(fitted(NUMBERS).X[2:4]))
    for name in ("efficacy", "spike"):
        assert_grad_is_a_finite_difference(FUNCTIONS[name], numbers)


def test_in_the_targets_and_the_inputs():
    # Through fit: the poison's effect as a function of the clean data.
    direction, slope = RNG.normal(size=X.shape), RNG.normal(size=Y.shape)

    @jax.jit
    def spike(t, s):
        clean = kp.fit(kp.kernels.RBF(1.5), X + t * direction, Y + s * slope)
        return jnp.sum(kp.spike(clean, poisoned(NUMBERS), NUMBERS.x, 0.05))

    found = jax.jit(jax.grad(spike, argnums=(0, 1)))(0.0, 0.0)
    for i, along in enumerate((lambda h: spike(h, 0.0), lambda h: spike(0.0, h))):
        expected, truncation = five_point(along, 1e-3)
        rounding = 10 * EPS * CONDITION * 10 / 1e-3
        assert truncation < 1e-6
        assert abs(float(found[i]) - expected) <= truncation + rounding
