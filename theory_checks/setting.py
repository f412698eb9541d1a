"""On what a statement is checked: a problem, brute-force refits and finite networks of it, and the laws under test."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jax import Array

import kpoison as kp
from kpoison import defences
from kpoison.problems import KERNELS, DataName, setting
from kpoison.problems.setting import Scale
from theory_checks.catalogue import Statement
from theory_checks.finite_width import FiniteWidth
from theory_checks.record import Comparison, Panel, Record
from theory_checks.refit import Refitter

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["KERNELS", "Laws", "Scale", "Setting", "make_setting"]


@dataclasses.dataclass(frozen=True)
class Laws:
    """The laws under test; a test passes wrong ones to see the checks fail."""

    gain: Callable[..., Array] = kp.gain
    efficacy: Callable[..., Array] = kp.efficacy
    efficacy_gradient: Callable[..., Array] = kp.efficacy_gradient
    spike: Callable[..., Array] = kp.spike
    spike_components: Callable[..., tuple[Array, Array]] = kp.spike_components
    spike_efficacy_ratio: Callable[..., Array] = kp.spike_efficacy_ratio
    coupling_floor: Callable[..., Array] = kp.coupling_floor
    coupling_ratio: Callable[..., Array] = kp.coupling_ratio
    m_success: Callable[..., Array] = kp.m_success
    m_visible: Callable[..., Array] = kp.m_visible
    lag: Callable[..., Array] = kp.lag
    blind_radius: Callable[..., Array] = kp.blind_radius
    rbf_blind_radius: Callable[..., Array] = kp.laws.rbf_blind_radius
    needed_fraction: Callable[..., Array] = kp.laws.needed_fraction
    trigger_stiffness: Callable[..., Array] = kp.laws.trigger_stiffness
    backdoor_score: Callable[..., Array] = kp.laws.backdoor_score
    best_strength: Callable[..., Array] = kp.laws.best_strength
    smoothed_rbf_spike: "Callable[..., kp.curvature.SmoothedRBFSpike]" = kp.curvature.smoothed_rbf_spike
    smoothed_spike: "Callable[..., kp.curvature.SmoothedSpike]" = kp.curvature.smoothed_spike
    feature_effect: "Callable[..., kp.laws.FeatureEffect]" = kp.laws.feature_effect
    expected_poisoning: "Callable[..., kp.poison.ExpectedLoss]" = kp.poison.expected_poisoning
    predict: Callable[..., Array] = kp.predict
    predictor: "Callable[..., kp.laws.Predictor]" = kp.predictor
    degrees_of_freedom: Callable[..., Array] = kp.degrees_of_freedom  # pyright: ignore[reportAssignmentType]
    leave_one_out: Callable[..., Array] = kp.leave_one_out
    log_marginal_likelihood: Callable[..., Array] = kp.log_marginal_likelihood
    posterior_covariance: Callable[..., Array] = kp.posterior_covariance
    early_stopped: Callable[..., kp.StoppedPosterior] = kp.flow.early_stopped
    tradeoff: "Callable[..., xr.Dataset]" = kp.flow.tradeoff
    smallest_gradient_penalty: Callable[..., kp.flow.PenaltyChoice] = kp.flow.smallest_gradient_penalty
    near_clone_length_scale: Callable[..., Array] = kp.flow.near_clone_length_scale
    multiplier: Callable[..., Array] = kp.flow.multiplier
    effective_length_scale: Callable[..., Array] = kp.flow.effective_length_scale
    slope_contraction: Callable[..., Array] = kp.flow.slope_contraction
    restricted_degrees_of_freedom: Callable[..., Array] = kp.flow.restricted_degrees_of_freedom
    kernel_ridge: "Callable[..., kp.asymptotics.TypicalKernelRidge]" = kp.asymptotics.kernel_ridge
    redraw_deviation: Callable[..., Array] = kp.asymptotics.redraw_deviation
    efficacy_deviation: Callable[..., Array] = kp.asymptotics.efficacy_deviation
    ensemble_certificate: Callable[..., defences.EnsembleCertificate] = defences.ensemble_certificate
    predicted_visibility: Callable[..., defences.PredictedVisibility] = defences.predicted_visibility
    visible_count: Callable[..., Array] = defences.visible_count
    ridge_regression: Callable[..., Any] = kp.asymptotics.ridge_regression
    logistic_regression: Callable[..., Any] = kp.asymptotics.logistic_regression


@dataclasses.dataclass(frozen=True)
class Setting(setting.Setting):
    """A problem, with what its laws are compared with."""

    @functools.cached_property
    def refitter(self) -> Refitter:
        """Brute-force refits of this problem."""
        return Refitter(self.kernel, self.X, self.y)

    @functools.cached_property
    def networks(self) -> FiniteWidth | None:
        """Finite networks of this problem's NTK; None for other kernels."""
        return FiniteWidth(self) if isinstance(self.kernel, kp.kernels.NTK) else None

    @property
    def thorough(self) -> bool:
        """Whether laws are compared that others imply, too; not in a quick run on networks, whose programs are dear."""
        return self.scale == "full" or not isinstance(self.kernel, kp.kernels.NTK)

    def record(
        self,
        statement: Statement,
        comparisons: Sequence[Comparison],
        findings: Sequence[str] = (),
        panels: Sequence[Panel] = (),
        **more: Any,
    ) -> Record:
        """What a check on this setting found; `more` joins, or replaces, the arguments that repeat it."""
        return Record(
            statement,
            self.kernel_name,
            self.data,
            list(comparisons),
            list(findings),
            list(panels),
            self.arguments() | more,
        )

    def weak(self) -> "Setting":
        """With a tenth of targets that are drawn: else the signal's gradients drown any poison, which never shows."""
        return dataclasses.replace(self, y=0.1 * self.y) if self.data == "synthetic" else self

    def redrawn(self, seed: int) -> "Setting":
        """The same problem with other data, poison and direction."""
        data: DataName = self.data  # pyright: ignore[reportAssignmentType]
        return make_setting(self.kernel_name, data, scale=self.scale, data_dir=self.data_dir, seed=seed)


def make_setting(
    kernel: str, data: DataName = "synthetic", *, scale: Scale = "quick", data_dir: str | None = None, seed: int = 0
) -> Setting:
    """The standard problem for a kernel and a data set, see `kpoison.problems.setting.make_setting`."""
    made = setting.make_setting(kernel, data, scale=scale, data_dir=data_dir, seed=seed)
    return Setting(**{field.name: getattr(made, field.name) for field in dataclasses.fields(made)})
