"""A small problem that the tests of this folder sweep over, and the laws one grid point at a time."""

import jax.numpy as jnp
import numpy as np

import kpoison as kp

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(80, 4)))
Y = jnp.asarray(np.tanh(np.asarray(X) @ RNG.normal(size=4)))
Y2 = jnp.stack([Y, -(Y**2)], axis=1)
ZETA = jnp.asarray(RNG.normal(size=4))
DIRECTION = jnp.asarray(RNG.normal(size=4))
AXES = {
    "r_over_l": [0.0, 1e-6, 0.1, 1.0, 5.0],
    "m": [0.0, 0.5, 3.0, 100.0],
    "ridge": [1e-6, 1e-3, 0.1],
}
KERNEL = kp.kernels.RBF(1.5)


def assert_as_for_another_shape(found, expected, quantity):
    """Equal but for what compiling for another shape may move: eps · condition number at each ridge, the last axis.

    A root has a condition number of its own; where a law passes through 0 its n terms cancel, and round at their size.
    """
    for k, ridge in enumerate(AXES["ridge"]):
        size = np.abs(np.asarray(expected[..., k]))
        terms = len(X) * np.finfo(float).eps * float(np.max(size[np.isfinite(size)], initial=0.0))
        rounding = 1e-9 if quantity == "m_success" else float(clean().rounding(jnp.asarray(len(X) * ridge)))
        np.testing.assert_allclose(
            found[..., k], expected[..., k], rtol=max(rounding, 1e-13), atol=terms, err_msg=quantity
        )


def clean(kernel=KERNEL, y=Y, **options):
    """A fitted posterior."""
    return kp.fit(kernel, X, y, **options)


def poison(label=1.0, count=1.0):
    """Clones at ζ."""
    return kp.Poison(ZETA, label, count)


def unit_of_length(kernel):
    """What r_over_l is measured in."""
    return float(getattr(kernel, "length_scale", jnp.linalg.norm(ZETA)))


def points(axes):
    """Every grid point with its indices."""
    for i, r in enumerate(axes["r_over_l"]):
        for j, m in enumerate(axes["m"]):
            for k, ridge in enumerate(axes["ridge"]):
                yield (i, j, k), (r, m, ridge)


def probe(kernel, r, zeta=ZETA, direction=DIRECTION):
    """x0 = ζ + r u."""
    return zeta + r * unit_of_length(kernel) * direction / jnp.linalg.norm(direction)
