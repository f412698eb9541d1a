"""Input Hessian, Gauss–Newton, Fisher and gradient covariance of a predictor, averaged over probes (L3)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import checked_result, one_by_one, program
from kpoison._validation import check_finite, check_floating, check_name, check_real, is_concrete, plain_array, public
from kpoison._watched import watched
from kpoison.curvature.expansion import jacobians, mean_hessian, plane_kernel
from kpoison.curvature.losses import Loss, curvature_rows, residual
from kpoison.curvature.operators import GaussNewtonRows, Operator, ProbeGaussNewton, ProbeHessian, outputs_at
from kpoison.laws import Predictor

__all__ = ["Probed", "fisher", "gauss_newton", "gradient_covariance", "input_gradients", "input_hessian"]

_ROWS_AT_MOST = 2**25  # numbers of the thin form, as `gauss_newton` says
_PROBES_AT_ONCE = 128  # of a function that does not say what it needs


class Probed(NamedTuple):
    """A predictor and where it is asked.

    Attributes:
        f: a function of one point.
        x: probes, shape (q, ...).
        loss: whose curvature is meant.
        shape: of what f returns, () or (C,).
    """

    f: Callable[[Array], Array]
    x: Float[Array, "q ..."]
    loss: Loss
    shape: tuple[int, ...]

    @classmethod
    def of(cls, f: Any, x: Any, loss: Any = "squared") -> "Probed":
        """Shapes, and numbers where they are known: of the probes, and of what the predictor makes of the first."""
        x = check_floating("x", x)
        if not callable(f):
            raise TypeError(f"f must be a predictor, a function of one point, got {type(f).__name__}")
        if x.ndim < 2 or x.size == 0:
            raise ValueError(
                f"x must hold at least one probe, shape (q, d) or (q, height, width, channels), got {x.shape}"
            )
        check_finite("x", x)
        loss = check_name("loss", loss, get_args(Loss))
        try:
            output = jax.eval_shape(f, x[0])
        except (TypeError, ValueError) as error:
            raise ValueError(f"f must accept one point of shape {x.shape[1:]}: {error}") from error
        if not isinstance(output, jax.ShapeDtypeStruct):
            raise ValueError(
                f"f must return an array for one point of shape {x.shape[1:]}, got {type(output).__name__}"
            )
        shape = output.shape
        if len(shape) > 1 or 0 in shape or not jnp.issubdtype(output.dtype, jnp.floating):
            raise ValueError(
                f"f must return a floating-point number or a vector (C,) for one point of shape {x.shape[1:]}, got "
                f"shape {shape} and dtype {output.dtype}"
            )
        if loss == "softmax" and math.prod(shape) < 2:
            raise ValueError(f'f must return at least two outputs for loss="softmax", got shape {shape}')
        return cls(watched(f), x, loss, shape)

    def vectors(self, targets: Any) -> Float[Array, "q C"]:
        """Targets as vectors; classes as one-hot vectors."""
        check_real("targets", targets)
        # Classes are compared as they came: in JAX without x64 they may wrap around.
        targets = plain_array("targets", targets)
        number, shape, loss = len(self.x), self.shape, self.loss
        outputs = math.prod(shape)
        if loss == "softmax" and targets.shape == (number,):
            if not jnp.issubdtype(targets.dtype, jnp.integer):
                raise TypeError(f'targets must be classes (integers) or probabilities (q, C) for loss="softmax", got '
                                f"dtype {targets.dtype} of shape {targets.shape}")  # fmt: skip
            if is_concrete(targets) and bool(np.any((np.asarray(targets) < 0) | (np.asarray(targets) >= outputs))):
                raise ValueError(f"targets must be classes 0 to {outputs - 1}, got {int(targets.min())} to "
                                 f"{int(targets.max())}")  # fmt: skip
            return jax.nn.one_hot(jnp.asarray(targets), outputs, dtype=self.x.dtype)
        if targets.shape != (number, *shape):
            expected = (
                f"({number},) of classes or ({number}, {outputs})" if loss == "softmax" else f"{(number, *shape)}"
            )
            raise ValueError(f"targets must have shape {expected}, one for each probe, got {targets.shape}")
        check_finite("targets", targets)
        targets = jnp.asarray(targets)
        if loss == "softmax" and is_concrete(targets):
            sums = jnp.sum(targets, axis=1)
            if bool(jnp.any(targets < 0) | jnp.any(jnp.abs(sums - 1) > 1e-3)):
                raise ValueError(
                    "targets must be probabilities, >= 0 and with a sum of 1 for each probe, got a smallest of "
                    f"{float(targets.min()):.3g} and sums of {float(sums.min()):.3g} to {float(sums.max()):.3g}"
                )
        return targets.astype(self.x.dtype).reshape(number, outputs)


@program
def _outputs(f: Callable, x: Array) -> Float[Array, "N C"]:
    """f at every probe."""
    return one_by_one(lambda point: outputs_at(f, point), x, batch_size=_PROBES_AT_ONCE)


@program
def _jacobians(f: Callable, x: Array) -> Float[Array, "N C D"]:
    """∇f at every probe, the axes of a point flattened."""

    def at(point):
        gradients = jax.jacrev(lambda p: outputs_at(f, p))(point)
        return gradients.reshape(len(gradients), -1)

    return one_by_one(at, x, batch_size=_PROBES_AT_ONCE)


def _finite(name: str, values: Array) -> Array:
    """`values`, refused where the predictor gave NaN or infinities."""
    bad = ~jnp.all(jnp.isfinite(values.reshape(len(values), -1)), axis=1)
    where = f", the first at probe {int(jnp.argmax(bad))}" if is_concrete(bad) else ""
    return checked_result(values, [(jnp.any(bad), f"f has non-finite {name} at the probes{where}")])


def _all_jacobians(f: Callable, x: Array) -> Float[Array, "N C D"]:
    kernel = plane_kernel(f.expansion) if isinstance(f, Predictor) else None
    if kernel is None or not isinstance(f, Predictor):
        return _finite("gradients", _jacobians(f, x))
    return _finite("gradients", jacobians(kernel, f.expansion, x))


@public
def input_gradients(f: Callable[[Array], Array], x: Float[ArrayLike, "q ..."]) -> Float[Array, "q ..."]:
    """∇f at many probes.

    Args:
        f: a predictor: a function of one point, traceable by JAX, with a number or a vector (C,) as its result:
            `kpoison.predictor(...)`, a `Network`, any function.
        x: probes, shape (q, d) or (q, height, width, channels).

    Returns:
        Shape (q, D), or (q, C, D) where f has an axis for outputs, D the number of coordinates of a point.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, and where f or its gradient is not finite.
    """
    f, x, _, shape = Probed.of(f, x)
    gradients = _all_jacobians(f, x)
    return gradients if shape else gradients[:, 0]


@public
def gauss_newton(f: Callable[[Array], Array], x: Float[ArrayLike, "q ..."], *, loss: Loss = "squared") -> Operator:
    """The Gauss–Newton part of the input Hessian, averaged over probes: (1/q) Σ JᵀSJ (L3).

    S = I for the squared loss ½‖f − y‖², diag(p) − ppᵀ for softmax cross-entropy.  Its rank is at most qC; up to 2²⁵
    numbers its rows are kept (the thin form), beyond that it is multiplied with vectors by automatic differentiation.

    Args:
        f: as for `input_gradients`.
        x: probes, shape (q, d) or (q, height, width, channels).
        loss: "squared" or "softmax".

    Returns:
        An operator over the D coordinates of a point.

    Raises:
        TypeError, ValueError: naming the argument that does not fit, and where f or its gradient is not finite.

    >>> import jax.numpy as jnp
    >>> gauss_newton(lambda x: x[0] * x[1], jnp.array([[1.0, 2.0]])).dense().tolist()
    [[4.0, 2.0], [2.0, 1.0]]
    """
    return _gauss_newton(Probed.of(f, x, loss))


def _gauss_newton(probed: Probed) -> Operator:
    f, x, loss, _ = probed
    outputs = _finite("values", _outputs(f, x))
    if outputs.size * math.prod(x.shape[1:]) > _ROWS_AT_MOST:
        return ProbeGaussNewton(f, x, loss)
    gradients = _all_jacobians(f, x)
    rows = jax.vmap(lambda o, j: curvature_rows(loss, o, j))(outputs, gradients)
    return GaussNewtonRows(rows.reshape(-1, rows.shape[-1]) / len(x) ** 0.5)


def fisher(f: Callable[[Array], Array], x: Float[ArrayLike, "q ..."], *, loss: Loss = "squared") -> Operator:
    """The input Fisher matrix, averaged over probes: the Gauss–Newton matrix of the same loss (L3).

    Of a Gaussian of unit variance about f(x) for the squared loss ((1/q) Σ JᵀJ), of the class probabilities for
    softmax.  Arguments and errors as in `gauss_newton`.
    """
    return gauss_newton(f, x, loss=loss)


@public
def gradient_covariance(
    f: Callable[[Array], Array],
    x: Float[ArrayLike, "q ..."],
    targets: Num[ArrayLike, "q ..."],
    *,
    loss: Loss = "squared",
    centred: bool = False,
) -> GaussNewtonRows:
    """Second moment, or covariance, of the input gradients of the loss: (1/q) Σ ∇ℓ ∇ℓᵀ.

    Args:
        f: as for `input_gradients`.
        x: probes, shape (q, d) or (q, height, width, channels).
        targets: y: shape (q,) or (q, C) as the outputs are; for softmax classes (q,) or probabilities (q, C).
        loss: "squared" or "softmax".
        centred: subtract the mean gradient.

    Raises:
        TypeError, ValueError: as in `gauss_newton`, and for targets that do not fit.
    """
    probed = Probed.of(f, x, loss)
    targets, (f, x, loss, _) = probed.vectors(targets), probed
    outputs, gradients = _finite("values", _outputs(f, x)), _all_jacobians(f, x)
    residuals = jax.vmap(lambda o, t: residual(loss, o, t))(outputs, targets)
    rows = jnp.einsum("nc,ncd->nd", residuals, gradients, precision="highest")
    if centred:
        rows = rows - jnp.mean(rows, axis=0, keepdims=True)
    return GaussNewtonRows(rows / len(x) ** 0.5)


def _off_the_centres(f: Callable, x: Float[Array, "q ..."]) -> None:
    """Refuse probes where the kernel of a predictor has no second derivative, as far as they are known."""
    if isinstance(f, Predictor) and f.expansion.kernel.smoothness < 2 and is_concrete(x) and is_concrete(f):
        centres = f.expansion.centres
        for i, point in enumerate(x):
            same = jnp.all((centres == point[None]).reshape(len(centres), -1), axis=1)
            if is_concrete(same) and bool(jnp.any(same)):
                raise ValueError(
                    f"x must stay off the training points and the poison: probe {i} is one of them, where the kernel "
                    f"{type(f.expansion.kernel).__name__} has no second derivative (smoothness "
                    f"{f.expansion.kernel.smoothness})"
                )


@public
def input_hessian(
    f: Callable[[Array], Array],
    x: Float[ArrayLike, "q ..."],
    targets: Num[ArrayLike, "q ..."],
    *,
    loss: Loss = "squared",
) -> Operator:
    """The input Hessian of the loss, averaged over probes: (1/q) Σ [JᵀSJ + Σ_c (∂ℓ/∂f_c) ∇²f_c] (L3).

    Of a kernel predictor with a rotation-invariant kernel it is put together from four second derivatives per pair of
    probe and centre, and a product costs O((n + q)D + nq); of any other predictor from Hessian–vector products by
    automatic differentiation.  The matrix itself is never formed.

    Args:
        f: as for `input_gradients`.
        x: probes, shape (q, d) or (q, height, width, channels).
        targets: as for `gradient_covariance`.
        loss: "squared" or "softmax".

    Returns:
        An operator over the D coordinates of a point.

    Raises:
        TypeError, ValueError: as in `gradient_covariance`; ValueError also for a kernel without second derivatives at
            a probe that coincides with a centre, and a runtime error wherever else a kernel has none.

    >>> import jax.numpy as jnp
    >>> input_hessian(lambda x: x[0] * x[1], jnp.array([[1.0, 2.0]]), jnp.array([1.0])).dense().tolist()
    [[4.0, 3.0], [3.0, 1.0]]
    """
    probed = Probed.of(f, x, loss)
    targets, (f, x, loss, _) = probed.vectors(targets), probed
    _off_the_centres(f, x)
    outputs = _finite("values", _outputs(f, x))
    kernel = plane_kernel(f.expansion) if isinstance(f, Predictor) else None
    fits = outputs.size * math.prod(x.shape[1:]) <= _ROWS_AT_MOST
    if kernel is None or not isinstance(f, Predictor) or not fits:
        return ProbeHessian(f, x, loss, targets)
    residuals = jax.vmap(lambda o, t: residual(loss, o, t))(outputs, targets)
    bend = mean_hessian(kernel, f.expansion, x, residuals)
    return _gauss_newton(probed) + bend
