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
    """Drop what a file has compiled: thousands of programs fill the memory and exhaust a process's memory maps."""
    yield
    jax.clear_caches()
