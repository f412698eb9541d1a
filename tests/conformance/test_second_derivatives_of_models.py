"""Hessians through a network's parameters, the gradient penalty γ, the time t and residuals of points left out.

Oracles share no code with the library: Gram matrices from the papers' formulas or by JAX's derivatives of one pair,
systems solved by `jnp.linalg`, the flow by a matrix exponential, residuals by refits without the point.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hessians import assert_equal, derivatives

import kpoison as kp

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(5, 2)), np.array([1.0, -1.0, 1.0, 1.0, -1.0])
ZETA, PROBE, LABEL = np.array([0.4, -0.3]), np.array([0.1, 0.5]), 2.0
DX, DY, DPROBE = RNG.normal(size=X.shape), RNG.normal(size=Y.shape), RNG.normal(size=2)


class Model(NamedTuple):
    """A fit by the library, and the same by an oracle: functions of its parameters."""

    parameters: dict[str, float]
    ours: Callable
    theirs: Callable
    only: tuple[str, ...] = ("predict", "efficacy", "spike")


def laws(clean, count, ridge, at):
    poison, x = kp.Poison(ZETA, LABEL, count), PROBE + at * DPROBE
    return {
        "predict": kp.predict(clean, x, ridge, poison),
        "efficacy": kp.efficacy(clean, poison, x, ridge),
        "spike": kp.spike(clean, poison, x, ridge),
    }


def laws_of_training(trained, count, ridge, at):
    """The same from `trained(points, targets, weights, n, ridge)`, which gives a predictor."""
    n, x = len(X) + count, PROBE + at * DPROBE
    everything, targets = jnp.concatenate([X, ZETA[None]]), jnp.append(Y, LABEL)
    poisoned = trained(everything, targets, jnp.append(jnp.ones(len(X)), count), n, ridge)
    clean = trained(jnp.asarray(X), jnp.asarray(Y), jnp.ones(len(X)), n, ridge)

    def effect(a):
        return poisoned(a) - clean(a)

    return {"predict": poisoned(x), "efficacy": effect(x), "spike": jnp.sum(jax.grad(effect)(x) ** 2)}


def pairs(kernel, A, B):
    return jax.vmap(lambda a: jax.vmap(lambda b: kernel(a, b))(B))(A)


def ridge_predictor(kernel):
    def trained(points, targets, weights, n, ridge):
        alpha = jnp.linalg.solve(pairs(kernel, points, points) + jnp.diag(n * ridge / weights), targets)
        return lambda x: pairs(kernel, x[None], points)[0] @ alpha

    return trained


def rbf(scale):
    return lambda a, b: jnp.exp(-jnp.sum((a - b) ** 2) / (2 * scale**2))


def erf_tangent_kernel(weight_std, bias_std):
    """One hidden layer of Φ = erf: the Gaussian integrals of Williams (1997)."""

    def kernel(a, b):
        def first(u, v):
            return weight_std**2 * (u @ v) / len(u) + bias_std**2

        aa, bb, ab = first(a, a), first(b, b), first(a, b)
        spread = (1 + 2 * aa) * (1 + 2 * bb)
        covariance = weight_std**2 * 2 / jnp.pi * jnp.arcsin(2 * ab / jnp.sqrt(spread)) + bias_std**2
        return covariance + weight_std**2 * 4 / jnp.pi / jnp.sqrt(spread - 4 * ab**2) * ab

    return kernel


def network(solver):
    def ours(p):
        weight_std, bias_std, count, ridge = p
        kernel = kp.kernels.NTK(1, "erf", weight_std, bias_std)
        return laws(kp.fit(kernel, X, Y, solver=solver), count, ridge, 0.0)

    def theirs(p):
        weight_std, bias_std, count, ridge = p
        return laws_of_training(ridge_predictor(erf_tangent_kernel(weight_std, bias_std)), count, ridge, 0.0)

    return Model({"weight_std": 1.3, "bias_std": 0.4, "count": 1.7, "ridge": 0.05}, ours, theirs, ("efficacy",))


def penalised(solver):
    def theirs(p):
        penalty, scale, count, ridge, at = p
        kernel = rbf(scale)

        def trained(points, targets, weights, n, ridge):
            """T1's system: observations of zero slope with noise nλ/γ, those of m clones divided by m."""
            size, d = points.shape
            across = pairs(jax.grad(kernel, 1), points, points).reshape(size, size * d)
            slopes = pairs(jax.jacfwd(jax.grad(kernel, 1)), points, points).transpose(0, 3, 1, 2)
            noise = n * ridge / jnp.concatenate([weights, penalty * jnp.repeat(weights, d)])
            system = jnp.block(
                [[pairs(kernel, points, points), across], [across.T, slopes.reshape(size * d, size * d)]]
            )
            solved = jnp.linalg.solve(system + jnp.diag(noise), jnp.concatenate([targets, jnp.zeros(size * d)]))

            def predicted(x):
                beside = jax.vmap(lambda b: jax.grad(kernel, 1)(x, b))(points).reshape(-1)
                return jnp.concatenate([pairs(kernel, x[None], points)[0], beside]) @ solved

            return predicted

        return laws_of_training(trained, count, ridge, at)

    def ours(p):
        penalty, scale, count, ridge, at = p
        clean = kp.fit(kp.kernels.RBF(scale), X, Y, gradient_penalty=penalty, solver=solver)
        return laws(clean, count, ridge, at)

    parameters = {"γ": 0.3, "length scale": 1.1, "count": 1.7, "ridge": 0.05, "probe": 0.0}
    # A spike would be six derivatives of the kernel here, minutes to compile.
    return Model(parameters, ours, theirs, only=("predict", "efficacy"))


def stopped():
    """The flow by a matrix exponential."""

    def theirs(p):
        time, scale, count, ridge, at = p
        kernel = rbf(scale)

        def trained(points, targets, weights, n, ridge):
            gram = pairs(kernel, points, points)
            rates = jnp.diag(weights) @ gram / n + ridge * jnp.eye(len(points))
            # ċ = W(y − Kc)/n − λc from c = 0.
            steps = jnp.eye(len(points)) - jax.scipy.linalg.expm(-time * rates)
            c = jnp.linalg.solve(rates, steps @ (weights * targets / n))
            return lambda x: pairs(kernel, x[None], points)[0] @ c

        return laws_of_training(trained, count, ridge, at)

    def ours(p):
        time, scale, count, ridge, at = p
        clean = kp.fit(kp.kernels.RBF(scale), X, Y)
        return laws(kp.flow.early_stopped(clean, time), count, ridge, at)

    parameters = {"t": 6.0, "length scale": 1.1, "count": 1.7, "ridge": 0.05, "probe": 0.0}
    return Model(parameters, ours, theirs)


def left_out(solver):
    def theirs(p):
        scale, ridge, points, targets = p
        x, y, n = X + points * DX, Y + targets * DY, len(X)

        def residual(i):
            rest = jnp.asarray([j for j in range(n) if j != i])
            predictor = ridge_predictor(rbf(scale))(x[rest], y[rest], jnp.ones(n - 1), n, ridge)
            return y[i] - predictor(x[i])

        return {f"without {i}": residual(i) for i in range(n)}

    def ours(p):
        scale, ridge, points, targets = p
        clean = kp.fit(kp.kernels.RBF(scale), X + points * DX, Y + targets * DY, solver=solver)
        residuals = kp.defences.leave_one_out_residuals(clean, ridge)
        return {f"without {i}": value for i, value in enumerate(residuals)}

    return Model({"length scale": 1.1, "ridge": 0.05, "points": 0.0, "targets": 0.0}, ours, theirs)


def only(model, values):
    return {name: value for name, value in values.items() if name.split()[0] in (*model.only, "without")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "mode"),
    [
        (network(kp.Cholesky()), "reverse over reverse"),
        (penalised(None), "forward over reverse"),
        (penalised(kp.Cholesky()), "reverse over reverse"),
        (stopped(), "forward over reverse"),
        (left_out(None), "reverse over reverse"),
        (left_out(kp.Tridiagonal()), "forward over reverse"),
    ],
    ids=[
        "network",
        "penalised",
        "penalised-cholesky",
        "stopped",
        "left-out",
        "left-out-tridiagonal",
    ],
)
def test_values_gradients_and_hessians_are_those_of_the_oracle(model, mode):
    at = jnp.array(list(model.parameters.values()))
    expected = derivatives(lambda p: only(model, model.theirs(p)), at, "forward over reverse")
    assert_equal(derivatives(lambda p: only(model, model.ours(p)), at, mode), expected)
