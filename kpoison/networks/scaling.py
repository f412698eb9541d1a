"""How fast finite networks approach a law as they get wider."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import ArrayLike, Num, PRNGKeyArray

from kpoison._validation import check_finite, check_integer, check_name, check_positive, is_integer, known_number
from kpoison.networks.architecture import Architecture
from kpoison.networks.ensembles import Ensemble, ensemble
from kpoison.networks.training import check_shape

__all__ = ["PowerLaw", "WidthErrors", "fit_power_law", "width_errors"]


class PowerLaw(eqx.Module):
    """Fit of error = amplitude · width^slope.

    Attributes:
        slope, amplitude: the fitted numbers.
        standard_error: of the slope.
        interval: confidence interval (lower, upper) of the slope.
        chi_squared, degrees_of_freedom: misfit; far above one per degree, the errors are no power of the width.
    """

    slope: float
    amplitude: float
    standard_error: float
    interval: tuple[float, float]
    chi_squared: float
    degrees_of_freedom: int


class WidthErrors(eqx.Module):
    """Deviation of one quantity from its law, at W widths.

    Attributes:
        widths: shape (W,).
        mean: mean of the quantity over seeds, shape (W, q, ...).
        mean_standard_error: its standard error, same shape.
        rmse: root-mean-square deviation from the law over seeds, probes and outputs, shape (W,).
        standard_error: of the rmse, shape (W,).
    """

    widths: np.ndarray
    mean: np.ndarray
    mean_standard_error: np.ndarray
    rmse: np.ndarray
    standard_error: np.ndarray

    def power_law(self, confidence: float = 0.95) -> PowerLaw:
        """`fit_power_law` of these errors."""
        return fit_power_law(self.widths, self.rmse, self.standard_error, confidence=confidence)


def width_errors(
    architectures: Sequence[Architecture],
    key: PRNGKeyArray,
    seeds: int | Sequence[int],
    *problem: Any,
    laws: Mapping[str, Num[ArrayLike, "..."]],
    progress: Callable[[int], object] | None = None,
    **options: Any,
) -> dict[str, WidthErrors]:
    """Root-mean-square error over seeds of what finite networks give, at several widths.

    Args:
        architectures: one per width, at least 2 widths, increasing.
        key: a random key; every network of every width has parameters of its own.
        seeds: networks per width, an integer >= 2, or one such integer for each width.
        *problem: X, y, poison, ridge, x, as for `ensemble`.
        laws: what the networks should give in the limit of infinite width, under the names of `Ensemble`: any of
            "clean", "efficacy", "gradient", "spike", each without the axis of the seeds.
        progress: called with each width once its networks are trained.
        **options: further arguments of `ensemble`.

    Returns:
        The errors under the names of `laws`.

    Rates (N1): width^(−1/2) for predictions, and for gradients of networks with smooth activations. For a ReLU network
    the gradient's error falls only like width^(−1/4): O(√width) neurons change sign at a probe during training, and
    each changes the gradient by O(1/√width) with a random sign. The spike is quadratic in the gradient, so that its
    error mixes twice the rate (a positive bias, dominant at small widths or small spikes) with the rate itself.
    """
    widths = np.array([architecture.width for architecture in architectures])
    if len(widths) < 2 or np.any(np.diff(widths) <= 0):
        raise ValueError(f"architectures must have at least 2 increasing widths, got widths {widths.tolist()}")
    given: Any = seeds
    numbers = [seeds] * len(widths) if is_integer(seeds) else list(given)
    if len(numbers) != len(widths):
        raise ValueError(f"seeds must be one number, or one for each of the {len(widths)} widths, got {len(numbers)}")
    numbers = [check_integer("seeds", number, 2) for number in numbers]
    for name, law in laws.items():
        _ = check_name("laws", name, ("clean", "efficacy", "gradient", "spike"))
        check_finite(f"laws[{name!r}]", law)

    def run(index: int, **options: Any) -> Ensemble:
        keys = jax.random.split(jax.random.fold_in(key, index), numbers[index])
        return ensemble(architectures[index], keys, *problem, **options)

    # Shapes first: a mistake should not come to light after minutes of training.
    expected = jax.eval_shape(lambda: run(0, **options | {"throw": False}))
    for name, law in laws.items():
        shape = getattr(expected, name).shape[1:]
        check_shape(f"laws[{name!r}]", law, shape, "as in the ensemble, without the axis of the seeds")
    found: dict[str, list[np.ndarray]] = {name: [] for name in laws}
    for index, architecture in enumerate(architectures):
        result = run(index, **options)
        for name in laws:
            found[name].append(np.asarray(getattr(result, name)))
        if progress is not None:
            progress(architecture.width)
    return {name: _errors(widths, found[name], np.asarray(law)) for name, law in laws.items()}


def _errors(widths: np.ndarray, values: list[np.ndarray], law: np.ndarray) -> WidthErrors:
    """Statistics of `values`, (S, ...) for each width, about the law (...)."""
    seeds = np.array([len(value) for value in values])
    squares = [np.square(value - law).reshape(len(value), -1).mean(axis=1) for value in values]
    mean_square = np.array([square.mean() for square in squares])
    # The relative variance of a seed's squared error (2 for one Gaussian number) hardly depends on the width, so it is
    # pooled: taken from each width alone it would give most weight to the widths that happened to be lucky.
    spread = np.mean([square.var(ddof=1) / square.mean() ** 2 for square in squares])
    rmse = np.sqrt(mean_square)
    return WidthErrors(
        widths=widths,
        mean=np.stack([value.mean(axis=0) for value in values]),
        mean_standard_error=np.stack([value.std(axis=0, ddof=1) / len(value) ** 0.5 for value in values]),
        rmse=rmse,
        standard_error=0.5 * np.sqrt(spread / seeds) * rmse,
    )


def fit_power_law(
    widths: Num[ArrayLike, "..."],
    rmse: Num[ArrayLike, "..."],
    standard_error: Num[ArrayLike, "..."],
    *,
    confidence: float = 0.95,
) -> PowerLaw:
    """Weighted least-squares line through (log width, log rmse).

    The errors of log rmse are standard_error/rmse, about 1/√(2S) for S Gaussian seeds, and taken as known. An rmse with
    a part that falls faster than the rest bends the line; that shows in `chi_squared`.

    Args:
        widths: W >= 2 distinct widths, > 0.
        rmse: errors at each, > 0, shape (W,).
        standard_error: their standard errors, > 0, shape (W,).
        confidence: coverage of the interval, between 0 and 1.
    """
    import scipy.stats

    for name, value in (("widths", widths), ("rmse", rmse), ("standard_error", standard_error)):
        check_positive(name, value, scalar=False)
        check_shape(name, value, (np.size(widths),), "one number per width")
    widths, rmse, standard_error = (np.asarray(value, float) for value in (widths, rmse, standard_error))
    if len(widths) < 2 or len(np.unique(widths)) < len(widths):
        raise ValueError(f"widths must be at least 2 distinct numbers, got {widths.tolist()}")
    confidence = known_number(confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    weights = (rmse / standard_error) ** 2
    x, y = np.log(widths), np.log(rmse)
    x_mean, y_mean = np.average(x, weights=weights), np.average(y, weights=weights)
    information = np.sum(weights * (x - x_mean) ** 2)
    slope = np.sum(weights * (x - x_mean) * (y - y_mean)) / information
    error = information**-0.5
    reach = scipy.stats.norm.ppf(0.5 + confidence / 2) * error
    misfit = y - y_mean - slope * (x - x_mean)
    return PowerLaw(
        slope=float(slope),
        amplitude=float(np.exp(y_mean - slope * x_mean)),
        standard_error=float(error),
        interval=(float(slope - reach), float(slope + reach)),
        chi_squared=float(np.sum(weights * misfit**2)),
        degrees_of_freedom=len(widths) - 2,
    )
