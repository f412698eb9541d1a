"""The losses of which input curvature is taken, as functions of a predictor's outputs."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["Loss", "curvature_rows", "loss_value", "residual"]

Loss: TypeAlias = Literal["squared", "softmax"]
"""`"squared"`: ½‖f − y‖²; `"softmax"`: cross-entropy of softmax(f) with the class, or the probabilities, y."""


def loss_value(loss: Loss, outputs: Float[Array, " C"], target: Float[Array, " C"]) -> Float[Array, ""]:
    """The loss at one point."""
    if loss == "squared":
        return 0.5 * jnp.sum((outputs - target) ** 2)
    return jax.nn.logsumexp(outputs) - jnp.sum(target * outputs)


def residual(loss: Loss, outputs: Float[Array, " C"], target: Float[Array, " C"]) -> Float[Array, " C"]:
    """Derivative of the loss with respect to the outputs: f − y, or p − y."""
    if loss == "squared":
        return outputs - target
    return jax.nn.softmax(outputs) - target


def curvature_rows(loss: Loss, outputs: Float[Array, " C"], jacobian: Float[Array, "C D"]) -> Float[Array, "C D"]:
    """R with RᵀR = JᵀSJ, S the loss's second derivative with respect to the outputs (L3).

    Squared loss: S = I.  Softmax: S = diag(p) − ppᵀ = LLᵀ with L = diag(s)(I − ssᵀ), s = √p a unit vector.
    """
    if loss == "squared":
        return jacobian
    root = jnp.exp(0.5 * jax.nn.log_softmax(outputs))
    scaled = root[:, None] * jacobian
    return scaled - root[:, None] * (root @ scaled)[None]
