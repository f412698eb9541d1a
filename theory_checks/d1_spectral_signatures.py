"""D1: spectral signatures see a class's poisons above a threshold of its own spectrum, and below it its own spread."""

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from sklearn.metrics import roc_auc_score

import kpoison as kp
from kpoison.defences import isotropic_visibility, kernel_features, spectral_signatures
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_R_OVER_L = (1e-3, 0.1, 1.0)
_COUNTS = (1.0, 3.0, 10.0, 30.0, 100.0)
_EPS = float(np.finfo(float).eps)
_ROUNDING = "rounding of an eigenproblem: 10 N eps, for directions over the gap to the next eigenvalue"
# Of the isotropic class: n_c points in k dimensions, ε, and spikes in units of the threshold.
_NUMBER, _DIMENSION, _SHARE = 600, 150, 0.1
_SPIKES = np.array([0.5, 1.5, 2.5, 6.0])
_DRAWS = 8


def check(setting: Setting, laws: Laws = Laws()) -> Record:  # noqa: B008
    """Predictions from the clean class against signatures of the poisoned one; the isotropic limit against samples."""
    target = np.sign(np.asarray(setting.y)) == np.sign(setting.label)
    kind = setting.X[target]
    # The poison of the setting, labelled wrongly, and near-clones of a clean point of its class.
    near = kind[0][None] + jnp.asarray(_R_OVER_L)[:, None] * setting.length_scale * setting.direction[None]
    features = np.asarray(kernel_features(setting.kernel, jnp.concatenate([kind, setting.location[None], near])))
    clean, places = features[: len(kind)], features[len(kind) :]
    # Directions that the points do not span are 0 to rounding.
    places_of = [f"wrong label, ‖δ‖² = {_square(clean, places[0]):.3g}"] + [
        f"near-clone of its class, r/ℓ = {r:g}, ‖δ‖² = {_square(clean, place):.3g}"
        for r, place in zip(_R_OVER_L, places[1:], strict=True)
    ]
    cases = [_Case(clean, place, count, laws) for place in places for count in _COUNTS]
    comparisons = [
        _together(cases, "leading eigenvalue of the poisoned class", "eigenvalue"),
        _together(cases, "overlap ⟨v, δ⟩²/‖δ‖² of its eigenvector", "overlap"),
        _together(cases, "score of the poisons", "score"),
        _together(cases, "AUROC of spectral signatures", "auroc"),
        _together(cases, "true-positive rate of spectral signatures", "true_positive"),
        _blindness(clean, places, laws),
    ]
    findings = _findings(setting, clean, places, places_of, cases, laws)
    panels = _panels(places_of, cases)
    if setting.kernel_name == "rbf":
        more = _isotropic(setting.seed)
        comparisons += more[0]
        panels += more[1]
    return setting.record(
        STATEMENTS["D1"],
        comparisons,
        findings,
        panels,
        n_class=len(kind),
        counts=list(_COUNTS),
        r_over_l=list(_R_OVER_L),
    )


def _square(clean: np.ndarray, place: np.ndarray) -> float:
    """‖δ‖²."""
    return float(np.sum((place - clean.mean(axis=0)) ** 2))


class _Case:
    """Clones of one count at one place: predicted, and by decomposing the poisoned class."""

    def __init__(self, clean: np.ndarray, place: np.ndarray, count: float, laws: Laws):
        self.count = count
        self.predicted = laws.predicted_visibility(clean, place, count)
        number = int(count)
        rows = np.concatenate([clean, np.repeat(place[None], number, axis=0)])
        is_poison = np.arange(len(rows)) >= len(clean)
        found = spectral_signatures(rows, np.zeros(len(rows), int))
        rates = found.rates(is_poison)
        centred = rows - rows.mean(axis=0)
        values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
        delta = place - clean.mean(axis=0)
        rounding = 10 * len(rows) * _EPS
        turned = rounding * values[-1] / (values[-1] - values[-2])
        scores = np.asarray(found.scores)
        largest = float(np.max(np.sum(centred**2, axis=1)))
        # Measured value and tolerance by the name of the prediction.
        self.measured = {
            "eigenvalue": (values[-1], rounding * values[-1]),
            "overlap": ((vectors[:, -1] @ delta) ** 2 / (delta @ delta), turned),
            "score": (scores[-1], turned * largest),
            "auroc": (rates.auroc, 1e-12),
            "true_positive": (rates.true_positive, 1e-12),
        }

    def law(self, name: str) -> float:
        """The prediction."""
        value = self.predicted.poison_scores[0] if name == "score" else getattr(self.predicted, name)
        return float(value)


def _together(cases: list[_Case], quantity: str, name: str) -> Comparison:
    """One quantity over all cases."""
    measured, tolerance = zip(*(case.measured[name] for case in cases), strict=True)
    law = [case.law(name) for case in cases]
    discrete = name in ("auroc", "true_positive")
    return compare(quantity, "refit", law, measured, tolerance, "ranks: none may differ" if discrete else _ROUNDING)


def _blindness(clean: np.ndarray, places: np.ndarray, laws: Laws) -> Comparison:
    """Up to the count that is visible the clean class's leading direction is half of the poisoned one's, or more."""
    mean = clean.mean(axis=0)
    bulk = (clean - mean).T @ (clean - mean) / len(clean)
    leading = np.linalg.eigh(bulk)[1][:, -1]
    shares = []
    for place in places:
        count = float(laws.visible_count(clean, place))
        for part in (0.1, 0.5, 1.0):
            share = part * count / (len(clean) + part * count) if np.isfinite(count) else part
            delta = place - mean
            poisoned = (1 - share) * bulk + share * (1 - share) * np.outer(delta, delta)
            shares.append(float((np.linalg.eigh(poisoned)[1][:, -1] @ leading) ** 2))
    return compare(
        "half of the leading direction, or less, taken by what is not visible",
        "refit",
        np.minimum(shares, 0.5),
        np.full(len(shares), 0.5),
        1e-6,
        "a bound, met to rounding at the threshold",
    )


def _findings(
    setting: Setting, clean: np.ndarray, places: np.ndarray, names: list[str], cases: list[_Case], laws: Laws
) -> list[str]:
    """Where the blind spots are."""
    probe = setting.probes(np.array([0.1]))[0]
    success = float(kp.m_success(setting.clean, setting.poison(1), probe, setting.ridge))
    spread = float(np.sum((clean - clean.mean(axis=0)) ** 2) / len(clean))
    found = []
    for index, (place, name) in enumerate(zip(places, names, strict=True)):
        of_place = cases[index * len(_COUNTS) : (index + 1) * len(_COUNTS)]
        rates = ", ".join(f"{case.measured['auroc'][0]:.2f} at m = {case.count:g}" for case in of_place)
        found.append(f"{name}: visible from m = {float(laws.visible_count(clean, place)):.3g}; AUROC {rates}")
    return [
        f"class of {len(clean)}: its points lie at a mean ‖δ‖² = {spread:.3g} from its mean; the poison with the "
        f"wrong label flips x0 at r/ℓ = 0.1 with m = {success:.3g}",
        *found,
    ]


def _panels(names: list[str], cases: list[_Case]) -> list[Panel]:
    """AUROC and overlap against the count."""
    panels = []
    for title, quantity in (("AUROC", "auroc"), ("overlap with the poison", "overlap")):
        series = []
        for index, name in enumerate(names):
            of_place = cases[index * len(_COUNTS) : (index + 1) * len(_COUNTS)]
            measured = [float(case.measured[quantity][0]) for case in of_place]
            series.append(curve(name, "line", list(_COUNTS), [case.law(quantity) for case in of_place]))
            label = "measured: marks in a law's colour" if index == 0 else "_"  # one entry of the legend for all
            series.append(curve(label, "dots", list(_COUNTS), measured))
        panels.append(Panel(f"Spectral signatures: {title}", "multiplicity m", title, series, yscale="linear"))
    return panels


def _isotropic(seed: int) -> tuple[list[Comparison], list[Panel]]:
    """Gaussian classes: eigenvalue, overlap and AUROC about the threshold, for clones and for a population."""
    comparisons, panels = [], []
    count = round(_NUMBER * _SHARE / (1 - _SHARE))
    share = count / (_NUMBER + count)
    for scattered in (False, True):
        kind = "population" if scattered else "clones"
        threshold = isotropic_visibility(_NUMBER, _DIMENSION, 1.0, float(count), 0.0, scattered=scattered).threshold
        distances = np.sqrt(_SPIKES * float(threshold) / (share * (1 - share)))
        laws = [
            isotropic_visibility(_NUMBER, _DIMENSION, 1.0, float(count), float(distance), scattered=scattered)
            for distance in distances
        ]
        drawn = np.array(
            [
                [_sample(np.random.default_rng([seed, draw]), count, distance, scattered) for distance in distances]
                for draw in range(_DRAWS)
            ]
        )
        error = drawn.std(axis=0, ddof=1) / _DRAWS**0.5
        for place, (name, title) in enumerate(
            (("eigenvalue", "leading eigenvalue"), ("overlap", "overlap"), ("auroc", "AUROC"))
        ):
            law = np.array([float(getattr(found, name)) for found in laws])
            # Below the threshold the poison's order among the clean scores is left to chance.
            kept = _SPIKES > 1 if name == "auroc" else np.full(len(_SPIKES), True)
            # At the edge eigenvalues are off by order N^(−2/3), above it by 1/N; overlaps by a few 1/k near it.
            bias = {"eigenvalue": 3 * _NUMBER ** (-2 / 3) * law, "overlap": 5 / _DIMENSION, "auroc": 0.02}[name]
            comparisons.append(
                compare(
                    f"{title}, isotropic class, {kind}",
                    "simulation",
                    law[kept],
                    drawn.mean(axis=0)[kept, place],
                    (4 * error[:, place] + bias)[kept],
                    f"4 standard errors of {_DRAWS} draws, and what is left of the limit at k = {_DIMENSION}",
                )
            )
            if name == "overlap":
                panels.append(
                    Panel(
                        f"Isotropic class, {kind}",
                        "spike over threshold",
                        "overlap",
                        [
                            curve("closed form", "line", _SPIKES, law),
                            curve("samples", "errorbar", _SPIKES, drawn.mean(axis=0)[:, place], error[:, place]),
                        ],
                        yscale="linear",
                    )
                )
    return comparisons, panels


def _sample(generator: np.random.Generator, count: int, distance: float, scattered: bool) -> tuple[float, float, float]:
    """Leading eigenvalue, overlap and AUROC of one drawn class."""
    clean = generator.standard_normal((_NUMBER, _DIMENSION))
    delta = np.zeros(_DIMENSION)
    delta[0] = distance
    poisons = clean.mean(axis=0) + np.repeat(delta[None], count, axis=0)
    if scattered:
        poisons = delta + generator.standard_normal((count, _DIMENSION))
    rows = np.concatenate([clean, poisons])
    is_poison = np.arange(len(rows)) >= _NUMBER
    centred = rows - rows.mean(axis=0)
    last = _DIMENSION - 1
    values, vectors = scipy.linalg.eigh(centred.T @ centred / len(rows), subset_by_index=[last, last])
    auroc = roc_auc_score(is_poison, (centred @ vectors[:, 0]) ** 2)
    return float(values[0]), float(vectors[0, 0] ** 2), float(auroc)
