"""What a gradient penalty does to the slopes at the training points, without the data term (T9)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from kpoison._failures import checked_result, one_by_one, program
from kpoison._linear_algebra import matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_finite, check_positive, check_real, public
from kpoison.flow.integration import checked_times
from kpoison.ridge import Posterior, check_fitted, check_plain
from kpoison.ridge.observations import Observations, covariance

__all__ = ["slope_contraction"]

_SQUARINGS = 64  # of the exponential: rates times times up to 10¹⁹


@public
def slope_contraction(
    clean: Posterior,
    slopes: Float[ArrayLike, "n ..."],
    ridge: Scalar,
    times: Float[ArrayLike, " T"],
) -> Float[Array, "T n ..."]:
    """g(t) = exp(−((γ/n) K11 (W⊗M) + λ) t) g(0): slopes at the training points under penalty and ridge alone (T9).

    Along an eigenvector of (γ/n) K11 (W⊗M) with eigenvalue γα the slopes decay at the rate γα + λ, their energy at
    twice that: the bound E(t) <= E(0) exp(−2γαt) that arXiv 2602.00822 has (its Theorem 3.12) is an equality there.
    Along another direction the energy may decay slower or rise from 0, and with the data term it starts at 0 and rises.
    At an isolated point of weight m of an RBF kernel α = m/(nℓ²) in every direction.

    Args:
        clean: a posterior fitted with a gradient penalty, of which γ, M and the weights W are taken.
        slopes: g(0) = (∇f(x_i))_i, shape (n, d).
        ridge: λ >= 0 of the mean loss.
        times: t >= 0, strictly rising, finite, shape (T,).

    Returns:
        g(t), shape (T, n, d), to about eps times the largest rate times t of ‖g(0)‖.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; for a posterior without a gradient penalty or with
            an intercept.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> X, y = jnp.array([[0.0], [50.0]]), jnp.zeros(2)
    >>> clean = kp.fit(kp.kernels.RBF(1.0), X, y, weights=jnp.array([1.0, 3.0]), gradient_penalty=1.0)
    >>> found = kp.flow.slope_contraction(clean, jnp.ones((2, 1)), 0.0, jnp.array([4.0]))  # rates 1/4 and 3/4
    >>> bool(jnp.allclose(found[0, :, 0], jnp.exp(jnp.array([-1.0, -3.0]))))
    True
    """
    if not check_fitted("clean", clean).ended:
        raise TypeError(f"clean must be a Posterior made by kpoison.fit, got {type(clean).__name__}")
    check_plain("clean", clean, weights=True)
    if not clean.observations.slopes:
        raise ValueError("clean must be fitted with a gradient penalty, whose γ and metric are taken, got none")
    check_positive("ridge", ridge, zero=True)
    check_real("slopes", slopes)
    slopes = jnp.asarray(slopes, clean.X.dtype)
    if slopes.shape != clean.X.shape:
        raise ValueError(f"slopes must have shape {clean.X.shape}, one for each point of X, got {slopes.shape}")
    check_finite("slopes", slopes)
    times = checked_times("times", times, clean.X.dtype, finite=True)
    ridge = jnp.asarray(ridge, clean.X.dtype)
    ridge = checked_result(ridge, [(~((ridge >= 0) & jnp.isfinite(ridge)), "ridge must be finite and >= 0")])
    return _contracted(clean, slopes, ridge, times)


@program
def _contracted(clean: Posterior, slopes: Array, ridge: Array, times: Array) -> Float[Array, "T n ..."]:
    observed, start = clean.observations, slopes.ravel()
    dimension = start.size // len(slopes)
    every = Observations(observed.points, jnp.eye(dimension, dtype=slopes.dtype))
    K11 = covariance(clean.kernel, every, every)[len(slopes) :, len(slopes) :]
    metric = matrix_product(observed.slope_operator.T, observed.slope_operator)
    weighted = jnp.kron(jnp.diag(observed.multiplicities), metric)
    rates = matrix_product(K11, weighted) / observed.total + ridge * jnp.eye(start.size, dtype=slopes.dtype)

    def at(time):
        return matrix_product(jax.scipy.linalg.expm(-time * rates, max_squarings=_SQUARINGS), start[:, None])[:, 0]

    return one_by_one(at, times).reshape(len(times), *slopes.shape)
