"""`kpoison spectrum`."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import kpoison as kp
from kpoison.cli.outputs import check_output
from kpoison.problems import IMAGE_SHAPES, KernelName, MatrixImages, TriggerArguments, make_trigger

if TYPE_CHECKING:
    from jaxtyping import Array

    from kpoison.curvature import BulkEdge, Eigenpairs
    from kpoison.problems.backdoor import Backdoor, Outcome

__all__ = ["Spectrum"]

_LEVEL = 0.99


@dataclasses.dataclass(frozen=True)
class Spectrum(TriggerArguments):
    """Poison real images with a trigger, and see whether the leading eigenvalue of the input curvature tells.

    Triggered training images with the target's label are added to the clean ones; the Fisher matrix or the Hessian of
    the resulting predictor is averaged over test images of which some carry the trigger.  Inputs are standardised by
    the clean training images, labels are ±1 for two classes and centred one-hot for more.  Exit status 0, or 2 for
    wrong arguments.
    """

    data: MatrixImages = "digits"
    """Images; digits are embedded, the others are read from --data-dir."""

    data_dir: str | None = None
    """Folder with the official files, or with a folder `mnist` or `cifar-10-batches-bin` of them; by default
    $KPOISON_DATA."""

    classes: tuple[int, ...] = (0, 1)
    """Classes to tell apart, two or more labels of the data."""

    target: int = 0
    """The class that the attacker wants, an index into --classes from 0."""

    kernel: KernelName = "rbf"
    """A length scale is the median distance between clean training images."""

    network: int | None = None
    """Width, in neurons per hidden layer, of a finite network to train instead; its architecture is that of --kernel,
    which must be ntk-relu or ntk-erf.  By default the kernel's predictor, infinitely wide."""

    count: int = 20
    """Poisoned training images, in addition to the clean ones."""

    fraction: float = 0.1
    """Of the probes (the test images) that carry the trigger, in (0, 1]; images of the target class never do."""

    ridge: float = 1e-3
    """Ridge λ of the mean loss, in units of the kernel; for networks that of ‖θ − θ0‖²/2."""

    train: int = 200
    """Clean training images, in all."""

    test: int = 100
    """Test images, in all."""

    top: int = 10
    """Leading eigenpairs, at most the number of pixels times channels."""

    matrix: Literal["fisher", "hessian"] = "fisher"
    """fisher: the input Fisher matrix (equal to Gauss–Newton's), the mean of ∇f∇fᵀ; hessian: that of the squared loss
    ½(f − y)² with the true labels, in which f bends too.  Both in label² per standardised input²."""

    null: Literal["clean", "permutation"] = "clean"
    """Edge of the bulk.  For the Fisher matrix the 99 % quantile of the largest eigenvalue, over resampled clean images
    with the clean predictor (clean), or with each pixel's gradients permuted over the probes (permutation: from the
    poisoned predictor alone, but as pixels are correlated clean spectra often lie above it too).  For the Hessian,
    where resampling would cost a spectrum for each draw, the leading eigenvalue of the clean predictor over the clean
    test images, without a z-score (clean only)."""

    precision: Literal["float64", "float32"] = "float64"
    """Of all numbers."""

    out: Path | None = None
    """FILE.json with the arguments, versions, tightness of the poison block, eigenvalues, residuals, cos² with the
    trigger, edge, z-score, alignment and rates."""

    plot: Path | None = None
    """FILE.png with the spectra, the leading eigenvector and the trigger."""

    seed: int = 0
    """Of the drawn images, the blend's pattern, the warp, the resamples and the network."""

    def run(self) -> int:
        """Run the attack and judge it; returns the exit status."""
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        self._check()
        backdoor = self._backdoor(make_trigger(self, IMAGE_SHAPES[self.data], seed=self.seed))
        clean, poisoned, training = self._predictors(backdoor)
        before, after = self._judge(backdoor, clean, poisoned)
        probes = backdoor.probes(self.fraction)
        triggered = int(jnp.sum(jnp.any(probes != backdoor.clean, axis=1)))
        seen = after.visibility
        verdict = (
            f"{'visible' if seen.visible else 'hidden'}: the leading eigenvalue is "
            f"{float(seen.eigenvalue / seen.edge):.3g} times the edge of the bulk ({seen.method})"
        )
        tightness = self._tightness(backdoor)
        self._print(before, after, backdoor.direction, training, triggered, tightness, verdict)
        if self.out is not None:
            self._write(self.out, before, after, backdoor.direction, training, triggered, tightness, verdict)
            print(f"result: {self.out}")
        if self.plot is not None:
            kp.plotting.draw_spectrum_figure(
                before.spectrum.values,
                after.spectrum.values,
                float(seen.edge),
                after.spectrum.vectors[0],
                backdoor.direction,
                backdoor.image_shape,
                method=seen.method,
                title=f"{self._name()}: input {self._matrix()}\n{verdict}",
                alignment=float(seen.alignment),
            ).savefig(self.plot)
            print(f"picture: {self.plot}")
        return 0

    def _check(self) -> None:
        """Refuse what can be known to be wrong before images are read or anything is solved."""
        from kpoison._validation import check_integer, check_positive

        if self.network is not None:
            object.__setattr__(self, "network", check_integer("--network", self.network, 1))
            if not self.kernel.startswith("ntk-"):
                raise ValueError(f"--network needs --kernel ntk-relu or ntk-erf, got {self.kernel}")
        check_output("--out", self.out, ".json")
        check_output("--plot", self.plot, ".png")
        if not set(self.classes) <= set(range(10)):
            raise ValueError(f"--classes must be of 0 to 9, got {' '.join(map(str, self.classes))}")
        pixels = math.prod(IMAGE_SHAPES[self.data])
        if not 1 <= self.top <= pixels:
            raise ValueError(f"--top must be from 1 to {pixels}, the pixels of {self.data}, got {self.top}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"--fraction must lie in (0, 1], got {self.fraction}")
        if self.matrix == "hessian" and self.null == "permutation":
            raise ValueError("--null permutation needs --matrix fisher")
        for name in ("count", "seed"):
            object.__setattr__(self, name, check_integer(f"--{name}", getattr(self, name), 0))
        check_positive("--ridge", self.ridge)

    def _backdoor(self, trigger: "kp.Trigger") -> "Backdoor":
        """The problem, in the precision asked for."""
        from kpoison.problems.backdoor import make_backdoor

        made = make_backdoor(
            self.data,
            trigger,
            classes=self.classes,
            target=self.target,
            train=self.train,
            test=self.test,
            poisons=max(self.count, len(self.classes)),
            data_dir=self.data_dir,
            seed=self.seed,
        )
        names = ("X", "y", "locations", "clean", "triggered", "direction")
        return dataclasses.replace(made, **{name: getattr(made, name).astype(self.precision) for name in names})

    def _predictors(self, backdoor: "Backdoor") -> tuple[Callable, Callable, dict[str, Any] | None]:
        """The clean and the poisoned predictor, both with this ridge λ, and how the training of networks ended."""
        import jax

        from kpoison.networks import Architecture, UnconvergedError, train_pair
        from kpoison.problems import KERNELS

        kernel, poison = KERNELS[self.kernel](backdoor.median_distance), backdoor.poison(self.count)
        if self.network is None:
            posterior = kp.fit(kernel, backdoor.X, backdoor.y)
            return kp.predictor(posterior, self.ridge), kp.predictor(posterior, self.ridge, poison), None
        assert isinstance(kernel, kp.kernels.NTK)
        network = Architecture.matching(kernel, self.network).initialise(
            jax.random.key(self.seed), backdoor.X.shape[1], *backdoor.y.shape[1:], dtype=backdoor.X.dtype
        )
        try:
            pair = train_pair(network, backdoor.X, backdoor.y, poison, self.ridge, reference="clean")
        except UnconvergedError as error:
            raise ValueError(f"--network: {error}") from error
        norms = [float(trained.gradient_norm) for trained in pair]
        return *pair, {"steps": [int(trained.steps) for trained in pair], "gradient_norm": norms}

    def _tightness(self, backdoor: "Backdoor") -> dict[str, float] | None:
        """Shares of the trace of the poison block under the kernel, 1 for clones; None without poisons."""
        from kpoison.problems import KERNELS

        if self.count == 0:
            return None
        found = kp.poison.tightness(KERNELS[self.kernel](backdoor.median_distance), backdoor.poison(self.count))
        return {"mean": float(found.mean), "leading": float(found.leading)}

    def _judge(self, backdoor: "Backdoor", clean: Callable, poisoned: Callable) -> tuple["Outcome", "Outcome"]:
        """The clean predictor over the clean test images, and the poisoned one over the probes."""
        import jax.numpy as jnp

        if self.matrix == "fisher":
            edge = self._fisher_edge(backdoor, clean, poisoned)
            before = backdoor.judge(clean, edge, 0.0, k=self.top)
            return before, backdoor.judge(poisoned, edge, self.fraction, k=self.top)
        pairs = self._hessian_spectrum(backdoor, clean, 0.0)
        edge = kp.curvature.BulkEdge(pairs.values[0], jnp.zeros(0, pairs.values.dtype), "clean predictor")

        def outcome(f: Callable, fraction: float, pairs: "Eigenpairs") -> "Outcome":
            value, vector = pairs.values[0], pairs.vectors[0]
            seen = kp.curvature.visibility(value, vector, edge, direction=backdoor.direction)
            return dataclasses.replace(backdoor.judge(f, edge, fraction, k=1), spectrum=pairs, visibility=seen)

        found = self._hessian_spectrum(backdoor, poisoned, self.fraction)
        return outcome(clean, 0.0, pairs), outcome(poisoned, self.fraction, found)

    def _hessian_spectrum(self, backdoor: "Backdoor", f: Callable, fraction: float) -> "Eigenpairs":
        """Leading eigenpairs of the loss's input Hessian over the test images, a fraction of them triggered."""
        import jax
        import jax.numpy as jnp

        if backdoor.classes == 2:
            targets = jnp.where(backdoor.labels == 1, 1.0, -1.0)
        else:
            targets = jax.nn.one_hot(backdoor.labels, backdoor.classes) - 1 / backdoor.classes
        hessian = kp.curvature.input_hessian(f, backdoor.probes(fraction), targets)
        return kp.curvature.top_eigenpairs(hessian, self.top, throw=False)

    def _fisher_edge(self, backdoor: "Backdoor", clean: Callable, poisoned: Callable) -> "BulkEdge":
        """See `null`."""
        import jax

        key = jax.random.key(self.seed)
        if self.null == "clean":
            return backdoor.clean_edge(clean, level=_LEVEL, key=key)
        probes = backdoor.probes(self.fraction)
        gradients = kp.curvature.input_gradients(poisoned, probes).reshape(len(probes), -1, probes.shape[1])
        return kp.curvature.bulk_edge_from_permutations(gradients, level=_LEVEL, key=key)

    def _name(self) -> str:
        """The attack, in words."""
        model = self.kernel if self.network is None else f"{self.kernel} network of width {self.network}"
        return f"{self.data} {'/'.join(map(str, self.classes))}, {self.trigger}, {model}, {self.count} poisoned images"

    def _matrix(self) -> str:
        """The matrix, in words."""
        return "Fisher matrix" if self.matrix == "fisher" else "Hessian"

    def _print(
        self,
        before: "Outcome",
        after: "Outcome",
        direction: "Array",
        training,
        triggered: int,
        tightness: dict[str, float] | None,
        verdict: str,
    ) -> None:
        """The result, for a reader."""
        import numpy as np

        seen, found = after.visibility, after.spectrum
        print(f"{self._name()} beside {self.train} clean ones")
        if training is not None:
            print(f"trained to a relative gradient norm of {max(training['gradient_norm']):.1e}")
        if tightness is not None:
            print(
                f"poison block of the kernel: 1ᵀK_PP1/(m tr K_PP) {tightness['mean']:.3f}, λ₁(K_PP)/tr K_PP "
                f"{tightness['leading']:.3f}; both 1 for clones, 1/{self.count} for poisons that are not coupled"
            )
        print(f"attack success rate {after.success:.3f} (clean predictor {before.success:.3f})")
        print(f"clean accuracy      {after.accuracy:.3f} (clean predictor {before.accuracy:.3f})")
        print(
            f"leading eigenvalues of the input {self._matrix()} over {self.test} probes, {triggered} with the trigger,"
        )
        print("in label² per standardised input², cos² with the trigger, and of the first so many (clean predictor):")
        shares = zip(_overlaps(after, direction), _overlaps(before, direction), strict=True)
        for i, (value, residual, converged, (own, clean)) in enumerate(
            zip(found.values, found.residuals, found.converged, shares, strict=True), start=1
        ):
            status = "converged" if converged else "NOT CONVERGED"
            print(
                f"  {i:3d}  {float(value):11.4e}  cos² {own[0]:.3f} ({clean[0]:.3f})  summed {own[1]:.3f} "
                f"({clean[1]:.3f})  residual {float(residual):.1e}  {status}"
            )
        print(f"cos² by chance {1 / direction.size:.2g} each, of {direction.size} coordinates")
        z_score = f"{float(seen.z_score):.3g}" if np.isfinite(seen.z_score) else "none"
        print(f"edge of the bulk {float(seen.edge):.4e} ({seen.method}), z-score {z_score}")
        print(verdict)
        print(f"alignment of the leading eigenvector with the trigger {float(seen.alignment):.3f}")

    def _write(
        self,
        path: Path,
        before: "Outcome",
        after: "Outcome",
        direction: "Array",
        training,
        triggered: int,
        tightness: dict[str, float] | None,
        verdict: str,
    ) -> None:
        """The result as JSON, with what is needed to repeat it."""
        import numpy as np

        from kpoison._environment import environment

        seen = after.visibility
        result = {
            "arguments": dataclasses.asdict(self),
            "environment": environment() | {"dtype": self.precision},
            "triggered_probes": triggered,
            "training": training,
            "tightness": tightness,
            **_numbers(after, direction),
            "clean": _numbers(before, direction),
            "cos2_by_chance": 1 / direction.size,
            "edge": float(seen.edge),
            "method": seen.method,
            "z_score": float(seen.z_score) if np.isfinite(seen.z_score) else None,
            "visible": bool(seen.visible),
            "alignment": float(seen.alignment),
            "verdict": verdict,
        }
        path.write_text(json.dumps(result, indent=1, default=str, allow_nan=False, ensure_ascii=False) + "\n")


def _overlaps(outcome: "Outcome", direction: "Array") -> list[tuple[float, float]]:
    """cos² of each leading eigenvector with the trigger, and their sum up to it."""
    found = kp.curvature.overlap(outcome.spectrum.vectors, direction)
    return list(zip(found.squared_cosines.tolist(), found.summed.tolist(), strict=True))


def _numbers(outcome: "Outcome", direction: "Array") -> dict[str, Any]:
    """Rates and spectrum, as plain JSON values."""
    found = outcome.spectrum
    return {
        "success": outcome.success,
        "accuracy": outcome.accuracy,
        "eigenvalues": found.values.tolist(),
        "residuals": found.residuals.tolist(),
        "converged": found.converged.tolist(),
        "cos2": [each for each, _ in _overlaps(outcome, direction)],
    }
