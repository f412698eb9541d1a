"""What loads when: nothing heavy before it is used, and every name is found in every order of imports."""

import ast
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import get_args

import jax
import pytest

import kpoison as kp
from kpoison.cli import cache, main
from kpoison.sweep import quantity_names

HERE = Path(__file__).parent
HEAVY = {
    "diffrax", "h5netcdf", "h5py", "matfree", "matplotlib", "neural_tangents", "optax", "optimistix", "pandas",
    "plotly", "psutil", "scipy", "sklearn", "threadpoolctl", "tqdm", "tyro", "xarray", "zarr",
}  # fmt: skip
COMMANDS = ("verify", "paper", "sweep", "spectrum", "flow", "tradeoff", "asymptotics", "experiment", "matrix",
            "explore", "download")  # fmt: skip
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


def apart(programs: list[str]) -> list[str]:
    """What each program prints in a process of its own, where JAX is loaded, once for all, and kpoison is not."""
    each = (
        "import os\n"
        f"for program in {programs!r}:\n"
        "    sys.stdout.flush()\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        try:\n            exec(program)\n            sys.stdout.flush()\n"
        "        except BaseException:\n            sys.excepthook(*sys.exc_info())\n            os._exit(1)\n"
        "        os._exit(0)\n"
        "    if os.waitpid(child, 0)[1]:\n        sys.exit(program)\n"
        "    print('and next')"
    )
    done = fresh(f"import jax, jax.numpy, jax.scipy, equinox, jaxtyping\n{each}")
    return done.removesuffix("and next\n").split("and next\n")


@pytest.mark.slow
def test_a_room_loads_nothing_heavy():
    rooms = ["kernels", "curvature", "flow", "attacks", "defences", "networks", "datasets", "matrix", "sweep"]
    program = "import kpoison as kp; kp.ROOM; import kpoison.ROOM; assert 'kpoison.ROOM' in sys.modules"
    programs = [f"{program.replace('ROOM', room)}\nprint({LOADED})" for room in rooms]
    found = {room: ast.literal_eval(printed) & HEAVY for room, printed in zip(rooms, apart(programs), strict=True)}
    assert found == {room: set() for room in rooms}


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
    "import kpoison; kpoison.sweep; import kpoison.resumable.storage",
    "import kpoison; kpoison.sweep; del kpoison.sweep; from kpoison import sweep",
    "import kpoison.resumable.storage, kpoison.laws._spike, kpoison.laws._efficacy, kpoison.poison",
)
CHECK = """
import inspect, kpoison
from kpoison import efficacy, spike, sweep
from kpoison.sweep import parse_axis, sweep as of_room
assert inspect.isfunction(sweep) and sweep is kpoison.sweep is of_room, kpoison.sweep
assert inspect.isfunction(spike) and inspect.isfunction(efficacy) and inspect.isfunction(kpoison.laws.spike)
assert inspect.ismodule(sys.modules["kpoison.sweep"]) and inspect.ismodule(kpoison.poison)
"""


def test_sweep_is_the_function_in_the_plainest_order_of_imports():
    fresh(f"{ORDERS[0]}\n{CHECK}")


@pytest.mark.slow
def test_sweep_is_the_function_in_every_order_of_imports():
    assert apart([f"{order}\n{CHECK}\nprint('checked')" for order in ORDERS]) == ["checked\n"] * len(ORDERS)


# --- The command line ---


def command_line(*arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """`kpoison` with these arguments in a process of its own, and the packages that it has loaded at its end."""
    program = (
        "import atexit, sys\nbefore = set(sys.modules)\n"
        f"atexit.register(lambda: print({LOADED}))\n"
        "from kpoison.cli import main\nsys.exit(main())"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment}
    )
    return done, ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--version"], 0, f"kpoison {kp.__version__}\n"),
        (["--help"], 0, "--no-cache"),
        (["matrix", "--help"], 0, "partition-aggregation"),
        (["--tyro-print-completion", "bash"], 0, "rational-quadratic"),
        (["sweep", "--kernel", "rbff"], 2, "matern32"),
        (["flow", "--kernel", "rbff"], 2, "rational-quadratic"),
        (["spectrum", "--kernel", "rbff"], 2, "nngp-relu"),
        (["sweep", "--quantities", "loss"], 2, "coupling_floor"),
        (["matrix", "--attacks", "patches"], 2, "near-clone"),
        (["sweeps"], 2, "tradeoff"),
    ],
    ids=str,
)
def test_help_and_wrong_arguments_load_no_jax(arguments, status, said):
    done, found = command_line(*arguments)
    assert done.returncode == status
    assert said in (done.stderr if status else done.stdout)
    assert found & {"tyro", "kpoison"}
    assert not found & ({*HEAVY, "jax", "jaxlib", "equinox", "jaxtyping", "numpy"} - {"tyro"})


def test_the_help_of_no_command_loads_jax():
    program = (
        "from kpoison.cli import main\n"
        f"for command in {COMMANDS}:\n"
        "    try:\n        main([command, '--help'])\n"
        "    except SystemExit as ended:\n        print(command, 'ended with', ended.code)"
    )
    done = fresh(f"{program}\nprint({LOADED})")
    assert [line for line in done.splitlines() if "ended with" in line] == [f"{name} ended with 0" for name in COMMANDS]
    assert not ast.literal_eval(done.splitlines()[-1]) & ({*HEAVY, "jax", "numpy"} - {"tyro"})


def test_names_are_those_of_what_they_name():
    from kpoison import matrix, problems
    from kpoison._names import MnistName
    from kpoison.datasets import download, load_mnist
    from kpoison.matrix.problem import DATA
    from kpoison.problems import KERNELS
    from kpoison.problems.backdoor import Images

    assert get_args(problems.AttackName) == tuple(matrix.ATTACKS)
    assert get_args(problems.TriggerName) == tuple(problems.TRIGGERS)
    assert get_args(problems.DefenceName) == tuple(matrix.DEFENCES)
    assert set(get_args(problems.QuantityName)) == set(quantity_names)
    assert get_args(problems.KernelName) == tuple(problems.KERNELS)
    assert problems.KERNELS is KERNELS
    assert matrix.KERNELS is problems.MATRIX_KERNELS
    assert get_args(problems.MatrixImages) == DATA == get_args(Images)[:3]
    assert get_args(MnistName) == tuple(sys.modules[load_mnist.__module__]._FORMATS)
    assert set(get_args(problems.Downloadable)) == set(sys.modules[download.__module__]._SOURCES)
    smooth = [name for name, make in problems.KERNELS.items() if make(1.0).smoothness >= 2]
    assert tuple(smooth) == problems.KERNELS_WITH_DERIVATIVES


# --- Programs kept from one run to the next ---

SWEEP = ("sweep", "--r-over-l", "0.1,1", "--m", "1,2", "--quantities", "gain")


@pytest.fixture
def clean_environment(monkeypatch):
    """No setting of JAX's cache from outside."""
    for name in [name for name in os.environ if name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"))]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.slow
def test_programs_are_kept_unless_asked_not_to_and_damaged_ones_are_one_warning(tmp_path, clean_environment):
    done, _ = command_line(*SWEEP, "--no-cache", XDG_CACHE_HOME=str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "none").exists()
    for arguments in (SWEEP, ("--cache", *SWEEP)):
        again, _ = command_line(*arguments, XDG_CACHE_HOME=str(tmp_path / "user"))
        assert (again.returncode, again.stderr) == (0, "")
        assert again.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "user/kpoison/programs").iterdir()}
        assert kept
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "user/kpoison/programs").iterdir()}
    # Damaged, and in a folder that is chosen: the same, as its name is a part of what programs are known by.
    folder = tmp_path / "user/kpoison/programs"
    assert len(kept) > 1
    for path in folder.iterdir():
        path.write_bytes(b"garbage")
    chosen = {"JAX_COMPILATION_CACHE_DIR": str(folder), "XDG_CACHE_HOME": str(tmp_path / "none")}
    again, _ = command_line(*SWEEP, **chosen)
    assert not (tmp_path / "none").exists()
    assert again.returncode == 0
    assert again.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]
    assert len(again.stderr.splitlines()) == 1
    assert "cannot be used and are compiled again" in again.stderr


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_one_warning_and_the_result(tmp_path, clean_environment):
    file = tmp_path / "file"
    file.touch()
    done, _ = command_line(*SWEEP, JAX_COMPILATION_CACHE_DIR=str(file))
    assert done.returncode == 0
    assert "gain" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert f"compiled programs are not kept, as {file} cannot be written" in done.stderr


def test_the_largest_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LARGEST", 250)
    for age in range(5):
        path = tmp_path / f"program{age}"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    cache._forget_the_oldest(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"program0", "program1"}


def test_from_python_nothing_is_kept(tmp_path, clean_environment, capsys):
    clean_environment.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = dict(os.environ), jax.config.jax_compilation_cache_dir, warnings.showwarning
    assert main(["flow", "--out", "flow.txt"]) == 2
    assert "--out must be FILE.nc" in capsys.readouterr().err
    assert before == (dict(os.environ), jax.config.jax_compilation_cache_dir, warnings.showwarning)
    assert not list(tmp_path.iterdir())
