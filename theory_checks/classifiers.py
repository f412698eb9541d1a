"""T6, L8 in trained classifiers and feature collapse as checks: the experiments at the size of a check."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import cast, get_args

import numpy as np

from kpoison.experiments.catalogue import EXPERIMENTS
from kpoison.experiments.options import ArchitectureName, Options
from kpoison.experiments.result import Claim, Experiment
from kpoison.problems.backdoor import Images
from theory_checks.catalogue import STATEMENTS
from theory_checks.record import Comparison, Panel, Record, compare, curve
from theory_checks.setting import Laws, Setting

__all__ = ["check_collapse", "check_joint_defence", "check_lag"]

_KERNEL = "ntk-relu"
"""The checks train networks of ReLUs, once, whatever the kernels asked for; they are reported under their kernel."""

_NUMBERS = {"lag": "L8-classifiers", "joint-defence": "T6", "collapse": "collapse"}


def check_lag(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """The lag along training and along the fraction; on digits where nothing else is asked for."""
    return _check("lag", ("mlp",), setting)


def check_joint_defence(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """T6: four defences, poisoned and clean."""
    return _check("joint-defence", ("mlp",) if setting.scale == "quick" else ("lenet",), setting)


def check_collapse(setting: Setting, laws: Laws = Laws()) -> Record | None:  # noqa: B008
    """Distances among poisons before and after learning."""
    return _check("collapse", ("mlp",), setting)


def _check(name: str, architectures: Sequence[ArchitectureName], setting: Setting) -> Record | None:
    if setting.kernel_name != _KERNEL:
        return None
    data = cast(Images, setting.data if setting.data in get_args(Images) else "digits")
    full = setting.scale == "full"
    options = Options(data=data, seeds=5 if full else 3, seed=setting.seed, data_dir=setting.data_dir)
    if not full:
        options = dataclasses.replace(options, epochs=12 if data == "digits" else 8)
    run: Callable[..., Experiment] = EXPERIMENTS[name]
    found = run(options, architectures)
    return Record(
        STATEMENTS[_NUMBERS[name]],
        setting.kernel_name,
        options.data,
        [_compared(claim) for claim in found.claims if claim.measured is not None],
        [*map(str, found.claims), *(line for table in found.tables for line in str(table).splitlines()), *found.notes],
        [_panel(found)],
        options.arguments() | {"architectures": list(architectures)},
    )


def _compared(claim: Claim) -> Comparison:
    """A measured mean beside the nearest number that the claim allows; fails only where the interval excludes it."""
    assert claim.measured is not None
    mean = claim.measured.mean
    return compare(
        claim.statement,
        "simulation",
        np.clip(mean, claim.low, claim.high),
        mean,
        claim.measured.half_width,
        f"95 % t-interval over {len(claim.measured.values)} seeds, in a measurement that is {claim.agreement}",
    )


def _panel(found: Experiment) -> Panel:
    """Each claim's measured mean with its interval, and the bound it is held against."""
    measured = [(claim, claim.measured) for claim in found.claims if claim.measured is not None]
    places = np.arange(1.0, len(measured) + 1).tolist()
    means, half_widths = [m.mean for _, m in measured], [m.half_width for _, m in measured]
    bounds = [claim.low if np.isfinite(claim.low) else claim.high for claim, _ in measured]
    return Panel(
        f"{found.title}: claims in the order of the report",
        "claim",
        "measured",
        [
            curve("measured, 95 % t-interval", "errorbar", places, means, half_widths),
            curve("bound of the claim", "dots", places, bounds),
        ],
        xscale="linear",
        yscale="linear",
    )
