"""What loads when: nothing heavy before it is used, and every name is found in every order of imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kpoison as kp

HERE = Path(__file__).parent
HEAVY = {
    "diffrax", "h5netcdf", "h5py", "matfree", "matplotlib", "neural_tangents", "optax", "optimistix", "pandas",
    "psutil", "scipy", "sklearn", "threadpoolctl", "tqdm", "tyro", "xarray", "zarr",
}  # fmt: skip
LOADED = "{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names"


def fresh(program: str, *arguments: str) -> str:
    """What a program prints in a process of its own; `before` are the modules that Python itself has loaded."""
    command = [sys.executable, "-c", f"import sys\nbefore = set(sys.modules)\n{program}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(program: str) -> set[str]:
    """Packages outside of the standard library that a program loads, beside those that Python loads at its start."""
    return ast.literal_eval(fresh(f"{program}\nprint({LOADED})").splitlines()[-1])


def test_the_import_alone_loads_nothing():
    assert loaded("import kpoison; kpoison.__version__, dir(kpoison)") == {"kpoison", "lazy_loader"}


def test_a_name_loads_jax_and_equinox_and_little_else():
    of_jax = loaded("import jax, jax.numpy, jax.scipy")
    found = loaded("import jax, jax.numpy, jax.scipy, kpoison as kp; kp.fit, kp.gain, kp.spike, kp.kernels, kp.Poison")
    assert found - of_jax == {"equinox", "jaxtyping", "kpoison", "lazy_loader", "wadler_lindig"}
    assert not found & HEAVY


@pytest.mark.slow
def test_the_first_example_loads_nothing_heavy():
    """Beside psutil, which tells `fit` how much memory there is, and what JAX loads to call LAPACK: SciPy's."""
    example = (HERE.parent / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "kp.spike" in example
    of_jax = loaded("import jax; jax.numpy.linalg.eigh(jax.numpy.eye(2))")
    assert loaded(example) & HEAVY <= {"psutil"} | of_jax


@pytest.mark.slow
@pytest.mark.parametrize(
    "room", ["kernels", "curvature", "flow", "attacks", "defences", "networks", "datasets", "matrix", "sweep"]
)
def test_a_room_loads_nothing_heavy(room):
    program = f"import kpoison as kp; kp.{room}; import kpoison.{room}; assert 'kpoison.{room}' in sys.modules"
    assert not loaded(program) & HEAVY


@pytest.mark.slow
def test_pictures_load_matplotlib_but_no_data_frames():
    found = loaded("import kpoison as kp; kp.plotting.draw_sweep")
    assert "matplotlib" in found
    assert not found & {"xarray", "pandas", "scipy"}


# --- Names ---


def test_every_name_of_the_stub_is_there():
    stub = ast.parse(Path(kp.__file__).with_suffix(".pyi").read_text())
    (listed,) = (ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(kp.__all__) == sorted(listed)
    assert set(listed) <= set(dir(kp))
    for name in listed:
        assert getattr(kp, name) is not None
    found: dict = {}
    exec("from kpoison import *", found)
    assert set(listed) <= set(found)
    assert found["sweep"] is kp.sweep


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        kp.nonsense  # noqa: B018
    with pytest.raises(ImportError, match="nonsense"):
        exec("from kpoison import nonsense")


ORDERS = (
    "from kpoison.sweep.axes import parse_axis; import kpoison",
    "import kpoison.sweep",
    "import kpoison; kpoison.sweep; import kpoison.sweep.storage",
    "import kpoison; kpoison.sweep; del kpoison.sweep; from kpoison import sweep",
    "import kpoison.sweep.storage, kpoison.laws.spike, kpoison.laws.efficacy, kpoison.poison",
)
CHECK = """
import inspect, kpoison
from kpoison import efficacy, spike, sweep
from kpoison.sweep import parse_axis, sweep as of_room
assert inspect.isfunction(sweep) and sweep is kpoison.sweep is of_room, kpoison.sweep
assert inspect.isfunction(spike) and inspect.isfunction(efficacy) and inspect.isfunction(kpoison.laws.spike)
assert inspect.ismodule(sys.modules["kpoison.sweep"]) and inspect.ismodule(kpoison.poison)
"""


@pytest.mark.parametrize("order", [ORDERS[0], *(pytest.param(order, marks=pytest.mark.slow) for order in ORDERS[1:])])
def test_sweep_is_the_function_in_every_order_of_imports(order):
    fresh(f"{order}\n{CHECK}")
