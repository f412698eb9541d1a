"""Tests and doctests run in double precision, in programs that compile fast rather than run fast."""

import os
from importlib.metadata import version

# Before jax is imported; the user's own flags come last and win. Processes that tests start inherit them.
fast_to_compile = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):
    # The older generator of loops takes a third of the time. Newer versions don't have it, and end at unknown flags.
    fast_to_compile.append("--xla_cpu_use_fusion_emitters=false")
given = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join([flag for flag in fast_to_compile if flag not in given] + given)

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)
