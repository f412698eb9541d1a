"""Error bars as quantities of a sweep, and as a band of the phase diagram."""

import numpy as np
import pytest
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from problem import DIRECTION, clean, poison, probe

import kpoison as kp
from kpoison.asymptotics import efficacy_deviation, redraw_deviation
from kpoison.plotting import phase_diagram

OPTIONS = {"direction": DIRECTION, "r_over_l": [0.1, 1.0], "ridge": [1e-2]}


@pytest.mark.slow
def test_every_cell_is_the_function():
    fitted = clean()
    found = kp.sweep(
        fitted, poison(), m=[0.0, 3.0], quantities=("prediction_deviation", "efficacy_deviation"), **OPTIONS
    )
    for r in (0.1, 1.0):
        x = probe(fitted.kernel, r)
        for m in (0.0, 3.0):
            cell = found.sel(r_over_l=r, m=m, ridge=1e-2)
            here = kp.Poison(poison().location, 1.0, m)
            np.testing.assert_allclose(cell.prediction_deviation, redraw_deviation(fitted, x, 1e-2, here), rtol=1e-9)
            np.testing.assert_allclose(
                cell.efficacy_deviation, efficacy_deviation(fitted, here, x, 1e-2), rtol=1e-9, atol=1e-14
            )


@pytest.mark.slow
def test_the_phase_diagram_has_a_band_within_one_deviation_of_success():
    quantities = ("efficacy", "spike", "efficacy_deviation")
    found = kp.sweep(clean(), poison(), m=np.geomspace(0.01, 10, 12), quantities=quantities, **OPTIONS)
    success = float(np.median(np.abs(found.efficacy)))

    def paths(dataset):
        ax = phase_diagram(Figure().subplots(), dataset, success=success, visible=1e-3)
        return [c for c in ax.collections if isinstance(c, ContourSet) and c.hatches == ["...."]]

    (band,) = paths(found)
    assert paths(found.drop_vars("efficacy_deviation")) == []
    cell = found.isel(ridge=0, r_over_l=0)
    near = np.abs(np.abs(cell.efficacy) - success) <= cell.efficacy_deviation
    corners = np.concatenate([path.vertices for path in band.get_paths()])
    inside = (cell.m >= corners[:, 1].min()) & (cell.m <= corners[:, 1].max())
    assert bool(near.any())
    assert bool((inside | ~near).all())


def test_a_search_is_refused():
    with pytest.raises(ValueError, match="clean must be fitted by a solver that factorises"):
        kp.sweep(clean(solver=kp.Krylov(rank=8)), poison(), m=[1.0], quantities=("efficacy_deviation",), **OPTIONS)
