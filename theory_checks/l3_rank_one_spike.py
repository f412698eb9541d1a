"""L3: the poison adds a rank-one spike ‖∇Δf‖² to the Gauss–Newton part of the input Hessian."""

import jax
import jax.numpy as jnp
import numpy as np

import kpoison as kp
from kpoison.curvature import losses
from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import compare_with_networks
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.refit import Change, compare_with_refit
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = np.concatenate([[0.0], np.logspace(-6, 0.5, 12)])
_CLASSES = 3


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Spike and its direction against the gradients of two refits; JᵀJ and the Fisher matrix for C outputs."""
    clean, ridge, count = setting.clean, setting.ridge, setting.middle_count
    poison, probes = setting.poison(count), setting.probes(_R_OVER_L)
    refit = setting.refitter.change(ridge, setting.location, setting.label, count, probes)
    spike = np.asarray(laws.spike(clean, poison, probes, ridge))
    gradient = np.asarray(laws.efficacy_gradient(clean, poison, probes, ridge))
    comparisons = [
        compare_with_refit("spike Λ(x0) for r/ℓ from 0 to 3", spike, refit.spike, refit.spike_rounding),
        compare_with_refit("∇Δf(x0), all components", gradient, refit.gradient, refit.gradient_rounding[:, None]),
        _spectrum(spike, refit),
        *(_components(setting, laws, refit) if setting.thorough else []),
        _many_outputs(setting, laws, probes[-4:]),
        *_fisher(),
    ]
    along = np.abs(gradient @ np.asarray(setting.direction)) / np.linalg.norm(gradient, axis=1)
    findings = [
        f"alignment |⟨∇Δf, u⟩|/‖∇Δf‖ of the spike with the direction from ζ: {along[-4]:.3f} at "
        f"r/ℓ = {_R_OVER_L[-4]:.2g}, {along[1]:.3f} at r/ℓ = {_R_OVER_L[1]:.0e}; the isolated law of a stationary "
        "kernel has 1 everywhere, coupling to the clean data turns it"
    ]
    isolated = np.asarray(laws.spike(clean, poison, probes, ridge, law="isolated"))[1:]
    series = [
        curve("law, exact", "line", _R_OVER_L[1:], spike[1:]),
        curve("refit", "dots", _R_OVER_L[1:], refit.spike[1:]),
    ]
    if np.all(isolated > 0):
        series.insert(1, curve("law, isolated", "dashed", _R_OVER_L[1:], isolated))
    panels = [Panel(f"Spike against distance, m = {count}", "r/ℓ", "Λ(x0)", series)]
    if setting.networks is not None:
        networks = setting.networks
        trained, law = networks.middle, networks.by_law(laws.spike)
        comparisons.append(
            compare_with_networks("spike Λ(x0)", law, trained.spike, networks.widths, kinks=networks.kinks)
        )
        panels.append(
            trained.panel(
                f", m = {networks.setting.middle_count}",
                "r/ℓ",
                "Λ(x0)",
                networks.r_over_l,
                law[1:],
                trained.spike[..., 1:],
            )
        )
    return setting.record(STATEMENTS["L3"], comparisons, findings, panels)


def _spectrum(spike: np.ndarray, refit: Change) -> Comparison:
    """Eigenvalues of ∇Δf ∇Δfᵀ by refit, as a matrix: the spike, and zeros."""
    gradient = refit.gradient[-1]
    eigenvalues = np.linalg.eigvalsh(np.outer(gradient, gradient))
    law = np.zeros_like(eigenvalues)
    law[-1] = spike[-1]
    return compare_with_refit(
        "spectrum of the poison's Gauss–Newton part: one Λ, then zeros",
        law,
        eigenvalues,
        refit.spike_rounding[-1] + 10 * np.finfo(float).eps * refit.spike[-1],
    )


def _components(setting: Setting, laws: Laws, refit: Change) -> list[Comparison]:
    """The spike's parts along the ray of x0 and across it; of kernels that know no rays, none."""
    if not setting.kernel.rotation_invariant:
        return []
    poison, probes = setting.poison(setting.middle_count), setting.probes(_R_OVER_L)
    found = laws.spike_components(setting.clean, poison, probes, setting.ridge)
    rays = np.asarray(probes) / np.linalg.norm(probes, axis=1, keepdims=True)
    along = np.sum(refit.gradient * rays, axis=1)
    across = np.sum((refit.gradient - along[:, None] * rays) ** 2, axis=1)
    return [
        compare_with_refit(f"part of the spike {name} of x0", law, reference, refit.spike_rounding)
        for name, law, reference in zip(("along the ray", "across the ray"), found, (along**2, across), strict=True)
    ]


def _many_outputs(setting: Setting, laws: Laws, probes) -> Comparison:
    """For C outputs the poison's JᵀJ is rank one too, with eigenvalue Σ_c Λ_c."""
    generator = np.random.default_rng(setting.seed)
    targets = jnp.asarray(np.eye(_CLASSES)[generator.integers(_CLASSES, size=len(setting.X))])
    label = jnp.asarray(np.eye(_CLASSES)[0])
    clean = kp.fit(setting.kernel, setting.X, targets)
    poison = kp.Poison(setting.location, label, setting.middle_count)
    spikes = np.asarray(laws.spike(clean, poison, probes, setting.ridge)).sum(axis=1)
    jacobian = np.asarray(laws.efficacy_gradient(clean, poison, probes, setting.ridge))
    spectra = np.linalg.eigvalsh(np.einsum("qci,qcj->qij", jacobian, jacobian))
    law = np.zeros_like(spectra)
    law[:, -1] = spikes
    scale = 100 * np.finfo(float).eps * spikes[:, None]
    return compare(
        f"spectrum of JᵀJ for {_CLASSES} outputs: ΣΛ, then zeros",
        "closed form",
        law,
        spectra,
        scale,
        "100 roundings of the largest eigenvalue",
    )


def _fisher() -> list[Comparison]:
    """The library's Gauss–Newton and Fisher matrices of softmax cross-entropy, from their definitions at each probe.

    Jᵀ(diag p − ppᵀ)J is the second derivative of the loss less what ∇²f does, and the mean of squared label gradients.
    """
    generator = np.random.default_rng(0)
    inner, outer, x = (jnp.asarray(generator.standard_normal(shape)) for shape in ((5, 6), (4, 5), (3, 6)))

    def f(point):
        return outer @ jnp.tanh(inner @ point)

    curvatures, scatters, rows = [], [], []
    for point in x:
        logits, jacobian = f(point), jax.jacobian(f)(point)
        p = jax.nn.softmax(logits)
        curvatures.append(jacobian.T @ (jnp.diag(p) - jnp.outer(p, p)) @ jacobian)
        scores = jax.jacobian(lambda at: jax.nn.log_softmax(f(at)))(point)
        scatters.append(jnp.einsum("c,ci,cj->ij", p, scores, scores))
        root = losses.curvature_rows("softmax", logits, jacobian)
        rows.append(root.T @ root)
    definition = jnp.mean(jnp.stack(curvatures), axis=0)
    return [
        compare(
            f"softmax {name} of the library against {against}",
            "closed form",
            found,
            expected,
            100 * np.finfo(float).eps * float(jnp.max(jnp.abs(definition))),
            "100 roundings"
        )
        for name, found, against, expected in (
            ("Gauss–Newton matrix", kp.curvature.gauss_newton(f, x, loss="softmax").dense(),
             "Jᵀ(diag p − ppᵀ)J", definition),
            ("input Fisher matrix", kp.curvature.fisher(f, x, loss="softmax").dense(),
             "the mean of squared label gradients", jnp.mean(jnp.stack(scatters), axis=0)),
            ("rows RᵀR", jnp.mean(jnp.stack(rows), axis=0), "Jᵀ(diag p − ppᵀ)J", definition),
        )
    ]  # fmt: skip
