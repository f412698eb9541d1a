"""`kpoison asymptotics`."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from kpoison.cli.outputs import made_folder
from kpoison.problems import MatrixImages

if TYPE_CHECKING:
    import numpy as np

    from kpoison.asymptotics import Backdoor
    from kpoison.plotting import LawPanel

__all__ = ["Asymptotics"]

Number = Literal["fixed", "binomial"]
FigureName = Literal["strength", "scores", "descent", "lag", "direction", "images", "count"]


@dataclasses.dataclass(frozen=True)
class Asymptotics:
    """What poisoned training sets do on average, before any are drawn: laws R1 to R3 beside simulated sets.

    Ridge regression on two classes of means ±1.5 e₂ with variances from 0.5 to 1.5 and a trigger along the least, e₁;
    kernel ridge regression on images.  Without --out it prints the worst difference of each figure.
    """

    figures: tuple[FigureName | Literal["all"], ...] = ("all",)
    """strength: success and accuracy against the training trigger's strength.  scores: mean and deviation of triggered
    scores against fraction, ridge and strength.  descent: without a ridge the error peaks at d = n.  lag: success and
    cos² of the leading direction.  direction: success by the trigger's direction.  images: R3 against predictors that
    are trained.  count: how the needed number of poisons grows with n."""

    dimension: int = 60
    """Inputs d of the linear model, at least 3."""

    fraction: float = 0.1
    """Poisons θ of all training points, in (0, 0.5)."""

    ridge: float = 0.1
    """Ridge λ of the linear model."""

    draws: int = 40
    """Simulated training sets for each dot, at least 2."""

    data: MatrixImages = "digits"
    """Of the figure images: two classes of digits (embedded) or, from --data-dir, of MNIST (3 and 8) or CIFAR-10
    (airplane and ship)."""

    data_dir: str | None = None
    """Folder with the official files, or with a folder `mnist` or `cifar-10-batches-bin` of them; by default
    $KPOISON_DATA."""

    train: int | None = None
    """Clean images in the pool, of which a training set has half as many; by default 200 digits, else 600."""

    out: Path | None = None
    """Folder for one PNG per figure and numbers.json."""

    seed: int = 0
    """Of everything that is drawn."""

    def run(self) -> int:
        """Compute, compare and draw; returns the exit status."""
        import jax

        from kpoison._validation import check_fraction, check_integer, check_positive

        jax.config.update("jax_enable_x64", True)
        for name, least in (("dimension", 3), ("draws", 2), ("seed", 0)):
            object.__setattr__(self, name, check_integer(f"--{name}", getattr(self, name), least))
        check_positive("--ridge", self.ridge)
        if check_fraction("--fraction", self.fraction) >= 0.5:
            raise ValueError(f"--fraction must lie in (0, 0.5), got {self.fraction}")
        if self.train is not None:
            object.__setattr__(self, "train", check_integer("--train", self.train, 20))
        made_folder("--out", self.out)
        makers = self._makers()
        names = tuple(makers) if "all" in self.figures else self.figures
        numbers: dict[str, Any] = {}
        for name in dict.fromkeys(names):
            panels = makers[name]()
            numbers[name] = [_as_json(panel) for panel in panels]
            for panel in panels:
                print(f"{name}: {panel.title}: {_difference(panel)}")
            if self.out is not None:
                from kpoison.plotting import draw_laws

                draw_laws(panels).savefig(self.out / f"{name}.png")
                print(f"picture: {self.out / name}.png")
        if self.out is not None:
            path = self.out / "numbers.json"
            kept = {"arguments": dataclasses.asdict(self), "figures": numbers}
            path.write_text(json.dumps(kept, default=str, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
            print(f"numbers: {path}")
        return 0

    def _makers(self) -> "dict[str, Callable[[], list[LawPanel]]]":
        return {
            "strength": self._strength,
            "scores": self._scores,
            "descent": self._descent,
            "lag": self._lag,
            "direction": self._direction,
            "images": self._images,
            "count": self._count,
        }

    def _attack(self, fraction: float, strength: float, direction: "np.ndarray | None" = None) -> "Backdoor":
        """Test triggers have the strength 2."""
        import numpy as np

        from kpoison.asymptotics import backdoor_mixture

        axes = np.eye(self.dimension)
        u = axes[0] if direction is None else direction
        variances = np.linspace(0.5, 1.5, self.dimension)
        return backdoor_mixture(1.5 * axes[1], variances, u, fraction, strength, test_strength=2.0)

    def _law(self, attack: "Backdoor", n: float, ridge: float) -> dict[str, float]:
        import numpy as np

        from kpoison.asymptotics import ridge_regression

        model = ridge_regression(attack, n, ridge)
        scores = model.scores(attack.triggered.means)
        found = {
            "accuracy": model.accuracy(),
            "success": model.attack_success_rate(),
            "overlap": model.overlap(np.eye(self.dimension)[0]),
            "error": model.error,
            "score": scores.mean[0],
            "width": scores.covariance**0.5,
        }
        return {name: float(value) for name, value in found.items()}

    def _trained(self, attack: "Backdoor", n: int, ridge: float, number: int) -> "dict[str, np.ndarray]":
        import numpy as np

        from kpoison.asymptotics._simulation import simulated_ridge_regression

        return simulated_ridge_regression(attack, n, ridge, self.draws, (self.seed, number), np.eye(self.dimension)[0])

    def _curves(
        self,
        label: str,
        colour: int,
        name: str,
        lines: "Sequence[tuple[float, Backdoor, float, float]]",
        dots: "Sequence[tuple[float, Backdoor, int, float]]",
    ) -> "list[Any]":
        """A law's line and its dots, at (x, attack, n, λ)."""
        from kpoison.plotting import LawCurve

        lines = sorted({at[0]: at for at in [*lines, *dots]}.values(), key=lambda at: at[0])
        law, x = [self._law(*at[1:]) for at in lines], [at[0] for at in lines]
        band = [at["width"] for at in law] if name == "score" else None
        curves = [LawCurve(label, x, [at[name] for at in law], band, "law", colour)]
        if dots:
            means, spreads = zip(*(self._dot(name, *at[1:], i) for i, at in enumerate(dots)), strict=True)
            said = "trained, ± standard error" if name != "score" else "trained, ± deviation"
            curves.append(LawCurve(said, [at[0] for at in dots], means, spreads, "dots", colour))
        return curves

    def _dot(self, name: str, attack: "Backdoor", n: int, ridge: float, number: int) -> tuple[float, float]:
        """Mean over training sets, and its standard error; of scores their deviation, over inputs and sets."""
        import numpy as np

        found = self._trained(attack, n, ridge, number)
        mean = float(np.mean(found[name]))
        if name == "score":
            return mean, float(np.sqrt(np.mean(found["width"] ** 2) + np.var(found["score"], ddof=1)))
        return mean, float(np.std(found[name], ddof=1) / self.draws**0.5)

    def _strength(self) -> "list[LawPanel]":
        import numpy as np

        from kpoison.plotting import LawPanel

        grid, few = np.geomspace(0.2, 30, 25), np.geomspace(0.3, 20, 6)
        panels = []
        for name, title in (("success", "attack success"), ("accuracy", "clean accuracy")):
            curves = []
            for colour, ratio in enumerate((0.05, 0.5, 2.0)):
                n = round(self.dimension / ratio)
                lines = [(float(a), self._attack(self.fraction, float(a)), n, self.ridge) for a in grid]
                dots = [(float(a), self._attack(self.fraction, float(a)), n, self.ridge) for a in few]
                curves += self._curves(f"law, d/n = {ratio:g}", colour, name, lines, dots)
            panels.append(LawPanel(f"{title.capitalize()}", "strength α of the training trigger", title, curves, "x"))
        return panels

    def _scores(self) -> "list[LawPanel]":
        import numpy as np

        from kpoison.plotting import LawPanel

        n, theta, ridge, alpha = 2 * self.dimension, self.fraction, self.ridge, 2.0
        settings = {
            "fraction θ of poisons": (np.linspace(0.02, 0.4, 13), lambda x: (self._attack(x, alpha), n, ridge), ""),
            "ridge λ": (np.geomspace(1e-3, 10, 13), lambda x: (self._attack(theta, alpha), n, x), "x"),
            "strength α": (np.geomspace(0.2, 20, 13), lambda x: (self._attack(theta, x), n, ridge), "x"),
        }
        panels = []
        for label, (grid, at, logarithmic) in settings.items():
            lines = [(float(x), *at(float(x))) for x in grid]
            curves = self._curves("law, ± deviation", 0, "score", lines, lines[::3])
            panels.append(LawPanel("Score of triggered inputs", label, "score", curves, logarithmic))
        return panels

    def _descent(self) -> "list[LawPanel]":
        import numpy as np

        from kpoison.plotting import LawPanel

        d, attack = self.dimension, self._attack(self.fraction, 3.0)
        ratios = np.concatenate([np.linspace(0.2, 0.96, 20), [1.0], np.linspace(1.04, 3, 24)])
        few = (0.3, 0.6, 0.8, 1.25, 1.6, 2.5)
        panels = []
        for name, title in (("error", "mean square error"), ("success", "attack success")):
            curves = []
            for colour, ridge in enumerate((0.0, 0.1)):
                lines = [(float(r), attack, d / r, ridge) for r in ratios]
                dots = [(d / round(d / r), attack, round(d / r), ridge) for r in few]
                curves += self._curves(f"law, λ = {ridge:g}", colour, name, lines, dots)
            panels.append(LawPanel(f"Double descent: {title}", "d/n", title, curves, "y" if name == "error" else ""))
        return panels

    def _lag(self) -> "list[LawPanel]":
        import numpy as np

        from kpoison.plotting import LawPanel

        n, grid = 2 * self.dimension, np.geomspace(0.01, 0.4, 25)
        lines = [(float(x), self._attack(float(x), 2.0), n, self.ridge) for x in grid]
        dots = [(float(x), self._attack(float(x), 2.0), n, self.ridge) for x in (0.025, 0.05, 0.1, 0.2, 0.4)]
        curves = [
            curve
            for colour, (name, label) in enumerate((("success", "success"), ("overlap", "cos² with the trigger")))
            for curve in self._curves(f"law, {label}", colour, name, lines, dots)
        ]
        title = "A linear model lags, too"
        return [LawPanel(title, "fraction θ of poisons", "success, cos²", curves, "x", (0, 1.03))]

    def _direction(self) -> "list[LawPanel]":
        import numpy as np

        from kpoison.plotting import LawPanel

        n, axes, strength = 2 * self.dimension, np.eye(self.dimension), 2.0

        def tilted(degrees: float) -> "Backdoor":
            angle = np.deg2rad(degrees)
            return self._attack(self.fraction, strength, np.cos(angle) * axes[0] + np.sin(angle) * axes[1])

        lines = [(float(x), tilted(float(x)), n, self.ridge) for x in np.linspace(-90, 90, 25)]
        around = self._curves("law", 0, "success", lines, lines[::4])
        variances, eigen = np.linspace(0.5, 1.5, self.dimension), [0, *range(2, self.dimension)]
        along = [(float(variances[k]), self._attack(self.fraction, strength, axes[k]), n, self.ridge) for k in eigen]
        of_axes = self._curves("law", 0, "success", along, along[:: max(1, self.dimension // 6)])
        return [
            LawPanel("Across the means", "variance of the data along the trigger", "attack success", of_axes),
            LawPanel("Tilted to the target's mean", "angle from the least axis, degrees", "attack success", around),
        ]

    def _count(self) -> "list[LawPanel]":
        import numpy as np

        from kpoison.asymptotics import needed_poison_fraction
        from kpoison.plotting import LawCurve, LawPanel

        axes, numbers = np.eye(self.dimension), np.geomspace(200, 3200, 5).round()
        panels = []
        for title, ridge_of in (("nλ = 5", lambda n: 5 / n), ("λ = 0.1", lambda _: 0.1)):
            curves = []
            for colour, sigma in enumerate((0.0, 0.03, 0.1, 0.5)):
                variances = np.ones(self.dimension)
                variances[0] = sigma**2
                needed = [
                    n * float(needed_poison_fraction(1.5 * axes[1], variances, axes[0], 2.0, 0.5, n, ridge_of(n)).value)
                    for n in numbers
                ]
                slope = np.polyfit(np.log(numbers), np.log(needed), 1)[0]
                curves.append(LawCurve(f"σ_u = {sigma:g}: exponent {slope:.2f}", numbers, needed, None, "law", colour))
            panels.append(
                LawPanel(f"Poisons for a success of ½, {title}", "training points n", "poisons", curves, "xy")
            )
        return panels

    def _images(self) -> "list[LawPanel]":
        import numpy as np

        import kpoison as kp
        from kpoison.plotting import LawCurve, LawPanel
        from kpoison.problems.backdoor import make_backdoor

        classes = {"digits": (8, 3), "mnist": (8, 3), "cifar10": (8, 0)}[self.data]
        size = (200 if self.data == "digits" else 600) if self.train is None else self.train
        poisons = max(2, size // 3)
        made = make_backdoor(
            self.data, classes=classes, target=1, train=size, test=100, poisons=poisons, data_dir=self.data_dir,
            seed=self.seed,
        )  # fmt: skip
        x = np.asarray(made.triggered)[np.asarray(made.labels) != made.target]
        points, own = np.concatenate([made.X, made.locations, x]), len(made.locations)
        K = np.asarray(kp.kernels.RBF(made.median_distance)(points))
        y = np.concatenate([np.asarray(made.y), np.ones(own)])
        kernel, probes = kp.kernels.Precomputed(K), np.arange(size + own, len(points))
        n, ridge = size // 2, 1e-3
        counts = np.unique(np.maximum(np.round(np.array([0.01, 0.02, 0.04, 0.08, 0.16]) * n), 1).astype(int))
        generator = np.random.default_rng([self.seed, 6])
        curves = []
        for colour, number in enumerate(get_args(Number)):

            def law(m: float, number: Number = number) -> float:
                poison = kp.Poison(np.arange(size, size + own), 1.0, m / own)
                typical = kp.asymptotics.kernel_ridge(
                    kernel, np.arange(size), made.y, None, n, ridge, poison=poison, number=number
                )
                return float(typical.attack_success_rate(probes, 1))

            # A binomial number takes nine laws for each.
            between = np.sqrt(counts[1:] * counts[:-1]) if number == "fixed" else counts[:0]
            grid, mean, error = np.unique(np.concatenate([counts, between])), [], []
            for m in counts:
                rates = []
                for _ in range(self.draws):
                    drawn = m if number == "fixed" else generator.binomial(n, m / n)
                    places = np.concatenate(
                        [generator.integers(size, size=n - drawn), size + generator.integers(own, size=drawn)]
                    )
                    dual = np.linalg.solve(K[np.ix_(places, places)] + n * ridge * np.eye(n), y[places])
                    rates.append(np.mean(K[np.ix_(probes, places)] @ dual > 0))
                mean.append(float(np.mean(rates)))
                error.append(float(np.std(rates, ddof=1) / self.draws**0.5))
            laws = [law(float(m)) for m in grid]
            curves.append(LawCurve(f"law, {number} number", grid, laws, None, "law", colour))
            curves.append(LawCurve("trained, ± standard error", counts, mean, error, "dots", colour))
        data = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}[self.data]
        title = f"{data}, n = {n}, RBF kernel"
        return [LawPanel(title, "poisons in a training set", "attack success", curves, "x", (0, 1.03))]


def _difference(panel: "LawPanel") -> str:
    """The largest difference of dots from their law's line, in words."""
    import numpy as np

    laws = {curve.colour: curve for curve in panel.curves if curve.kind == "law"}
    gaps = [
        np.max(np.abs(np.asarray(curve.y) - np.interp(curve.x, laws[curve.colour].x, laws[curve.colour].y)))
        for curve in panel.curves
        if curve.kind == "dots"
    ]
    if gaps:
        return f"trained sets differ from the law by at most {max(gaps):.3g}"
    return "; ".join(curve.label for curve in panel.curves)


def _as_json(panel: "LawPanel") -> dict[str, Any]:
    """Plain values."""
    import numpy as np

    def plain(values: Any) -> list[float | None] | None:
        return None if values is None else [float(v) if np.isfinite(v) else None for v in np.asarray(values, float)]

    return {
        "title": panel.title,
        "x": panel.xlabel,
        "y": panel.ylabel,
        "curves": [
            {"label": c.label, "kind": c.kind, "x": plain(c.x), "y": plain(c.y), "spread": plain(c.spread)}
            for c in panel.curves
        ],
    }
