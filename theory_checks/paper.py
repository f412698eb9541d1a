"""The numbered statements of arXiv 2602.00822 in its order: what each claims, what is true, and which checks say so.

A light module, as the catalogue is.  The claims are in our words, of the paper as it is reported.
"""

import enum
from typing import NamedTuple

from theory_checks.catalogue import STATEMENTS, Statement

__all__ = ["NUMBERS", "Judgement", "Number", "statements_for"]


class Judgement(enum.StrEnum):
    """How a statement of the paper stands while the checks behind it hold."""

    HOLDS = "holds"
    UNDER_A_CONDITION = "holds under a condition"
    FALSE = "false as stated"
    MEASURED = "measured"
    UNDECIDED = "undecided: a check fails"


class Number(NamedTuple):
    """One number of the paper.

    Attributes:
        name: of the kind and number, such as "Theorem 3.9".
        claim: what it says.
        judgement: how it stands while its checks hold.
        truth: what is true, in one sentence.
        checks: statements of the catalogue that decide it; those not in it are left out.
        kernels: on which the checks run.
    """

    name: str
    claim: str
    judgement: Judgement
    truth: str
    checks: tuple[str, ...]
    kernels: tuple[str, ...] = ("rbf",)


NUMBERS: dict[str, Number] = {
    "3.1": Number(
        "Assumption 3.1",
        "Poisons are a tight cluster, K_PP ≈ k_ζ11ᵀ, and dominate: clean data are hardly coupled to them.",
        Judgement.MEASURED,
        "Not needed: L7 is exact for any cluster (the clone law errs by O(ε), O(ε²) when centred), L6 gives what "
        "coupling adds; how tight and how dominant is a property of the data.",
        ("L7", "L6"),
    ),
    "3.2": Number(
        "Lemma 3.2",
        "The dual coefficients of m clones sum to y_t S, S = m/(nλ + m k_ζ).",
        Judgement.HOLDS,
        "Without the assumption S = m/(ρ + m k̃(ζ, ζ)) and the sum is S(y_t − f_c(ζ)).",
        ("L1",),
    ),
    "3.3": Number(
        "Theorem 3.3",
        "The poison moves the prediction by Δf(x0) = y_t S k(x0, ζ).",
        Judgement.HOLDS,
        "Without the assumption Δf(x) = S(y_t − f_c(ζ)) k̃(x, ζ), at every x.",
        ("L2",),
    ),
    "3.4": Number(
        "Theorem 3.4",
        "It adds a rank-one spike R_k (Δf)² to the input Hessian, R_k = ‖∇k‖²/k².",
        Judgement.HOLDS,
        "Exactly with k̃ for k, in the Gauss–Newton part.",
        ("L3", "L4"),
    ),
    "3.5": Number(
        "Remark 3.5",
        "The poison is visible once (Δf)² ≳ Λ_clean/R_k, after it succeeds; a linear kernel has no such lag.",
        Judgement.UNDER_A_CONDITION,
        "The lag is there (L8; L9 has the criterion in closed form); by the overlap of the leading eigenvector linear "
        "models lag as well (R2).",
        ("L8", "L9", "R2"),
    ),
    "3.7": Number(
        "Corollary 3.7",
        "Near the poison an RBF kernel hides it: R_k = r²/ℓ⁴ → 0 at an efficacy of order one.",
        Judgement.UNDER_A_CONDITION,
        "For smooth stationary kernels and without coupling: for Laplace, linear and ReLU-NTK kernels R_k stays "
        "constant, and with clean data near ζ it ends at the coupling floor.",
        ("L5", "L6"),
        ("rbf", "laplace", "linear"),
    ),
    "collapse": Number(
        "Remark on neural collapse",
        "Training draws the poisons together in feature space, into near-clones.",
        Judgement.MEASURED,
        "So measured in trained classifiers.",
        ("collapse",),
        ("ntk-relu",),
    ),
    "objective": Number(
        "The objective",
        "E L + (κ/2) E‖∇_x L‖² weakens the poison.",
        Judgement.UNDER_A_CONDITION,
        "The penalty on ∇f trades fit for flat slopes (T4); that on ∇ℓ of the squared loss is 0 at every interpolant "
        "and protects only with a ridge, finite time, augmentation or softmax (T11, T6).",
        ("T4", "T11", "T6"),
        ("rbf", "ntk-relu"),
    ),
    "3.9": Number(
        "Theorem 3.9",
        "With κ degrees of freedom fall and the training residual rises.",
        Judgement.FALSE,
        "The first half holds wherever a value is coupled to a slope, for RBF towards a number above 0 (T7); the "
        "residual can fall, by a counterexample, what rises is fit plus ridge plus penalty (T8).",
        ("T7", "T8"),
    ),
    "3.10": Number(
        "Remark 3.10",
        "The penalty is an anisotropic high-pass filter: ℓ_eff² = ℓ² + cκ.",
        Judgement.UNDER_A_CONDITION,
        "On uniform data, c = 2k̂(0)/(λV); it weighs high frequencies and so passes low ones.  It does not see an "
        "isolated clone (T10), and what it leaves of a poison hides better (T12).",
        ("T5", "T10", "T12"),
    ),
    "3.12": Number(
        "Theorem 3.12",
        "Along the poison's direction E_v(t) ≤ E_v(0) e^(−2κα t).",
        Judgement.FALSE,
        "An equality along eigenvectors of the slopes' covariance and without the data term; otherwise the energy may "
        "decay slower, grow from 0, and rise with κ at the solution.",
        ("T9", "T3"),
    ),
}  # fmt: skip
"""By what `--only` takes, in the paper's order."""


def statements_for(numbers: tuple[str, ...]) -> dict[str, Statement]:
    """What to check for these numbers, each on the kernels of all that ask for it."""
    kernels: dict[str, tuple[str, ...]] = {}
    for number in numbers:
        for check in NUMBERS[number].checks:
            if check in STATEMENTS:
                kernels[check] = tuple(dict.fromkeys(kernels.get(check, ()) + NUMBERS[number].kernels))
    return {check: STATEMENTS[check]._replace(quick=kernels[check]) for check in STATEMENTS if check in kernels}
