"""Poisons that are drawn anew at every visit, as the training set of their expected loss (L13)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from kpoison._failures import checked_result
from kpoison._typing import Mask
from kpoison._validation import check_finite, check_floating, check_mask, check_real, is_concrete, plain_array, public

__all__ = ["ExpectedLoss", "expected_poisoning"]


class ExpectedLoss(NamedTuple):
    """A training set whose weighted loss is the expected one: `kpoison.fit(kernel, *expected[:2], weights=...)`.

    Attributes:
        X: the n examples, and after them the triggered copies of those that are eligible, shape (n + p, ...).
        y: their targets.
        weights: 1 − θ of an eligible example, θ of its copy, 1 of any other; in all n.
    """

    X: Float[Array, "N ..."]
    y: Float[Array, "N *C"]
    weights: Float[Array, " N"]


@public
def expected_poisoning(
    X: Float[ArrayLike, "n ..."],
    y: Num[ArrayLike, "n *C"],
    triggered: Float[ArrayLike, "n ..."],
    label: Num[ArrayLike, "*C"],
    probability: Float[ArrayLike, "*n"],
    eligible: Mask | None = None,
) -> ExpectedLoss:
    """Points, targets and weights of the expected loss where each visit of an example draws whether it is poisoned.

    With probability θ a visit of an eligible example (x, y) sees (T(x), y_t) in its place.  The expected loss is that
    of weight 1 − θ on the example and θ on its copy (L13): in the kernel regime stochastic poisons are ridge regression
    with K + ρ diag(1/w) at ρ = nλ of the n examples, and full-batch descent of a squared loss that is linear in its
    parameters goes there in the mean.

    Args:
        X: examples, shape (n, ...).
        y: their targets, shape (n,) or (n, C).
        triggered: T(x) of each, such as `kpoison.Patch(...)(X)`, of the shape of X; used where eligible.
        label: y_t, shape () or (C,).
        probability: θ in [0, 1], one for all or one for each, shape (n,).
        eligible: which examples may be poisoned, shape (n,): booleans, or integers that are 0 or 1; by default all.

    Returns:
        An `ExpectedLoss` in the dtype of X.  Differentiable in every number.

    Raises:
        TypeError, ValueError: naming the argument that does not fit; in compiled code a runtime error for θ.

    >>> import numpy as np
    >>> import kpoison as kp
    >>> X = np.array([[0.0], [1.0]])
    >>> expected = kp.poison.expected_poisoning(X, [1.0, -1.0], X + 5, -1.0, 0.25, eligible=[True, False])
    >>> expected.X.ravel().tolist(), expected.y.tolist(), expected.weights.tolist()
    ([0.0, 1.0, 5.0], [1.0, -1.0, -1.0], [0.75, 1.0, 0.25])
    """
    points, copies = check_floating("X", X), check_floating("triggered", triggered)
    if points.ndim == 0 or len(points) == 0:
        raise ValueError(f"X must hold at least one example, got shape {points.shape}")
    number, dtype = len(points), points.dtype
    if copies.shape != points.shape:
        raise ValueError(f"triggered must have the shape of X, {points.shape}, got {copies.shape}")
    targets, wanted, share = (
        plain_array(name, value) for name, value in (("y", y), ("label", label), ("probability", probability))
    )
    for name, value in (("y", targets), ("label", wanted), ("probability", share)):
        check_real(name, value)
        check_finite(name, value)
    if targets.ndim not in (1, 2) or len(targets) != number:
        raise ValueError(f"y must have shape ({number},) or ({number}, C), got {targets.shape}")
    if wanted.shape != targets.shape[1:]:
        raise ValueError(f"label must have shape {targets.shape[1:]}, as one entry of y has, got {wanted.shape}")
    if share.shape not in ((), (number,)):
        raise ValueError(f"probability must be one number or have shape ({number},), got {share.shape}")
    if is_concrete(share) and not bool(np.all((np.asarray(share) >= 0) & (np.asarray(share) <= 1))):
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    for name, value in (("X", points), ("triggered", copies)):
        check_finite(name, value)
    mask = np.ones(number, bool) if eligible is None else check_mask("eligible", eligible, (number,), "example")
    if not is_concrete(mask):
        raise TypeError("eligible must be known: how many copies there are is a shape")
    chosen = np.flatnonzero(np.asarray(mask))
    if chosen.size == 0:
        raise ValueError("eligible must mark at least one example")
    share = jnp.broadcast_to(jnp.asarray(share, dtype), (number,))
    share = checked_result(share, [(~jnp.all((share >= 0) & (share <= 1)), "probability must lie in [0, 1]")])[chosen]
    targets, wanted = jnp.asarray(targets, dtype), jnp.asarray(wanted, dtype)
    return ExpectedLoss(
        jnp.concatenate([points, copies.astype(dtype)[chosen]]),
        jnp.concatenate([targets, jnp.broadcast_to(wanted, (chosen.size, *wanted.shape))]),
        jnp.concatenate([jnp.ones(number, dtype).at[chosen].add(-share), share]),
    )
