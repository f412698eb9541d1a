"""From nothing to a result, in fresh processes: `python -m benchmarks startup`; with KPOISON_VERIFY=1 `verify` too."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import Comparison

__all__ = ["run"]

_README = Path(__file__).parents[1] / "README.md"
_SWEEP = "--data digits --kernel rbf --r-over-l 0.001:3:60:log --m 0.1:1000:60:log"

# What a process reports of itself: seconds of import, tracing, lowering and compiling, and how many programs.
_CHILD = """
import json, os, resource, sys, time
start = time.perf_counter()
spent, programs, report = {"import": 0.0, "trace": 0.0, "lower": 0.0, "compile": 0.0}, [0], sys.argv.pop(1)
if report != "-":
    import jax
    names = {
        "/jax/core/compile/jaxpr_trace_duration": "trace",
        "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
        "/jax/core/compile/backend_compile_duration": "compile",
    }
    def listen(event, duration, **_):
        if event in names:
            spent[names[event]] += duration
            programs[0] += names[event] == "compile"
    jax.monitoring.register_event_duration_secs_listener(listen)
    import kpoison as kp
    kp.fit, kp.gain, kp.spike, kp.kernels
    spent["import"] = time.perf_counter() - start
status = 0
try:
    exec(sys.argv.pop(1))
except SystemExit as end:
    status = end.code or 0
finally:
    if report != "-":
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent |= {"wall": time.perf_counter() - start, "processor": used.ru_utime + used.ru_stime}
        spent["programs"] = programs[0]
        with open(report, "w") as file:
            json.dump(spent, file)
sys.exit(status)
"""
_COMMAND = "from kpoison.cli import main; sys.exit(main())"


def _processor_seconds(program: str, *arguments: str) -> float:
    """User and system time of a process of its own."""
    before = os.times()
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _measured(program: str, arguments: Sequence[str], cache: Path) -> dict[str, Any]:
    """What the process says of itself, with this folder of compiled programs."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        # As `kpoison.cli.cache` sets them; here JAX is imported before the command line.
        settings = {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        subprocess.run(
            [sys.executable, "-c", _CHILD, str(report), program, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | settings,
        )
        return json.loads(report.read_text())


def _cold_and_warm(name: str, program: str, arguments: Sequence[str], asked: tuple[float, float], repeats: int):
    """Seconds over those asked, from an empty cache and from a full one."""
    runs: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for state, found in runs.items():
                out = ["--out", str(Path(folder) / f"{state}.nc")] if "sweep" in arguments else []
                found.append(_measured(program, [*arguments, *out], Path(folder) / "cache"))
    for (state, found), seconds in zip(runs.items(), asked, strict=True):
        median = {key: round(statistics.median(each[key] for each in found), 2) for key in found[0]}
        ratios = [each["wall"] / seconds for each in found]
        yield Comparison(f"{name}, {state}", f"{seconds:g} s", "below 1", ratios, seconds, {}, median)


def run(repeats: int = 5) -> list[Comparison]:
    """The import beside JAX's, help, the README's first example, a sweep, and where asked for all checks."""
    results = []
    pairs: dict[str, list[float]] = {"import kpoison": [], "import kpoison as kp; kp.fit, kp.gain, kp.spike": []}
    baseline, equinox = [], []
    for _ in range(repeats):
        baseline.append(_processor_seconds("import jax"))
        equinox.append(_processor_seconds("import jax, equinox, jaxtyping") / baseline[-1])
        for program, ratios in pairs.items():
            ratios.append(_processor_seconds(program) / baseline[-1])
    notes = {"equinox and jaxtyping alone": round(statistics.median(equinox), 2)}
    for program, ratios in pairs.items():
        results.append(
            Comparison(program, "import jax", "at most 1.35", ratios, statistics.median(baseline), {}, notes)
        )
    seconds = [_processor_seconds(f"import sys; {_COMMAND}", "--help") for _ in range(repeats)]
    results.append(
        Comparison("kpoison --help", "0.5 s of processor time", "at most 1", [each / 0.5 for each in seconds], 0.5, {})
    )
    example = _README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    results += _cold_and_warm("the README's first example", example, [], (6, 4), repeats)
    results += _cold_and_warm("a sweep of 60 × 60", _COMMAND, ["sweep", *_SWEEP.split()], (7, 5), repeats)
    if os.environ.get("KPOISON_VERIFY"):
        results += _cold_and_warm("kpoison verify", _COMMAND, ["verify"], (180, 60), 1)
    return results
