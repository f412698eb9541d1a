"""Timings as ratios to a baseline in the same run; absolute times say little on a shared machine."""

import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

__all__ = ["Comparison", "compare", "machine", "seconds", "write"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How long something takes beside a baseline.

    Attributes:
        name: what was timed.
        baseline: what it was timed against.
        asked: the ratio that is asked for, as text; empty where none is.
        ratios: time over baseline, one for each repeat, both timed next to each other.
        baseline_seconds: median time of the baseline.
        sizes: of the problem.
        notes: other measured numbers.
    """

    name: str
    baseline: str
    asked: str
    ratios: list[float]
    baseline_seconds: float
    sizes: dict[str, Any]
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """One line: median ratio and the quartiles."""
        low, median, high = np.quantile(self.ratios, [0.25, 0.5, 0.75])
        asked = f", asked {self.asked}" if self.asked else ""
        notes = "".join(f"; {key} {value}" for key, value in self.notes.items())
        return f"{self.name}: {median:.3g} times {self.baseline} (quartiles {low:.3g} to {high:.3g}{asked}){notes}"


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes, by the wall."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def compare(
    name: str,
    function: Callable[[], Any],
    baseline: str,
    baseline_function: Callable[[], Any],
    *,
    asked: str = "",
    sizes: Mapping[str, Any] | None = None,
    repeats: int = 9,
) -> Comparison:
    """Time both in turn, after one call of each that compiles."""
    for each in (function, baseline_function):
        jax.block_until_ready(each())
    pairs = [(seconds(function), seconds(baseline_function)) for _ in range(repeats)]
    return Comparison(
        name,
        baseline,
        asked,
        [a / b for a, b in pairs],
        statistics.median(b for _, b in pairs),
        dict(sizes or {}),
    )


def machine() -> dict[str, Any]:
    """What a ratio depends on."""
    import kpoison

    device = jax.devices()[0]
    return {
        "processor": platform.processor() or platform.machine(),
        "device": f"{jax.device_count()} × {device.device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "kpoison": kpoison.__version__,
    }


def write(path: Path, comparisons: list[Comparison]) -> None:
    """Results with machine, versions and sizes, as JSON."""
    results = [dataclasses.asdict(comparison) for comparison in comparisons]
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1, ensure_ascii=False) + "\n")
