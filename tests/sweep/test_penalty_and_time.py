"""Penalties and training times as axes: every cell is the law of the posterior fitted or stopped there."""

import jax.numpy as jnp
import numpy as np
import pytest
from problem import DIRECTION, KERNEL, clean, poison, probe

import kpoison as kp

AXES = {"r_over_l": [0.0, 0.5], "m": [0.0, 3.0], "ridge": [1e-3, 0.1]}
PENALTIES, TIMES = [0.0, 0.1], [3.0, np.inf]
QUANTITIES = ("efficacy", "spike", "prediction")
METRIC = np.diag([1.0, 0.5, 0.0, 0.0])


def swept(posterior, **options):
    return kp.sweep(posterior, poison(), direction=DIRECTION, **(AXES | {"quantities": QUANTITIES} | options))


def expected(posterior, m, ridge):
    x, p = jnp.stack([probe(KERNEL, r) for r in AXES["r_over_l"]]), poison(count=m)
    return {
        "efficacy": kp.efficacy(posterior, p, x, ridge),
        "spike": kp.spike(posterior, p, x, ridge),
        "prediction": kp.predict(posterior, x, ridge, p),
    }


def assert_cells_are_laws(result, posterior):
    for j, m in enumerate(AXES["m"]):
        for k, ridge in enumerate(AXES["ridge"]):
            for name, value in expected(posterior, m, ridge).items():
                got = result[name].isel(m=j, ridge=k).values
                # Both solve with the same matrix, of a condition number below 1e5, and square it for the spike.
                np.testing.assert_allclose(got, value, rtol=1e-9, atol=1e-11 * float(np.abs(value).max()), err_msg=name)


@pytest.mark.slow
def test_penalties_and_times_are_axes():
    result = swept(clean(), gradient_penalty=PENALTIES, metric=METRIC, time=TIMES)
    assert dict(result.efficacy.sizes) == {"gradient_penalty": 2, "time": 2, "r_over_l": 2, "m": 2, "ridge": 2}
    np.testing.assert_array_equal(result.time, TIMES)
    for i, penalty in enumerate(PENALTIES):
        fitted = clean(gradient_penalty=penalty, metric=METRIC)
        for j, time in enumerate(TIMES):
            posterior = fitted if time == np.inf else kp.flow.early_stopped(fitted, time)
            assert_cells_are_laws(result.isel(gradient_penalty=i, time=j), posterior)


@pytest.mark.slow
def test_a_sweep_of_a_stopped_posterior_is_stopped():
    stopped = kp.flow.early_stopped(clean(), 5.0)
    result = swept(stopped, kernels={"one": KERNEL})
    assert_cells_are_laws(result.isel(kernel=0), stopped)


@pytest.mark.slow
def test_the_last_time_may_be_the_end_of_training():
    result = swept(clean(), time=[np.inf], quantities=("gain", "efficacy"))
    np.testing.assert_allclose(
        result.gain.isel(time=0, m=1, ridge=0), kp.gain(clean(), poison(count=3.0), 1e-3), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": [3.0, 1.0]}, "time must rise strictly"),
        ({"time": [-1.0]}, "time must be finite and >= 0"),
        ({"gradient_penalty": [-1.0]}, "gradient_penalty must be finite and >= 0"),
        ({"gradient_penalty": [1.0, 1.0]}, "gradient_penalty must rise strictly"),
        ({"metric": METRIC}, "metric is that of gradient_penalty"),
        ({"gradient_penalty": [1.0], "metric": np.eye(3)}, "metric must have shape"),
        ({"time": [1.0], "quantities": ("gain",)}, "clean must be trained to the end"),
        ({"gradient_penalty": [1.0], "kernels": {"laplace": kp.kernels.Laplace(1.0)}}, "twice continuously"),
    ],
)
def test_bad_axes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        swept(clean(), **options)


@pytest.mark.slow
def test_other_times_are_another_sweep(tmp_path):
    out = tmp_path / "sweep.nc"
    swept(clean(), time=[1.0, 2.0], out=out)
    with pytest.raises(FileExistsError):
        swept(clean(), time=[1.0, 3.0], out=out)
