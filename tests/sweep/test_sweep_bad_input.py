"""What a sweep refuses, before anything is computed, and what it says."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problem import AXES, DIRECTION, Y2, ZETA, clean, poison

import kpoison as kp
from kpoison.sweep import parse_axis


def swept(posterior=None, **options):
    return kp.sweep(
        clean() if posterior is None else posterior,
        options.pop("poison", poison()),
        **(AXES | {"direction": DIRECTION} | options),
    )


NETWORK = kp.kernels.NTK(1, "erf")
TABLE = [
    *(({name: []}, ValueError, f"{name} must be .* not empty") for name in AXES),
    *(({name: [1.0, 1.0]}, ValueError, f"{name} must rise strictly") for name in AXES),
    *(({name: [2.0, 1.0]}, ValueError, f"{name} must rise strictly") for name in AXES),
    *(({name: [[1.0], [2.0]]}, ValueError, rf"{name} must be .* got shape \(2, 1\)") for name in AXES),
    *(({name: [1.0, np.inf]}, ValueError, f"{name} must be finite and >") for name in AXES),
    *(({name: [np.nan]}, ValueError, f"{name} must be finite and >") for name in AXES),
    *(({name: ["1"]}, TypeError, f"{name} must be real") for name in AXES),
    *(({name: [-1.0]}, ValueError, f"{name} must be finite and >") for name in AXES),
    ({"ridge": [0.0]}, ValueError, r"ridge must be finite and > 0"),
    ({"quantities": ("gain", "loss")}, ValueError, "quantities must be one of 'gain', .* got 'loss'"),
    ({"quantities": "gain"}, TypeError, "quantities must be a sequence of names"),
    ({"quantities": ()}, ValueError, "quantities must be different and at least one"),
    ({"quantities": ("gain", "gain")}, ValueError, "quantities must be different"),
    ({"quantities": (lambda clean, poison, x, ridge: 0.0,)}, ValueError, "must have a name .* not lambda"),
    ({"law": "paper"}, ValueError, "law must be one of 'exact', 'isolated', got 'paper'"),
    ({"direction": jnp.zeros(4)}, ValueError, "direction must not be 0"),
    ({"direction": jnp.ones(3)}, ValueError, r"direction must have shape \(4,\).*got \(3,\)"),
    ({"direction": jnp.ones((2, 2, 4))}, ValueError, r"direction must have shape \(4,\).*got \(2, 2, 4\)"),
    ({"direction": jnp.full(4, jnp.nan)}, ValueError, "direction must be finite"),
    ({"direction": np.arange(4)}, TypeError, "direction must be a floating-point array"),
    ({"location": jnp.ones((2, 5))}, ValueError, r"location must have shape \(4,\).*got \(2, 5\)"),
    ({"poison": kp.Poison(jnp.ones((2, 4)), 1.0, 1.0)}, ValueError, "poison must be clones .* location="),
    ({"poison": kp.Poison(ZETA, jnp.ones(2), 1.0)}, ValueError, r"label must have shape .* got \(2,\)"),
    ({"label": []}, ValueError, "label must be a list of finite numbers"),
    ({"label": [np.nan]}, ValueError, "label must be a list of finite numbers"),
    ({"posterior": clean(y=Y2), "label": [1.0]}, ValueError, r"label must have shape .*2"),
    ({"kernels": {}}, TypeError, "kernels must be a mapping"),
    ({"kernels": {"rbf": 3}}, TypeError, "kernels must be a mapping"),
    ({"hyperparameters": {"lengthscale": [1.0]}}, ValueError, r"fields of RBF \['length_scale'\], got 'lengthscale'"),
    ({"hyperparameters": {"length_scale": [0.0, 1.0]}}, ValueError, "length_scale must be finite and > 0, got 0.0"),
    ({"hyperparameters": {"length_scale": []}}, ValueError, "length_scale must be .* not empty"),
    ({"length_scale": -1.0}, ValueError, "length_scale must be finite and > 0"),
    ({"memory": 0}, ValueError, "memory must be finite and > 0"),
    ({"metadata": {"who": [1j]}}, TypeError, r"metadata\['who'\] must be real"),
    ({"mesh": 3}, TypeError, "mesh must be a jax.sharding.Mesh, got int"),
    ({"posterior": 3}, TypeError, "clean must be a Posterior made by kpoison.fit, got int"),
    ({"poison": 3}, TypeError, "poison must be a kpoison.Poison, got int"),
    ({"posterior": clean(kp.kernels.Linear()), "ridge": [1e-30]}, ValueError, "too ill-conditioned"),
]  # fmt: skip


def faults():
    """Rows that do not raise what they should, in this process."""
    for row, (options, error, message) in enumerate(TABLE):
        try:
            result = swept(**options)
        except error as raised:
            if not re.search(message, str(raised), re.DOTALL):
                yield f"{row}: {raised!r} does not say {message!r}"
        except Exception as raised:
            yield f"{row}: {raised!r} is not the {error} that says {message!r}"
        else:
            yield f"{row}: returned {result!r} instead of saying {message!r}"


@pytest.mark.slow
def test_without_a_type_checker():
    """What users see; in the tests a type checker would see some of it first."""
    program = (
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "import test_sweep_bad_input as t; print('\\n'.join(['faults:', *t.faults()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "faults:", done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1:2",
        "1:2:0",
        "2:1:5",
        "1:1:5",
        "0:1:5:log",
        "1:2:3:cubic",
        "1:2:3:log:log",
        "1:2:2.5",
        "1:inf:3",
        "1,,2",
    ],
)
def test_malformed_axes(text):
    with pytest.raises(ValueError, match=f"axis must.*{re.escape(repr(text))}"):
        parse_axis(text)


def test_a_function_that_fails_or_returns_the_wrong_shape():
    def broken(clean, poison, x, ridge):
        return x @ jnp.ones(7)

    def matrix(clean, poison, x, ridge):
        return jnp.outer(x, x)

    with pytest.raises(ValueError, match="broken among quantities cannot be evaluated"):
        swept(quantities=[broken])
    with pytest.raises(ValueError, match=r"matrix among quantities must return a number or \(C,\).*\(1, 4, 4\)"):
        swept(quantities=[matrix])


def test_it_is_not_for_tracing():
    with pytest.raises((TypeError, jax.errors.TracerArrayConversionError)):
        jax.jit(lambda m: swept(m=m).gain.values)(jnp.ones(2))
