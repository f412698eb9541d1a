"""C1: certificates of ensembles on hashed partitions, against every labelling of small problems."""

import itertools

import numpy as np

import kpoison as kp
from kpoison.defences import partition_of
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import Record, compare
from theory_checks.setting import Laws, Setting

__all__ = ["check"]

_RIDGE, _SCALE = 0.05, 1.0
_POINTS, _PROBES, _PARTITIONS = 9, 2, 3


def _scores(X: np.ndarray, x: np.ndarray, own: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Scores of each class by each partition under every labelling, (labellings, q, partitions, C)."""

    def gram(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * np.sum((a[:, None] - b[None]) ** 2, axis=-1) / _SCALE**2)

    found = []
    for k in range(_PARTITIONS):
        here = own == k
        system = gram(X[here], X[here]) + here.sum() * _RIDGE * np.eye(here.sum())
        weights = np.linalg.solve(system, gram(X[here], x)).T
        found.append(np.einsum("qi,lic->lqc", weights, members[:, here]))
    return np.stack(found, axis=2)


def _fewest(X: np.ndarray, labels: np.ndarray, x: np.ndarray, own: np.ndarray, classes: int) -> np.ndarray:
    """The least distance of a labelling under which another class has as many votes as the first winner."""
    everything = np.array(list(itertools.product(range(classes), repeat=len(X))))
    chosen = _scores(X, x, own, np.eye(classes)[everything]).argmax(axis=3)
    votes = np.eye(classes)[chosen].sum(axis=2)
    distance, places = np.sum(everything != labels, axis=1), np.arange(len(x))
    winner = votes[np.argmin(distance)].argmax(axis=1)
    ahead = votes[:, places, winner]
    votes[:, places, winner] = -1
    return np.where(votes.max(axis=2) >= ahead, distance[:, None], len(X) + 1).min(axis=0)


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Certificates of two and three classes on problems of their own: checked once, on the RBF kernel's turn."""
    if setting.kernel_name != "rbf":
        return None
    full = setting.scale == "full"
    number = 300 if full else 30
    generator = np.random.default_rng([setting.seed, 61])
    comparisons, findings = [], []
    for classes, points in ((2, _POINTS), (3, 7)) if full else ((2, _POINTS),):
        found, expected = [], []
        for _ in range(number):
            X, x = generator.normal(size=(points, 2)), generator.normal(size=(_PROBES, 2))
            while not full and np.any(np.bincount(partition_of(X, _PARTITIONS, setting.seed), minlength=3) != 3):
                X = generator.normal(size=(points, 2))  # partitions of one size, whose program is compiled once
            labels = generator.integers(classes, size=points)
            labels[:2] = [0, 1]
            y = 2.0 * labels - 1 if classes == 2 else np.eye(classes)[labels]
            law = laws.ensemble_certificate(
                kp.kernels.RBF(_SCALE), X, y, x, _RIDGE, partitions=_PARTITIONS, seed=setting.seed
            )
            found.append(law.flips)
            expected.append(_fewest(X, labels, x, law.partition, classes))
        comparisons.append(
            compare(
                f"flips of {_PARTITIONS} partitions, {classes} classes", "closed form", found, expected, 0.0,
                f"exact: every labelling of {points} points is tried",
            )
        )  # fmt: skip
        findings.append(
            f"{classes} classes: {np.mean(expected):.2f} flips on average in {number} problems, at most "
            f"{np.max(expected)}"
        )
    return setting.record(STATEMENTS["C1"], comparisons, findings)
