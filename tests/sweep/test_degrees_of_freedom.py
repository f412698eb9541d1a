"""Degrees of freedom as a quantity of a sweep: those of physical copies, over counts, ridges and penalties."""

import numpy as np
import pytest
from problem import DIRECTION, X, clean, poison

import kpoison as kp

OPTIONS = {"direction": DIRECTION, "r_over_l": [0.1], "m": [0.0, 3.0], "ridge": [1e-3, 0.1]}


def trace(points, ridge):
    """tr K(K + nλI)⁻¹ in NumPy."""
    K = np.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 2 / 1.5**2)
    return np.trace(np.linalg.solve(K + len(points) * ridge * np.eye(len(points)), K))


@pytest.mark.slow
def test_every_cell_is_the_trace_with_the_copies():
    found = kp.sweep(clean(), poison(), quantities=("degrees_of_freedom",), **OPTIONS).degrees_of_freedom
    assert found.dims == ("m", "ridge")
    zeta = np.asarray(poison().location)[None]
    for m in (0, 3):
        points = np.concatenate([np.asarray(X), np.repeat(zeta, m, axis=0)])
        for ridge in (1e-3, 0.1):
            assert float(found.sel(m=m, ridge=ridge)) == pytest.approx(trace(points, ridge), rel=1e-10)


@pytest.mark.slow
def test_they_fall_with_the_penalty():
    small = kp.fit(kp.kernels.RBF(1.5), X[:12], np.zeros(12))
    found = kp.sweep(small, poison(), quantities=("degrees_of_freedom",), gradient_penalty=[0.0, 0.1, 1.0], **OPTIONS)
    assert bool((found.degrees_of_freedom.diff("gradient_penalty") < 0).all())


def test_a_search_is_refused():
    with pytest.raises(ValueError, match=r"degrees_of_freedom among quantities must be of a solver .* got Krylov"):
        kp.sweep(clean(solver=kp.Krylov(rank=8)), poison(), quantities=("degrees_of_freedom",), **OPTIONS)
