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

__all__ = ["PowerLaw", "WidthErrors", "errors_about", "fit_power_law", "width_errors"]

_LARGEST_VARIANCE = 1e6  # relative, of a seed's squared error: so few seeds of such wild errors say nothing


class PowerLaw(eqx.Module):
    """Fit of error = amplitude · width^slope.

    Attributes:
        slope, amplitude: the fitted numbers.
        standard_error: of the slope.
        interval: confidence interval (lower, upper) of the slope, by Student's t where the errors come from seeds.
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
        seeds: how many networks they are of, shape (W,); None: many.
    """

    widths: np.ndarray
    mean: np.ndarray
    mean_standard_error: np.ndarray
    rmse: np.ndarray
    standard_error: np.ndarray
    seeds: np.ndarray | None = None

    def power_law(self, confidence: float = 0.95) -> PowerLaw:
        """`fit_power_law` of these errors."""
        return fit_power_law(self.widths, self.rmse, self.standard_error, confidence=confidence, seeds=self.seeds)


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
    return {name: errors_about(np.asarray(law), found[name], widths) for name, law in laws.items()}


def errors_about(law: np.ndarray, values: Sequence[np.ndarray], widths: np.ndarray) -> WidthErrors:
    """Statistics of `values`, (S, ...) for each width, about the law (...)."""
    seeds = np.array([len(value) for value in values])
    squares = [np.square(value - law).reshape(len(value), -1).mean(axis=1) for value in values]
    rmse = np.sqrt([square.mean() for square in squares])
    # The relative variance of a seed's squared error (2 for one Gaussian number) hardly depends on the width, so it is
    # pooled: taken from each width alone it would give most weight to the widths that happened to be lucky.
    spread = _pooled_variance(np.array([square.var(ddof=1) / square.mean() ** 2 for square in squares]), seeds)
    return WidthErrors(
        widths=widths,
        mean=np.stack([value.mean(axis=0) for value in values]),
        mean_standard_error=np.stack([value.std(axis=0, ddof=1) / len(value) ** 0.5 for value in values]),
        rmse=rmse,
        standard_error=0.5 * np.sqrt(spread / seeds) * rmse,
        seeds=seeds,
    )


# A seed's squared error is taken as Gamma distributed with relative variance v, as a sum of squared Gaussian numbers
# is: the mean over S seeds then has the shape S/v, and its logarithm is biased by digamma(S/v) − log(S/v), about −v/2S.


def _expected_variance(variance: float, seeds: np.ndarray) -> np.ndarray:
    """Mean of a sample's variance over its squared mean, S values of relative variance v: less than v, as it is ≤ S."""
    return seeds * variance / (seeds + variance)


def _pooled_variance(found: np.ndarray, seeds: np.ndarray) -> float:
    """The relative variance v at which samples of so many seeds have, on average, the relative variances found."""
    import scipy.optimize

    def excess(variance: float) -> float:
        return float(np.sum((seeds - 1) * (_expected_variance(variance, seeds) - found)))

    if excess(0.0) >= 0:
        return 0.0
    if excess(_LARGEST_VARIANCE) <= 0:
        return _LARGEST_VARIANCE
    return float(scipy.optimize.brentq(excess, 0.0, _LARGEST_VARIANCE, xtol=1e-12))  # pyright: ignore


def _degrees_of_freedom(variance: float, seeds: np.ndarray) -> float:
    """Of `_pooled_variance` as an estimate of v, by its own relative variance 2/ν (Satterthwaite)."""
    if variance <= 0:
        return np.inf
    a = 1 / variance
    total = seeds * a
    # Moments of Σp² of the shares p of the seeds in their sum, which have a Dirichlet distribution.
    second = (a + 1) / (total + 1)
    fourth = (a + 1) * ((a + 2) * (a + 3) + (seeds - 1) * a * (a + 1)) / ((total + 1) * (total + 2) * (total + 3))
    scatter = (seeds**2 / (seeds - 1)) ** 2 * np.maximum(fourth - second**2, 0)
    weight = seeds - 1
    slope = np.sum(weight * (seeds / (seeds + variance)) ** 2)
    relative = np.sum(weight**2 * scatter) / (slope * variance) ** 2
    return float(2 / relative) if relative > 0 else np.inf


def fit_power_law(
    widths: Num[ArrayLike, "..."],
    rmse: Num[ArrayLike, "..."],
    standard_error: Num[ArrayLike, "..."],
    *,
    confidence: float = 0.95,
    seeds: int | Sequence[int] | Num[ArrayLike, "..."] | None = None,
) -> PowerLaw:
    """Weighted least-squares line through (log width, log rmse).

    The errors of log rmse are standard_error/rmse, about 1/√(2S) for S Gaussian seeds, and taken as known.  With
    `seeds` they are taken as found from so many networks: log rmse, too small on average by about twice the square of
    its error, is corrected, and the interval is Student's.  An rmse with a part that falls faster than the rest bends
    the line; that shows in `chi_squared`.

    Args:
        widths: W >= 2 distinct widths, > 0.
        rmse: errors at each, > 0, shape (W,).
        standard_error: their standard errors, > 0, shape (W,).
        confidence: coverage of the interval, between 0 and 1.
        seeds: networks of each width, integers >= 2, one or shape (W,); None: many, or known errors.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    import scipy.special
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
    x, y, of_log = np.log(widths), np.log(rmse), standard_error / rmse
    quantile = scipy.stats.norm.ppf(0.5 + confidence / 2)
    if seeds is not None:
        numbers = np.array([check_integer("seeds", number, 2) for number in np.ravel(np.asarray(seeds)).tolist()])
        if len(numbers) not in (1, len(widths)):
            raise ValueError(f"seeds must be one number, or one for each of the {len(widths)} widths, got {seeds}")
        numbers = np.broadcast_to(numbers, widths.shape)
        variance = float(np.average(4 * of_log**2 * numbers, weights=numbers - 1))
        quantile = scipy.stats.t.ppf(0.5 + confidence / 2, _degrees_of_freedom(variance, numbers))
        shape = 0.25 / of_log**2
        y = y - 0.5 * (scipy.special.digamma(shape) - np.log(shape))
        of_log = 0.5 * np.sqrt(scipy.special.polygamma(1, shape))
    weights = of_log**-2
    x_mean, y_mean = np.average(x, weights=weights), np.average(y, weights=weights)
    information = np.sum(weights * (x - x_mean) ** 2)
    slope = np.sum(weights * (x - x_mean) * (y - y_mean)) / information
    error = information**-0.5
    reach = quantile * error
    misfit = y - y_mean - slope * (x - x_mean)
    return PowerLaw(
        slope=float(slope),
        amplitude=float(np.exp(y_mean - slope * x_mean)),
        standard_error=float(error),
        interval=(float(slope - reach), float(slope + reach)),
        chi_squared=float(np.sum(weights * misfit**2)),
        degrees_of_freedom=len(widths) - 2,
    )
