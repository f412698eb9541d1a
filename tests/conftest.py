"""Settings of the tests: no accidental broadcasting, and where real data may be found."""

import os
from pathlib import Path

import jax
import pytest

# Shapes that broadcast by accident are errors here.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets; tests skip where there is none."""
    path = Path(os.environ.get("KPOISON_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data: {path} does not exist (set KPOISON_DATA)")
    return path


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop what is compiled once it takes half of the memory maps that Linux grants a process (65,530)."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
