"""Finite-width networks trained with and without the poison, at several widths and seeds (N1, N2)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

import kpoison as kp
from kpoison import networks
from kpoison.networks.scaling import errors_about
from kpoison.statistics import t_half_width
from theory_checks.record import FALSE_ALARM, Comparison, Panel, Series, compare, curve

if TYPE_CHECKING:
    from theory_checks.setting import Setting

__all__ = [
    "CLUSTER",
    "FiniteWidth",
    "Networks",
    "compare_with_networks",
    "error_bars",
    "in_their_span",
    "rmse_slope",
    "without_next_order",
]

CLUSTER = 4
"""Number of locations of a cluster of poisons."""


@dataclasses.dataclass(frozen=True)
class Networks:
    """What the trained networks gave, for W widths, S seeds and q probes.

    Attributes:
        widths: shape (W,).
        clean: f_c at the probes, shape (W, S, q).
        efficacy: Δf, shape (W, S, q).
        gradient: ∇Δf, shape (W, S, q, d).
    """

    widths: np.ndarray
    clean: np.ndarray
    efficacy: np.ndarray
    gradient: np.ndarray

    @property
    def spike(self) -> np.ndarray:
        """‖∇Δf‖², shape (W, S, q)."""
        return np.sum(self.gradient**2, axis=-1)

    def panel(
        self, title: str, xlabel: str, ylabel: str, x: ArrayLike, law: ArrayLike, samples: np.ndarray, **scales: Any
    ) -> Panel:
        """The law as a line, and samples (W, S, x) of the widest networks with error bars."""
        series = [curve("law", "line", x, law), error_bars("networks", x, samples[-1])]
        return Panel(f"Networks of width {self.widths[-1]}{title}", xlabel, ylabel, series, **scales)


class FiniteWidth:
    """Networks matching a setting's NTK, on a few of its clean points and the same poison.

    The probes are ζ itself, then ζ + r u on a grid; trainings are done when first asked for and kept.
    """

    r_over_l = np.array([0.01, 0.1, 0.3, 1.0])

    def __init__(self, setting: "Setting"):
        quick = setting.scale == "quick"
        kernel = setting.kernel
        assert isinstance(kernel, kp.kernels.NTK)
        # Two hidden layers cost width² per step and would end at widths where O(1/width) still shows.
        kernel = kp.kernels.NTK(1, kernel.activation, kernel.weight_std, kernel.bias_std)
        number = min(12, len(setting.X))
        X, location, direction = in_their_span(setting.X[:number], setting.location, setting.direction)
        self.setting = dataclasses.replace(
            setting,
            kernel=kernel,
            data=f"{setting.data}, {number} points",
            X=X,
            y=setting.y[:number],
            location=location,
            direction=direction,
            length_scale=float(jnp.linalg.norm(location)),
            ridge=1e-1,
            counts=(2, 16) if quick else (2, 8, 32),
        )
        # The quick tolerance leaves errors of about 1e-5, a hundredth of the standard errors.
        # Three past steps need no more iterations than ten here, and less memory traffic.
        self.training = networks.Training(tolerance=1e-6 if quick else None, memory=3)
        self.widths = np.array([256, 1024, 4096] if quick else [256, 1024, 4096, 16384])
        self.seeds = 32 if quick else 64
        # Each statement about a penalty or a flow trains its own networks, and a flow takes ten times the gradients.
        self.penalised_widths = np.array([512, 2048, 8192]) if quick else self.widths
        self.penalised_seeds = 24 if quick else 64
        self.flow_widths = np.array([128, 512, 2048] if quick else [128, 512, 2048, 8192])
        # Of statements whose objective or derivative is a check's own.
        self.own_widths = np.array([64, 256, 1024] if quick else [128, 512, 2048])
        self.own_seeds = 16 if quick else 48
        self.integration = networks.Integration(tolerance=1e-4 if quick else None)
        self.probes = self.setting.probes(np.concatenate([[0.0], self.r_over_l]))

    def arguments(self) -> dict:
        """What identifies the networks in a report."""
        return {
            "network_hidden_layers": self.setting.kernel.hidden_layers,  # pyright: ignore
            "network_widths": self.widths.tolist(),
            "network_seeds": self.seeds,
            "network_ridge": self.setting.ridge,
            "network_n_c": len(self.setting.X),
            "network_tolerance": self.training.tolerance,
        }

    @property
    def kinks(self) -> bool:
        """Whether the activation has one, see `compare_with_networks`."""
        return self.setting.kernel.smoothness == 0

    @functools.cache  # noqa: B019 - the object lives as long as the run
    def clones(self, count: int) -> Networks:
        """Trained without and with `count` clones of ζ."""
        # As a cluster of CLUSTER locations of which one counts: then clones and clusters are one compiled program.
        setting = self.setting
        counts = jnp.zeros(CLUSTER).at[0].set(count)
        return self.train(kp.Poison(jnp.tile(setting.location, (CLUSTER, 1)), setting.label, counts))

    @property
    def middle(self) -> Networks:
        """Trained without and with the middle one of the counts."""
        return self.clones(self.setting.middle_count)

    def by_law(self, law: Callable[..., Array]) -> np.ndarray:
        """What a law says of them at every probe."""
        setting = self.setting
        return np.asarray(law(setting.clean, setting.poison(setting.middle_count), self.probes, setting.ridge))

    def train(self, poison: kp.Poison) -> Networks:
        """Trained without and with any poison; one compiled program per width."""
        return self._ensembles(self.widths, self.seeds, poison)

    @functools.cache  # noqa: B019 - the object lives as long as the run
    def penalised(self, count: int, penalty: float) -> Networks:
        """Trained at `penalised_widths` without and with `count` clones of ζ, both with (γ/2n) Σ ‖∇g(x_i)‖².

        Args:
            count: m.
            penalty: γ, in the squared unit of the inputs of `self.setting`.

        Raises:
            ValueError: for an activation with a kink.
        """
        poison = self.setting.poison(count)
        return self._ensembles(self.penalised_widths, self.penalised_seeds, poison, gradient_penalty=penalty)

    def _ensembles(self, widths: np.ndarray, seeds: int, poison: kp.Poison, **options: Any) -> Networks:
        setting = self.setting

        def run(architecture, keys):
            problem = setting.X, setting.y, poison, setting.ridge, self.probes
            return networks.ensemble(architecture, keys, *problem, training=self.training, **options)

        return Networks(widths, *self._each_width(widths, seeds, run))

    @functools.cache  # noqa: B019 - the object lives as long as the run
    def flow(self, count: int, times: tuple[float, ...], penalty: float = 0.0) -> tuple[Networks, ...]:
        """At each of some increasing times, the gradient flow at `flow_widths` without and with `count` clones of ζ."""
        setting = self.setting

        def run(architecture, keys):
            problem = setting.X, setting.y, setting.poison(count), setting.ridge, np.array(times), self.probes
            options = {"gradient_penalty": penalty, "integration": self.integration}
            return networks.flow_ensemble(architecture, keys, *problem, **options)

        clean, efficacy, gradient = self._each_width(self.flow_widths, self.seeds, run)
        return tuple(
            Networks(self.flow_widths, clean[:, :, i], efficacy[:, :, i], gradient[:, :, i]) for i in range(len(times))
        )

    def drawn(self, widths: np.ndarray, seeds: int, look: Callable[[networks.Network], Any]) -> Any:
        """What `look` finds out about each of so many random networks of each width: arrays (W, S, ...)."""
        X, kernel = self.setting.X, self.setting.kernel

        def run(architecture, keys):
            def one(key):
                return look(architecture.initialise(key, X.shape[1], None, X.dtype))

            return eqx.filter_jit(lambda keys: jax.lax.map(one, keys))(keys)

        found = [run(networks.Architecture.matching(kernel, width), keys)  # pyright: ignore
                 for width, keys in self._keys(widths, seeds)]  # fmt: skip
        return jax.tree.map(lambda *parts: np.stack(parts), *found)

    def _keys(self, widths: np.ndarray, seeds: int) -> Iterator[tuple[int, Array]]:
        """Each width with the random keys of its seeds."""
        for index, width in enumerate(widths.tolist()):
            yield width, jax.random.split(jax.random.fold_in(jax.random.key(self.setting.seed), index), seeds)

    def _each_width(
        self, widths: np.ndarray, seeds: int, run: Callable[[networks.Architecture, Array], Any]
    ) -> Iterator[np.ndarray]:
        """f_c, Δf and ∇Δf of an ensemble at each width, with a leading axis of widths."""
        found = []
        for width, keys in self._keys(widths, seeds):
            result = run(networks.Architecture.matching(self.setting.kernel, width), keys)  # pyright: ignore
            found.append([np.asarray(a) for a in (result.clean, result.efficacy, result.gradient)])
        return (np.stack(part) for part in zip(*found, strict=True))


def in_their_span(X: Array, location: Array, direction: Array) -> tuple[Array, Array, Array]:
    """The same points in coordinates of the space they span, scaled so that x·z/d and with it every NTK is unchanged.

    Training costs width · d; images have hundreds of coordinates, a few dozen points span only as many.
    """
    points = jnp.concatenate([X, location[None], direction[None]])
    number, d = points.shape
    if d <= number:
        return X, location, direction
    basis = jnp.linalg.qr(points.T)[0]
    points = points @ basis * (number / d) ** 0.5
    return points[:-2], points[-2], points[-1] / jnp.linalg.norm(points[-1])


def compare_with_networks(
    quantity: str, law: np.ndarray, samples: np.ndarray, widths: np.ndarray, *, kinks: bool = False
) -> Comparison:
    """The law (q,) against samples (W, S, q) of networks, allowing for sampling and for the bias of finite width.

    Sampling alone fails one comparison in a thousand (a Student quantile times the standard error).  The mean over
    seeds is law + O(1/width), so the law is compared with the intercept of a weighted line in 1/width.  Input
    gradients of ReLU networks (`kinks`) are slower and follow no one power: a fraction width^−1/2 of the neurons is
    trained across its kink.  There the law is compared with the mean at the largest width, and the bias left at it is
    bounded by the change from the width before: for a bias ∝ width^−p with p >= 1/2 and a step of 4 it is no larger.
    """
    law = np.atleast_1d(law)
    seeds = samples.shape[1]
    quantile = float(t_half_width(1.0, seeds, FALSE_ALARM / law.size))
    mean = samples.mean(axis=1)
    variance = samples.var(axis=1, ddof=1) / seeds
    if kinks:
        limit, error, bias = mean[-1], np.sqrt(variance[-1]), np.abs(mean[-1] - mean[-2])
        reason = f"mean at width {widths[-1]}: its change from width {widths[-2]}, and"
    else:
        x = (1 / widths)[:, None]
        weight = 1 / variance
        total = weight.sum(axis=0)
        centre = (weight * x).sum(axis=0) / total
        spread = (weight * (x - centre) ** 2).sum(axis=0)
        slope = (weight * (x - centre) * mean).sum(axis=0) / spread
        limit = (weight * mean).sum(axis=0) / total - slope * centre
        error, bias = np.sqrt(1 / total + centre**2 / spread), np.zeros_like(limit)
        reason = "limit of width → ∞:"
    return compare(
        quantity,
        "finite width",
        law,
        limit,
        quantile * error + bias,
        f"{reason} the standard error over {seeds} seeds times {quantile:.1f} "
        f"(sampling alone fails this once in {1 / FALSE_ALARM:.0f})",
    )


def without_next_order(law: np.ndarray, samples: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Samples (W, S, q) less the b/width that fits their means best, the law (q,) being their limit.

    An error width^−1/2 has a next order 1/width; for the spike, a squared norm, it is a bias that grows with the
    dimension and would bend the power law.  A wrong law leaves a constant error, which b/width cannot absorb.
    """
    x = (1 / widths)[:, None]
    weight = 1 / samples.var(axis=1, ddof=1)
    b = (weight * x * (samples.mean(axis=1) - law)).sum(axis=0) / (weight * x**2).sum(axis=0)
    return samples - (b * x)[:, None]


def rmse_slope(law: np.ndarray, samples: np.ndarray, widths: np.ndarray, confidence: float) -> networks.PowerLaw:
    """Power law in width of the root-mean-square error of samples (W, S, q) over seeds and probes."""
    return errors_about(law, list(samples), widths).power_law(confidence)


def error_bars(label: str, x: ArrayLike, samples: np.ndarray) -> Series:
    """Mean over seeds of samples (S, q) and one standard error either way, for a figure."""
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return curve(label, "errorbar", x, samples.mean(axis=0), error)
