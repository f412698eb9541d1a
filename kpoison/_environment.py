"""What a result was computed with."""

import platform

import numpy as np

from kpoison._version import __version__

__all__ = ["environment"]


def environment() -> dict[str, str]:
    """Versions, device and precision, for the report."""
    import jax  # records are also read where nothing is computed
    import jax.numpy as jnp

    return {
        "kpoison": __version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": str(jax.devices()[0].device_kind),
        "dtype": str(jnp.result_type(float)),
    }
