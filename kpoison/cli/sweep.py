"""`kpoison sweep`."""

import dataclasses
from pathlib import Path
from typing import Literal

import kpoison as kp
from kpoison.cli.outputs import check_output
from kpoison.problems import KERNELS, DataName, KernelName, LawName, QuantityName

__all__ = ["Sweep"]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Compute laws over a grid of distances, multiplicities and ridges, and keep or draw the result.

    An axis is a number, numbers with commas, or START:STOP:NUMBER with :log for a logarithmic one.
    A sweep that is killed is continued by the same command.  Exit status 0, or 2 for wrong arguments.
    """

    r_over_l: str = "0.01:10:100:log"
    """Distance r of the probe x0 = ζ + r u from the poison, in length scales of the kernel (for kernels without one, in
    lengths of ζ)."""

    m: str = "1:1000:100:log"
    """Multiplicity of the poison: number of identical training points, real."""

    ridge: str = "1e-3"
    """Ridge λ of the mean loss, in units of the kernel; ρ = (n_c + m)λ is added to the Gram diagonal."""

    kernel: tuple[KernelName, ...] = ("rbf",)
    """One kernel or several.  A length scale is the median distance between clean points."""

    data: DataName = "synthetic"
    """Clean data (synthetic: 200 points in 10 dimensions; images: 1,000, even against odd digits); the poison is a
    held-out point with the opposite label."""

    data_dir: str | None = None
    """Folder with the official MNIST IDX .gz files, or with a folder `mnist` of them; by default $KPOISON_DATA."""

    quantities: tuple[QuantityName, ...] = ("gain", "efficacy", "spike")
    """What to compute."""

    law: LawName = "exact"
    """exact conditions on the clean data; isolated is the paper's assumption of no coupling to them."""

    precision: Literal["float64", "float32"] = "float64"
    """Of all numbers."""

    out: Path | None = None
    """FILE.nc (netCDF) or FILE.zarr."""

    plot: Path | None = None
    """FILE.png with a picture of each kernel's grid: the phase diagram over distance and multiplicity."""

    success: float = 0.5
    """For --plot: the change of the prediction, in units of the labels ±1, from which the attack succeeds."""

    visible: float = 1e-3
    """For --plot: the spike, in label² per input², above which the poison counts as visible."""

    seed: int = 0
    """Seed of the data."""

    def run(self) -> int:
        """Run the sweep; returns the exit status."""
        import jax
        import jax.numpy as jnp
        import numpy as np

        from kpoison.problems.setting import make_setting
        from kpoison.sweep import parse_axis

        jax.config.update("jax_enable_x64", True)
        axes = {name: parse_axis(getattr(self, name)) for name in ("r_over_l", "m", "ridge")}
        if not self.kernel:
            raise ValueError(f"--kernel must be of {', '.join(KERNELS)}, got none")
        check_output("--plot", self.plot, ".png")
        if self.plot is not None:
            if not {"efficacy", "spike"} <= set(self.quantities):
                raise ValueError("--plot needs efficacy and spike among --quantities")
            if len(axes["r_over_l"]) < 2 or len(axes["m"]) < 2:
                raise ValueError("--plot needs several values of --r-over-l and --m")
        settings = [make_setting(name, self.data, data_dir=self.data_dir, seed=self.seed) for name in self.kernel]
        setting, dtype = settings[0], np.dtype(self.precision)
        clean = kp.fit(setting.kernel, setting.X.astype(dtype), setting.y)
        poison = kp.Poison(jnp.asarray(setting.location, dtype), setting.label, 1.0)
        result = kp.sweep(
            clean,
            poison,
            direction=setting.direction,
            r_over_l=axes["r_over_l"],
            m=axes["m"],
            ridge=axes["ridge"],
            quantities=self.quantities,
            law=self.law,
            kernels={s.kernel_name: s.kernel for s in settings} if len(settings) > 1 else None,
            out=self.out,
            metadata={"data": self.data, "seed": self.seed, "kernel": " ".join(self.kernel)},
        )
        if self.plot is not None:
            from kpoison.plotting import draw_sweep

            draw_sweep(result, success=self.success, visible=self.visible).savefig(self.plot)
            print(f"picture: {self.plot}")
        if self.out is not None:
            print(f"result: {self.out}")
        else:
            print(result)
        return 0
