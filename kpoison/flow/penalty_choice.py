"""The smallest gradient penalty that stops an attack (T4)."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Num

from kpoison._typing import Labels, Scalar
from kpoison._validation import check_finite_scalar, check_name, check_number, check_positive, public
from kpoison.flow._energies import Energies, energies
from kpoison.flow._tradeoff import PenalisedAttack, as_scores
from kpoison.laws import efficacy, predict
from kpoison.poison import Poison, attack_success_rate
from kpoison.ridge import Posterior

__all__ = ["PenaltyChoice", "smallest_gradient_penalty"]

Measure: TypeAlias = Literal["efficacy", "attack_success_rate"]

_PER_DECADE = 2
_DECADES = 6  # to both sides of the penalty at which slopes weigh as much as values


@dataclasses.dataclass(frozen=True)
class PenaltyChoice:
    """The smallest penalty that reaches a target, and what it costs.

    Attributes:
        gradient_penalty: γ; ∞ where none of those tried reaches the target.
        value: of the measure at γ (at the largest γ tried where none reaches the target).
        before, after: energies of the poisoned predictor without penalty and with γ.
        fits: how many penalties were tried.
    """

    gradient_penalty: float
    value: float
    before: Energies
    after: Energies
    fits: int

    @property
    def cost(self) -> float:
        """By how much the mean squared residual on the training set rises, in y²."""
        return float(self.after.fit - self.before.fit)


@public
def smallest_gradient_penalty(
    clean: Posterior,
    poison: Poison,
    x: Float[ArrayLike, "..."],
    ridge: Scalar,
    target: Scalar,
    *,
    measure: Measure = "efficacy",
    metric: Float[ArrayLike, "D D"] | None = None,
    labels: Num[ArrayLike, " q"] | None = None,
    target_class: Scalar | Mapping[int, int] | Labels | Num[ArrayLike, " q"] | None = None,
    rtol: float = 1e-6,
) -> PenaltyChoice:
    """The smallest γ that brings the attack below a target, and what it costs in fit (T4).

    Efficacy need not fall monotonically with γ: the first crossing is looked for at two penalties per decade, over
    twelve decades about the penalty at which slopes weigh as much as values, then found within its bracket.

    Args:
        clean: a posterior that says kernel and data; every γ tried costs one Cholesky factorisation of n_c(1 + r)
            numbers, or with `ConjugateGradients` a few solves.
        poison: clones or a cluster.
        x: triggered inputs, shape (q, d), or (d,) for one.
        ridge: λ > 0 of the mean loss.
        target: largest |Δf| over x (and outputs), or the largest attack success rate, that is put up with.
        measure: "efficacy" or "attack_success_rate".
        metric: M, see `kpoison.fit`.
        labels: true classes of x, for the attack success rate.
        target_class: the attacker's class, for the same, as `kpoison.attack_success_rate` takes it: one for all x, one
            for each class, or one for each x; by default that of the poison's labels, where these are of one class.
        rtol: relative accuracy of γ.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0], [1.0]]), jnp.array([1.0, 1.0]))
    >>> poison, x = kp.Poison(jnp.array([2.0]), label=-1.0, count=1), jnp.array([2.0])
    >>> choice = kp.flow.smallest_gradient_penalty(clean, poison, x, 1e-2, target=0.9)
    >>> round(choice.value, 4), choice.cost > 0
    (0.9, True)
    """
    attack = PenalisedAttack.of(clean, poison, x, ridge, metric, labels, target_class)
    measure = check_name("measure", measure, get_args(Measure))
    check_finite_scalar("target", target)
    check_positive("target", target, zero=measure == "attack_success_rate")
    if measure == "attack_success_rate" and labels is None:
        raise ValueError('labels must be given for measure="attack_success_rate"')
    rtol, limit = check_number("rtol", rtol), float(jnp.asarray(target))
    # One ridge: of the dense solvers the one that factorises least.
    solver, reached = clean.factor.solver.at_one_ridge(), {}

    def measured(penalty: float) -> float:
        if penalty not in reached:
            posterior = attack.refitted(penalty, solver)
            if attack.labels is None or attack.target is None or measure == "efficacy":
                value = jnp.max(jnp.abs(efficacy(posterior, poison, attack.x, attack.ridge)))
            else:
                scores = as_scores(predict(posterior, attack.x, attack.ridge, poison))
                value = attack_success_rate(scores, attack.labels, attack.target)
            reached[penalty] = float(value)
        return reached[penalty]

    def choice(penalty: float) -> PenaltyChoice:
        value = measured(penalty)
        plain, chosen = (
            energies(attack.refitted(p, solver), attack.ridge, poison, metric=attack.metric) for p in (0.0, penalty)
        )
        return PenaltyChoice(penalty if value <= limit else math.inf, value, plain, chosen, len(reached))

    if measured(0.0) <= limit:
        return choice(0.0)
    candidates = _balanced_penalty(attack) * np.logspace(-_DECADES, _DECADES, 2 * _DECADES * _PER_DECADE + 1)
    first = next((i for i, penalty in enumerate(candidates) if measured(float(penalty)) <= limit), None)
    if first is None:
        return choice(float(candidates[-1]))
    if first > 0:
        low, high = float(candidates[first - 1]), float(candidates[first])
        _close_in(lambda p: measured(p) - limit, low, high, rtol, continuous=measure == "efficacy")
    return choice(min(penalty for penalty, value in reached.items() if penalty > 0 and value <= limit))


def _close_in(function: Callable[[float], float], low: float, high: float, rtol: float, *, continuous: bool) -> None:
    """Evaluate a function, positive at `low` and not at `high`, ever closer to where it ceases to be positive."""
    import scipy.optimize

    if continuous and function(high) < 0:
        # An error of rtol in the logarithm is one of rtol, relatively, in the penalty.
        scipy.optimize.brentq(lambda log: function(math.exp(log)), math.log(low), math.log(high), xtol=rtol)
        return
    while high / low > 1 + rtol:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if function(middle) > 0 else (low, middle)


def _balanced_penalty(attack: PenalisedAttack) -> float:
    """γ at which the mean variance of a slope equals that of a value, under the kernel's prior."""
    (clean, metric), kernel = (attack.clean, attack.metric), attack.clean.kernel

    def variances(point):
        slopes = jax.jacfwd(jax.grad(kernel.evaluate, argnums=1))(point, point).reshape(point.size, point.size)
        weighted = slopes if metric is None else slopes * jnp.asarray(metric)
        return kernel.evaluate(point, point), jnp.trace(slopes) if metric is None else jnp.sum(weighted)

    values, slopes = jax.vmap(variances)(clean.X)
    total = float(jnp.sum(slopes))
    return float(jnp.sum(values)) * math.prod(clean.X.shape[1:]) / total if total > 0 else 1.0
