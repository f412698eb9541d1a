"""Clients of federated ridge regression in a linear model of features.

Clients hold rows of features φ(x) and targets; the model is f(x) = φ(x)·θ.  Client k's loss is that of ridge regression
on its own n_k examples, (1/2n_k) Σ (f(x_i) − y_i)² + (λ/2)‖θ‖², so that the weighted mean of the clients' losses, with
weights n_k/n, is the ridge loss of all of their data together, at the same λ.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._linear_algebra import linear_solve, matrix_product
from kpoison._typing import Scalar
from kpoison._validation import check_finite, check_points, check_real

__all__ = ["Clients"]


class Clients(eqx.Module):
    """Who takes part: features and targets of each client.

    Args:
        features: φ of each client's points, K arrays of shape (n_k, p), n_k >= 1.
        targets: K arrays of shape (n_k,), or (n_k, C) for C outputs.

    Attributes:
        features: padded by rows of 0, which change nothing, shape (K, max n_k, p).
        targets: padded by 0, shape (K, max n_k, C).
        counts: n_k.
        scalar: whether targets had no axis for outputs.

    Raises:
        TypeError: for arrays that are not floating-point, or targets that are not real.
        ValueError: for no clients, shapes that do not fit, clients without points, values that are not finite.
    """

    features: Float[Array, "K n p"]
    targets: Float[Array, "K n C"]
    counts: tuple[int, ...] = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(self, features: Sequence[Float[ArrayLike, "..."]], targets: Sequence[Num[ArrayLike, "..."]]):
        if len(features) == 0 or len(features) != len(targets):
            raise ValueError(
                f"features and targets must hold one array for each client, got {len(features)} and {len(targets)}"
            )
        rows, values = [], []
        for client, (points, numbers) in enumerate(zip(features, targets, strict=True)):
            like = rows[0] if rows else None
            own = check_points(f"features[{client}]", points, 1, like=like, like_name="features[0]")
            check_real(f"targets[{client}]", numbers)
            check_finite(f"targets[{client}]", numbers)
            labels = jnp.asarray(numbers, own.dtype)
            outputs = values[0].shape[1:] if values else labels.shape[1:]
            if labels.ndim not in (1, 2) or len(labels) != len(own) or labels.shape[1:] != outputs or not labels.size:
                expected = ", ".join(map(str, (len(own), *outputs))) if values else f"{len(own)},) or ({len(own)}, C"
                raise ValueError(f"targets[{client}] must have shape ({expected}), got {labels.shape}")
            rows.append(own)
            values.append(labels)
        self.scalar = values[0].ndim == 1
        self.counts = tuple(len(own) for own in rows)
        longest = max(self.counts)
        self.features = jnp.stack([jnp.pad(own, ((0, longest - len(own)), (0, 0))) for own in rows])
        self.targets = jnp.stack(
            [jnp.pad(own.reshape(len(own), -1), ((0, longest - len(own)), (0, 0))) for own in values]
        )

    @property
    def weights(self) -> Float[Array, " K"]:
        """n_k / n."""
        counts = jnp.asarray(self.counts, self.features.dtype)
        return counts / jnp.sum(counts)

    def like_targets(self, values: Float[Array, "... C"]) -> Float[Array, "..."]:
        """Without the axis of outputs, if the targets had none."""
        return values[..., 0] if self.scalar else values

    def gradients(self, ridge: Scalar, theta: Float[Array, "K p C"]) -> Float[Array, "K p C"]:
        """Of each client's loss at its own θ."""
        counts = jnp.asarray(self.counts, theta.dtype)[:, None, None]
        residuals = jnp.einsum("knp,kpc->knc", self.features, theta, precision="highest") - self.targets
        return jnp.einsum("knp,knc->kpc", self.features, residuals, precision="highest") / counts + ridge * theta

    def minimisers(self, ridge: Scalar) -> Float[Array, "K p C"]:
        """θ of the least loss of each client: Φᵀ(ΦΦᵀ + n_k λI)⁻¹y."""

        def minimiser(features: Array, targets: Array, count: Array) -> Array:
            system = _gram(features) + count * ridge * jnp.eye(len(features), dtype=features.dtype)
            return matrix_product(features.T, linear_solve(system, targets))

        counts = jnp.asarray(self.counts, self.features.dtype)
        return jax.vmap(minimiser)(self.features, self.targets, counts)

    def safe_step_size(self, ridge: Scalar) -> Float[Array, ""]:
        """With which no client's loss rises: one over the largest ‖Hessian‖, bounded by row sums of Gram matrices."""
        rows = jax.lax.map(lambda features: jnp.max(jnp.sum(jnp.abs(_gram(features)), axis=1)), self.features)
        return jax.lax.stop_gradient(1 / (jnp.max(rows / jnp.asarray(self.counts, rows.dtype)) + ridge))


def _gram(features: Float[Array, "n p"]) -> Float[Array, "n n"]:
    return matrix_product(features, features.T)
