"""Each statement as a formula and in plain words, for the reports.  A light module, as the catalogue is."""

from typing import NamedTuple

__all__ = ["WORDS", "Words"]


class Words(NamedTuple):
    """What a statement says.

    Attributes:
        formula: in the theory's symbols.
        plain: to who does not know them.
    """

    formula: str
    plain: str


WORDS: dict[str, Words] = {
    "L1": Words(
        "S(m; λ) = m / (ρ + m k̃(ζ, ζ)),  s = S (y_t − f_c(ζ))",
        "Many identical poisons act like one training point that is trusted more. How hard they pull grows with "
        "their number, but levels off.",
    ),
    "L2": Words(
        "Δf(x) = S(m; λ) (y_t − f_c(ζ)) k̃(x, ζ)",
        "How far the poisons move the prediction at any input is a product: how hard they pull, how wrong their "
        "label is, and how near the input is to them in the kernel's sense.",
    ),
    "L3": Words(
        "Λ(x0) = ‖∇Δf(x0)‖² = ‖s ∇_x k̃(x0, ζ)‖²",
        "The poison leaves a trace in the curvature of the loss: one direction of the input, along which the "
        "prediction changes fast.",
    ),
    "L4": Words(
        "Λ(x0) = q Δf(x0)²,  q = ‖∇_x k̃(x0, ζ)‖² / k̃(x0, ζ)²",
        "Trace and effect are tied: twice the effect on a prediction is four times the trace.",
    ),
    "L4-Hessian": Words(
        "cos(v₁, ∇Δf) → 1 and λ₁ − λ₂ ∝ (Δf)² as the poison outgrows the clean curvature",
        "The trace is also seen in the full curvature, averaged over attacked inputs, as one eigenvalue that "
        "leaves the others.",
    ),
    "L5": Words(
        "q(r) → 0 like r² as r = ‖x0 − ζ‖ → 0  (RBF: q = r²/ℓ⁴)",
        "With a smooth kernel a poison that lies nearly on the attacked input changes the prediction and leaves "
        "hardly a trace there. Kernels with a cusp, and linear ones, do not hide it.",
    ),
    "L6": Words(
        "q(r) → ‖∇_x k̃(x, ζ)|_{x=ζ}‖² / k̃(ζ, ζ)² as r → 0",
        "Clean training points nearby put a floor under that: even a perfect clone then leaves some trace.",
    ),
    "L7": Words(
        "Δf(x) = k̃(x, Z) (k̃(Z, Z) + diag(ρ/m_j))⁻¹ (y_t − f_c(Z))",
        "Poisons that are similar rather than identical follow the same law with a small system of equations; "
        "taking a tight cluster for clones errs little.",
    ),
    "L8": Words(
        "lag = m_visible / m_success",
        "An attack works from some number of poisons on and can be seen from another number on; if that is "
        "larger, it works unseen between the two.",
    ),
    "L8-images": Words(
        "m_success and m_visible by L7 of some images = those measured on others",
        "The same two numbers, for backdoors on images: predicted from some images, measured on others.",
    ),
    "L8-training": Words(
        "step of success and of visibility of a network = those of its kernel's flow",
        "Networks learn a backdoor, and begin to show it, when their kernel says so.",
    ),
    "L9": Words(
        "visible iff Λ(x0) ≥ τ ‖∇f_c(x0)‖²;  isolated RBF: r_b = ℓ √(−W₀(−ω²)),  m = ρs / (1 − s k̃(ζ, ζ))",
        "Nearer to the attacked input than a certain radius no number of poisons can be seen, by the paper's "
        "criterion; the radius has a formula.",
    ),
    "L10": Words(
        "m ∝ n (σ_u² + λ_e)",
        "Whether an attacker needs a fixed number of poisons or a fixed share of the data depends on whether "
        "clean data vary along the trigger.",
    ),
    "L11": Words(
        "α* ≈ √(κ/θ),  isolated √(ρ/m)",
        "A stronger trigger in training is not always better: in a linear model it backfires beyond a best "
        "strength.",
    ),
    "L12": Words(
        "E_z ‖∇Δf(ζ + z)‖² → S²/(eℓ²) for z ~ N(0, τ²I), τ = ℓ/√d",
        "What hides at a point does not hide around it: averaged over a neighbourhood near-clones leave as much "
        "trace as any poison.",
    ),
    "L13": Words(
        "Δf(x) = β (g(x) − k(x, X)A⁻¹g);  weights 1 − θ on an example, θ on its triggered copy",
        "Adding one feature to a model changes it by a formula; poisoning examples at random at every visit is, "
        "on average, weighting them.",
    ),
    "L14": Words(
        "∂f(x_i)/∂y_i = H_ii, on average df/n;  df_poisoned − df_clean < 1",
        "How far a wrong label moves the prediction at its own point is the point's leverage. Clones use up less "
        "than one degree of freedom together.",
    ),
    "N1": Words(
        "‖f_network − f_kernel‖ ∝ width^(−1/2)",
        "The laws are about infinitely wide networks; trained networks approach them at a known rate as they "
        "widen.",
    ),
    "T1": Words(
        "min (1/2n) Σ (f(x_i) − y_i)² + (γ/2n) Σ ‖∇f(x_i)‖²_M + (λ/2) ‖f‖²",
        "Penalising steep predictions is the same as adding training points that say 'flat here', so the laws "
        "hold with them.",
    ),
    "T2": Words(
        "c(t) = R Q diag((1 − e^(−(μ_i/n + λ)t)) / (μ_i + nλ)) Qᵀ R ȳ",
        "What training has learned after any time has a formula: each mode converges at its own rate.",
    ),
    "T3": Words(
        "tr F = (1/n) Σ ‖∇f(x_i)‖²_M does not rise with γ",
        "A larger penalty never makes the trained predictor steeper on average over the training points; in a "
        "single direction it can.",
    ),
    "T4": Words(
        "A(f_γ) ↑ and B(f_γ) ↓ in γ",
        "Safety is paid for: whatever a penalty takes from the steepness it takes from the fit.",
    ),
    "T5": Words(
        "ℓ_eff² = ℓ_0² + 2γ vᵀMv k̂(0) / (λV)",
        "On evenly spread data the penalty acts like a kernel with a longer length scale: it smooths.",
    ),
    "T7": Words(
        "df(γ) = tr K̃_γ (K̃_γ + ρ)⁻¹ falls with γ",
        "The penalty lowers what the model can fit, for an RBF kernel not to nothing.",
    ),
    "T8": Words(
        "yᵀ(I − H_γ)y rises with γ;  ‖y − f_γ(X)‖² need not",
        "One would expect a larger penalty to fit the training labels worse. On average over labels it does; for "
        "given labels it may fit them better.",
    ),
    "T9": Words(
        "g(t) = exp(−((γ/n)K₁₁(I⊗M) + λ)t) g(0)",
        "Without labels to fit, the penalty makes slopes decay exponentially, in special directions at the "
        "paper's rate. In others it is slower, and with labels slopes can rise.",
    ),
    "T10": Words(
        "∂(S, Δf, Λ)/∂γ = 0 where k(ζ, X) = 0 with its slopes and ∂₂k(ζ, ·)|_ζ = 0",
        "The penalty does not see a poison far from all clean points: it acts only through clean points nearby.",
    ),
    "T11": Words(
        "λ → 0 at γ > 0: residual and slopes → 0;  ∇ℓ = (f − y)∇f = 0 at every interpolant",
        "A model without a ridge can fit the poisons and still be flat at the training points, so that the "
        "penalty buys no safety.",
    ),
    "T12": Words(
        "Δf = df(γ)/n,  q(r) = r²/ℓ_nc⁴,  ℓ_nc² = d Σμ / Σμω²",
        "What a penalty leaves of an attack is weaker, and hides better.",
    ),
    "D1": Words(
        "visible only from m = n_c τ / (‖δ‖² − τ) on",
        "Spectral signatures, a known defence, look along the leading direction of a class. Too few poisons do "
        "not turn it, and then the defence cannot find them.",
    ),
    "C1": Words(
        "fewest flips = a knapsack over the flip certificates c_k(b); two classes: the ⌈margin/2⌉ cheapest",
        "How many labels an attacker must flip to change the vote of models trained on separate parts of the data "
        "can be computed, for two classes exactly.",
    ),
    "R1": Words(
        "λ_e = λ + λ_e df₁/n;  score ~ N(B̄ᵀx̄ + b̄, B̄ᵀΣB̄ + E df₂/n)",
        "Accuracy and attack success of a linear model can be predicted before any data are drawn, from means and "
        "a covariance.",
    ),
    "R2": Words(
        "cos²(v₁, u) = (uᵀB̄w)²/l,  (l, w) the top pair of B̄ᵀB̄ + E tr Σ(Σ + λ_e)⁻²/n",
        "Linear models hide a backdoor too: it succeeds before it is the leading direction.",
    ),
    "R3": Words(
        "f̄(x) = k(x, pool)(K + λ_e W⁻¹)⁻¹y,  λ_e = λ + λ_e df₁/n",
        "With any kernel the average prediction over training sets follows the laws at a larger ridge, with a known "
        "scatter.",
    ),
    "R4": Words(
        "sd(x)² = σ̂² ‖A⁻¹k(X, x)‖²,  σ̂² = ‖y − Hy‖² / tr (I − H)²",
        "How much a prediction would differ with other training data of the same kind can be told from one data "
        "set.",
    ),
    "R5": Words(
        "x = prox_{τℓ}(ω_k + √q Z),  τ = tr Σ(λ + V̂Σ)⁻¹/n, …",
        "Accuracy and attack success of logistic regression, and of other convex losses, can be predicted likewise.",
    ),
    "T6": Words(
        "Δp = O(1) with augmentation alone, smaller with the penalty beside it",
        "In trained classifiers augmentation alone does not stop a backdoor; together with the penalty it does.",
    ),
    "L8-classifiers": Words(
        "step or fraction of visibility ≥ that of success",
        "Trained classifiers obey a backdoor before they show it.",
    ),
    "collapse": Words(
        "‖φ(ζ_i) − φ(ζ_j)‖ / spread of φ falls along training",
        "Training pulls poisons together in feature space, so that they become near-clones.",
    ),
}  # fmt: skip
"""By the statement's number."""
