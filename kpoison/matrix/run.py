"""The matrix: every attack against every defence, over seeds, kept attack by attack."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from kpoison._identity import hash_of
from kpoison._progress import progress_bar
from kpoison._validation import check_integer, check_name
from kpoison._version import __version__
from kpoison.matrix.attacks import ATTACK_OPTIONS, ATTACKS
from kpoison.matrix.defences import DEFENCE_OPTIONS, DEFENCES, leading_direction
from kpoison.matrix.defended import Defended, Outcome
from kpoison.matrix.problem import Problem, Settings, make_problem
from kpoison.matrix.refit import Case
from kpoison.resumable.chunked import ChunkedWork
from kpoison.resumable.storage import Pieces, Variable

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["KINDS", "attack_defence_matrix"]

_MOST_THREADS = 4  # each holds a few matrices of the training set

KINDS = ("victim", "poison", "difference", "eigenvector")
"""Pictures of an attack: a victim, a poison, what the attacker changed, the top eigenvector of the input gradients."""

_NUMBERS = {
    "success": "fraction of the victims that get what the attacker wants",
    "clean_accuracy": "fraction of the test images that are predicted right, and not rejected",
    "true_positive": "fraction of the poisons (of victims or classes, for a defence that judges these) suspected",
    "false_positive": "fraction of what is clean that is suspected",
    "auroc": "probability that a poison's score is above that of what is clean",
    "predicted_success": "success by the law, without a refit",
    "predicted_auroc": "AUROC by the law",
    "predicted_visible": "1 where the law says that the detector sees the attack, 0 where it is blind",
    "seconds": "wall-clock time; of no defence with that of the attack and of the Gram matrices",
}


def attack_defence_matrix(
    data: str = "digits",
    *,
    classes: int | Sequence[int] = 2,
    kernel: str = "rbf",
    attacks: Sequence[str] = tuple(ATTACKS),
    defences: Sequence[str] = tuple(DEFENCES),
    seeds: int = 5,
    train: int | None = None,
    test: int | None = None,
    fraction: float | int = 0.05,
    ridge: float | int = 1e-4,
    out: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> "xr.Dataset":
    """Run every attack against every defence, over seeds that draw images, attacks and defences anew.

    Measured numbers are those of predictors fitted by brute force to what a defence leaves; predicted ones come from
    the clean posterior and the laws, without a refit.  Attacks on a federation are not among them: its server has no
    data to look at, and its defences are the rules of `kpoison.attacks.federate`.

    Args:
        data: "digits", "mnist" or "cifar10".
        classes: 2 (the digits 3 and 8; of CIFAR cats and dogs), 10, or labels, of which the last is the target.
        kernel: "rbf", "laplace", "matern32", "matern52", "ntk-relu" or "ntk-erf"; the length scale is the median
            distance between clean training images.
        attacks: names of `ATTACKS`.
        defences: names of `DEFENCES`; "none" is always among them, and the first.
        seeds: how many, from 0 on.
        train: training images, drawn evenly; by default 500 for two classes, else 1,000, and of the digits fewer.
        test: images to judge by; by default 300, and of the digits fewer.
        fraction: poisons over training images.
        ridge: λ > 0 of the mean loss.
        out: FILE.nc or FILE.zarr.  Finished attacks are kept in FILE.parts, so that a killed run is continued by the
            same call.
        data_dir: folder of the official files; by default $KPOISON_DATA.
        progress: a progress bar; by default on a terminal and in a notebook.

    Returns:
        Variables over attack, defence and seed, NaN where a number has no meaning, and `picture` of the first seed over
        attack, kind, height, width (and channel, of coloured images).  Attributes hold what is needed to repeat it, and
        `assumes`, JSON {defence: text}.

    Raises:
        ValueError: naming the argument that does not fit, also for data with too few images of a class.
        FileNotFoundError: where there are no data.
        FileExistsError: where `out` holds something else.

    Calculations are in double precision, which must be switched on.
    """
    chosen_attacks, chosen_defences = _names("attacks", attacks, ATTACKS), _names("defences", defences, DEFENCES)
    if "none" in chosen_defences:
        chosen_defences.remove("none")
    settings = Settings.checked(data, classes, kernel, train, test, fraction, ridge, data_dir)
    seeds = check_integer("seeds", seeds, 1)
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError('precision must be double: jax.config.update("jax_enable_x64", True)')
    job = _Job(settings, chosen_attacks, ["none", *chosen_defences], seeds)
    bar = progress_bar(progress, unit="attack")
    return job.in_memory(bar) if out is None else job.to_disk(Path(out).expanduser(), bar)


def _names(name: str, given: Sequence[str], known: dict[str, Any]) -> list[str]:
    if isinstance(given, str) or not given:
        raise ValueError(f"{name} must be one or more names, got {given!r}")
    chosen = [check_name(name, each, tuple(known)) for each in given]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{name} must be different, got {', '.join(chosen)}")
    return chosen


class _Job(ChunkedWork):
    """One matrix: its chunks are the pairs of a seed and an attack, seed by seed."""

    title = "kpoison matrix"

    def __init__(self, settings: Settings, attacks: list[str], defences: list[str], seeds: int):
        self.settings, self.attacks, self.defences, self.seeds = settings, attacks, defences, seeds
        self.plan = {"chunks": seeds * len(attacks)}
        self._latest: tuple[Problem, Defended] | None = None

    def problem(self, seed: int) -> tuple[Problem, Defended]:
        """The problem of a seed, and what its defences share; the latest is kept."""
        if self._latest is None or self._latest[0].seed != seed:
            self._latest = None
            problem = make_problem(self.settings, seed)
            self._latest = problem, Defended(problem)
        return self._latest

    def chunks(self, plan: Mapping[str, int]) -> list[tuple[int, str]]:
        """Seed by seed, so that what is latest is used again."""
        return [(seed, attack) for seed in range(self.seeds) for attack in self.attacks]

    def compute(self, chunk: tuple[int, str]) -> dict[str, np.ndarray]:
        """Numbers of one attack against each defence, and for the first seed its pictures."""
        from threadpoolctl import threadpool_limits

        seed, attack = chunk
        start = time.perf_counter()
        problem, defended = self.problem(seed)

        def defend(name: str) -> tuple[Outcome, float]:
            begun = time.perf_counter()
            return DEFENCES[name](case, defended), time.perf_counter() - begun

        # Threads of LAPACK and OpenMP would wait for each other, which costs more than so few points.  OpenMP takes the
        # limit thread by thread.
        with (
            threadpool_limits(1),
            ThreadPoolExecutor(_side_by_side(), initializer=threadpool_limits, initargs=(1,)) as threads,
        ):
            case = Case(problem, ATTACKS[attack](problem))
            undefended = defend(self.defences[0])[0], time.perf_counter() - start
            _ = case.features  # of several defences: once, before they start
            # What takes long comes last in the table, and first here.
            others = [threads.submit(defend, name) for name in reversed(self.defences[1:])]
            try:
                found = [undefended, *(each.result() for each in reversed(others))]
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
            pictures = {"picture": _pictures(case)} if seed == 0 else {}
        outcomes, seconds = zip(*found, strict=True)
        arrays = {name: np.array([getattr(o, name) for o in outcomes]) for name in _NUMBERS if name != "seconds"}
        arrays |= {"seconds": np.array(seconds), "assumes": np.array([o.assumes for o in outcomes])}
        return arrays | pictures

    def manifest(self) -> dict[str, Any]:
        """Everything that determines the numbers."""
        import scipy
        import sklearn

        problem, settings = self.problem(0)[0], self.settings
        return {
            "kpoison_version": __version__,
            "jax_version": jax.__version__,
            "numpy_version": np.__version__,
            "scipy_version": scipy.__version__,
            "scikit_learn_version": sklearn.__version__,
            "dtype": str(problem.X.dtype),
            "attack_options": ATTACK_OPTIONS,
            "defence_options": DEFENCE_OPTIONS,
            "data_hash": hash_of(problem.X, problem.labels, problem.test, problem.reference, problem.targeted),
            "arguments": {
                "data": settings.data,
                "classes": list(settings.classes),
                "kernel": settings.kernel,
                "attacks": self.attacks,
                "defences": self.defences,
                "seeds": self.seeds,
                "train": settings.train,
                "test": settings.test,
                "fraction": settings.fraction,
                "budget": settings.budget,
                "ridge": settings.ridge,
            },
        }

    def coordinates(self) -> "xr.Dataset":
        """The axes."""
        import xarray as xr

        height, width, channels = self.problem(0)[0].image_shape
        axes = {
            "attack": np.array(self.attacks),
            "defence": np.array(self.defences),
            "seed": np.arange(self.seeds),
            "kind": np.array(KINDS),
            "height": np.arange(height),
            "width": np.arange(width),
        }
        if channels > 1:
            axes["channel"] = np.arange(channels)
        return xr.Dataset(coords={name: (name, values) for name, values in axes.items()})

    def variables(self) -> dict[str, Variable]:
        """What the result holds."""
        found = {
            name: Variable(("attack", "defence", "seed"), np.dtype(float), {"long_name": text})
            for name, text in _NUMBERS.items()
        }
        dims = ("attack", "kind", "height", "width", *(("channel",) if self._coloured() else ()))
        return found | {"picture": Variable(dims, np.dtype(float), {"long_name": "of the first seed"})}

    def _coloured(self) -> bool:
        return self.problem(0)[0].image_shape[2] > 1

    def pieces(self, chunk: tuple[int, str], arrays: Mapping[str, np.ndarray]) -> Pieces:
        """Where they belong in the result."""
        seed, attack = chunk
        row = self.attacks.index(attack)
        for name in _NUMBERS:
            yield name, (row, slice(None), seed), arrays[name]
        if "picture" in arrays:
            picture = arrays["picture"]
            yield "picture", (row,), picture if self._coloured() else picture[..., 0]

    def findings(self, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
        """What each defence assumes."""
        return {"assumes": json.dumps(dict(zip(self.defences, arrays["assumes"].tolist(), strict=True)))}


def _side_by_side() -> int:
    """Defences at a time: one for each core of a CPU, of few."""
    if jax.default_backend() != "cpu":
        return 1
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _pictures(case: Case) -> Float[np.ndarray, "kind H W C"]:
    attack = case.attack
    poison = attack.data.X[int(np.argmax(case.is_poison))]
    images = (attack.victims[0], poison, attack.change, leading_direction(case))
    return np.stack([np.asarray(image).reshape(case.problem.image_shape) for image in images])
