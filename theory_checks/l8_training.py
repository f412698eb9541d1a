"""L8 as training proceeds: a backdoor's success and visibility in finite networks, and in the kernel they tend to."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import kpoison as kp
from kpoison.laws import Predictor
from kpoison.networks import Architecture, Centred, Network
from kpoison.problems.backdoor import Backdoor, Outcome, make_backdoor, outputs
from kpoison.ridge import KernelExpansion, Representers
from theory_checks.catalogue import STATEMENTS
from theory_checks.finite_width import compare_with_networks, error_bars
from theory_checks.record import Panel, Record, curve
from theory_checks.setting import KERNELS, Laws, Setting

__all__ = ["check"]

_COUNTS = (1, 5, 30)
_FRACTION = 0.1
_RIDGE = 1e-3
_COMPARED = 4  # of the last snapshots


class _Problem(eqx.Module):
    """Gradient descent on (1/2n) Σ w ‖g − y‖² + (λ/2) ‖θ − θ0‖², looked at after some numbers of steps.

    Attributes:
        points, targets, weights: distinct training points, poisons last.
        rate: learning rate.
        gaps: steps from one snapshot to the next.
    """

    points: Array
    targets: Array
    weights: Array
    rate: Array
    gaps: Array

    @classmethod
    def of(cls, kernel: kp.kernels.Kernel, backdoor: Backdoor, count: int, steps: np.ndarray) -> "_Problem":
        points = jnp.concatenate([backdoor.X, backdoor.locations])
        label = jnp.full(len(backdoor.locations), backdoor.target_vector())
        weights = jnp.concatenate([jnp.ones(len(backdoor.X)), backdoor.poison(count).count])
        # As large as all counts allow: the largest eigenvalue of K/n with every poison.
        rate = len(points) / jnp.linalg.norm(kernel(points), 2)
        return cls(points, jnp.concatenate([backdoor.y, label]), weights, rate, jnp.diff(steps, prepend=0))

    @property
    def share(self) -> Array:
        """w/n."""
        return self.weights / jnp.sum(self.weights)


@eqx.filter_jit
def _dual_coefficients(problem: _Problem, gram: Array) -> Array:
    """Of infinitely wide networks, at every snapshot: θ − θ0 = Σ αᵢ ∇f(xᵢ) throughout, g = Kα."""

    def step(_, alpha):
        pull = problem.share * (gram @ alpha - problem.targets)
        return alpha - problem.rate * (pull + _RIDGE * alpha)

    def snapshot(alpha, gap):
        alpha = jax.lax.fori_loop(0, gap, step, alpha)
        return alpha, alpha

    return jax.lax.scan(snapshot, jnp.zeros_like(problem.targets), problem.gaps)[1]


@eqx.filter_jit
def _trained(problem: _Problem, initial: Network):
    """Parameters of a network at every snapshot."""
    goal, start = initial.outputs(problem.points) + problem.targets, initial.parameters

    def with_parameters(parameters) -> Network:
        return eqx.tree_at(lambda net: net.parameters, initial, parameters)

    def loss(parameters):
        return 0.5 * jnp.sum(problem.share * (with_parameters(parameters).outputs(problem.points) - goal) ** 2)

    def step(_, parameters):
        slopes = jax.grad(loss)(parameters)
        return jax.tree.map(lambda p, s, g: p - problem.rate * (g + _RIDGE * (p - s)), parameters, start, slopes)

    def snapshot(parameters, gap):
        parameters = jax.lax.fori_loop(0, gap, step, parameters)
        return parameters, parameters

    return jax.lax.scan(snapshot, start, problem.gaps)[1]


@dataclasses.dataclass(frozen=True)
class _Course:
    """One training run: at every snapshot the clean and the poisoned predictor, judged; arrays of shape (snapshots,).

    Attributes:
        success: attack success rate.
        margin: mean of y_t g over triggered images that are not of the target class.
        eigenvalue: the largest of the input Fisher matrix.
        over_edge: the same over the edge of the clean run.
        alignment: of its eigenvector with the trigger.
    """

    success: np.ndarray
    margin: np.ndarray
    eigenvalue: np.ndarray
    over_edge: np.ndarray
    alignment: np.ndarray

    @classmethod
    def of(cls, backdoor: Backdoor, clean: list, poisoned: list) -> "_Course":
        outcomes = [
            backdoor.judge(f, backdoor.clean_edge(reference), _FRACTION, k=1)
            for reference, f in zip(clean, poisoned, strict=True)
        ]
        others = np.asarray(backdoor.labels) != backdoor.target
        margins = [float(jnp.mean(outputs(f, backdoor.triggered[others]))) for f in poisoned]

        def each(value) -> np.ndarray:
            return np.array([float(value(outcome)) for outcome in outcomes])

        def over_edge(outcome: Outcome) -> float:
            return float(outcome.visibility.eigenvalue / outcome.visibility.edge)

        return cls(
            each(lambda o: o.success),
            float(np.asarray(backdoor.target_vector())) * np.array(margins),
            each(lambda o: o.visibility.eigenvalue),
            each(over_edge),
            each(lambda o: o.visibility.alignment),
        )


def _by_kernel(kernel: kp.kernels.Kernel, problem: _Problem) -> list[Predictor]:
    alphas = _dual_coefficients(problem, kernel(problem.points))
    return [Predictor(KernelExpansion(Representers(kernel, problem.points), alpha[:, None]), True) for alpha in alphas]


def _by_network(initial: Network, problem: _Problem) -> list[Centred]:
    parameters = _trained(problem, initial)

    def at(i: int) -> Centred:
        chosen = jax.tree.map(lambda leaf: leaf[i], parameters)
        return Centred(initial, eqx.tree_at(lambda net: net.parameters, initial, chosen))

    return [at(i) for i in range(len(problem.gaps))]


def check(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Courses of training by kernel and by networks of several widths, for several poison counts."""
    kernel = KERNELS[setting.kernel_name](1.0)
    if setting.data == "synthetic" or not isinstance(kernel, kp.kernels.NTK):
        return None
    # One hidden layer, as in the other checks: two cost width² per step.
    kernel = kp.kernels.NTK(1, kernel.activation, kernel.weight_std, kernel.bias_std)
    quick, large = setting.scale == "quick", setting.data == "mnist"
    widths = np.array([128, 512] if quick else [256, 512, 1024])
    seeds = 8 if quick and large else 16
    steps = 2 ** np.arange(9 if quick else 12)
    backdoor = make_backdoor(
        setting.data,  # pyright: ignore[reportArgumentType]
        kp.Patch(3, (-4, -4), 1.0),
        train=200,
        test=100,
        poisons=max(_COUNTS),
        data_dir=setting.data_dir,
        seed=setting.seed,
    )
    problems = {count: _Problem.of(kernel, backdoor, count, steps) for count in (0, *_COUNTS)}
    clean = _by_kernel(kernel, problems[0])
    by_kernel = {count: _Course.of(backdoor, clean, _by_kernel(kernel, problems[count])) for count in _COUNTS}
    by_network: dict[int, list[list[_Course]]] = {count: [] for count in _COUNTS}
    for index, width in enumerate(widths.tolist()):
        architecture = Architecture.matching(kernel, width)
        for count in _COUNTS:
            by_network[count].append([])
        for key in jax.random.split(jax.random.fold_in(jax.random.key(setting.seed), index), seeds):
            initial = architecture.initialise(key, backdoor.X.shape[1])
            clean = _by_network(initial, problems[0])
            for count in _COUNTS:
                course = _Course.of(backdoor, clean, _by_network(initial, problems[count]))
                by_network[count][-1].append(course)

    def samples(count: int, name: str) -> np.ndarray:
        return np.array([[getattr(course, name) for course in same_width] for same_width in by_network[count]])

    comparisons = [
        compare_with_networks(
            f"{what} at steps {', '.join(map(str, steps[-_COMPARED:]))}, m = {count}",
            getattr(by_kernel[count], name)[-_COMPARED:],
            samples(count, name)[..., -_COMPARED:],
            widths,
            kinks=kernel.smoothness == 0,
        )
        for count in _COUNTS
        for name, what in (("margin", "mean of y_t g over triggered images"), ("eigenvalue", "λ₁"))
    ]
    findings = []
    for count in _COUNTS:
        law = by_kernel[count]
        last = [getattr(law, name)[-1] for name in ("success", "over_edge", "alignment")]
        measured = [samples(count, name)[-1, :, -1].mean() for name in ("success", "over_edge", "alignment")]
        findings.append(
            f"m = {count}: succeeds at step {_first(steps, law.success >= 0.5)}, shows at step "
            f"{_first(steps, law.over_edge > 1)}; in networks of width {widths[-1]} at "
            f"{_first(steps, samples(count, 'success')[-1].mean(axis=0) >= 0.5)} and "
            f"{_first(steps, samples(count, 'over_edge')[-1].mean(axis=0) > 1)}; in the end success, λ₁/edge and "
            f"alignment are {', '.join(f'{v:.2f}' for v in last)} by kernel, "
            f"{', '.join(f'{v:.2f}' for v in measured)} in networks"
        )
    return setting.record(
        STATEMENTS["L8-training"],
        comparisons,
        findings,
        _panels(steps, widths, by_kernel, samples),
        ridge=_RIDGE,
        fraction=_FRACTION,
        widths=widths.tolist(),
        seeds=seeds,
        counts=list(_COUNTS),
    )


def _first(steps: np.ndarray, true: np.ndarray) -> str:
    """The first step at which it is true."""
    return str(steps[np.argmax(true)]) if true.any() else "no step"


def _panels(steps: np.ndarray, widths: np.ndarray, by_kernel: dict[int, _Course], samples) -> list[Panel]:
    """Success and visibility, and the alignment, against the step; both at the end against m."""
    name = f"networks of width {widths[-1]}"
    count = _COUNTS[-1]
    law = by_kernel[count]
    counts = np.array(_COUNTS, float)

    def at_end(what: str) -> list[float]:
        return [float(getattr(by_kernel[c], what)[-1]) for c in _COUNTS]

    def networks_at_end(what: str) -> np.ndarray:
        return np.stack([samples(c, what)[-1, :, -1] for c in _COUNTS], axis=1)

    def logarithm(values: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(values, 1e-3))

    return [
        Panel(
            f"m = {count}: success and visibility",
            "step of gradient descent",
            "share, or log₁₀(λ₁/edge)",
            [
                curve("success, kernel", "line", steps, law.success),
                error_bars(f"success, {name}", steps, samples(count, "success")[-1]),
                curve("log₁₀(λ₁/edge), kernel", "dashed", steps, logarithm(law.over_edge)),
                error_bars(f"log₁₀(λ₁/edge), {name}", steps, logarithm(samples(count, "over_edge")[-1])),
            ],
            yscale="linear",
        ),
        Panel(
            "Alignment of the first eigenvector with the trigger",
            "step of gradient descent",
            "|⟨v₁, u⟩|",
            [
                series
                for c in (_COUNTS[0], count)
                for series in (
                    curve(f"m = {c}, kernel", "line", steps, by_kernel[c].alignment),
                    error_bars(f"m = {c}, networks", steps, samples(c, "alignment")[-1]),
                )
            ],
            yscale="linear",
        ),
        Panel(
            f"After {steps[-1]} steps",
            "multiplicity m",
            "share, or log₁₀(λ₁/edge)",
            [
                curve("success, kernel", "line", counts, at_end("success")),
                error_bars("success, networks", counts, networks_at_end("success")),
                curve("log₁₀(λ₁/edge), kernel", "dashed", counts, logarithm(np.array(at_end("over_edge")))),
                error_bars("log₁₀(λ₁/edge), networks", counts, logarithm(networks_at_end("over_edge"))),
            ],
            yscale="linear",
        ),
    ]
