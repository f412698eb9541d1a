"""Least squares with an output for each class and an intercept, and what three laws say of it: L13, R1 and R2."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from matplotlib.figure import Figure

import kpoison as kp
from kpoison import plotting
from kpoison._linear_algebra import matrix_product
from kpoison.asymptotics import EstimatedRate
from kpoison.experiments.options import ArchitectureName, Options
from kpoison.experiments.pictures import legend_beside, mean_and_range, overlaps_by_rank, shares, shown, ticks_at
from kpoison.experiments.problem import make_problem
from kpoison.experiments.result import Claim, Experiment, Table, above
from kpoison.experiments.training import Trainer
from kpoison.statistics import t_interval

__all__ = ["Step", "least_squares", "moments", "run", "spectrum", "stepwise"]

_RIDGE = 1e-3  # of the mean squared norm of an image
_POOL = 10_000  # images from which the moments are taken; of digits all
_DRAWS = 20_000

Measured = dict[str, np.ndarray]
"""By quantity: shape (seeds, fractions + 1, ...), without poison first; of laws (fractions + 1,)."""


class Step(NamedTuple):
    """A regression before and after the trigger's direction is among its features.

    Attributes:
        before, after: weights, (D, C).
    """

    before: np.ndarray
    after: np.ndarray


def run(options: Options, architectures: Sequence[ArchitectureName] = (), folder: Path | None = None) -> Experiment:
    """Solve least squares on each poisoned training set, and set the laws beside it.

    Args:
        options: data and sizes.
        architectures: none; least squares is what is solved.
        folder: not used: nothing here takes long.

    Raises:
        ValueError: for architectures, a crop, or poisons that are not fixed.
    """
    del folder
    if architectures:
        raise ValueError(f"linear takes no architecture, got {' '.join(architectures)}")
    if options.crop is not None or options.poisons != "fixed":
        raise ValueError("linear is of whole images and fixed poisons: crop and stochastic poisons are of networks")
    fractions = (0.0, *sorted({*options.fractions, options.fraction}))
    with Trainer(options, fractions[1:], 0, 1, None, 0) as trainer:
        found = _measured(trainer, fractions)
        found |= _predicted(trainer, fractions)
    chance, largest = 1 / trainer.first.direction.size, found.pop("rounding").max()
    notes = [
        f"{trainer.first.data}: {len(trainer.first.images)} training images, {options.trigger}; {options.seeds} seeds; "
        f"one-hot labels, intercept, λ = {_RIDGE:g} times the mean squared norm of an image; mean ± 95 % t-interval.",
        "R1, R2: predicted without training, in the limit of many inputs and images, from the means of each class, "
        f"with and without trigger, and the covariance within classes, of {found.pop('pool').max():g} images.",
        "cos²: of the eigenvectors of the input Hessian BBᵀ of the squared loss with the mean displacement by the "
        f"trigger; by chance {chance:.2g} each.",
        "stepwise (L13a): the trigger's direction as one more feature of a regression on all that is across it; the "
        f"weights after the step are those of the regression to {largest:.0e} of the largest.",
    ]
    return Experiment(
        "linear",
        f"Least squares with several outputs: {trainer.first.data}",
        options,
        (),
        [_table(found, fractions)],
        _claims(found, fractions),
        notes,
        {**found, "fractions": fractions},
        lambda: _figure(found, fractions, options, chance),
        trainer.seconds,
    )


def least_squares(X: np.ndarray, Y: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (D, C) and intercept (C,) that minimise (1/2n) Σ‖Bᵀx + b − y‖² + (λ/2)‖B‖²."""
    mean, goal = X.mean(axis=0), Y.mean(axis=0)
    centred = X - mean
    system = centred.T @ centred / len(X) + ridge * np.eye(X.shape[1])
    B = scipy.linalg.solve(system, centred.T @ (Y - goal) / len(X), assume_a="pos")
    return B, goal - mean @ B


class _AcrossLast(kp.kernels.Kernel):
    """x·z without the last coordinate, which is the feature to come."""

    def evaluate(self, x, z):
        return jnp.sum(x[:-1] * z[:-1])

    def gram(self, X1, X2):
        return matrix_product(X1[:, :-1], X2[:, :-1].T)

    @property
    def smoothness(self):
        return np.inf


def stepwise(X: np.ndarray, Y: np.ndarray, direction: np.ndarray, ridge: float) -> Step:
    """The regression on all that is across a direction, and by L13 with the direction as one more feature.

    Its coefficient bears the same penalty as the others', so that the step ends at the regression on all inputs.
    """
    along = X @ direction
    clean = kp.fit(
        _AcrossLast(),
        jnp.asarray(np.column_stack([X - along[:, None] * direction, along])),
        jnp.asarray(Y),
        intercept=True,
        solver=kp.Cholesky(),
    )
    # The predictors are affine: their values at the axes, less those at 0, are the weights.
    axes = np.concatenate([np.zeros((1, X.shape[1])), np.eye(X.shape[1])])
    on_axes = axes @ direction
    probes = jnp.asarray(np.column_stack([axes - on_axes[:, None] * direction, on_axes]))
    values = np.asarray(kp.predict(clean, probes, ridge))
    change = np.asarray(kp.laws.feature_effect(clean, lambda z: z[-1], probes, ridge, variance=1.0).change)
    return Step(*(each[1:] - each[:1] for each in (values, values + change)))


def spectrum(B: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (C,) of the input Hessian BBᵀ, the largest first, and cos² of their eigenvectors with a direction."""
    left, singular, _ = np.linalg.svd(B, full_matrices=False)
    there = singular > B.shape[0] * np.finfo(B.dtype).eps * singular[0]
    return singular**2, np.where(there, (direction @ left) ** 2, 0)


def moments(images: np.ndarray, triggered: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of each class, (C, D), the same with trigger, and the covariance within classes, of flat images (n, D)."""
    classes = np.unique(labels)
    means, moved = (np.stack([x[labels == c].mean(axis=0) for c in classes]) for x in (images, triggered))
    centred = images - means[labels]
    return means, moved, centred.T @ centred / len(images)


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(float)


def _measured(trainer: Trainer, fractions: Sequence[float]) -> Measured:
    """Of the regressions; and of the step, at the first and the last fraction alone."""
    found: dict[str, list[list]] = {}
    for problem in trainer.problems.values():
        row: dict[str, list] = {}
        tests, triggered, u = _flat(problem.test_images), _flat(problem.test_triggered), problem.direction
        for fraction in fractions:
            images, labels = problem.training_set(fraction)
            X, Y = _flat(images), np.eye(problem.classes)[labels]
            ridge = _RIDGE * X.shape[1]
            B, b = least_squares(X, Y, ridge)
            values, overlaps = spectrum(B, u)
            each = {
                "success": kp.attack_success_rate(triggered @ B + b, problem.test_labels, problem.target),
                "accuracy": kp.clean_accuracy(tests @ B + b, problem.test_labels),
                "eigenvalues": values,
                "overlaps": overlaps,
            }
            if fraction in (fractions[0], fractions[-1]):  # a Gram matrix each
                step = stepwise(X, Y, u, ridge)
                each["eigenvalues before"] = spectrum(step.before, u)[0]
                each["eigenvalues after"], each["overlaps after"] = spectrum(step.after, u)
                each["rounding"] = np.abs(step.after - B).max() / np.abs(B).max()
            for name, value in each.items():
                row.setdefault(name, []).append(np.asarray(value, float))
        for name, values in row.items():
            found.setdefault(name, []).append(values)
    return {name: np.array(values) for name, values in found.items()}


def _predicted(trainer: Trainer, fractions: Sequence[float]) -> Measured:
    """R1 and R2 from the moments of a pool, which holds none of the labels that were drawn."""
    options, first = trainer.options, trainer.first
    pool = make_problem(
        options.data, train=None if options.data == "digits" else _POOL, test=options.test, trigger=first.trigger,
        target=options.target, labels=options.labels, data_dir=options.data_dir, seed=options.seed + 10_000,
    )  # fmt: skip
    means, moved, covariance = moments(_flat(pool.images), _flat(pool.triggered), pool.labels)
    # In the coordinates along the eigenvectors, so that Σ is decomposed once.
    variances, axes = np.linalg.eigh(covariance)
    variances, means, moved = np.maximum(variances, 0), means @ axes, moved @ axes
    u, classes = first.direction @ axes, np.arange(pool.classes)
    others = classes != pool.target
    one_hot, goal = np.eye(pool.classes), np.eye(pool.classes)[pool.target]
    ridge = _RIDGE * len(variances) * (first.scale / pool.scale) ** 2
    clean = kp.asymptotics.Mixture(means, variances, one_hot, np.full(pool.classes, 1 / pool.classes))
    number = int(others.sum())
    dirty = np.tile(goal, (number, 1))
    triggered = kp.asymptotics.Mixture(moved[others], variances, dirty, np.full(number, 1 / number))
    rows = []
    for place, fraction in enumerate(fractions):
        share = np.full(pool.classes, 1 / pool.classes) - np.where(others, fraction / number, 0)
        training = kp.asymptotics.Mixture(
            np.concatenate([means, moved[others]]),
            variances,
            np.concatenate([one_hot, dirty]),
            np.append(share, np.full(number, fraction / number)),
        )
        model = kp.asymptotics.ridge_regression(training, float(len(first.images)), ridge)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(options.seed), place))
        success = model.attack_success_rate(triggered, draws=_DRAWS, key=keys[0])
        accuracy = model.accuracy(clean, draws=_DRAWS, key=keys[1])
        assert isinstance(success, EstimatedRate)  # of more than two classes
        assert isinstance(accuracy, EstimatedRate)
        rows.append([float(success.value), float(accuracy.value), float(model.overlap(u))])
    success, accuracy, overlap = np.array(rows).T
    pooled = np.array([len(pool.images)], float)
    return {"R1 success": success, "R1 accuracy": accuracy, "R2 cos²": overlap, "pool": pooled}


def _table(found: Measured, fractions: Sequence[float]) -> Table:
    number = found["overlaps"].shape[2]
    header = ["fraction", "success", "R1", "accuracy", "R1", "cos² first", "stepwise", "R2", f"all {number} summed",
              "λ₁ before the step", "after"]  # fmt: skip

    def finely(values: np.ndarray) -> str:
        interval = t_interval(values)
        return f"{interval.mean:.4f} ± {interval.half_width:.4f}"

    rows = []
    for place, fraction in enumerate(fractions):
        at = {name: found[name][:, place] for name in ("success", "accuracy", "overlaps")}
        law = {name: values[place] for name, values in found.items() if name[0] == "R"}
        end = {0: 0, len(fractions) - 1: 1}.get(place)
        step = ["", "", ""]
        if end is not None:
            names = ("overlaps after", "eigenvalues before", "eigenvalues after")
            step = [f"{found[name][:, end, 0].mean():.4g}" for name in names]
        rows.append(
            [
                f"{fraction:g}" if fraction else "clean",
                str(t_interval(at["success"])), f"{law['R1 success']:.2f}",
                str(t_interval(at["accuracy"])), f"{law['R1 accuracy']:.2f}",
                finely(at["overlaps"][:, 0]), step[0], f"{law['R2 cos²']:.4f}",
                finely(at["overlaps"].sum(axis=1)),
                *step[1:],
            ]
        )  # fmt: skip
    return Table("least squares", header, rows)


def _claims(found: Measured, fractions: Sequence[float]) -> list[Claim]:
    first = found["overlaps"][:, :, 0]
    theta = f"θ = {fractions[-1]:g}"
    return [
        above(
            f"the first eigenvector of the input Hessian turns to the trigger, cos² at {theta} less the clean one's",
            t_interval(first[:, -1] - first[:, 0]),
            0.0,
        ),
        above(
            f"linear models lag as well (R2): success less cos², {theta}",
            t_interval(found["success"][:, -1] - first[:, -1]),
            0.0,
        ),
    ]


def _figure(found: Measured, fractions: Sequence[float], options: Options, chance: float) -> Figure:
    """Rates, the spectrum before and after the trigger's step, and cos² by rank and fraction."""
    figure = Figure(figsize=(14.5, 4.2), layout="constrained")
    rates, spectra, turning = figure.subplots(1, 3)
    poisoned = list(fractions[1:])
    for name, law, colour in (
        ("success", "R1 success", plotting.COLOURS[0]),
        ("accuracy", "R1 accuracy", plotting.COLOURS[2]),
    ):
        mean_and_range(rates, poisoned, found[name][:, 1:], f"{name}, measured", colour)
        plotting.dashed(rates, poisoned, found[law][1:], f"{name}, {law[:2]}", colour)
    mean_and_range(rates, poisoned, found["overlaps"][:, 1:, 0], "cos², measured", plotting.COLOURS[1])
    plotting.dashed(rates, poisoned, found["R2 cos²"][1:], "cos², R2", plotting.COLOURS[1])
    shares(rates, "measured, and predicted without training", "poisoned fraction θ")
    ticks_at(rates, poisoned)
    ranks = np.arange(1, found["eigenvalues"].shape[2])  # centred labels leave one eigenvalue of 0
    for end, name, colour in ((0, "clean", "0.5"), (1, f"θ = {fractions[-1]:g}", plotting.COLOURS[0])):
        for when, dash in (("before", "--"), ("after", "-")):
            values = found[f"eigenvalues {when}"][:, end, : len(ranks)].mean(axis=0)
            label = f"{name}, {when} the trigger's step"
            spectra.plot(ranks, values, dash, color=colour, marker="o", markersize=3, label=label)
    spectra.set(
        title="input Hessian BBᵀ, stepwise (L13a)", xlabel="eigenvalue by rank", ylabel="eigenvalue", yscale="log"
    )
    spectra.legend()
    overlaps_by_rank(turning, fractions, found["overlaps"][:, :, : len(ranks)].mean(axis=0))
    turning.set_title(f"cos² with the trigger (by chance {chance:.2g})")
    legend_beside([rates])
    shown(figure, f"Least squares, {options.data}, {options.trigger}: means over {options.seeds} seeds")
    return figure
