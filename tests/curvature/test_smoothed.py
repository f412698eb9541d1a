"""L12: closed form against Monte Carlo by NumPy and itself in the limits; draws against it; derivatives, bad input."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison.curvature import smoothed_rbf_spike, smoothed_spike, top_eigenpairs, trace

RNG = np.random.default_rng(12)
X, ZETA = RNG.normal(size=(12, 3)), np.array([0.3, -0.2, 0.1])
Y = np.sign(X[:, 0])


@pytest.mark.parametrize(("d", "scale", "r", "tau"), [(1, 1.0, 0.5, 0.3), (3, 1.4, 0.9, 0.5), (20, 2.0, 0.0, 0.45)])
def test_the_closed_form_is_the_mean_of_draws(d, scale, r, tau):
    z = tau * RNG.normal(size=(100_000, d))
    z[:, 0] += r
    gradients = 1.7 * z / scale**2 * np.exp(-np.sum(z**2, axis=1) / (2 * scale**2))[:, None]
    found = smoothed_rbf_spike(1.7, scale, r, tau, d)
    squares = gradients**2
    error = squares.std(axis=0) / len(z) ** 0.5
    assert abs(float(found.along) - squares[:, 0].mean()) < 5 * error[0]
    assert np.all(np.abs(float(found.across) - squares[:, 1:].mean(axis=0)) < 5 * error[1:])
    total = squares.sum(axis=1)
    assert abs(float(found.trace) - total.mean()) < 5 * total.std() / len(z) ** 0.5
    if r == 0:
        assert float(found.along) == float(found.across)


def test_limits():
    # No neighbourhood: the spike itself; of a clone at r = 0 the largest spike at any r, from below, as d grows.
    found = smoothed_rbf_spike(2.0, 1.5, 0.4, 0.0, 7)
    assert float(found.across) == 0
    assert float(found.trace) == pytest.approx((2 * 0.4 / 1.5**2) ** 2 * np.exp(-((0.4 / 1.5) ** 2)), rel=1e-14)
    shares = [float(smoothed_rbf_spike(1.0, 1.0, 0.0, d**-0.5, d).trace) * np.e for d in (4, 100, 10**6)]
    assert 0.8 < shares[0] < shares[1] < shares[2] < 1
    assert shares[2] == pytest.approx(1, abs=1e-5)
    assert all(np.isfinite(part) for part in smoothed_rbf_spike(1.0, 1.0, 0.0, 1e3, 10**4))


def test_derivatives_and_float32():
    at = (1.2, 1.4, 0.3, 0.2)

    def value(*numbers):
        return smoothed_rbf_spike(*numbers, 5).trace

    for place, gradient in enumerate(jax.grad(value, argnums=range(4))(*at)):
        ends = [float(value(*(a + s * 1e-6 * (i == place) for i, a in enumerate(at)))) for s in (1, -1)]
        assert float(gradient) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-7)
    assert value(*(np.float32(a) for a in at)).dtype == jnp.float32
    together = jax.jit(jax.vmap(lambda r: value(1.2, 1.4, r, 0.2)))(jnp.array([0.1, 0.3]))
    assert float(together[1]) == pytest.approx(float(value(*at)), rel=1e-14)


@pytest.mark.slow
def test_draws_of_an_isolated_poison():
    clean, poison = kp.fit(kp.kernels.RBF(1.4), X, Y), kp.Poison(ZETA, -1.3, 4.0)
    probes = np.stack([ZETA, ZETA + np.array([0.0, 0.8, 0.0])])
    found = smoothed_spike(clean, poison, probes, 0.02, 0.5, law="isolated", samples=4000)
    s = float(kp.gain(clean, poison, 0.02, "isolated")) * -1.3
    for i, r in enumerate((0.0, 0.8)):
        known = smoothed_rbf_spike(s, 1.4, r, 0.5, 3)
        assert abs(float(found.trace[i] - known.trace)) < 4 * float(found.standard_error[i])
    assert float(trace(found.matrix)[0]) == pytest.approx(float(jnp.mean(found.trace)), rel=1e-12)
    alone = smoothed_spike(clean, poison, probes[1], 0.02, 0.5, law="isolated", samples=4000)
    assert alone.trace.shape == alone.standard_error.shape == ()
    leading = top_eigenpairs(alone.matrix, 3)
    known = smoothed_rbf_spike(s, 1.4, 0.8, 0.5, 3)
    np.testing.assert_allclose(leading.values, [known.along, known.across, known.across], rtol=0.12)
    assert abs(float(leading.vectors[0, 1])) > 0.95  # along u


@pytest.mark.slow
def test_draws_of_an_exact_posterior_are_means_of_spikes():
    clean = kp.fit(kp.kernels.Matern52(1.4), X, np.stack([Y, Y**2 * X[:, 1]], axis=1))
    poison, key = kp.Poison(X[:2] + 0.1, np.array([1.0, -1.0]), 2.0), jax.random.key(3)
    found = smoothed_spike(clean, poison, ZETA, 0.02, 0.3, samples=50, key=key)
    around = ZETA + 0.3 * np.asarray(jax.random.normal(key, (50, 3)))
    spikes = np.asarray(kp.spike(clean, poison, around, 0.02)).sum(axis=1)
    assert float(found.trace) == pytest.approx(spikes.mean(), rel=1e-10)
    assert float(found.standard_error) == pytest.approx(spikes.std(ddof=1) / 50**0.5, rel=1e-10)
    compiled = jax.jit(lambda width: smoothed_spike(clean, poison, ZETA, 0.02, width, samples=50, key=key).trace)
    assert float(compiled(0.3)) == pytest.approx(spikes.mean(), rel=1e-10)
    slope = float(jax.grad(lambda w: smoothed_spike(clean, poison, ZETA, 0.02, w, samples=50, key=key).trace)(0.3))
    assert slope == pytest.approx(float(compiled(0.3 + 1e-6) - compiled(0.3 - 1e-6)) / 2e-6, rel=1e-6)


def test_bad_input():
    jaxtyping.config.update("jaxtyping_disable", True)
    clean, poison = kp.fit(kp.kernels.RBF(1.4), X, Y), kp.Poison(ZETA, -1.0, 4.0)
    cases = (
        (smoothed_rbf_spike, (1.0, 0.0, 0.1, 0.1, 3), "length_scale must be finite and > 0"),
        (smoothed_rbf_spike, (1.0, 1.0, -0.1, 0.1, 3), "distance must be finite and >= 0"),
        (smoothed_rbf_spike, (1.0, 1.0, 0.1, -0.1, 3), "width must be finite and >= 0"),
        (smoothed_rbf_spike, (1.0, 1.0, 0.1, 0.1, 0), "dimension must be an integer >= 1"),
        (smoothed_spike, (clean, poison, ZETA, 0.1, -1.0), "width must be finite and >= 0"),
        (smoothed_spike, (clean, poison, np.ones(2), 0.1, 1.0), "x must hold points of shape"),
    )
    try:
        for function, arguments, message in cases:
            with pytest.raises(ValueError, match=message):
                function(*arguments)
        for samples, message in ((1, "samples must be an integer >= 2"), (10**9, "samples must be at most 44739242")):
            with pytest.raises(ValueError, match=message):
                smoothed_spike(clean, poison, ZETA, 0.1, 0.1, samples=samples)
        with pytest.raises((RuntimeError, ValueError), match="width must be finite"):
            jax.block_until_ready(jax.jit(lambda w: smoothed_spike(clean, poison, ZETA, 0.1, w, samples=5).trace)(-1.0))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
