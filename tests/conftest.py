"""Settings of the tests: no accidental broadcasting, and where real data may be found."""

import gc
import os
from pathlib import Path

import jax
import psutil
import pytest

# Shapes that broadcast by accident are errors here.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes objects by the million, few of them garbage: looking for it less often saves 5 % of all seconds.
gc.freeze()
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets; tests skip where there is none."""
    path = Path(os.environ.get("KPOISON_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data: {path} does not exist (set KPOISON_DATA)")
    return path


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop what is compiled when it fills the memory, or half of the maps that Linux grants a process (65,530)."""
    yield
    process = psutil.Process()
    maps = Path("/proc/self/maps")
    many = maps.exists() and maps.read_bytes().count(b"\n") > 30_000
    if many or process.memory_info().rss > 2 * 10**9:
        jax.clear_caches()
