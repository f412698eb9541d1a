"""Settings of the tests: no accidental broadcasting, and where real data may be found."""

import os
from pathlib import Path

import jax
import pytest

# Shapes that broadcast by accident are errors here.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(session, items):
    """Mark as slow what `slow.txt` names: single cases of more than about 2 seconds (`pytest --durations=100`)."""
    here = Path(__file__).parent
    listed = {f"{here.name}/{line}" for line in (here / "slow.txt").read_text().splitlines()}
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.slow)
    everything = not any("::" in argument or argument.endswith(".py") for argument in session.config.args)
    gone = listed - {item.nodeid for item in items} if everything and here.name in session.config.args else set()
    if gone:
        raise pytest.UsageError(f"slow.txt names tests that are not there: {', '.join(sorted(gone))}")


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
