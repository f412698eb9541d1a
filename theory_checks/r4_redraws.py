"""R4: error bars from one data set, against data sets that are drawn anew."""

import numpy as np

import kpoison as kp
from theory_checks.catalogue import STATEMENTS
from theory_checks.r3_kernel_ridge import Pool, image_pools, synthetic_pool
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_SPREAD, _SPREAD_OF_EFFICACY = 0.15, 0.25


def _traces(gram: np.ndarray, rho: float, y: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """A⁻¹, tr (I − H)² and (I − H)y."""
    inverse = np.linalg.inv(gram + rho * np.eye(len(gram)))
    left = rho * inverse
    return inverse, float(np.sum(left * left.T)), left @ y


def _exact(pool: Pool, n: int, count: int, laws: Laws) -> list[Comparison]:
    """Formulas of one data set that holds the poisons, and the jackknife by refits."""
    places = np.append(np.arange(n), len(pool.X) + np.arange(count))
    gram, y, cross = pool.gram[np.ix_(places, places)], pool.targets[places], pool.cross[places]
    clean, poison = kp.fit(pool.kernel, pool.X[:n], pool.y[:n]), kp.Poison(pool.poisons[:count], 1.0, 1.0)
    own = slice(n)
    alone, alone_trace, alone_left = _traces(gram[own, own], n * pool.ridge, y[own])
    rho = (n + count) * pool.ridge
    inverse, trace, left = _traces(gram, rho, y)
    expected = np.sqrt(alone_left @ alone_left / alone_trace * np.sum((alone @ cross[own]) ** 2, axis=0))
    with_poison = np.sqrt(left @ left / trace * np.sum((inverse @ cross)[own] ** 2, axis=0))

    def efficacies(kept: np.ndarray) -> np.ndarray:
        clean_part = kept[kept < n]
        f, f_c = (
            cross[k].T @ np.linalg.solve(gram[np.ix_(k, k)] + rho * np.eye(len(k)), y[k]) for k in (kept, clean_part)
        )
        return f - f_c

    everything = np.arange(n + count)
    whole = efficacies(everything)
    changes = [whole - efficacies(np.delete(everything, i)) for i in range(n)]
    factor = np.trace(rho * inverse) ** 2 / ((n + count) * trace)
    jackknife = np.sqrt(factor * np.sum(np.square(changes), axis=0))
    reason = "1e-8 of the largest: condition numbers of the matrix, squared for variances"
    x, ridge = pool.probes, pool.ridge
    by_law = (
        laws.redraw_deviation(clean, x, ridge),
        laws.redraw_deviation(clean, x, ridge, poison),
        laws.efficacy_deviation(clean, poison, x, ridge),
    )
    return [
        compare(f"deviation of {name}", "refit", law, found, 1e-8 * np.max(found), reason)
        for name, law, found in zip(("f_c", "f", "Δf"), by_law, (expected, with_poison, jackknife), strict=True)
    ]


def _simulated(
    pool: Pool, n: int, count: int, draws: int, asked: int, laws: Laws, generator: np.random.Generator
) -> tuple[list[Comparison], str, np.ndarray, np.ndarray]:
    """Deviations from a few data sets against those over many: f_c, f and Δf, the poisons staying as they are."""
    poisons = len(pool.X) + np.arange(count)
    poison = kp.Poison(pool.poisons[:count], 1.0, 1.0)
    rho = (n + count) * pool.ridge
    values, found = [], []
    for draw in range(draws):
        own = generator.choice(len(pool.X), n, replace=False)
        both = np.concatenate([own, poisons])
        f, f_c, alone = (
            pool.cross[k].T @ np.linalg.solve(pool.gram[np.ix_(k, k)] + shift * np.eye(len(k)), pool.targets[k])
            for k, shift in ((both, rho), (own, rho), (own, n * pool.ridge))
        )
        values.append([alone, f, f - f_c])
        if draw < asked:
            clean = kp.fit(pool.kernel, pool.X[own], pool.y[own])
            found.append(
                [
                    laws.redraw_deviation(clean, pool.probes, pool.ridge),
                    laws.redraw_deviation(clean, pool.probes, pool.ridge, poison),
                    laws.efficacy_deviation(clean, poison, pool.probes, pool.ridge),
                ]
            )
    # A finite pool from which n are taken varies less than one from which they come back.
    finite = np.sqrt(1 - n / len(pool.X))
    law, measured = np.mean(np.array(found, float), axis=0), np.std(values, axis=0, ddof=1) / finite
    comparisons = [
        compare(
            f"deviation of {name}, mean over probes, {pool.name}, n = {n}", "simulation", a.mean(), b.mean(),
            (spread + 3 / (2 * draws) ** 0.5) * b.mean(), f"{spread:g} of it, and 3/√(2 · draws)",
        )
        for name, a, b, spread in zip(
            ("f_c", "f", "Δf"), law, measured, (_SPREAD, _SPREAD, _SPREAD_OF_EFFICACY), strict=True
        )
    ]  # fmt: skip
    sizes = ", ".join(f"{a.mean():.4f} and {b.mean():.4f}" for a, b in zip(law, measured, strict=True))
    return comparisons, f"{pool.name}, n = {n}: deviations of f_c, f, Δf by law and measured: {sizes}", law, measured


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """The formulas at rounding; deviations from a few data sets against those of many.

    About pools of its own: checked once, on the RBF kernel's turn.  On MNIST and CIFAR-10 in a full run, where the
    folder has them.
    """
    if setting.kernel_name != "rbf":
        return None
    generator = np.random.default_rng([setting.seed, 44])
    pool = synthetic_pool(setting.seed, 400)
    comparisons, findings, series = _exact(pool, 100, 5, laws), [], []
    runs = [(pool, 100, 5, 100, 4)]
    if setting.scale == "full":
        runs += [(pool, n, 5, 200, 5) for n in (60, 150)]
        runs += [(images, 200, 10, 60, 3) for images in image_pools(setting.data_dir, size=1000)]
    for pool, n, count, draws, asked in runs:
        found, finding, law, measured = _simulated(pool, n, count, draws, asked, laws, generator)
        comparisons += found
        findings.append(finding)
        series += [
            curve(f"{name}, {pool.name}, n = {n}", "dots", b, a)
            for name, a, b in zip(("f_c", "f", "Δf"), law, measured, strict=True)
        ]
    ends = [f(b for one in series for b in one.x) for f in (min, max)]
    series.append(curve("equal", "dashed", ends, ends))
    panel = Panel("Deviations over redrawn data", "measured", "from one data set", series)
    return setting.record(STATEMENTS["R4"], comparisons, findings, [panel])
