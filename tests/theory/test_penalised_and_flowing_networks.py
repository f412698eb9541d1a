"""Finite networks tend to T1 with a gradient penalty and to T2 along time, like width^(−1/2); a wrong law is seen."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from theory_checks.finite_width import FiniteWidth, compare_with_networks, rmse_slope, without_next_order
from theory_checks.setting import make_setting

COUNT, PENALTY, TIMES = 16, 0.03, (0.3, 3.0, 12.0)  # γ in units of ‖ζ‖²; λt up to 1.2


@pytest.fixture(scope="module")
def networks() -> FiniteWidth:
    found = FiniteWidth(make_setting("ntk-erf"))
    found.penalised_widths, found.flow_widths = np.array([64, 256, 1024]), np.array([128, 512, 2048])
    return found


@eqx.filter_jit
def blocks(kernel, P, Q):
    """k, ∂_q k and ∂_p ∂_qᵀ k of every pair."""
    slope = jax.grad(kernel.evaluate, argnums=1)

    def pair(p, q):
        return kernel.evaluate(p, q), slope(p, q), jax.jacfwd(slope)(p, q).T

    k, first, second = jax.vmap(lambda p: jax.vmap(lambda q: pair(p, q))(Q))(P)
    (n, d), q = P.shape, len(Q)
    return k, first.reshape(n, q * d), second.transpose(0, 2, 1, 3).reshape(n * d, q * d)


def flow(setting, probes, gamma, time, copies, total):
    """T2 at the probes with physical copies of the poison, and its gradients, by NumPy."""
    points = jnp.concatenate([setting.X, jnp.tile(setting.location, (copies, 1))])
    y = np.append(np.asarray(setting.y), np.full(copies, setting.label))
    k, first, second = (np.asarray(part) for part in blocks(setting.kernel, points, points))
    R = np.append(np.ones(len(y)), np.full(len(second), gamma**0.5))
    mu, Q = np.linalg.eigh(R[:, None] * np.block([[k, first], [first.T, second]]) * R)
    factor = -np.expm1(-(mu / total + setting.ridge) * time) / (mu + total * setting.ridge)
    c = R * (Q @ (factor * (Q.T @ (R * np.append(y, np.zeros(len(second)))))))
    values, slopes, _ = blocks(setting.kernel, probes, points)
    _, back, both = blocks(setting.kernel, points, probes)
    gradients = np.concatenate([back.T, both.T], axis=1) @ c
    return np.concatenate([values, slopes], axis=1) @ c, gradients.reshape(probes.shape)


def flow_change(networks, gamma, time):
    """Δf and ∇Δf at the probes by T2."""
    total = len(networks.setting.X) + COUNT
    after, before = (flow(networks.setting, networks.probes, gamma, time, m, total) for m in (COUNT, 0))
    return after[0] - before[0], after[1] - before[1]


def agrees(law, samples, widths):
    return compare_with_networks("", law, samples, widths).passed


def slope_agrees(law, samples, widths):
    lower, upper = rmse_slope(law, without_next_order(law, samples, widths), widths, 0.99).interval
    return lower < -0.5 < upper


@pytest.mark.slow
def test_penalised_networks_tend_to_the_penalised_posterior(networks):
    setting, gamma = networks.setting, PENALTY * networks.setting.length_scale**2
    trained, widths = networks.penalised(COUNT, gamma), networks.penalised_widths
    clean, poison = kp.fit(setting.kernel, setting.X, setting.y, gradient_penalty=gamma), setting.poison(COUNT)
    law = np.asarray(kp.efficacy(clean, poison, networks.probes, setting.ridge))
    gradient = np.asarray(kp.efficacy_gradient(clean, poison, networks.probes, setting.ridge))
    flat = trained.gradient.reshape(*trained.gradient.shape[:2], -1)
    for expected, samples in ((law, trained.efficacy), (gradient.ravel(), flat)):
        assert agrees(expected, samples, widths)
        assert slope_agrees(expected, samples, widths)
    assert agrees(np.sum(gradient**2, axis=1), trained.spike, widths)
    # Wrong by 5 %, and without the penalty.
    assert not agrees(1.05 * law, trained.efficacy, widths)
    assert not slope_agrees(1.05 * law, trained.efficacy, widths)
    plain = kp.efficacy(setting.clean, poison, networks.probes, setting.ridge)
    assert not agrees(np.asarray(plain), trained.efficacy, widths)
    assert networks.penalised(COUNT, gamma) is trained


@pytest.mark.slow
def test_flowing_networks_tend_to_the_flow_of_the_kernel(networks):
    gamma = PENALTY * networks.setting.length_scale**2
    along, widths = networks.flow(COUNT, TIMES, gamma), networks.flow_widths
    for time, found in zip(TIMES, along, strict=True):
        law, gradient = flow_change(networks, gamma, time)
        flat = found.gradient.reshape(*found.gradient.shape[:2], -1)
        for expected, samples in ((law, found.efficacy), (gradient.ravel(), flat)):
            assert agrees(expected, samples, widths), time
            assert slope_agrees(expected, samples, widths), time
        assert agrees(np.sum(gradient**2, axis=1), found.spike, widths)
        assert not agrees(1.05 * law, found.efficacy, widths)
        assert not slope_agrees(1.05 * law, found.efficacy, widths)
    # A clock that is 10 % fast, and the end instead of the middle.
    assert not agrees(flow_change(networks, gamma, 1.1 * TIMES[0])[0], along[0].efficacy, widths)
    assert not agrees(flow_change(networks, gamma, np.inf)[0], along[1].efficacy, widths)


def test_a_kink_has_no_penalised_networks():
    networks = FiniteWidth(make_setting("ntk-relu"))
    with pytest.raises(ValueError, match="has a kink"):
        networks.penalised(COUNT, 0.1)
