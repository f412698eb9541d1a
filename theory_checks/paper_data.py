"""What real images say of the paper's statements: tightness, gain, efficacy, spike, overlap, and the penalty's cost."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

import kpoison as kp
from kpoison.problems.backdoor import Backdoor, Images, make_backdoor
from theory_checks.record import Panel, curve, two_curves

__all__ = ["Evaluated", "evaluate"]

_TRAIN, _TEST, _POISONS = 200, 100, 40
_RIDGE = 1e-3
_COUNTS = (1, 2, 5, 10, 20, 40)
_SMALL, _FEW, _PROBES = 24, 3, 3  # clean images, poisons and probes of a penalised fit
_PENALTIES = np.logspace(-5, 1, 7)  # in units of ℓ²; the first is next to none


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What the data say of one number.

    Attributes:
        findings: sentences.
        panels: pictures of them.
    """

    findings: list[str]
    panels: list[Panel] = dataclasses.field(default_factory=list)


def evaluate(data: Images, data_dir: str | None, seed: int, numbers: Sequence[str]) -> dict[str, Evaluated]:
    """By number of the paper: what images with a patch as backdoor say of it, with an RBF kernel.

    Of two classes, 0 and 1 of the data; the length scale is the median distance between clean images.

    Raises:
        ValueError, OSError: where the files are missing or wrong.
    """
    problem = _Problem(make_backdoor(data, train=_TRAIN, test=_TEST, poisons=_POISONS, data_dir=data_dir, seed=seed))
    found: dict[str, Evaluated] = {}
    for keys, function in _PARTS:
        if set(keys) & set(numbers):
            found |= {key: value for key, value in function(problem).items() if key in numbers}
    return found


class _Problem:
    """A backdoor with its kernel and clean posterior.

    Attributes:
        attack: images, poisons and probes.
        kernel, clean: RBF, and the posterior of the clean images.
        probes: triggered test images that are not of the target's class.
    """

    def __init__(self, attack: Backdoor):
        self.attack = attack
        self.kernel = kp.kernels.RBF(attack.median_distance)
        self.clean = kp.fit(self.kernel, attack.X, attack.y)
        self.probes = attack.triggered[np.asarray(attack.labels) != attack.target]

    @property
    def where(self) -> str:
        """For a sentence."""
        return f"{self.attack.data}, {len(self.attack.X)} clean images, patch, RBF, λ = {_RIDGE:g}"


def _assumption(problem: _Problem) -> dict[str, Evaluated]:
    """How tight the poisons are and how far clean data reach them."""
    P, X = problem.attack.locations, problem.attack.X
    target, reach = problem.attack.target_vector(), np.asarray(problem.kernel.pairwise(P, X))

    def tight(points: Array) -> tuple[float, float]:
        cluster = kp.Poison(points, jnp.broadcast_to(target, (len(points), *jnp.shape(target))), 1.0)
        found = kp.poison.tightness(problem.kernel, cluster)
        return float(found.mean), float(found.leading)

    mean, leading = tight(P)
    return {
        "3.1": Evaluated(
            [
                f"{problem.where}, {len(P)} poisons: 1ᵀK_PP1/(m tr K_PP) = {mean:.3f} and "
                f"λ₁(K_PP)/tr K_PP = {leading:.3f}, both 1 for clones (as many clean images: "
                f"{tight(X[: len(P)])[0]:.3f}); k(ζ, x)/k(ζ, ζ) of the nearest clean image "
                f"{np.median(reach.max(axis=1)):.3f} in the median, of all {reach.mean():.3f} on average, 0 in "
                "the assumption"
            ]
        )
    }


def _laws(problem: _Problem) -> dict[str, Evaluated]:
    """Exact and isolated gain, efficacy and spike, and what the trigger's direction has of the leading eigenvector."""
    attack, clean, probes = problem.attack, problem.clean, problem.probes
    one = kp.Poison(attack.locations[0], attack.target_vector(), float(_POISONS))
    gains = [float(kp.gain(clean, one, _RIDGE, law)) for law in ("exact", "isolated")]
    rows = {name: [] for name in ("Δf", "isolated Δf", "Λ", "cos²", "success", "visible")}
    for count in _COUNTS:
        poison = attack.poison(count)
        # Of the clean predictor at the ρ of the poisoned one.
        same = (len(attack.X) + count) * _RIDGE / len(attack.X)
        moved = kp.efficacy(clean, poison, probes, _RIDGE)
        rows["Δf"].append(float(jnp.mean(jnp.abs(moved))))
        rows["isolated Δf"].append(float(jnp.mean(jnp.abs(kp.efficacy(clean, poison, probes, _RIDGE, "isolated")))))
        bend = np.asarray(kp.efficacy_gradient(clean, poison, probes, _RIDGE))
        own = np.asarray(kp.curvature.input_gradients(kp.predictor(clean, same), probes)).reshape(bend.shape)
        spike = np.sum(bend**2, axis=1)
        rows["Λ"].append(float(np.mean(spike)))
        rows["visible"].append(float(np.mean(spike >= np.sum(own**2, axis=1))))
        # Of the input Fisher matrix over triggered images.
        leading = np.linalg.svd(bend + own, full_matrices=False)[2][0]
        rows["cos²"].append(float(leading @ np.ravel(attack.direction)) ** 2)
        scores = attack.scores(kp.predict(clean, probes, same) + moved)
        rows["success"].append(float(jnp.mean(jnp.argmax(scores, axis=1) == attack.target)))
    last = {name: values[-1] for name, values in rows.items()}
    ratio = last["Λ"] / last["Δf"] ** 2
    null = 1 / attack.direction.size
    shares = zip(_COUNTS, rows["success"], rows["visible"], strict=True)
    counts = ", ".join(f"{count}: {success:.2f} and {visible:.2f}" for count, success, visible in shares)
    return {
        "3.2": Evaluated(
            [f"{problem.where}: S of {_POISONS} clones {gains[0]:.4g}, by the isolated law {gains[1]:.4g}"]
        ),
        "3.3": Evaluated(
            [
                f"{problem.where}, {_POISONS} triggered images: mean |Δf| at triggered test images {last['Δf']:.3g}, "
                f"by the isolated law {last['isolated Δf']:.3g}"
            ],
            [
                two_curves(
                    f"Efficacy at triggered images, {attack.data}",
                    ("poisons", _COUNTS),
                    "mean |Δf|",
                    ("law, exact", rows["Δf"]),
                    ("law, isolated", rows["isolated Δf"]),
                )
            ],
        ),
        "3.4": Evaluated(
            [
                f"{problem.where}: mean spike {last['Λ']:.3g}, over the squared mean efficacy {ratio:.3g}; cos² of the "
                f"leading eigenvector of F with the trigger {rows['cos²'][0]:.2f} with {_COUNTS[0]} poison, "
                f"{last['cos²']:.2f} with {_POISONS} (a random direction: {null:.2g})"
            ],
            [
                two_curves(
                    f"Spike and overlap, {attack.data}",
                    ("poisons", _COUNTS),
                    "Λ; cos²",
                    ("mean spike Λ", rows["Λ"]),
                    ("cos² with the trigger", rows["cos²"]),
                )
            ],
        ),
        "3.5": Evaluated(
            [
                f"{problem.where}: share of triggered images that are given the target, and share at which the spike "
                f"exceeds the clean predictor's own slope, by number of poisons: {counts}"
            ],
            [
                two_curves(
                    f"Success and visibility, {problem.attack.data}",
                    ("poisons", _COUNTS),
                    "share of triggered images",
                    ("given the target", rows["success"]),
                    ("spike above the clean slope", rows["visible"]),
                    yscale="linear",
                )
            ],
        ),
    }


def _near(problem: _Problem) -> dict[str, Evaluated]:
    """How far the near-clone regime goes before coupling ends it."""
    attack, kernel = problem.attack, problem.kernel
    poison = kp.Poison(attack.locations[0], attack.target_vector(), float(_POISONS))
    floor = float(kp.coupling_floor(problem.clean, poison, _RIDGE))
    ell = float(jnp.asarray(kernel.length_scale))
    return {
        "3.7": Evaluated(
            [
                f"{problem.where}: q ends at the coupling floor {floor:.3g}, where the isolated law r²/ℓ⁴ is at "
                f"r = {floor**0.5 * ell:.2g} ℓ"
            ]
        )
    }


def _penalty(problem: _Problem) -> dict[str, Evaluated]:
    """Degrees of freedom, residual and slopes of the poisoned predictor against γ, on few images."""
    attack = problem.attack
    order = [attack.X[:_SMALL], attack.locations[:_FEW], problem.probes[:_PROBES]]
    X, Z, probes = np.split(_in_span(jnp.concatenate(order)), [_SMALL, _SMALL + _FEW])
    ell = float(jnp.asarray(problem.kernel.length_scale))
    clean = kp.fit(problem.kernel, X, attack.y[:_SMALL])
    cluster = kp.Poison(Z, jnp.full(_FEW, attack.target_vector()), 1.0)
    found = np.array([_penalised(clean, cluster, jnp.asarray(probes), penalty * ell**2) for penalty in _PENALTIES]).T
    degrees, fit, objective, energy, efficacy = found
    where = f"{attack.data}, {_SMALL} clean and {_FEW} triggered images, RBF, λ = {_RIDGE:g}"
    steps = f"γ = {', '.join(f'{penalty:g}' for penalty in _PENALTIES)} ℓ²"
    residual = "rises" if np.all(np.diff(fit) > 0) else "does not rise throughout"
    return {
        "3.9": Evaluated(
            [
                f"{where}: df = {_numbers(degrees)} at {steps}; the mean squared residual {residual} here: "
                f"{_numbers(fit)}"
            ],
            [
                Panel(
                    f"Degrees of freedom, {attack.data}",
                    "γ/ℓ²",
                    "over its first value",
                    [
                        curve("degrees of freedom", "line", _PENALTIES, degrees / degrees[0]),
                        curve("fit + λ‖f‖²", "dashed", _PENALTIES, objective / objective[0]),
                        curve("mean squared residual", "dots", _PENALTIES, fit / fit[0]),
                    ],
                )
            ],
        ),
        "objective": Evaluated([f"{where}: mean |Δf| at triggered test images {_numbers(efficacy)} at {steps}"]),
        "3.12": Evaluated(
            [f"{where}: tr F over the training points, which alone cannot rise with γ, {_numbers(energy)} at {steps}"]
        ),
    }


def _penalised(clean: kp.Posterior, poison: kp.Poison, probes: Array, penalty: float) -> list[Array]:
    """Degrees of freedom, residual, A, B, and mean |Δf| at probes."""
    fitted = kp.fit(clean.kernel, clean.X, clean.y, gradient_penalty=penalty)
    parts = kp.flow.energies(fitted, _RIDGE, poison)
    return [
        kp.degrees_of_freedom(fitted, _RIDGE, poison),
        parts.fit,
        parts.unpenalised(_RIDGE),
        parts.penalty,
        jnp.mean(jnp.abs(kp.efficacy(fitted, poison, probes, _RIDGE))),
    ]


def _in_span(points: Array) -> np.ndarray:
    """The same distances in as many coordinates as there are points, which span the slopes of a stationary kernel."""
    found = np.asarray(points)
    return found if found.shape[1] <= len(found) else found @ np.linalg.qr(found.T)[0]


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


_PARTS: tuple[tuple[tuple[str, ...], Callable[[_Problem], dict[str, Evaluated]]], ...] = (
    (("3.1",), _assumption),
    (("3.2", "3.3", "3.4", "3.5"), _laws),
    (("3.7",), _near),
    (("objective", "3.9", "3.12"), _penalty),
)
