"""R5: logistic and softmax regression on poisoned mixtures, against training sets; the squared loss is R1."""

import jax
import numpy as np

from kpoison.asymptotics import backdoor_mixture, softmax_regression
from kpoison.statistics import t_half_width
from theory_checks.catalogue import STATEMENTS
from theory_checks.mixtures import logistic, simulated, standard_attack
from theory_checks.random_mixtures import lattice, rate_of
from theory_checks.record import FALSE_ALARM, Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check"]


def _softmax(X: np.ndarray, Y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Softmax regression by SciPy: weights, intercepts, and the mean loss."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    n, d = X.shape
    size = d * Y.shape[1]

    def objective(p: np.ndarray) -> tuple[float, np.ndarray]:
        B = p[:size].reshape(d, -1)
        log = log_softmax(X @ B + p[size:], axis=1)
        pull = (np.exp(log) - Y) / n
        slope = np.concatenate([(X.T @ pull + penalty * B).ravel(), pull.sum(axis=0)])
        return -np.sum(Y * log) / n + 0.5 * penalty * np.sum(B**2), slope

    found = minimize(objective, np.zeros(size + Y.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-7})
    B = found.x[:size].reshape(d, -1)
    return B, found.x[size:], float(found.fun) - 0.5 * penalty * float(np.sum(B**2))


def _several_classes(setting: Setting, classes: int, d: int) -> tuple[list[Comparison], str]:
    """Softmax regression: rates, loss, and the Gram matrix and scores' covariance of the weights."""
    penalty, draws, generator = 0.05, 60, np.random.default_rng([setting.seed, 502, classes])
    axes, each, poisons = np.eye(d), 2 * d // classes, 2 * d // 40
    n = each * classes
    attack = backdoor_mixture(
        2 * axes[:classes], np.linspace(0.5, 1.5, d), axes[classes], (classes - 1) * poisons / n, 2.0, target=0
    )
    model = softmax_regression(attack, n, penalty)
    keys = {"key": jax.random.key(0), "draws": 20_000} if classes > 3 else {}
    rates = [getattr(model, name)(**keys) for name in ("accuracy", "attack_success_rate")]
    parts = (model.weights.T @ model.weights + model.spread, model.covariance, model.scores(attack.training.means).mean)
    law = [*(float(getattr(one, "value", one)) for one in rates), float(model.training_loss), *map(np.asarray, parts)]
    M, variances, T, pi = map(
        np.asarray,
        (attack.training.means, attack.training.covariance, attack.training.labels, attack.training.fractions),
    )
    component, runs = np.repeat(np.arange(len(M)), np.round(pi * n).astype(int)), []
    for _ in range(draws):
        X = M[component] + generator.standard_normal((n, d)) * np.sqrt(variances)
        B, b, loss = _softmax(X, T[component], penalty)
        rates = [rate_of(B, b, mixture, variances, lattice()) for mixture in (attack.clean, attack.triggered)]
        runs.append([*rates, loss, B.T @ B, B.T @ (variances[:, None] * B), M @ B + b])
    names = ("accuracy", "success", "training loss", "Gram matrix of weights", "covariance of scores", "mean scores")
    compared = []
    for k, name in enumerate(names):
        values = np.array([run[k] for run in runs])
        width = t_half_width(values.std(axis=0, ddof=1) / draws**0.5, draws, FALSE_ALARM)
        order = (1 if k < 2 else 2 * np.max(np.abs(law[k]))) / n
        compared.append(
            compare(
                f"{name} of softmax regression, {classes} classes", "refit", law[k], values.mean(axis=0), width + order,
                f"t-interval over {draws} training sets, and the next order, 1/n",
            )
        )  # fmt: skip
    success = np.mean([run[1] for run in runs])
    return compared, (
        f"softmax regression of {classes} classes, d = {d}, n = {n}: attack success {law[1]:.3f} by law, "
        f"{success:.3f} trained; residual {float(model.residual):.1e}"
    )


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Accuracy, attack success and overlap of logistic regressions that are trained on redrawn sets.

    About a linear model of its own: checked once, on the RBF kernel's turn.
    """
    if setting.kernel_name != "rbf":
        return None
    full = setting.scale == "full"
    # Many points for each input and many poisons, for sampling and the next order to hide no law that is wrong by 5 %.
    d, n, penalty, fraction = 30, 240, 0.05, 0.3
    # At weak triggers the next order of the overlap is several times 1/n.
    strengths, draws = ((1.5, 2.0, 3.0, 6.0, 20.0), 600) if full else ((2.0, 4.0), 250)
    names = ("accuracy", "success", "overlap")
    law, mean, width = np.zeros((3, len(names), len(strengths)))
    for i, strength in enumerate(strengths):
        attack = standard_attack(d, fraction, strength, 2.0)
        model = laws.logistic_regression(attack, n, penalty)
        predicted = (model.accuracy(), model.attack_success_rate(), model.overlap(np.eye(d)[0]))
        law[:, i] = [float(value) for value in predicted]
        measured = simulated(attack, n, logistic(penalty), draws, [setting.seed, 501, i])
        mean[:, i] = [measured.mean[name] for name in names]
        width[:, i] = [measured.half_width(name) + 1 / n for name in names]
    reason = f"t-interval over {draws} training sets, and the next order, 1/n"
    compared = [
        compare(f"{name} of logistic regression", "refit", law[k], mean[k], width[k], reason)
        for k, name in enumerate(names)
    ]
    finding = "attack success of logistic regression (law/trained): " + ", ".join(
        f"{a:.3f}/{b:.3f} at α = {strength:g}" for strength, a, b in zip(strengths, law[1], mean[1], strict=True)
    )
    series = [
        curve("law", "dots", strengths, law[1]), curve("trained", "errorbar", strengths, mean[1], width[1]),
    ]  # fmt: skip
    panel = Panel("Logistic regression", "strength α of the trigger", "attack success", series, yscale="linear")
    findings = [finding]
    for classes, dimension in ((3, 200), (4, 120)) if full else ():
        more, said = _several_classes(setting, classes, dimension)
        compared, findings = [*compared, *more], [*findings, said]
    return setting.record(STATEMENTS["R5"], compared, findings, [panel])
