"""`kpoison flow` and `kpoison tradeoff`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import tyro

import kpoison as kp
from kpoison.cli.outputs import check_output
from kpoison.problems import KERNELS_WITH_DERIVATIVES, DataName, KernelName

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from jaxtyping import Array
    from matplotlib.figure import Figure

__all__ = ["Flow", "Tradeoff"]

_KERNEL = f"""A kernel with derivatives, which the penalty needs: {", ".join(KERNELS_WITH_DERIVATIVES)}.  A length
scale is the median distance between clean points."""


class _Problem(NamedTuple):
    """Clean data, poison and triggered inputs x with their classes; M, held-out data and ℓ²."""

    clean: "kp.Posterior"
    poison: "kp.Poison"
    x: "Array"
    metric: "Array | None"
    labels: "Array"
    held_out: "tuple[Array, Array]"
    unit: float


@dataclasses.dataclass(frozen=True)
class _Penalised:
    """What both commands take."""

    m: float = 10.0
    """Multiplicity of the poison: number of identical training points, real."""

    r_over_l: float = 0.2
    """Distance of the triggered inputs from the poison, in length scales of the kernel (for kernels without one, in
    lengths of ζ)."""

    ridge: float = 1e-2
    """Ridge λ of the mean loss, in units of the kernel."""

    kernel: Annotated[KernelName, tyro.conf.arg(help=_KERNEL)] = "rbf"

    data: DataName = "synthetic"
    """Clean data (synthetic: in 10 dimensions; images: even against odd digits); the poison is a held-out point with
    the opposite label."""

    data_dir: str | None = None
    """Folder with the official MNIST IDX .gz files, or with a folder `mnist` of them; by default $KPOISON_DATA."""

    points: int = 40
    """Clean training points n.  Values and slopes make n(1 + min(n + 1, d)) unknowns, at most 12,000."""

    probes: int = 50
    """Triggered inputs, about the poison."""

    precision: Literal["float64", "float32"] = "float64"
    """Of all numbers."""

    out: Path | None = None
    """FILE.nc (netCDF) for every number."""

    plot: Path | None = None
    """FILE.png for a picture."""

    seed: int = 0
    """Seed of the data."""

    def _problem(self) -> _Problem:
        import jax
        import jax.numpy as jnp
        import numpy as np

        from kpoison.problems.setting import make_setting

        jax.config.update("jax_enable_x64", True)
        check_output("--plot", self.plot, ".png")
        check_output("--out", self.out, ".nc")
        if self.points < 2 or self.probes < 1:
            raise ValueError(f"--points must be >= 2 and --probes >= 1, got {self.points} and {self.probes}")
        setting, dtype = make_setting(self.kernel, self.data, data_dir=self.data_dir, seed=self.seed), self.precision
        if self.points >= len(setting.X):
            raise ValueError(f"--points must be below the {len(setting.X)} that there are, got {self.points}")
        X, y = setting.X[: self.points].astype(dtype), setting.y[: self.points].astype(dtype)
        others, classes = setting.X[self.points :].astype(dtype), np.where(setting.y[self.points :] > 0, 1.0, -1.0)
        zeta, unit = setting.location.astype(dtype), setting.length_scale**2
        generator = np.random.default_rng([self.seed, 5])
        around = generator.standard_normal((self.probes, X.shape[1])) / X.shape[1] ** 0.5
        moves = np.asarray(setting.direction)[None] + 0.5 * around
        x = zeta[None] + jnp.asarray(self.r_over_l * setting.length_scale * moves, dtype)
        metric = None
        if len(X) + 1 < X.shape[1] and setting.kernel.rotation_invariant:
            # Slopes at the training points lie in their span: penalised there, they are penalised altogether.
            basis = jnp.linalg.qr(jnp.concatenate([X, zeta[None]]).T)[0]
            metric = basis @ basis.T
        poison = kp.Poison(zeta, setting.label, self.m)
        labels = jnp.full(self.probes, -np.sign(setting.label))
        held_out = (others, jnp.asarray(classes, dtype))
        return _Problem(kp.fit(setting.kernel, X, y), poison, x, metric, labels, held_out, unit)

    def _compute(self, problem: _Problem, penalties: "np.ndarray", times: "np.ndarray") -> "xr.Dataset":
        result = kp.flow.tradeoff(
            problem.clean,
            problem.poison,
            problem.x,
            self.ridge,
            gradient_penalty=penalties * problem.unit,
            time=times,
            metric=problem.metric,
            labels=problem.labels,
            held_out=problem.held_out,
        )
        result.attrs |= {"data": self.data, "seed": self.seed, "kernel": self.kernel, "r_over_l": self.r_over_l,
                         "length_scale": problem.unit**0.5}  # fmt: skip
        return result

    def _keep(self, result: "xr.Dataset", figure: "Figure | None") -> int:
        if self.out is not None:
            result.to_netcdf(self.out, engine="h5netcdf")
            print(f"result: {self.out}")
        if self.plot is not None and figure is not None:
            figure.savefig(self.plot)
            print(f"picture: {self.plot}")
        if self.out is None:
            print(result)
        return 0


@dataclasses.dataclass(frozen=True)
class Flow(_Penalised):
    """Follow the poison along training, in closed form, for several gradient penalties (T2, T3).

    An axis is a number, numbers with commas, or START:STOP:NUMBER with :log for a logarithmic one.
    Exit status 0, or 2 for wrong arguments.
    """

    gradient_penalty: str = "0,0.01,0.1,1"
    """Penalties γ >= 0, in squared length scales of the kernel."""

    time: str = "0.1:1000:41:log"
    """Training times t of the gradient flow, for the mean loss: steps of gradient descent times the learning rate."""

    def run(self) -> int:
        """Compute, keep and draw; returns the exit status."""
        import numpy as np

        from kpoison.sweep import parse_axis

        times = parse_axis(self.time)
        if self.plot is not None and np.sum(np.isfinite(times) & (times > 0)) < 2:
            raise ValueError("--plot needs several finite values of --time above 0")
        problem = self._problem()
        result = self._compute(problem, parse_axis(self.gradient_penalty), times)
        return self._keep(result, None if self.plot is None else kp.plotting.draw_flow(result, unit=problem.unit))


@dataclasses.dataclass(frozen=True)
class Tradeoff(_Penalised):
    """What gradient penalties take from the attack, and what they cost in fit, for several training times (T4).

    An axis is a number, numbers with commas, or START:STOP:NUMBER with :log for a logarithmic one.
    Exit status 0, or 2 for wrong arguments.
    """

    gradient_penalty: str = "0.001:10:13:log"
    """Penalties γ >= 0, in squared length scales of the kernel; 0 is always added."""

    time: str = "10,100,inf"
    """Training times t of the gradient flow; inf is the end of training."""

    target: float | None = None
    """Also look for the smallest penalty that brings the largest |Δf| at the triggered inputs to this."""

    def run(self) -> int:
        """Compute, keep and draw; returns the exit status."""
        import numpy as np

        from kpoison.sweep import parse_axis

        penalties = np.union1d([0.0], parse_axis(self.gradient_penalty))
        if self.plot is not None and len(penalties) < 3:
            raise ValueError("--plot needs several values of --gradient-penalty above 0")
        problem = self._problem()
        result = self._compute(problem, penalties, parse_axis(self.time))
        if self.target is not None:
            choice = kp.flow.smallest_gradient_penalty(
                problem.clean, problem.poison, problem.x, self.ridge, self.target, metric=problem.metric
            )
            if np.isfinite(choice.gradient_penalty):
                before, after = float(choice.before.fit), float(choice.after.fit)
                gamma = choice.gradient_penalty / problem.unit
                print(f"smallest penalty with |Δf| <= {self.target:g}: γ = {gamma:.4g} ℓ²; the mean squared residual "
                      f"rises from {before:.4g} to {after:.4g}")  # fmt: skip
            else:
                print(f"no penalty brings |Δf| to {self.target:g}; the largest tried to {choice.value:.4g}")
        return self._keep(result, None if self.plot is None else kp.plotting.draw_tradeoff(result, unit=problem.unit))
