"""Tests and doctests run in double precision, in programs that compile fast rather than run fast, and are kept."""

import os
import shutil
from importlib.metadata import version
from pathlib import Path

# All this before jax is imported, and for the processes that tests start. Who sets a level has programs as they are.
flags = os.environ.get("XLA_FLAGS", "").split()
if not any(flag.startswith("--xla_backend_optimization_level") for flag in flags):
    flags.append("--xla_backend_optimization_level=0")
    if version("jaxlib").startswith("0.10."):
        # The older generator of loops takes a third of the time; newer versions have none, and end at unknown flags.
        # One object per program, not one for each of many threads.
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    os.environ["XLA_FLAGS"] = " ".join(flags)

# Workers take a core each: threads of LAPACK that wait for one another would take the other's.
for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

# Compiled programs are shared by the workers and kept for the next run; a full folder is begun anew.
programs = Path(__file__).parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(programs))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
first = "PYTEST_XDIST_WORKER" not in os.environ
if first and programs.is_dir() and sum(program.stat().st_size for program in programs.iterdir()) > 10**9:
    shutil.rmtree(programs)

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)
