"""How often Gaussian scores choose the wanted class: accuracy and attack success."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from kpoison._failures import program
from kpoison._linear_algebra import matrix_product
from kpoison._validation import check_integer

__all__ = ["EstimatedRate", "rate_of_labels"]


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
    normal distribution; more take draws.

    Raises:
        TypeError, ValueError: for a key where none is needed or none where one is.
    """
    outputs = means.shape[1] if means.ndim == 2 else 1
    if outputs <= 2:
        if key is not None:
            raise ValueError("key must be None for two classes, whose probability is that of a normal distribution")
        return _of_two(means, covariance, labels, fractions)
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
        wanted = jnp.argmax(label)
        others = jnp.arange(outputs - 1) + (jnp.arange(outputs - 1) >= wanted)
        turn = jnp.zeros((outputs - 1, outputs), means.dtype).at[:, wanted].set(1)
        turn = turn.at[jnp.arange(outputs - 1), others].add(-1)
        margins, spread = turn @ mean, matrix_product(matrix_product(turn, covariance), turn.T)

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
