"""Draws the pictures of paper.md: each counterexample, and what the penalty does and does not see."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kpoison as kp
from kpoison import plotting

LINE = np.array([[0.0], [0.7], [2.0]]), -np.array([0.561, 0.552, 0.617])
PLANE = np.array([[0.4, -0.4], [1.0, 0.1], [-0.3, 0.3]]), np.array([-0.6, 0.0, 0.3])
PENALTIES = np.logspace(-3, 1, 17)
KERNEL = kp.kernels.RBF(1.0)


def fitted(X, y, penalty):
    """With a penalty in units of ℓ²."""
    return kp.fit(KERNEL, X, y, gradient_penalty=penalty)


def residual(ax):
    """T8: degrees of freedom fall, and so does the residual."""
    (X, y), ridge = LINE, 0.01

    def measured(penalty):
        clean = fitted(X, y, penalty)
        left = y - np.asarray(kp.predict(clean, X, ridge))
        return float(kp.degrees_of_freedom(clean, ridge)), left @ left, left @ y

    first = measured(0.0)
    curves = np.array([measured(penalty) for penalty in PENALTIES]) / np.array(first)
    plotting.line(ax, PENALTIES, curves[:, 1], "residual ‖y − f(X)‖²", plotting.COLOURS[1])
    plotting.dashed(ax, PENALTIES, curves[:, 2], "yᵀ(I − H)y", plotting.COLOURS[2])
    ax.plot(PENALTIES, curves[:, 0], ":", color=plotting.COLOURS[0], label="degrees of freedom")
    ax.set(xscale="log", xlabel="γ/ℓ²", ylabel="over its value at γ = 0", title="3.9: the residual falls (T8)")
    ax.legend()


def slopes(ax):
    """T9 a, b: only eigenvectors decay at the paper's rate."""
    X = np.random.default_rng(9).normal(size=(8, 2))
    clean, times = fitted(X, np.zeros(8), 0.5), np.geomspace(0.3, 300, 40)

    def energy(start, along):
        found = np.asarray(kp.flow.slope_contraction(clean, start, 0.0, times)).reshape(len(times), -1)
        return (found @ along.ravel()) ** 2 / np.sum(start**2)

    every = jax.jacfwd(jax.jacrev(KERNEL.evaluate, argnums=1))
    covariance = np.asarray(jax.vmap(lambda x: jax.vmap(lambda z: every(x, z))(jnp.asarray(X)))(jnp.asarray(X)))
    N = covariance.transpose(0, 3, 1, 2).reshape(16, 16) / 8
    N = 0.5 * (N + N.T)
    _, vectors = np.linalg.eigh(N)
    v = np.random.default_rng(1).normal(size=16)
    v /= np.linalg.norm(v)
    other = N @ v - (v @ N @ v) * v
    other /= np.linalg.norm(other)
    for start, colour, name in (
        (vectors[:, 8], plotting.COLOURS[0], "eigenvector"),
        (v, plotting.COLOURS[1], "other v"),
    ):
        alpha = start @ N @ start
        plotting.line(ax, times, energy(start.reshape(8, 2), start), f"E_v/E_v(0), {name}", colour)
        plotting.dashed(ax, times, np.exp(-alpha * times), f"e^(−2γαt), {name}", colour)
    ax.plot(times, energy(v.reshape(8, 2), other), ":", color=plotting.COLOURS[2], label="E along what is 0 at first")
    ax.set(xscale="log", yscale="log", ylim=(1e-5, 2), xlabel="time t", ylabel="energy of the slopes",
           title="3.12: without the data term (T9 a, b)")  # fmt: skip
    ax.legend(fontsize=7)


def components(ax):
    """T9 d: one component rises while the trace falls."""
    (X, y), ridge = PLANE, 0.008

    def measured(penalty):
        g = np.asarray(jax.jit(jax.vmap(jax.grad(kp.predictor(fitted(X, y, penalty), ridge))))(jnp.asarray(X)))
        return np.mean(g[:, 0] ** 2), np.mean(np.sum(g**2, axis=1))

    curves = np.array([measured(penalty) for penalty in PENALTIES[:13]]) / np.array(measured(0.0))
    plotting.line(ax, PENALTIES[:13], curves[:, 0], "uᵀFu, u the first axis", plotting.COLOURS[1])
    plotting.dashed(ax, PENALTIES[:13], curves[:, 1], "tr F", plotting.COLOURS[2])
    ax.set(xscale="log", yscale="log", xlabel="γ/ℓ²", ylabel="over its value at γ = 0",
           title="3.12: at the solution (T9 d)")  # fmt: skip
    ax.legend()


def unseen(ax):
    """T10: what is left of Δf against the spacing of clean points about ζ."""
    spacings = np.concatenate([np.linspace(0.4, 2, 9), [2.5, 3.0]])
    axis = np.arange(-4.0, 5.0)
    cells = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    cells = cells[np.any(cells != 0, axis=1)]
    poison, ridge = kp.Poison(jnp.zeros(2), 1.0, 1.0), 0.05 / (len(cells) + 1)
    for penalty, colour in ((0.1, plotting.COLOURS[0]), (1.0, plotting.COLOURS[1]), (10.0, plotting.COLOURS[2])):
        left = []
        for spacing in spacings:
            y = np.zeros(len(cells))
            with_it, without = (
                float(kp.efficacy(fitted(spacing * cells, y, p), poison, jnp.zeros(2), ridge)) for p in (penalty, 0.0)
            )
            left.append(with_it / without)
        plotting.line(ax, spacings, left, f"γ = {penalty:g} ℓ²", colour)
    ax.set(xlabel="spacing of the clean points, in ℓ", ylabel="Δf(ζ) with over without penalty",
           title="3.10: an isolated poison is not seen (T10)")  # fmt: skip
    ax.legend()


def hiding(ax):
    """T12: less efficacy, better hidden."""
    side, number, ridge = 12.0, 81, 1e-3
    omega = 2 * np.pi * np.fft.fftfreq(number, side / number)[:, None]
    mu = [np.sum(kp.flow.multiplier(KERNEL, omega, ridge, penalty, side)) / number for penalty in PENALTIES]
    length = [
        float(kp.flow.near_clone_length_scale(KERNEL, omega, np.ones(1), ridge, penalty, side)) for penalty in PENALTIES
    ]
    plotting.line(ax, PENALTIES, mu, "efficacy of one label, df/n", plotting.COLOURS[0])
    plotting.dashed(ax, PENALTIES, length, "ℓ_nc/ℓ, below which it hides", plotting.COLOURS[1])
    ax.set(xscale="log", yscale="log", xlabel="γ/ℓ²", title="3.10: what is left hides better (T12)")
    ax.legend()


def vanishing(ax):
    """T11 a: with a vanishing ridge, poisons are fitted with flat slopes."""
    X = 1.5 * np.array([[0.0, 0.0], [1.0, 0.5], [-0.8, 0.6], [0.3, -1.0], [-1.2, -0.7], [1.5, -0.6]])
    y, zeta = np.array([1.0, 1.0, -1.0, 1.0, -1.0, 1.0]), 1.5 * np.array([1.2, 1.6])
    poison, ridges = kp.Poison(jnp.asarray(zeta), -1.0, 3.0), np.logspace(-6, 0, 13)
    parts = [kp.flow.energies(fitted(X, y, 1.0), ridge, poison) for ridge in ridges]
    plotting.line(ax, ridges, [float(part.fit) for part in parts], "mean squared residual", plotting.COLOURS[1])
    plotting.dashed(ax, ridges, [float(part.penalty) for part in parts], "B, energy of slopes", plotting.COLOURS[2])
    ax.plot(ridges, [float(part.norm) for part in parts], ":", color=plotting.COLOURS[0], label="‖f‖²")
    ax.set(xscale="log", yscale="log", xlabel="ridge λ", title="Objective: λ → 0 at γ = ℓ² (T11)")
    ax.legend()


def main():
    """Write paper.png beside this file."""
    jax.config.update("jax_enable_x64", True)
    with plotting.style():
        figure, axes = plt.subplots(2, 3, figsize=(13.5, 7.4), layout="constrained")
        for ax, draw in zip(axes.ravel(), (residual, slopes, components, unseen, hiding, vanishing), strict=True):
            draw(ax)
        figure.savefig(Path(__file__).with_name("paper.png"), dpi=110)


if __name__ == "__main__":
    main()
