"""L12: what of a near-clone shows where its spike is averaged over a neighbourhood of the probe."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.stats
from jaxtyping import PRNGKeyArray

from theory_checks.catalogue import STATEMENTS
from theory_checks.record import FALSE_ALARM, Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_SAMPLES = 200
_R_OVER_L = (0.0, 0.3, 1.0)


def _moments(scale: float, shift: float, width: float) -> tuple[float, float]:
    """E e^(−v²/ℓ²) and E v² e^(−v²/ℓ²) of v ~ N(shift, τ²), by adaptive quadrature."""

    def integral(power: int) -> float:
        def integrand(t: float) -> float:
            v = shift + width * t
            return v**power * np.exp(-((v / scale) ** 2) - t * t / 2) / np.sqrt(2 * np.pi)

        return scipy.integrate.quad(integrand, -12, 12, epsabs=0, epsrel=1e-12)[0]

    return integral(0), integral(2)


def _closed_form(laws: Laws) -> Comparison:
    """Eigenvalues and trace against quadrature: the mean over z is a product of d integrals."""
    found, expected = [], []
    for d in (2, 10, 200):
        for scale, r, width in ((1.0, 0.0, d**-0.5), (1.5, 0.4, 0.2), (0.7, 1.0, 0.6)):
            law = laws.smoothed_rbf_spike(-1.3, scale, r, width, d)
            found += [float(part) for part in law]
            (flat, square), (flat_along, square_along) = (_moments(scale, shift, width) for shift in (0.0, r))
            unit = (1.3 / scale**2) ** 2
            along = unit * square_along * flat ** (d - 1)
            across = unit * flat_along * square * flat ** (d - 2)
            expected += [along, across, along + (d - 1) * across]
    tolerance = 1e-9 * np.array(expected)
    return compare("spectrum of the smoothed spike", "closed form", found, expected, tolerance, "1e-9: 200 quadratures")


def _gradients(setting: Setting, count: int, x: jnp.ndarray) -> np.ndarray:
    """∇Δf at many points, by two refits."""
    return setting.refitter.change(setting.ridge, setting.location, setting.label, count, x).gradient


def _isolated(setting: Setting, laws: Laws, coefficient: float, width: float, key: PRNGKeyArray) -> Comparison:
    """The closed form against draws of the isolated law."""
    scale, d, poison = float(setting.length_scale), setting.X.shape[1], setting.poison(setting.middle_count)
    probes, samples = setting.probes(np.array(_R_OVER_L)), 10 * _SAMPLES
    drawn = laws.smoothed_spike(
        setting.clean, poison, probes, setting.ridge, width, law="isolated", samples=samples, key=key
    )
    known = [float(laws.smoothed_rbf_spike(coefficient, scale, r * scale, width, d).trace) for r in _R_OVER_L]
    tolerance = scipy.stats.norm.isf(FALSE_ALARM / 2 / len(known)) * np.asarray(drawn.standard_error)
    reason = f"normal interval over {samples} draws at {FALSE_ALARM:g}"
    return compare("mean spike of draws, isolated", "simulation", known, drawn.trace, tolerance, reason)


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Closed form against quadrature and, in a full run, draws; draws against refits at the same points."""
    if setting.kernel_name != "rbf":
        return None
    scale, d, count = float(setting.length_scale), setting.X.shape[1], setting.middle_count
    width, key = scale / d**0.5, jax.random.key(setting.seed)
    poison, probes = setting.poison(count), setting.probes(np.array(_R_OVER_L))
    options = {"samples": _SAMPLES, "key": key}
    exact = laws.smoothed_spike(setting.clean, poison, probes, setting.ridge, width, **options)
    z = np.asarray(jax.random.normal(key, (_SAMPLES, *probes.shape)))
    points = (np.asarray(probes)[None] + width * z).reshape(-1, d)
    gradients = _gradients(setting, count, jnp.asarray(points)).reshape(_SAMPLES, len(probes), d)
    spikes = np.sum(gradients**2, axis=2)
    error = np.std(spikes, axis=0, ddof=1) / _SAMPLES**0.5
    matrix = np.einsum("spi,spj->ij", gradients, gradients) / (_SAMPLES * len(probes))
    of_law = np.asarray(exact.matrix.rows).T @ np.asarray(exact.matrix.rows)
    rounding = 1e-9 * spikes.mean(axis=0).max()
    reason = "1e-9 of the largest: cancellation between two refits"
    coefficient = float(laws.gain(setting.clean, poison, setting.ridge, law="isolated")) * setting.label
    comparisons = [
        _closed_form(laws),
        compare("mean spike of draws, exact", "refit", exact.trace, spikes.mean(axis=0), rounding, reason),
        compare("its standard error", "refit", exact.standard_error, error, rounding, reason),
        compare("mean matrix of draws, exact", "refit", of_law, matrix, rounding, reason),
    ]
    if setting.scale == "full":
        comparisons.append(_isolated(setting, laws, coefficient, width, key))
    largest = coefficient**2 / (np.e * scale**2)
    shares = {
        dim: float(laws.smoothed_rbf_spike(coefficient, scale, 0.0, scale / dim**0.5, dim).trace) / largest
        for dim in (4, 10, 50, 200, 1000)
    }
    findings = [
        "at r = 0, where the spike is 0, its mean over τ = ℓ/√d is "
        + ", ".join(f"{share:.3f} (d = {dim})" for dim, share in shares.items())
        + " of the largest at any r: undetectable is a statement about points",
        "it is the same in all directions: seen in the trace, not as an outlier",
    ]
    radii = np.geomspace(0.01, 3, 30)
    sharp, smooth = (laws.smoothed_rbf_spike(coefficient, scale, radii * scale, w, d).trace for w in (0.0, width))
    curves = [curve("at the point", "line", radii, sharp), curve("τ = ℓ/√d", "dashed", radii, smooth)]
    panel = Panel("Averaged over a neighbourhood, near-clones show (isolated)", "r/ℓ", "E‖∇Δf‖²", curves)
    return setting.record(STATEMENTS["L12"], comparisons, findings, [panel], samples=_SAMPLES)
