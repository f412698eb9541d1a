"""How often Gaussian scores choose the wanted class: accuracy and attack success."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from kpoison._failures import program
from kpoison._linear_algebra import matrix_product
from kpoison._validation import check_integer

__all__ = ["CLOSED_FORM", "EstimatedRate", "rate_of_labels"]

CLOSED_FORM = 3  # classes, at most, of which the rates take no draws
_NODES = 64
_CERTAIN = 40.0  # standard deviations


class EstimatedRate(NamedTuple):
    """A probability by random draws.

    Attributes:
        value: the mean over draws.
        standard_error: of that mean.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


def rate_of_labels(
    means: Float[Array, "K *C"],
    covariance: Float[Array, "..."],
    labels: Float[Array, "K *C"],
    fractions: Float[Array, " K"],
    draws: int,
    key: PRNGKeyArray | None,
) -> Float[Array, ""] | EstimatedRate:
    """How often scores N(m_k, V) give component k the class of its label, averaged over components.

    One output: its sign.  More: the largest, whose label is the largest in its row.  Two outputs at most follow the
    normal distribution and three that of two variables; more take draws.

    Raises:
        TypeError, ValueError: for a key where none is needed or none where one is.
    """
    outputs = means.shape[1] if means.ndim == 2 else 1
    if outputs <= CLOSED_FORM:
        if key is not None:
            raise ValueError(
                f"key must be None for up to {CLOSED_FORM} classes, whose probability is that of a normal distribution"
            )
        return (_of_two if outputs <= 2 else _of_three)(means, covariance, labels, fractions)
    if key is None:
        raise ValueError(
            f"key must be given for {outputs} classes, of which only sampling knows the probabilities: a JAX key"
        )
    return _of_many(means, covariance, labels, fractions, check_integer("draws", draws, 2), key)


@program
def _of_two(means: Array, covariance: Array, labels: Array, fractions: Array) -> Float[Array, ""]:
    if means.ndim == 2 and means.shape[1] == 2:
        means, labels = means[:, 0] - means[:, 1], labels[:, 0] - labels[:, 1]
        covariance = covariance[0, 0] + covariance[1, 1] - covariance[0, 1] - covariance[1, 0]
    margin = jnp.sign(labels.reshape(-1)) * means.reshape(-1)
    variance = covariance.reshape(())
    # Without a spread the sign of the mean decides.
    deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1))
    sure = jnp.heaviside(margin, jnp.asarray(0.5, margin.dtype))
    return jnp.sum(fractions * jnp.where(variance > 0, jax.scipy.special.ndtr(margin / deviation), sure))


@program
def _of_three(means: Array, covariance: Array, labels: Array, fractions: Array) -> Float[Array, ""]:
    """Both margins > 0: Φ(h)Φ(k) + (1/2π) ∫₀^asin ρ exp(−(h² + k² − 2hk sin t)/(2 cos² t)) dt (Plackett 1954)."""
    places, weights = (jnp.asarray(one, means.dtype) for one in np.polynomial.legendre.leggauss(_NODES))

    def of(mean: Array, label: Array) -> Array:
        margins, spread = _margins(mean, covariance, label)
        variance = jnp.diag(spread)
        some = variance > 0
        deviation = jnp.sqrt(jnp.where(some, variance, 1))
        h, k = jnp.where(some, margins / deviation, _CERTAIN * jnp.sign(margins))
        rho = jnp.clip(spread[0, 1] / (deviation[0] * deviation[1]), -1, 1)
        # The angle's slope is infinite at ±1, where the integrand is 0 or margins are one.
        inside = jnp.abs(rho) < 1
        end = jnp.where(inside, jnp.arcsin(jnp.where(inside, rho, 0)), jnp.sign(rho) * jnp.pi / 2)
        angle = 0.5 * end * (places + 1)
        integrand = jnp.exp(-(h**2 + k**2 - 2 * h * k * jnp.sin(angle)) / (2 * jnp.cos(angle) ** 2))
        joint = 0.5 * end * (integrand @ weights) / (2 * jnp.pi)
        return jax.scipy.special.ndtr(h) * jax.scipy.special.ndtr(k) + joint

    return jnp.sum(fractions * jax.vmap(of)(means, labels))


def _margins(mean: Array, covariance: Array, label: Array) -> tuple[Float[Array, " C-1"], Float[Array, "C-1 C-1"]]:
    """Mean and covariance of the wanted output over the others."""
    outputs = len(mean)
    wanted = jnp.argmax(label)
    others = jnp.arange(outputs - 1) + (jnp.arange(outputs - 1) >= wanted)
    turn = jnp.zeros((outputs - 1, outputs), mean.dtype).at[:, wanted].set(1)
    turn = turn.at[jnp.arange(outputs - 1), others].add(-1)
    return turn @ mean, matrix_product(matrix_product(turn, covariance), turn.T)


@program
def _of_many(
    means: Array, covariance: Array, labels: Array, fractions: Array, draws: int, key: PRNGKeyArray
) -> EstimatedRate:
    """By Genz's sequence of one-dimensional probabilities (1992, J. Comput. Graph. Stat. 1:141), smooth in all numbers.

    All margins of the wanted output over the others must be > 0: after each is drawn above 0 the next one's law is
    known, and the product of their probabilities is the probability on average.
    """
    outputs = means.shape[1]
    uniform = jax.random.uniform(key, (outputs - 1, draws), means.dtype)

    def of(mean: Array, label: Array) -> Array:
        margins, spread = _margins(mean, covariance, label)

        def step(state: tuple[Array, Array, Array], j: Any) -> tuple[tuple[Array, Array, Array], None]:
            left, at, chance = state
            deviation = jnp.sqrt(left[j, j])
            column = left[:, j] / deviation
            here = jax.scipy.special.ndtr(at[j] / deviation)
            # Above −at/deviation: −Φ⁻¹(uΦ(at/deviation)).
            smallest = jnp.finfo(here.dtype).tiny
            drawn = -jax.scipy.special.ndtri(jnp.maximum(uniform[j] * here, smallest))
            return (left - column[:, None] * column[None], at + column[:, None] * drawn[None], chance * here), None

        start = (spread, jnp.broadcast_to(margins[:, None], uniform.shape), jnp.ones(draws, means.dtype))
        (_, _, chance), _ = jax.lax.scan(step, start, jnp.arange(outputs - 1))
        return chance

    chances = fractions @ jax.vmap(of)(means, labels)
    return EstimatedRate(jnp.mean(chances), jnp.std(chances, ddof=1) / draws**0.5)
