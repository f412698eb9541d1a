"""Draws the README's picture: which kernels have a near-clone regime, and what coupling to clean data does to it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import kpoison as kp
from kpoison import datasets, plotting

KERNELS = {
    "RBF": kp.kernels.RBF(1.0),
    "Matérn-3/2": kp.kernels.Matern32(1.0),
    "Laplace": kp.kernels.Laplace(1.0),
    "erf NTK, across the sphere": kp.kernels.NTK(2, "erf", weight_std=1.5),
    "ReLU NTK, across the sphere": kp.kernels.NTK(2, "relu"),
}
R_OVER_L = np.logspace(-6, 0.5, 60)


def isolated(ax):
    """Isolated q(r): what the kernel alone says."""
    zeta = jnp.asarray(np.eye(10)[0])
    sideways = jnp.asarray(np.eye(10)[1])
    x = zeta[None] + R_OVER_L[:, None] * sideways[None]
    for (name, kernel), marker in zip(KERNELS.items(), ["-", "--", "-.", ":", (0, (1, 3))], strict=True):
        clean = kp.fit(kernel, zeta[None], jnp.zeros(1))
        poison = kp.Poison(zeta, 1.0, 1.0)
        if "NTK" in name:
            _, spike = kp.spike_components(clean, poison, x, 1e-3, law="isolated")
        else:
            spike = kp.spike(clean, poison, x, 1e-3, law="isolated")
        ratio = spike / kp.efficacy(clean, poison, x, 1e-3, law="isolated") ** 2
        ax.plot(R_OVER_L, ratio, linestyle=marker, label=name)
    ax.set(xscale="log", yscale="log", xlabel="r/ℓ", ylabel="spike / efficacy²", title="The kernel alone")
    ax.legend()
    return ax


def coupled(ax):
    """Exact and isolated q(r) for 1,000 handwritten digits."""
    digits = datasets.balanced_subset(datasets.load_digits(), 1001)
    inputs = jnp.asarray(datasets.standardise(digits.inputs))
    targets = jnp.where(jnp.asarray(digits.labels) % 2 == 0, 1.0, -1.0)
    kernel = kp.kernels.RBF(10.0)
    clean = kp.fit(kernel, inputs[:-1], targets[:-1])
    poison = kp.Poison(inputs[-1], -targets[-1], 10)
    u = np.random.default_rng(0).standard_normal(64)
    x = inputs[-1][None] + 10.0 * R_OVER_L[:, None] * jnp.asarray(u / np.linalg.norm(u))[None]
    for law, draw, text in (("exact", plotting.line, "exact"), ("isolated", plotting.dashed, "isolated")):
        draw(ax, R_OVER_L, kp.spike_efficacy_ratio(clean, poison, x, 1e-3, law), f"law, {text}")
    floor = float(kp.coupling_floor(clean, poison, 1e-3))
    ax.axhline(floor, color="grey", linewidth=0.8)
    ax.annotate("coupling floor", (1e-6, floor), xytext=(0, -12), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", yscale="log", xlabel="r/ℓ", title="RBF kernel on 1,000 digits")
    ax.legend()
    return ax


def main():
    """Write near_clone.png beside this file."""
    jax.config.update("jax_enable_x64", True)
    with plotting.style():
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
        isolated(axes[0])
        coupled(axes[1])
        figure.savefig(Path(__file__).with_name("near_clone.png"), dpi=140)


if __name__ == "__main__":
    main()
