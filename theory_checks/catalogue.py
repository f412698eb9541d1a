"""Every statement of the theory by its number: what it claims, and where it is checked.

A light module, for help and lists: it imports neither JAX nor a check.  A new statement is one file and one line here.
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple, get_args

from kpoison.problems import KernelName

__all__ = ["GUARDS", "KERNEL_NAMES", "STATEMENTS", "Statement"]

_REPRESENTATIVE = ("rbf", "laplace", "ntk-relu", "ntk-erf")

KERNEL_NAMES = (*_REPRESENTATIVE, *(name for name in get_args(KernelName) if name not in _REPRESENTATIVE))
"""What `--kernel` takes; those on which a quick run checks every statement come first."""


class Statement(NamedTuple):
    """A statement and its check.

    Attributes:
        number: in the theory, such as "L1".
        title: its name.
        claim: what it says, in one sentence.
        module: where its check is.
        quick: kernels of a quick run, fewer where a check is dear.
        cost: roughly the processor seconds of a quick check; what takes longest starts first.
        shares: statements with the same word here share trained networks and compiled programs; one process checks
            them all on a kernel.
        measured: whether it is measured on trained classifiers rather than proved; checked only when named.
        function: name of the check in its module: (setting, laws) → `Record`, or None for kernels it is not about.
    """

    number: str
    title: str
    claim: str
    module: str
    quick: tuple[str, ...] = _REPRESENTATIVE
    cost: float = 5.0
    shares: str = ""
    measured: bool = False
    function: str = "check"

    def load(self) -> Callable:
        """The check, by importing its module."""
        return getattr(importlib.import_module(self.module), self.function)


def _checked_in(module: str, number: str, title: str, claim: str, **more) -> Statement:
    return Statement(number, title, claim, f"theory_checks.{module}", **more)


STATEMENTS: dict[str, Statement] = {
    statement.number: statement
    for statement in (
        _checked_in(
            "l1_gain", "L1", "Gain of the clone poison",
            "m clones act as one observation with noise ρ/m; their dual coefficients sum to S(m; λ)(y_t − f_c(ζ)).",
            shares="clones",
        ),
        _checked_in(
            "l2_efficacy", "L2", "Efficacy of the clone poison",
            "Δf(x) = S(m; λ)(y_t − f_c(ζ)) k̃(x, ζ) at every x, from linear response to saturation.",
            shares="clones",
        ),
        _checked_in(
            "l3_rank_one_spike", "L3", "Rank-one spike",
            "The poison's part of the Gauss–Newton input Hessian is rank one, with eigenvalue Λ = ‖s ∇_x k̃(x0, "
            "ζ)‖².",
            shares="clones",
        ),
        _checked_in(
            "l4_spike_efficacy", "L4", "Spike–efficacy law",
            "Λ(x0) = q(x0, ζ) Δf(x0)², q = ‖∇_x k̃(x0, ζ)‖²/k̃(x0, ζ)²: quadratic in efficacy.",
            shares="clones",
        ),
        _checked_in(
            "l4_averaged_hessian", "L4-Hessian", "Averaged input Hessian",
            "The first eigenvector of the full Hessian, averaged over attacked probes, turns to ∇Δf; the poison "
            "lifts its eigenvalue out of the others by a square of the efficacy.",
            cost=20, quick=("rbf",),
        ),
        _checked_in(
            "l5_near_clone", "L5", "Near-clone regime",
            "Without coupling q(r) → 0 like r² for smooth stationary kernels (across the sphere for smooth "
            "networks), and stays constant for Laplace, linear and ReLU-NTK kernels.",
            quick=KERNEL_NAMES, shares="clones",
        ),
        _checked_in(
            "l6_coupling_floor", "L6", "Coupling floor",
            "With clean data near ζ the exact q does not vanish as r → 0: it ends at ‖∇_x k̃(x, ζ)|_{x=ζ}‖²/k̃(ζ, "
            "ζ)².",
            shares="clones",
        ),
        _checked_in(
            "l7_clusters", "L7", "Clusters",
            "Δf(x) = k̃(x, Z)(k̃(Z, Z) + diag(ρ/m_j))⁻¹(y_t − f_c(Z)); the clone law errs by O(ε), O(ε²) when "
            "centred.",
            shares="clones",
        ),
        _checked_in(
            "l8_lag", "L8", "Thresholds and lag",
            "The attack succeeds from m_success and leaves the bulk of the input Fisher spectrum from m_visible on.",
            cost=30, quick=("rbf",),
        ),
        _checked_in(
            "l8_backdoor", "L8-images", "Backdoor on images",
            "A backdoor succeeds and shows at the multiplicities that the cluster law predicts on other images.",
            quick=("rbf",),
        ),
        _checked_in(
            "l8_training", "L8-training", "Backdoor during training",
            "Networks come to obey a backdoor, and to show it, at the steps of gradient descent where their kernel "
            "does.",
            quick=("ntk-erf",),
        ),
        _checked_in(
            "l9_blind_radius", "L9", "Blind radius",
            "By the criterion Λ(x0) ≥ τ‖∇f_c(x0)‖² no count is visible nearer to ζ than r_b, isolated RBF "
            "ℓ√(−W₀(−ω²)); a gain of s takes m = ρs/(1 − s k̃(ζ, ζ)) clones at fixed ρ.",
            quick=("rbf",), shares="clones",
        ),
        _checked_in(
            "l10_count_or_fraction", "L10", "Count or fraction",
            "A constant count of poisons is enough only if clean data do not use the trigger's direction and nλ stays "
            "constant; otherwise m grows like n(σ_u² + λ_e).",
            quick=("rbf",), shares="clones",
        ),
        _checked_in(
            "l11_trigger_strength", "L11", "Strength of the training trigger",
            "A linear model's trigger works best at α* ≈ √(κ/θ), isolated √(ρ/m), and beyond it backfires; an isolated "
            "stationary kernel's at α_t.",
            quick=("rbf",), shares="clones",
        ),
        _checked_in(
            "l12_smoothed_visibility", "L12", "Smoothed visibility",
            "Averaged over a neighbourhood the spike of a near-clone does not vanish: at r = 0 and τ = ℓ/√d its trace "
            "tends to S²/(eℓ²), the largest at any r.",
            quick=("rbf",), shares="clones",
        ),
        _checked_in(
            "l13_features", "L13", "Features and stochastic poisons",
            "One feature more changes f by β(g(x) − k(x, X)A⁻¹g); poisons drawn anew at every visit are weights 1 − θ "
            "on the example and θ on its triggered copy.",
            quick=("rbf",), shares="clones",
        ),
        _checked_in(
            "l14_leverage", "L14", "Leverage",
            "Own-point efficacy of a dirty label is its leverage H_ii, on average df/n; clones take up less than one "
            "degree of freedom, however many; what is predicted without a point needs no refit.",
            quick=("rbf",), shares="clones",
        ),
        _checked_in(
            "n1_finite_width", "N1", "Finite width",
            "A trained network converges to the NTK ridge predictor; the rmse over seeds falls like width^(−1/2), "
            "that of a ReLU network's input gradient like width^(−1/4).",
            cost=50, quick=("ntk-relu", "ntk-erf"), shares="clones",
        ),
        _checked_in(
            "t1_gradient_penalty", "T1", "Gradient penalty",
            "The penalised predictor is the posterior given flat slopes; a clone contributes its value and its "
            "slopes.",
            cost=20, quick=("rbf",),
        ),
        _checked_in(
            "t2_flow", "T2", "Gradient flow",
            "Every mode of the observations contracts at the rate μ/n + λ; predictions and laws hold at every time.",
            cost=25, quick=("rbf",),
        ),
        _checked_in(
            "t3_contraction", "T3", "Contraction",
            "tr F over the training points, the penalty's energy, never rises with γ at the end of training; single "
            "components of the input Fisher matrix can (T9).",
            cost=15, quick=("rbf",),
        ),
        _checked_in(
            "t4_tradeoff", "T4", "Safety–efficacy trade-off",
            "With γ the penalty's energy B never rises and fit plus ridge A never falls: safety is paid for with "
            "fit.",
            cost=30, quick=("rbf",),
        ),
        _checked_in(
            "t5_length_scale", "T5", "Effective length scale",
            "On a uniform grid of a torus the penalised fit is a multiplier, without aliases 1/(1 + λV/k̂ + γ ωᵀMω); "
            "the kernel given flat slopes is wider: ℓ_eff² = ℓ_0² + 2γ vᵀMv k̂(0)/(λV).",
            cost=20, quick=("rbf",),
        ),
        _checked_in(
            "t7_degrees_of_freedom", "T7", "Degrees of freedom under a penalty",
            "df(γ) = tr K̃_γ(K̃_γ + ρ)⁻¹ falls strictly with γ unless no value is coupled to a slope, for an RBF kernel "
            "to a number above 0; that of the fit restricted to kernels at the data is lower, and does go to 0.",
            cost=4, quick=("rbf",), shares="slopes",
        ),
        _checked_in(
            "t8_residual", "T8", "The residual under a penalty",
            "yᵀ(I − H_γ)y, fit plus ridge and the expected residual of random labels rise with γ; the residual of "
            "given labels need not, and has a counterexample.",
            cost=3, quick=("rbf",), shares="slopes",
        ),
        _checked_in(
            "t9_slopes", "T9", "Contraction of slopes",
            "Without the data term slopes at training points decay as exp(−((γ/n)K11(I⊗M) + λ)t), along eigenvectors "
            "at the rate of the paper's bound; along other directions slower, with the data they rise.",
            cost=4, quick=("rbf",), shares="slopes",
        ),
        _checked_in(
            "t10_blind_penalty", "T10", "What the penalty does not see",
            "Gain, efficacy and spike of an isolated clone do not depend on γ for a stationary C² kernel; a centred "
            "cluster feels O(ε²); the penalty acts through the slopes of clean points near the poison.",
            cost=5, quick=("rbf",), shares="slopes",
        ),
        _checked_in(
            "t11_interpolation", "T11", "Where the trade-off ends",
            "With γ fixed and λ → 0 residual and slopes vanish together; the penalty on ∇ℓ of the squared loss is 0 at "
            "every interpolant, so that without a ridge its flow fits the poison for any κ.",
            cost=5, quick=("rbf",), shares="slopes",
        ),
        _checked_in(
            "t12_hiding", "T12", "What the penalty leaves hides better",
            "On a uniform grid one label's efficacy is df(γ)/n and q(r) = r²/ℓ_nc⁴, ℓ_nc² = d Σμ/Σμω², from the "
            "multiplier μ; in every sweep tried df falls and ℓ_nc rises with γ.",
            cost=3, quick=("rbf",), shares="slopes",
        ),
        _checked_in(
            "d1_spectral_signatures", "D1", "Spectral signatures",
            "m clones at δ from the mean of n_c points are the spike ε(1 − ε)‖δ‖² on the class's own bulk; unless "
            "it exceeds (1 − ε)τ, so for m < n_c τ/(‖δ‖² − τ), at least half of the leading direction is the clean "
            "class's.",
            cost=15, quick=("rbf",),
        ),
        _checked_in(
            "c1_ensemble_certificate", "C1", "Ensemble certificate",
            "The least number of label flips that change a partition ensemble's vote is a knapsack over the flip "
            "certificates of its partitions; of two classes the sum of the ⌈margin/2⌉ cheapest.",
            cost=3, quick=("rbf",), shares="clones",
        ),
        _checked_in(
            "r1_ridge_regression", "R1", "Ridge regression in high dimension",
            "Accuracy, attack success and errors of poisoned ridge regression follow from means and a covariance, at "
            "the effective ridge λ_e = λ + λ_e df1/n.",
            cost=4, quick=("rbf",), shares="asymptotics",
        ),
        _checked_in(
            "r2_linear_overlap", "R2", "Overlap of a linear model",
            "BᵀB ≈ B̄ᵀB̄ + E tr Σ(Σ + λ_e)⁻²/n gives the cos² of the leading direction and the trigger, which lags "
            "behind attack success in linear models, too.",
            cost=2, quick=("rbf",), shares="asymptotics",
        ),
        _checked_in(
            "r3_kernel_ridge", "R3", "The typical law of any kernel",
            "Over training sets of n points drawn from a pool, kernel ridge regression is L1–L7 of the pool at the "
            "effective ridge λ_e = λ + λ_e df1/n, a Gaussian with a known deviation.",
            cost=6, quick=("rbf",), shares="asymptotics",
        ),
        _checked_in(
            "r4_redraws", "R4", "Error bars from one data set",
            "The deviation of a prediction over redrawn training sets is that of independent noise on the labels, of "
            "the variance ‖y − Hy‖²/tr (I − H)².",
            cost=5, quick=("rbf",), shares="asymptotics",
        ),
        _checked_in(
            "r5_convex_loss", "R5", "Convex losses in high dimension",
            "Accuracy, attack success and overlap of poisoned logistic regression follow from the root of the state "
            "equations of its loss.",
            cost=8, quick=("rbf",), shares="asymptotics",
        ),
        _checked_in(
            "classifiers", "T6", "Joint defence",
            "Augmentation alone leaves Δp of order one, with the gradient penalty it does not; longer training "
            "helps.",
            quick=("ntk-relu",), measured=True, function="check_joint_defence",
        ),
        _checked_in(
            "classifiers", "L8-classifiers", "Lag of visibility in classifiers",
            "A classifier shows a backdoor after obeying it.",
            quick=("ntk-relu",), measured=True, function="check_lag",
        ),
        _checked_in(
            "classifiers", "collapse", "Feature collapse",
            "Learning draws the poisons together in feature space.",
            quick=("ntk-relu",), measured=True, function="check_collapse",
        ),
    )
}  # fmt: skip
"""Every statement, in the order in which they are checked."""

GUARDS: dict[str, tuple[str, ...]] = {
    "gain": ("L1",),
    "efficacy": ("L2", "L7", "T10"),
    "predict": ("L2", "T8", "T11"),
    "predictor": ("L2", "T9"),
    "efficacy_gradient": ("L3",),
    "spike": ("L3", "L4", "T10"),
    "spike_components": ("L3",),
    "spike_efficacy_ratio": ("L4", "L5"),
    "coupling_floor": ("L6",),
    "coupling_ratio": ("L6",),
    "m_success": ("L8",),
    "m_visible": ("L8", "L9"),
    "lag": ("L8",),
    "blind_radius": ("L9",),
    "rbf_blind_radius": ("L9",),
    "needed_fraction": ("L10",),
    "trigger_stiffness": ("L10",),
    "backdoor_score": ("L11",),
    "best_strength": ("L11",),
    "smoothed_rbf_spike": ("L12",),
    "smoothed_spike": ("L12",),
    "feature_effect": ("L13",),
    "expected_poisoning": ("L13",),
    "degrees_of_freedom": ("L14", "T7"),
    "leave_one_out": ("L14",),
    "log_marginal_likelihood": ("L14",),
    "posterior_covariance": ("L14",),
    "curvature_rows": ("L3",),
    "gauss_newton": ("L3",),
    "fisher": ("L3",),
    "early_stopped": ("T2",),
    "tradeoff": ("T3", "T4"),
    "smallest_gradient_penalty": ("T4",),
    "multiplier": ("T5", "T12"),
    "effective_length_scale": ("T5",),
    "restricted_degrees_of_freedom": ("T7",),
    "slope_contraction": ("T9",),
    "near_clone_length_scale": ("T12",),
    "ensemble_certificate": ("C1",),
    "kernel_ridge": ("R3",),
    "redraw_deviation": ("R4",),
    "efficacy_deviation": ("R4",),
    "predicted_visibility": ("D1",),
    "visible_count": ("D1",),
    "ridge_regression": ("R1", "R2"),
    "logistic_regression": ("R5",),
}
"""By the name of a law: the statements whose check fails where the law is wrong by 2 %, on the RBF kernel; see also the
docstrings of those checks out of which the scale of a law drops."""
